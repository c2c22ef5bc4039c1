"""Hostile and broken clients: each is refused in words or cut off, keeps nobody else waiting, and writes nothing."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from urllib.parse import quote

import httpx
import pytest

from creditfold.api import at_least, create_app, server
from creditfold.api import body as bodies
from creditfold.api import connection as connections
from creditfold.api.openapi import operations
from creditfold.common.position import Position
from creditfold.common.waiting import wait_until
from creditfold.projections.connections import connected
from creditfold.projections.queries import first_decision
from helpers.doors import Door, serving
from helpers.support import HANG_S

pytestmark = pytest.mark.stack

BODY = b'{"asset": "credits", "amount": 1}'


class Answer:
    """An answer that was read from a socket."""

    def __init__(self, own: socket.socket) -> None:
        response = HTTPResponse(own)
        response.begin()
        self.status = response.status
        self.headers = response.headers
        self.json = json.loads(response.read())


@contextmanager
def dialled(url: str) -> Iterator[socket.socket]:
    """A connection to a door, by its bytes."""
    at = httpx.URL(url)
    with socket.create_connection((at.host, at.port or 80), HANG_S) as own:
        yield own


def head(door: Door, account: str, *headers: str, key: str = "Idempotency-Key: k") -> bytes:
    """The head of a grant, up to the empty line."""
    lines = [
        f"POST /v1/accounts/{account}/grants HTTP/1.1",
        "Host: door",
        f"Authorization: {door.http.headers['Authorization']}",
        "Content-Type: application/json",
        *((key,) if key else ()),
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def is_cut_off(own: socket.socket) -> bool:
    """Whether the door has closed a connection, on which a byte more is sent."""
    own.setblocking(False)
    try:
        own.send(b"a")
        return own.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def was_written(door: Door, account: str) -> bool:
    """Whether an account has any command, once what came before has been folded."""
    assert door.append("marker", "grants", asset="credits", amount=1).status_code == 201
    return bool(door.http.get(f"/v1/accounts/{account}/balances").json())


CHUNK = b"10000\r\n" + b" " * 65_536 + b"\r\n"
#: The headers of a grant and its body, and the answer's status and code.
FRAMINGS: dict[str, tuple[tuple[str, ...], bytes, int, str]] = {
    "both lengths": (("Content-Length: 33", "Transfer-Encoding: chunked"), b"0\r\n\r\n", 400, "ambiguous_request"),
    "two lengths": (("Content-Length: 33", "Content-Length: 34"), BODY, 400, "invalid_http"),
    "a length with a sign": (("Content-Length: +33",), BODY, 400, "invalid_http"),
    "another encoding": (("Transfer-Encoding: gzip",), BODY, 501, "invalid_http"),
    "chunked twice": (("Transfer-Encoding: chunked, chunked",), BODY, 501, "invalid_http"),
    "a chunk without size": (("Transfer-Encoding: chunked",), b"size\r\n", 400, "invalid_http"),
    "a space in a name": (("Content-Length : 33",), BODY, 400, "invalid_http"),
    "two keys": (("Content-Length: 33", "Idempotency-Key: other"), BODY, 400, "ambiguous_request"),
    "a key of 1 MB": (("Content-Length: 33", "Idempotency-Key: " + "k" * 1_000_000), BODY, 431, "headers_too_large"),
    "a long body": (("Content-Length: 5000000",), b" " * 5_000_000, 413, "body_too_large"),
    "many chunks": (("Transfer-Encoding: chunked",), CHUNK * 40, 413, "body_too_large"),
    "a body cut by its length": (("Content-Length: 20",), BODY, 400, "invalid_body"),
    "more than the length": (("Content-Length: 1", "Connection: close"), BODY, 400, "invalid_body"),
}


@pytest.mark.parametrize("name", FRAMINGS)
def test_a_request_of_bad_form_is_refused_in_words(door: Door, name: str) -> None:
    """The client reads the answer although it sends on; nothing is written."""
    headers, body, status, code = FRAMINGS[name]
    with dialled(door.url) as own:
        own.sendall(head(door, "framed", *headers) + body)
        answer = Answer(own)
    assert (answer.status, answer.json["code"], answer.json["maybe_written"]) == (status, code, False), answer.json
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-Id"] == answer.json["request_id"]
    assert not was_written(door, "framed")


#: What is sent in place of a request, and the answer's status and code.
HEADS: dict[str, tuple[bytes, int, str]] = {
    "no request line": (b"GET\r\n\r\n", 400, "invalid_http"),
    "no protocol": (b"GET /health/live\r\n\r\n", 400, "invalid_http"),
    "an empty line, and no host": (b"\r\nGET /health/live HTTP/1.1\r\n\r\n", 400, "invalid_http"),
    "two hosts": (b"GET /health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "invalid_http"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "http_version_not_supported"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "invalid_http"),
    "a NUL": (b"GET /health/live HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400, "invalid_http"),
    "a space in the path": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "invalid_http"),
    "a path of 40 KB": (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431, "headers_too_large"),
    "9,000 headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: b\r\n" * 9_000 + b"\r\n", 431, "headers_too_large"),
    "the server itself": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404, "not_found"),
    "a tunnel": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: a\r\n\r\n", 404, "not_found"),
    "another server": (b"GET http://example.org/v1/keys HTTP/1.1\r\nHost: a\r\n\r\n", 404, "not_found"),
    "no route": (b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n", 404, "not_found"),
    "no such method": (b"PUT /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method_not_allowed"),
}


@pytest.mark.parametrize("name", HEADS)
def test_what_is_no_request_for_a_route_is_answered_in_words(door: Door, name: str) -> None:
    """By whichever part of the server: each answer is a problem document that says what to do."""
    sent, status, code = HEADS[name]
    with dialled(door.url) as own:
        own.sendall(sent)
        answer = Answer(own)
    assert (answer.status, answer.json["code"], answer.json["maybe_written"]) == (status, code, False), answer.json
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-Id"] == answer.json["request_id"]
    assert answer.json["remedy"]
    assert status != 405 or answer.headers["Allow"] == "GET, HEAD"


def test_what_follows_a_body_is_another_request(door: Door) -> None:
    """Bytes behind the declared length are never part of the command before them."""
    with dialled(door.url) as own:
        own.sendall(head(door, "followed", "Content-Length: 33") + BODY + b"smuggled")
        assert Answer(own).status == 201
        own.sendall(b"\r\n\r\n")
        assert Answer(own).json["code"] == "invalid_http"


def test_a_slow_client_is_let_go(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that comes byte by byte, one that never ends, a head that never ends, and silence."""
    monkeypatch.setattr(bodies, "BODY_S", 0.5)
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
    for body in (b"", BODY[:20]):
        with dialled(door.url) as own:
            own.sendall(head(door, "slow", "Content-Length: 33") + body)
            answer = Answer(own)
            assert (answer.status, answer.json["code"]) == (408, "body_too_slow")
            assert not answer.json["maybe_written"]
    for begin in (b"", b"GET /health/li", b"GET /health/live HTTP/1.1\r\nX: "):
        with dialled(door.url) as own:
            own.sendall(begin)
            assert wait_until(lambda own=own: is_cut_off(own), HANG_S)
    assert not was_written(door, "slow")


