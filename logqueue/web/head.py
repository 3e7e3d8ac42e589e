"""Old-fashioned heads into heads that h11 takes.  PURE.

Clients of HTTPSQS exist that send raw bytes in the target, an empty Host or none, bare LF, folded
lines; its server took all of that and h11 does not.  What is merely old-fashioned is rewritten
here, narrowly; what leaves the end of the message in doubt is refused, because a proxy in front
may see another end than we do (RFC 9112, section 11.2: request smuggling).

Three kinds of header line are odd: folded ones, ones whose name is no token, and ones with CR, VT
or FF inside.  An odd line that mentions Content-Length or Transfer-Encoding is refused.  Otherwise
a fold is joined to its line with one blank, CR, VT and FF become blanks, and a line without a
proper name is dropped, since nobody can ask for it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from logqueue.web.message import Refused

METHODS = frozenset((b"GET", b"POST", b"HEAD", b"PUT", b"DELETE"))

_LINE_BYTES_MIN = len(b"GET / HTTP/1.0")  # libevent's own rule
_PORT_MAX = 65535

_version = re.compile(rb"HTTP/0*([01])\.([0-9]{1,9})")
_authority = re.compile(rb"(?:([A-Za-z][A-Za-z0-9+.-]*):)?//([^/?#]*)")
_port = re.compile(rb":0*([0-9]+)\Z")
_token = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_framing = re.compile(rb"content-length|transfer-encoding", re.IGNORECASE)
_content_length = re.compile(rb"\+?([0-9]{1,20})")
_whitespace = re.compile(rb"[\r\v\f]")  # besides blank and TAB, what h11 refuses in a value


# h11 sees a question mark for each byte of a target that it would refuse.
_printable = bytes(byte if 0x21 <= byte <= 0x7E else 0x3F for byte in range(256))


class RequestLine(NamedTuple):
    """A request line's parts; `proxied` says that the target is an absolute http(s) URL."""

    method: bytes
    target: bytes
    version: tuple[int, int]
    proxied: bool


def request_line(line: bytes) -> RequestLine:
    """Split a request line (no line end) as HTTPSQS did.  Raises Refused.

    The target runs from the first blank to the last, so blanks may stand in it.
    """
    line = line.rstrip(b" ")
    method, _, rest = line.partition(b" ")
    target, _, version = rest.rpartition(b" ")
    match = _version.fullmatch(version)
    if match is None or not target or len(line) < _LINE_BYTES_MIN or b"\0" in line:
        raise Refused(400, "request line")
    authority = _authority.match(target)
    return RequestLine(
        method,
        target,
        (int(match[1]), int(match[2])),
        authority is not None and _is_proxied(authority[1], authority[2]),
    )


def _is_proxied(scheme: bytes | None, authority: bytes) -> bool:
    port = _port.search(authority)
    if port is not None and (len(port[1]) > 5 or int(port[1]) > _PORT_MAX):
        raise Refused(400, "port in the target")
    return scheme is not None and scheme.lower() in (b"http", b"https") and authority != b""


def clean(line: RequestLine, lines: list[bytes]) -> bytes:
    """A head that h11 takes, from the request line's parts and the raw header lines (no ends).

    Raises Refused when the message's end is in doubt.
    """
    fields = _fields(lines)
    _check_framing(fields, line.version)
    if not any(name == b"host" for name, _ in fields):
        fields.append((b"host", b""))
    version = b"1.1" if line.version >= (1, 1) else b"1.0"
    return b"%b %b HTTP/%b\r\n%b\r\n" % (
        line.method,
        line.target.translate(_printable),
        version,
        b"".join(b"%b: %b\r\n" % field for field in fields),
    )


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Header lines -> (lower-case name, value).  Only the first Host is kept."""
    fields: list[tuple[bytes, bytes]] = []
    dropped = True  # nothing to fold to yet
    hosted = False
    for line in lines:
        folded = line.startswith((b" ", b"\t"))
        name, colon, value = line.partition(b":")
        odd = folded or _whitespace.search(line) or not _token.fullmatch(name)
        if odd and (_framing.search(line) or (folded and fields and _framing.match(fields[-1][0]))):
            raise Refused(400, "odd header line about the length")
        if folded:
            if not dropped:
                fields[-1] = (fields[-1][0], fields[-1][1] + b" " + _value(line))
            continue
        if not colon:
            raise Refused(400, "header line without a colon")
        name = name.lower()
        dropped = not _token.fullmatch(name) or (hosted and name == b"host")
        if not dropped:
            hosted = hosted or name == b"host"
            fields.append((name, _value(value)))
    return fields


def _value(raw: bytes) -> bytes:
    return _whitespace.sub(b" ", raw).strip(b" \t")


def _check_framing(fields: list[tuple[bytes, bytes]], version: tuple[int, int]) -> None:
    """Refuse what h11 would take although other servers see another end of the message."""
    lengths = transfers = 0
    for at, (name, value) in enumerate(fields):
        if name == b"content-length":
            lengths += 1
            match = _content_length.fullmatch(value)
            if match is None:
                raise Refused(400, "Content-Length is not one number")
            fields[at] = (name, match[1])  # HTTPSQS took a plus sign; h11 does not
        elif name == b"transfer-encoding":
            transfers += 1
            if value.lower() != b"chunked" or version < (1, 1):
                raise Refused(400, "Transfer-Encoding")
    if transfers > 1 or (transfers and lengths):
        raise Refused(400, "Transfer-Encoding beside another length")
