"""What the client makes of answers and failures, without a server: errors, when it tries again, pieces and events."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import client_code
import httpx
import pytest
from pydantic import ValidationError

from creditfold.client import (
    AsyncClient,
    Batch,
    Client,
    ClientError,
    Grant,
    IdReusedError,
    NotAllowedError,
    OutcomePendingError,
    ProblemError,
    Spend,
    SpendStep,
    StrangeAnswerError,
    UnavailableError,
    UnreachableError,
)
from creditfold.client import calls as building
from creditfold.client.streams import PIECE_BYTES, Follower, Pieces
from creditfold.producers.models.commands import MODELS

ORDER = Spend(command_id="order/ü", account="team/ada", asset="credits", amount=5)
KEY = "cfk_k1_secret"


def problem(status: int, code: str = "refused", *, maybe_written: bool = False, **headers: str) -> httpx.Response:
    """A problem document of the door."""
    found = {"type": "urn:x", "title": "x", "status": status, "code": code, "detail": "No.", "remedy": "Do that."}
    content = json.dumps({**found, "request_id": "r-1", "maybe_written": maybe_written}).encode()
    headers = {"Content-Type": "application/problem+json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return httpx.Response(status, content=content, headers=headers)


def outcome(status: int = 201, kind: str = "accepted") -> httpx.Response:
    """An outcome without a decision."""
    found = {"outcome": kind, "command_id": ORDER.command_id, "account": ORDER.account, "position": "3:7"}
    return httpx.Response(
        status, json={**found, "accepted": kind != "rejected", "reason": None, "decision": None, "steps": []}
    )


Reply = Callable[[httpx.Request], httpx.Response]


def broken(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("reset", request=request)


def unreached(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def replies(*ones: Reply | httpx.Response, retry_s: float = 30.0) -> tuple[Client, list[httpx.Request]]:
    """A client of a server that replies so, one after the other, and the requests that it got."""
    seen: list[httpx.Request] = []

    def reply(request: httpx.Request) -> httpx.Response:
        found = ones[min(len(seen), len(ones) - 1)]
        seen.append(request)
        return found if isinstance(found, httpx.Response) else found(request)

    http = httpx.Client(transport=httpx.MockTransport(reply))
    return Client("http://door/behind", KEY, retry_s=retry_s, http=http), seen


NOW = {"Retry_After": "0"}
STRANGE = httpx.Response(418, headers={"Content-Type": "application/problem+json"})
#: What the server did, one try after the other; how often it was asked; the error, and whether it may be written.
CASES: dict[str, tuple[tuple[Reply | httpx.Response, ...], int, type[ClientError] | None, bool]] = {
    "accepted": ((outcome(),), 1, None, False),
    "rejected": ((outcome(422, "rejected"),), 1, None, False),
    "repeated after a cut": ((broken, outcome(200, "duplicate")), 2, None, False),
    "unreached, busy, away": ((unreached, problem(429, **NOW), problem(503, **NOW), outcome()), 4, None, False),
    "a proxy's error": ((httpx.Response(502, html="<p>"), outcome()), 2, None, False),
    "refused": ((problem(400),), 1, ProblemError, False),
    "a dead letter": ((problem(422, "dead_letter"),), 1, ProblemError, False),
    "not allowed": ((problem(403),), 1, NotAllowedError, False),
    "another body": ((problem(409, "idempotency_key_reused"),), 1, IdReusedError, False),
    "a defect": ((problem(500, maybe_written=True),), 1, ProblemError, True),
    # The last answer is sure of itself, and knows nothing of the try before.
    "refused after a cut": ((broken, problem(403)), 2, NotAllowedError, True),
    "refused after a doubt": ((problem(503, maybe_written=True, **NOW), problem(400)), 2, ProblemError, True),
    "busy for long": ((problem(503, Retry_After="3600"),), 1, UnavailableError, False),
    "a stranger": ((httpx.Response(200, html="<p>"),), 1, StrangeAnswerError, True),
    "a stranger's problem": ((STRANGE,), 1, StrangeAnswerError, True),
    "redirected": ((httpx.Response(307, headers={"Location": "http://x/"}),), 1, StrangeAnswerError, True),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_command_is_sent_again_under_its_id_where_that_helps(name: str) -> None:
    """And the error says whether it may be in the log by any of the tries, and how to find out."""
    answers, tries, kind, maybe_written = CASES[name]
    client, seen = replies(*answers)
    error = None
    try:
        client.append_and_wait(ORDER, timeout_s=30)
    except ClientError as raised:
        error = raised
    assert (type(error), len(seen)) == (kind or type(None), tries)
    assert {bytes(dict(one.headers.raw)[b"Idempotency-Key"]) for one in seen} == {"order/ü".encode()}
    assert {one.url.raw_path for one in seen} == {b"/behind/v1/accounts/team%2Fada/spends"}
    assert [json.loads(one.content) for one in seen] == [{"asset": "credits", "amount": 5}] * tries
    if error is not None:
        assert (error.maybe_written, error.command) == (maybe_written, ORDER)
        assert ("may be in the log" in str(error)) is maybe_written
        assert error.question == "/v1/accounts/team%2Fada/commands/order%2F%C3%BC"
        assert "secret" not in f"{error!r}{error}{client!r}{vars(error)}"
    if isinstance(error, ProblemError):
        assert (error.status, error.remedy, error.request_id) == (answers[-1].status_code, "Do that.", "r-1")  # type: ignore[union-attr]


def test_an_end_comes_when_the_time_is_over() -> None:
    """With the last error, however often it was tried."""
    client, seen = replies(unreached, retry_s=0.3)
    with pytest.raises(UnreachableError) as unreachable:
        client.balances("ada")
    assert len(seen) > 1
    assert (unreachable.value.code, unreachable.value.maybe_written) == ("server_unreachable", False)
    client, seen = replies(unreached, retry_s=0)
    with pytest.raises(UnreachableError, match="didn't write"):
        client.append(ORDER)
    assert len(seen) == 1
    pending = httpx.Response(202, json={"outcome": "pending", "command_id": "x", "account": "y", "position": "3:7"})
    client, seen = replies(pending)
    with pytest.raises(OutcomePendingError, match="3:7") as late:
        client.append_and_wait(ORDER, timeout_s=0)
    assert (late.value.maybe_written, late.value.position, len(seen)) == (True, "3:7", 1)
    assert seen[0].headers["Prefer"] == "wait=1"
    client, _ = replies(problem(403))
    with pytest.raises(NotAllowedError) as refused:
        client.outcome_at(ORDER, "3:7")
    assert refused.value.maybe_written


def test_what_counts_twice_is_sent_once() -> None:
    """A key is made anew by each request: only one that never reached the server is repeated."""
    asked: dict[str, Any] = {"name": "shop", "scopes": ["read:balance"], "reason": "needed"}
    for reply, tries in ((broken, 1), (problem(503, **NOW), 1), (unreached, 2)):
        client, seen = replies(reply, problem(400))
        with pytest.raises(ClientError):
            client.create_key(**asked)
        assert len(seen) == tries
        assert json.loads(seen[0].content) == asked


def test_what_cannot_be_sent_is_refused_here() -> None:
    """By its type, as no header or URL can be, and without a secret in the words."""
    with pytest.raises(ValidationError):
        Grant(command_id="g", account="ada", asset="credits", amount="5")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Grant(command_id="g", account="ada", asset="credits", amount=5, expires_at=datetime(2099, 1, 1))
    for url in ("ledger", "ftp://ledger", "http://", "http://ledger/?x=1"):
        with pytest.raises(ValueError, match="URL"):
            Client(url)
    for key in ("cfk_secret\r\nX: y", "cfk_secret ", "cfk_secrét"):
        with pytest.raises(ValueError, match="character") as refused:
            Client("http://ledger", key)
        assert "secr" not in str(refused.value)


def test_commands_are_those_of_the_producers() -> None:
    """With the same fields, but for the source, which is the key's name; sent as they were said."""
    import creditfold.client.commands as ours

    for kind, model in MODELS.items():
        command = getattr(ours, model.__name__)
        assert command.kind == kind
        assert command.model_fields.keys() - {"confirmed"} == model.model_fields.keys() - {"type", "source"}
        mine = {name for name, field in command.model_fields.items() if field.is_required()}
        assert mine == {name for name, field in model.model_fields.items() if field.is_required()}
    steps = (SpendStep(command_id="a", asset="credits", amount=1),)
    moment = datetime(2026, 6, 1, tzinfo=UTC)
    batch = Batch(command_id="b", account="ada", steps=steps, occurred_at=moment, metadata={"order": "7"})
    assert batch.body() == {
        "steps": [{"type": "spend", "command_id": "a", "asset": "credits", "amount": 1}],
        "occurred_at": "2026-06-01T00:00:00Z",
        "metadata": {"order": "7"},
    }
    assert json.loads(batch.line()) == {"type": "batch", "account": "ada", "command_id": "b", **batch.body()}