def test_the_rest_of_a_refused_request_is_not_read_for_ever(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused at its head, a client may send the rest for a while, and is then cut off."""
    monkeypatch.setattr(connections, "REST_S", 0.3)
    with dialled(door.url) as own:
        own.sendall(head(door, "refused", "Content-Length: 33", key=""))
        assert Answer(own).status == 400
        assert wait_until(lambda: is_cut_off(own), HANG_S)


def test_more_connections_than_the_door_takes_get_503(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle ones are closed after a moment, and then there is room again."""
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 40)
    monkeypatch.setattr(connections, "HEAD_S", HANG_S)
    with serving(door.settings) as url:

        def live() -> httpx.Response:
            return httpx.get(f"{url}/health/live", timeout=HANG_S, trust_env=False)

        with ExitStack() as idle:
            for _ in range(45):
                idle.enter_context(dialled(url))
            answer = live()
            assert (answer.status_code, answer.json()["code"]) == (503, "too_many_connections")
            assert (answer.json()["maybe_written"], answer.headers["Retry-After"]) == (False, "1")
        monkeypatch.setattr(connections, "HEAD_S", 0.3)
        with ExitStack() as idle:
            for _ in range(45):
                idle.enter_context(dialled(url))
            assert wait_until(lambda: live().status_code == 200, HANG_S)


