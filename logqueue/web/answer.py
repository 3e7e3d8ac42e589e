"""Answers as bytes.  PURE.

Header names, their spelling, order and number are protocol for the clients that exist, so these
lines are written here and not by an HTTP library.  Nothing else may be added: no Server line, no
compression, no newline after the body.  Answers that HTTPSQS did not have are free of that.
"""

from __future__ import annotations

from logqueue.web.message import Layout, Refused, Response

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# Of 400, 413, 417 and 501 the phrases and pages are those of HTTPSQS's HTTP library.
_PHRASES = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    413: b"Request Entity Too Large",
    414: b"Request-URI Too Large",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
}


def encode(response: Response, layout: Layout, date: bytes, *, head_only: bool) -> bytes:
    """The bytes of an answer.  `date` is a whole header line; `head_only` answers HEAD."""
    body, position, content_type, _, code, is_legacy = response
    status, connection, dated, kept, framed, last, _ = layout
    if not is_legacy:
        status = b"%b %d %b\r\n" % (status[: len(b"HTTP/1.1")], code, _PHRASES[code])
        last = b"X-Content-Type-Options: nosniff\r\n" + last
    return b"%bContent-Type: %b\r\n%bCache-Control: no-cache\r\n%b%b%b%b\r\n%b" % (
        status,
        content_type,
        connection,
        b"" if position is None else b"Pos: %d\r\n" % position,
        date if dated else kept,
        b"Content-Length: %d\r\n" % len(body) if framed else b"",
        last,
        b"" if head_only else body,
    )


def refusal(refused: Refused, date: bytes) -> bytes:
    """The bytes of an error answer.  Its body is never empty: stock PHP clients die of that."""
    phrase = _PHRASES[refused.status]
    detail = b"<P>%b</P>\n" % refused.reason.encode() if refused.explained else b""
    body = b"<HTML><HEAD>\n<TITLE>%d %b</TITLE>\n</HEAD><BODY>\n<H1>%b</H1>\n%b</BODY></HTML>\n" % (
        refused.status,
        phrase,
        phrase,
        detail,
    )
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: text/html\r\nConnection: close\r\n%b"
        b"Content-Length: %d\r\n\r\n%b" % (refused.status, phrase, date, len(body), body)
    )