def test_pieces_are_bounded_and_sent_again_as_a_whole() -> None:
    """Until each of their lines has an answer that stands; a refused line ends nothing."""
    pieces, made = Pieces(is_waiting=False), []
    commands = [Spend(command_id=f"s-{n}", account="ada", asset="credits", amount=1) for n in range(2_000)]
    large = Grant(command_id="g", account="ada", asset="credits", amount=1, metadata={"x": "y" * PIECE_BYTES})
    for command in (*commands, large, large):
        made += pieces.add(command)
    made += pieces.rest()
    assert [command for piece in made for command in piece.commands] == [*commands, large, large]
    assert all(len(piece.content) <= PIECE_BYTES for piece in made[:-2])
    assert [len(piece.commands) for piece in made[-2:]] == [1, 1]
    assert pieces.rest() == ()
    refused = json.loads(problem(400).content) | {"position": "3:9", "generation": 2}
    ended = json.loads(problem(503, "stream_ended").content)
    pending = {"status": 202, "outcome": "pending", "position": "3:1"}

    def lines(*rows: dict[str, Any]) -> httpx.Response:
        text = "".join(json.dumps({"line": number, **row}) + "\n" for number, row in enumerate(rows, 1))
        return httpx.Response(200, content=text.encode(), headers={"Content-Type": "application/x-ndjson"})

    for first in (lines(pending, ended), lines(pending), lines(), broken):
        client, seen = replies(first, lines(pending, refused, pending))
        found = list(client.append_many(commands[:3], is_waiting=False))
        assert len(seen) == 2
        assert seen[0].content == seen[1].content
        assert [line.command for line in found] == commands[:3]
        assert [getattr(line.answer, "position", None) for line in found] == ["3:1", None, "3:1"]
        assert isinstance(found[1].answer, ProblemError)
        assert found[1].answer.command == commands[1]
        # As a single command's headers would say it.
        stamps = [found[0].answer.stamp, found[1].answer.problem.stamp]
        assert [(one.position, one.generation) for one in stamps] == [("3:1", None), ("3:9", 2)]
    client, _ = replies(lines(pending, ended), retry_s=0)
    with pytest.raises(UnavailableError) as failed:
        list(client.append_many(commands[:3]))
    assert (failed.value.maybe_written, failed.value.command) == (False, commands[1])