def test_who_leaves_makes_no_room_for_more(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client asked for goes on without it, and counts as its connection did, until it has ended."""
    lost: list[object] = []

    class Watched(connections.Connection):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.append(self)

    monkeypatch.setattr(server, "MOST_CONNECTIONS", 10)
    monkeypatch.setattr(server, "Connection", Watched)
    monkeypatch.setattr(at_least, "AT_LEAST_S", HANG_S)
    position = Position.parse(door.grant("waited-for", 1).headers["Creditfold-Position"])
    ahead = position._replace(offset=position.offset + 5)
    asked = f"GET /v1/accounts/waited-for?at_least={ahead} HTTP/1.1\r\nHost: door\r\nAuthorization: "
    with serving(door.settings) as url:
        for _ in range(12):
            with dialled(url) as own:
                own.sendall(f"{asked}{door.http.headers['Authorization']}\r\n\r\n".encode())
        assert wait_until(lambda: len(lost) == 12, HANG_S)

        def status() -> int:
            return httpx.get(f"{url}/health/live", timeout=HANG_S, trust_env=False).status_code

        assert status() == 503
        for _ in range(6):
            door.grant("waited-for", 1)
        assert wait_until(lambda: status() == 200, HANG_S)


def take_nothing(at: httpx.URL, lost: list[tuple[str, int] | None]) -> None:
    """Ask a door for far more than the systems between keep, and read nothing until it has cut the connection."""
    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        own.connect((at.host, at.port))
        own.settimeout(HANG_S)
        own.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: door\r\n\r\n" * 200)
        assert wait_until(lambda: own.getsockname() in lost, HANG_S)


def test_a_client_that_takes_no_answers_is_cut_off(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers aren't kept for it without end."""
    lost: list[tuple[str, int] | None] = []

    class Watched(connections.Connection):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(self.client)
            super().connection_lost(exc)

    monkeypatch.setattr(connections, "STALL_S", 0.3)
    monkeypatch.setattr(server, "Connection", Watched)
    with serving(door.settings) as url:
        take_nothing(httpx.URL(url), lost)


#: Names of accounts that a URL holds in more than one way, or that look like more than one part of it.
NAMES = (
    "jürgen-größe", "日本", "🪙" * 128, "ad/a", "ad/lots", "//", "a%2Fb", "100%", "a+b", "a b", "a?b#c", "..a",
    "~a;b=c,d", "x" * 128,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_an_account_is_the_one_that_is_named(door: Door, name: str) -> None:
    """In the log, in the answers, and in the location."""
    where = f"/v1/accounts/{quote(name, safe='')}"
    key = f"key-of-{quote(name)}"[:64]
    answer = door.http.post(
        f"{where}/grants", json={"asset": "credits", "amount": 5}, headers={"Idempotency-Key": key, "Prefer": "wait=30"}
    )
    assert (answer.status_code, answer.json()["account"]) == (201, name), answer.text
    assert door.http.get(where).json() | {"balances": []} == {
        "account": name, "balances": [], "is_closed": False, "frozen": None, "lots": None, "lots_next": None,
        "holds": None, "holds_next": None,
    }  # fmt: skip
    assert door.http.get(f"{where}/balances").json()[0]["available"] == 5
    assert door.http.get(f"{where}/commands/{quote(key, safe='')}").json()["command_id"] == key
    with connected(door.settings.dsn) as connection:
        assert first_decision(connection, name, key) is not None


@pytest.mark.parametrize("name", ["%FF", "%C3%28", "%00", "a%00b", "%ED%A0%80", "%zz", "%", "%E2%82"])
@pytest.mark.parametrize("last", ["/grants", "/balances", "/commands/{}", ""])
def test_a_path_of_no_meaning_is_refused(door: Door, name: str, last: str) -> None:
    """Two spellings that no text stands for must not become one account."""
    url = httpx.URL(door.url).copy_with(raw_path=f"/v1/accounts/{name}{last.format(name)}".encode())
    if last == "/grants":
        answer = door.http.post(url, content=BODY, headers={"Idempotency-Key": "k", "Content-Type": "application/json"})
    else:
        answer = door.http.get(url)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), answer.text


def test_a_key_is_read_as_utf_8(door: Door) -> None:
    """As it is in the log; in another encoding it would be another command."""
    key = "schlüssel🔑" * 6
    for name, sent, status in (("utf-8", key.encode(), 201), ("again", key.encode(), 200), ("latin", b"\xfc", 400)):
        answer = door.http.post(
            "/v1/accounts/keyed/grants",
            json={"asset": "credits", "amount": 5},
            headers={"Idempotency-Key": sent, "Prefer": b"wait=30"},  # type: ignore[arg-type]
        )
        assert answer.status_code == status, (name, answer.text)
    assert door.http.get(f"/v1/accounts/keyed/commands/{quote(key)}").json()["command_id"] == key


HUGE = "1" + "0" * 5_000
#: Bodies of a grant that are refused, each with 400.
BAD_NUMBERS = {
    "a fraction": '{"asset": "a", "amount": 1.0}',
    "an exponent": '{"asset": "a", "amount": 1e2}',
    "infinite": '{"asset": "a", "amount": 1e400}',
    "a huge exponent": '{"asset": "a", "amount": 1e999999999999}',
    "2^53": '{"asset": "a", "amount": 9007199254740992}',
    "2^63": '{"asset": "a", "amount": 9223372036854775808}',
    "5,000 digits": '{"asset": "a", "amount": ' + HUGE + "}",
    "negative": '{"asset": "a", "amount": -1}',
    "zero": '{"asset": "a", "amount": 0}',
    "true": '{"asset": "a", "amount": true}',
    "minus infinity": '{"asset": "a", "amount": -Infinity}',
    "metadata infinite": '{"asset": "a", "amount": 1, "metadata": {"a": 1e400}}',
    "metadata nested": '{"asset": "a", "amount": 1, "metadata": {"a": {"b": [1]}}}',
    "metadata twice": '{"asset": "a", "amount": 1, "metadata": {"a": "1", "a": "2"}}',
    "half a character": '{"asset": "\\ud800", "amount": 1}',
    "half a character in a note": '{"asset": "a", "amount": 1, "reason": "\\ud800"}',
    "half a character in metadata": '{"asset": "a", "amount": 1, "metadata": {"\\udfff": "\\ud800"}}',
    "half a character as a name": '{"asset": "a", "amount": 1, "\\ud800": 1}',
    "a NUL": '{"asset": "a\\u0000", "amount": 1}',
    "a NUL in a note": '{"asset": "a", "amount": 1, "reason": "\\u0000"}',
    "a NUL in metadata": '{"asset": "a", "amount": 1, "metadata": {"a": "\\u0000"}}',
    "a mark in front": '\ufeff{"asset": "a", "amount": 1}',
}


#: Bodies that no route takes, and the status that each is refused with.
BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"asset=a", 400),
    "a list": (b"[]", 400),
    "null": (b"null", 400),
    "a text": (b'"a"', 400),
    "a name twice": (b'{"reason": "a", "reason": "b"}', 400),
    "a name twice within": (b'{"steps": [{"a": {"b": 1, "b": 2}}]}', 400),
    "not a number": (b'{"amount": NaN}', 400),
    "infinite": (b'{"amount": Infinity}', 400),
    "a fraction": (b'{"amount": 1.5}', 400),
    "2^63": (b'{"amount": 9223372036854775808}', 400),
    "deep": (b'{"a":' * 200_000, 400),
    "deep lists": (b"[" * 1_000_000, 400),
    "no UTF-8": (b'{"reason": "\xff"}', 400),
    "UTF-16": ('{"reason": "a"}'.encode("utf-16"), 400),
    "an overlong slash": (b'{"reason": "\xc0\xaf"}', 400),
    "1 MiB and a byte": (b" " * 1_048_577, 413),
}


