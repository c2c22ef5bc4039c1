"""What is read and written without h11 is what h11 reads and writes: on each of these bytes, and of each answer."""

import random
from collections.abc import Iterator
from http import HTTPStatus

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from creditfold.api import plain_http
from creditfold.api.plain_http import PlainRequest

BODY = b'{"amount": 1}'
#: A request of each form that is read here.
READ = (
    b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /v1/accounts?asset=a HTTP/1.1\r\nhost:a\r\nX-Request-ID: 1\r\n\r\n",
    b"POST /v1/accounts/a%2Fb/spends HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\nX: \xc3\xbc b  c\r\n\r\n" + BODY,
    b"DELETE /v1/keys/k HTTP/1.1\r\nContent-Length: 0\r\nHost: a\r\nConnection: Keep-Alive\r\nX: a:b\r\n\r\n",
    b"POST /v1/commands HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\n\r\n",
)  # fmt: skip
#: What isn't, though it begins like one of these: it is of another form, wrong, not whole, or more than one.
NOT_READ = {
    "no host": b"GET / HTTP/1.1\r\nX: 1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "no fields": b"GET / HTTP/1.1\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    "another method": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "in chunks": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "a list of lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na",
    "a length with a sign": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
    "a body that is asked for": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\na",
    "to be closed": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "an upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
    "a body cut short": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na",
    "more than the body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nab",
    "another behind it": b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a head cut short": b"GET / HTTP/1.1\r\nHost: a\r\n",
    "an empty line in front": b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a bare line feed": b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
    "a bare return": b"GET / HTTP/1.1\r\nHost: a\rX: 1\r\n\r\n",
    "a folded line": b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "a blank in a name": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "a NUL": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "an empty value": b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n",
    "blanks around a value": b"GET / HTTP/1.1\r\nHost: a \r\n\r\n",
    "a blank in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
}
#: What is put into a request.
PIECES = (b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"1", b",", b"\x85", b"\xa0", b"\x7f", b"\x0b")


def by_h11(data: bytes) -> tuple[PlainRequest, h11.Connection]:
    """What h11 reads of the same bytes, and how its connection stands then."""
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(data)
    request = conn.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while not isinstance(event := conn.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += event.data
    assert conn.next_event() is h11.NEED_DATA
    assert conn.trailing_data == (b"", False)
    assert not conn.they_are_waiting_for_100_continue
    assert (conn.their_state, conn.our_state) == (h11.DONE, h11.SEND_RESPONSE)
    headers = [(name.lower(), value) for name, value in request.headers]
    return PlainRequest(request.method.decode(), request.target, headers, body), conn


def altered(data: bytes, chance: random.Random) -> bytes:
    """Bytes near a request: some replaced, left out, put in or doubled."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(found))
        piece = chance.choice(
            (b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"1", b",", b"\x85", b"\xa0", b"\x7f", b"\x0b")
        )
        found[at : at + chance.randint(0, 2)] = chance.choice((piece, b"", bytes(found[at : at + 8])))
    return bytes(found)


@pytest.mark.parametrize("data", READ)
def test_a_plain_request_is_read_as_h11_reads_it(data: bytes) -> None:
    """All of it; and none of what is only the beginning of it."""
    assert plain_http.read(data) == by_h11(data)[0]
    assert {plain_http.read(data[:end]) for end in range(len(data))} == {None}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_of_another_form_is_left_to_h11(name: str) -> None:
    """However near it comes."""
    assert plain_http.read(NOT_READ[name]) is None


@given(st.sampled_from([*READ, *NOT_READ.values()]), st.randoms(use_true_random=False))
def test_nothing_is_read_otherwise_than_by_h11(data: bytes, chance: random.Random) -> None:
    """Whatever bytes come: what is read here is read so there, and the connection is kept."""
    for _ in range(200):
        found = plain_http.read(sent := altered(data, chance))
        if found is not None:
            assert found == by_h11(sent)[0]


def answers() -> Iterator[tuple[int, plain_http.Fields, bytes]]:
    """Answers of a length that is known."""
    for status in (200, 201, 400, 404, 422, 429, 503):
        yield status, [(b"content-length", b"13"), (b"etag", b'"a"'), (b"x", b"a  b")], BODY
    yield 200, [(b"content-length", b"0")], b""
    yield 304, [(b"etag", b'"a"'), (b"x-request-id", b"1")], b""


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
def test_an_answer_is_written_as_h11_writes_it(method: bytes) -> None:
    """Byte for byte."""
    for status, headers, body in answers():
        _, conn = by_h11(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)
        parts = [conn.send(head), conn.send(h11.Data(data=b"" if method == b"HEAD" else body))]
        parts.append(conn.send(h11.EndOfMessage()))
        assert conn.our_state is h11.DONE
        assert plain_http.has_length(status, headers)
        is_head = method == b"HEAD"
        assert plain_http.written(status, headers, body, is_head=is_head) == b"".join(filter(None, parts))


def test_an_answer_of_another_form_is_left_to_h11() -> None:
    """One without a length, or that ends the connection; and one that h11 refuses."""
    length = (b"content-length", b"13")
    for headers in ([], [length, length], [length, (b"connection", b"close")], [(b"transfer-encoding", b"chunked")]):
        assert not plain_http.has_length(200, headers)
    assert not plain_http.has_length(101, [length])
    for field in ((b"x", b"a\r\nset-cookie: b"), (b"x: y\r\nz", b"a"), (b"x", b"a\nb"), (b"x", b" a"), (b"x", b"")):
        assert plain_http.written(200, [length, field], BODY, is_head=False) is None
    assert plain_http.written(200, [length], BODY + b" ", is_head=False) is None
