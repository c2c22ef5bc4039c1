"""Requests and answers in the form that nearly all have, read and written at once. Does no I/O and keeps no state.

Knows nothing that h11 doesn't: what is read here is what h11 reads of the same bytes, and what is written here is what
h11 writes of the same answer. All that is of another form, or wrong, or not whole, is None and h11's to judge.
"""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

#: Methods of requests that are read here, as bytes and as text.
_METHODS = {method.encode(): method for method in ("GET", "HEAD", "POST", "DELETE")}
_NAME = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
# What is visible, with blanks between: less than h11 takes, so that no two readers differ on where a value ends.
_VALUE = rb"[!-~\x80-\xff](?:[ -~\x80-\xff]*[!-~\x80-\xff])?"
_FIELDS = re.compile(rb"(?:%b: ?%b\r\n)+" % (_NAME, _VALUE)).fullmatch
_FIELD = re.compile(rb"(%b): ?(%b)\r\n" % (_NAME, _VALUE)).findall
_REQUEST_LINE = re.compile(rb"([A-Z]+) ([!-~]+) HTTP/1\.1").fullmatch
#: The fields by which a request isn't of this form, whatever they say.
_OTHER = frozenset({b"transfer-encoding", b"upgrade", b"expect"})
#: The fields of an answer by which h11 writes it in another way than it is given.
_OTHER_IN_ANSWERS = frozenset({b"connection", b"transfer-encoding", b"host"})
#: Digits of a length.
_MOST_DIGITS = 8
#: The statuses whose answers have neither a body nor its length.
_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
_STATUS_LINES = {
    one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode() for one in HTTPStatus if one >= HTTPStatus.OK
}

Fields = list[tuple[bytes, bytes]]


class PlainRequest(NamedTuple):
    """A whole request of HTTP/1.1 after which the connection is kept. The fields' names are in lower case."""

    method: str
    target: bytes
    headers: Fields
    body: bytes


def read(data: bytes) -> PlainRequest | None:
    """The one request that bytes are, of which nothing is missing and behind which nothing comes; else None."""
    head, end, body = data.partition(b"\r\n\r\n")
    line, _, fields = head.partition(b"\r\n")
    first = _REQUEST_LINE(line)
    method = None if first is None else _METHODS.get(first[1])
    fields += b"\r\n"
    if not end or first is None or method is None or _FIELDS(fields) is None:
        return None
    headers = [(name.lower(), value) for name, value in _FIELD(fields)]
    length = hosts = 0
    has_length = False
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if has_length or not value.isdigit() or len(value) > _MOST_DIGITS:
                return None
            has_length, length = True, int(value)
        elif name in _OTHER or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
    if hosts != 1 or len(body) != length:
        return None
    return PlainRequest(method, first[2], headers, body)


def has_length(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether an answer with this head says how long it is, and leaves the connection as it is."""
    lengths = 0
    for name, value in headers:
        if name in _OTHER_IN_ANSWERS:
            return False
        if name == b"content-length":
            if not value.isdigit() or len(value) > _MOST_DIGITS:
                return False
            lengths += 1
    return status in _STATUS_LINES and lengths == (0 if status in _BODILESS else 1)


def written(status: int, headers: Fields, body: bytes, *, is_head: bool) -> bytes | None:
    """The bytes of a whole answer for which `has_length`; None where its fields or its length aren't right.

    Args:
        status: of the answer.
        headers: of the answer; their names are in lower case.
        body: all of it; it isn't sent in answer to HEAD.
        is_head: whether it answers HEAD.
    """
    fields = b"".join([b"%b: %b\r\n" % field for field in headers])
    if _FIELDS(fields) is None or len(_FIELD(fields)) != len(headers):
        return None
    if is_head or status in _BODILESS:
        return b"%b%b\r\n" % (_STATUS_LINES[status], fields)
    if int(dict(headers)[b"content-length"]) != len(body):
        return None
    return b"%b%b\r\n%b" % (_STATUS_LINES[status], fields, body)