def test_no_writing_route_takes_a_body_of_no_meaning(door: Door) -> None:
    """None that the document has, with a key that may do everything; each says what is wrong, and nothing is written.

    Nor does one take a body of another type.
    """
    taking = [
        (method, re.sub(r"{\w+}", "1", path))
        for path, method, operation in operations(create_app(door.settings).openapi())
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    ]
    assert len(taking) > 16
    wrong = []
    for method, path in taking:
        for name, (body, status) in {**BAD_BODIES, "a form": (BODY, 415)}.items():
            kind = "application/x-www-form-urlencoded" if name == "a form" else "application/json"
            headers = {"Idempotency-Key": "k", "Content-Type": kind}
            answer = door.http.request(method, path, content=body, headers=headers)
            found = answer.json() if answer.headers["Content-Type"] == "application/problem+json" else {}
            if (answer.status_code, found.get("maybe_written"), bool(found.get("remedy"))) != (status, False, True):
                wrong.append((method, path, name, answer.status_code, answer.text[:200]))
    assert wrong == []
    assert not was_written(door, "1")


@pytest.mark.parametrize("name", BAD_NUMBERS)
def test_a_value_of_no_meaning_is_refused(door: Door, name: str) -> None:
    """Numbers that JSON can write and the ledger can't hold, and text that isn't any; previewed or not."""
    for parameters in ({}, {"preview": "true"}):
        answer = door.http.post(
            "/v1/accounts/numbered/grants",
            content=BAD_NUMBERS[name].encode(),
            params=parameters,
            headers={"Idempotency-Key": "k", "Content-Type": "application/json"},
        )
        assert (answer.status_code, answer.json()["maybe_written"]) == (400, False), answer.text