def test_events_are_read_however_they_are_cut() -> None:
    """Byte by byte as in one piece; a heartbeat moves the id on, and half an event doesn't."""
    decision = dict.fromkeys(("version", "amount", "change", "available", "pending", "held", "debt", "rules"), 0)
    decision |= {"position": "0:1", "account": "ü", "command_id": None, "kind": "grant", "asset": "credits"}
    decision |= {"accepted": True, "rejection": None, "step": None, "decided_at": "2026-06-01T00:00:00Z"}
    decision |= {"occurred_at": None, "source": None, "reason": None, "details": None, "facts": [], "allocations": []}
    event = b"id: 0:1\r\ndata: " + json.dumps(decision, ensure_ascii=False).encode() + b"\r\n\r\n"
    stream = b"retry: 1000\n: heartbeat\nid: 0:0\n\n" + event + b": heartbeat\nid: 0:1,1:5\n\nid: 0:9\ndata: {"
    for size in (1, 7, len(stream)):
        follower = Follower("start", None)
        assert follower.opening().parameters == {"after": "start"}
        found = [one for at in range(0, len(stream), size) for one in follower.received(stream[at : at + size])]
        assert [(one.id, one.decision.account) for one in found] == [("0:1", "ü")]
        assert follower.opening().parameters == {"after": "0:1,1:5"}
        assert [one.id for one in follower.received(event)] == ["0:1"]


def test_the_modules_that_are_made_are_those_that_are_committed() -> None:
    """`make api` writes them, from docs/openapi.json and from the client for asyncio."""
    made = client_code.python_files()
    assert {path.name for path, text in made.items() if path.read_text("utf-8") != text} == set(), "run `make api`"
    public = {name for name in dir(Client) if name[0] != "_"}
    assert {name.replace("aclose", "close") for name in dir(AsyncClient) if name[0] != "_"} == public
    assert building.following(type("Page", (), {"next": "x", "has_more": False})) is None
