"""Answers as bytes.  PURE.

Header names, their spelling, order and number are protocol for the clients that exist, so these
lines are written here and not by an HTTP library.  Nothing else may be added: no Server line, no
compression, no newline after the body.  Answers that HTTPSQS did not have are free of that.
"""

from __future__ import annotations

from logqueue.web import problem
from logqueue.web.message import CLOSED, Layout, Refused, Response, split_v1

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# Of 400, 413, 417 and 501 the phrases and pages are those of HTTPSQS's HTTP library.
_PHRASES = {
    200: b"OK",
    201: b"Created",
    204: b"No Content",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    409: b"Conflict",
    410: b"Gone",
    413: b"Request Entity Too Large",
    414: b"Request-URI Too Large",
    415: b"Unsupported Media Type",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    507: b"Insufficient Storage",
}


def encode(response: Response, layout: Layout, date: bytes, *, head_only: bool) -> bytes:
    """The bytes of an answer.  `date` is a whole header line; `head_only` answers HEAD."""
    body, position, content_type, _, _, is_legacy, _ = response
    if not is_legacy:
        return _modern(response, layout, date, head_only=head_only)
    return b"%b%b%b%b%b\r\n%b" % (
        opening(layout, content_type),
        b"" if position is None else b"Pos: %d\r\n" % position,
        date if layout.dated else layout.kept,
        b"Content-Length: %d\r\n" % len(body) if layout.framed else b"",
        layout.last,
        b"" if head_only else body,
    )


def opening(layout: Layout, content_type: bytes) -> bytes:
    """The lines of an answer of HTTPSQS's that are the same each time."""
    return b"%bContent-Type: %b\r\n%bCache-Control: no-cache\r\n" % (
        layout.status,
        content_type,
        layout.connection,
    )


def _modern(response: Response, layout: Layout, date: bytes, *, head_only: bool) -> bytes:
    """The bytes of an answer that HTTPSQS did not have."""
    body, code = response.body, response.status
    described = b""
    if code != 204:  # RFC 9110, section 8.6: no Content-Length
        described = b"Content-Type: %b\r\nContent-Length: %d\r\n" % (
            response.content_type,
            len(body),
        )
    return (
        b"%b %d %b\r\n%b%b%b%bCache-Control: no-cache\r\n"
        b"X-Content-Type-Options: nosniff\r\n%b\r\n%b"
    ) % (
        layout.status[: len(b"HTTP/1.1")],
        code,
        _PHRASES[code],
        described,
        response.lines,
        layout.connection,
        date if layout.dated else b"",
        layout.last,
        b"" if head_only else body,
    )


def problem_response(found: problem.Problem) -> Response:
    """The answer that tells of a problem."""
    title = _PHRASES[found.status].decode()
    return Response(
        found.body(title),
        content_type=problem.CONTENT_TYPE,
        status=found.status,
        is_legacy=False,
        lines=found.lines,
    )


def refusal(refused: Refused, date: bytes) -> bytes:
    """The bytes of an error answer.  Its body is never empty: stock PHP clients die of that.

    HTTPSQS's own refusals, which explain nothing, keep the header lines that they had.
    """
    if split_v1(refused.target):
        told = problem_response(problem.refused(refused.status, refused.reason))
        return encode(told, CLOSED, date, head_only=False)
    phrase = _PHRASES[refused.status]
    detail = b"<P>%b</P>\n" % refused.reason.encode() if refused.explained else b""
    body = b"<HTML><HEAD>\n<TITLE>%d %b</TITLE>\n</HEAD><BODY>\n<H1>%b</H1>\n%b</BODY></HTML>\n" % (
        refused.status,
        phrase,
        phrase,
        detail,
    )
    ours = b"X-Content-Type-Options: nosniff\r\n" if refused.explained else b""
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: text/html\r\nConnection: close\r\n%b%b"
        b"Content-Length: %d\r\n\r\n%b" % (refused.status, phrase, ours, date, len(body), body)
    )