def test_a_line_of_no_meaning_leaves_the_others_alone(door: Door, account: str) -> None:
    """In a stream each is refused by itself."""
    good = json.dumps({"type": "grant", "account": account, "command_id": "g", "asset": "credits", "amount": 5})
    bad = ['{"type": "\\ud800"}', *BAD_NUMBERS.values(), '"\\ud800"', "[]", "nul\0", ""]
    headers = {"Content-Type": "application/x-ndjson", "Prefer": "wait=30"}
    answer = door.http.post("/v1/commands", content="\n".join([*bad, good]).encode(), headers=headers)
    statuses = [json.loads(line)["status"] for line in answer.text.splitlines()]
    assert statuses == [400] * (len(bad) - 1) + [201], answer.text


#: Queries that are refused, on a route that reads and on one that writes.
BAD_QUERIES = {
    "preveiw=true": "unknown_parameter",
    "preview=true&preview=false": "ambiguous_request",
    "preview=perhaps": "invalid_request",
    "preview=%FF": "invalid_request",
    "%00=1": "invalid_request",
}  # fmt: skip


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_a_query_that_the_route_does_not_take_is_refused(door: Door, query: str) -> None:
    """A preview that is misspelled must not write."""
    headers = {"Idempotency-Key": "k", "Prefer": "wait=30"}
    answer = door.http.post(f"/v1/accounts/asked/grants?{query}", json=json.loads(BODY), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, BAD_QUERIES[query]), answer.text
    assert not was_written(door, "asked")


#: What a read is asked, and its status.
BAD_READS = {
    "/v1/accounts/a/commands/b?at=1": 400,
    "/v1/accounts/a/commands/b?at=99999999999:1": 400,
    "/v1/accounts/a/commands/b?at=2000000000:1": 404,
    "/v1/accounts/a/commands/b?at=0:0&wait=nan": 400,
    "/v1/accounts/a/commands/b?at=2000000000:1&wait=1": 400,
    "/v1/accounts/a?at_least=0:99999999999999999999": 400,
    "/v1/accounts/a?at_least=77:1": 400,
    "/v1/trial-balance?at=99999:0": 400,
    "/v1/trial-balance?at=0:99999999": 503,
    "/schemas/99999999999999999999999": 404,
    "/schemas/-1": 404,
    "/schemas/1e3": 400,
    "/v1/accounts/" + "a" * 129: 400,
    "/v1/accounts/a/": 404,
    "//v1/accounts/a": 404,
    "/v1/accounts/a/balances/..%2Flots": 404,
}


@pytest.mark.parametrize("target", BAD_READS)
def test_a_read_of_what_there_can_not_be_is_no_failure(door: Door, target: str) -> None:
    """It says what is wrong with the request, and blames no server."""
    answer = door.http.get(httpx.URL(door.url).copy_with(raw_path=target.encode()))
    assert answer.status_code == BAD_READS[target], answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["remedy"]


#: Reads of a time, in front of its end.
OF_A_TIME = (
    *("/v1/ended?until=", "/v1/accounts/a/ended?until=", "/v1/accounts/a/history?until=", "/v1/journal?until="),
    *("/v1/rejections?until=", "/v1/accounts/a/statement?until=", "/v1/dead-letters?until=", "/v1/expiring?until="),
    *("/v1/trial-balance?until=", "/v1/accounts?ends_before="),
)


@pytest.mark.parametrize("target", OF_A_TIME)
def test_a_time_may_end_with_the_last_instant(door: Door, target: str) -> None:
    """And with the first one; nothing is counted on from there."""
    for instant in ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999Z", "1970-01-01T00:00:00Z"):
        answer = door.http.get(target + instant)
        assert answer.status_code == 200, (instant, answer.text)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
def test_another_method_is_refused_with_those_that_there_are(door: Door, method: str) -> None:
    """Of a path that two routes share, those of both."""
    answer = door.http.request(method, "/v1/accounts/a/holds")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, POST")
    assert method == "HEAD" or answer.json()["code"] == "method_not_allowed"


def test_a_client_that_leaves_does_not_take_its_command_along(door: Door, account: str) -> None:
    """What was sent whole is decided; what was cut is not written."""
    for index in range(20):
        key = f"Idempotency-Key: left-{index}"
        with dialled(door.url) as own:
            own.sendall(head(door, account, "Content-Length: 33", "Prefer: wait=30", key=key) + BODY)
        with dialled(door.url) as own:
            own.sendall(head(door, f"{account}-cut", "Content-Length: 33", key=key) + BODY[:-1])

    def decided() -> list[int]:
        return [door.http.get(f"/v1/accounts/{account}/commands/left-{n}").status_code for n in range(20)]

    assert wait_until(lambda: decided() == [200] * 20, HANG_S), decided()
    assert door.http.get(f"/v1/accounts/{account}/balances").json()[0]["available"] == 20
    assert not was_written(door, f"{account}-cut")
