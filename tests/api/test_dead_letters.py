"""Dead letters and records of the log over HTTP: shown safely, redriven once, ever, discarded, and each act audited."""

import base64
import signal
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from creditfold.api import dead_letters
from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.partitioner import partition_of
from creditfold.producers.client import CommandProducer
from creditfold.producers.models.errors import AppendError
from helpers.doors import Door
from helpers.stack_under_test import free_port
from helpers.support import (
    HANG_S,
    ROOT,
    Raw,
    WorkerProcess,
    append,
    read_log,
    record,
    wait_until_folded,
    worker,
)
from programs.redrive_killed import STEPS

pytestmark = pytest.mark.stack

WHY = "a test needs it"
#: What a terminal or a page would take for something else than text: escapes, markup, a change of direction, NUL.
HOSTILE = b"\x1b[31m<script>\xe2\x80\xae\0\xff"


def misdirected(command_id: str, account: str, amount: int = 5, **more: Any) -> Raw:
    """A grant under the key of somebody else."""
    return record("Grant", command_id, account, amount, **more)._replace(key=b"somebody else", partition=0)


def dead(door: Door, name: str, *records: Raw, **query: Any) -> list[str]:
    """Positions of records that can't be folded, oldest first, once they are: those in which a name stands."""
    append(door.settings, records)

    def found() -> list[str]:
        return [row["position"] for row in letters(door, limit=100, **query) if name in str(row)][::-1]

    assert wait_until(lambda: len(found()) == len(records), HANG_S), found()
    return found()


def letters(door: Door, **query: Any) -> list[dict[str, Any]]:
    answer = door.http.get("/v1/dead-letters", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["dead_letters"])


def letter(door: Door, position: str) -> dict[str, Any]:
    return dict(door.http.get(f"/v1/dead-letters/{position}").json())


def act(
    door: Door, what: str, client: httpx.Client | None = None, preview: bool = False, **body: Any
) -> httpx.Response:
    """Redrive or discard."""
    path = f"/v1/dead-letters:{what}{'?preview=true' if preview else ''}"
    return (client or door.http).post(path, json={"why": WHY, **body})


def results(answer: httpx.Response) -> dict[str, str]:
    """What became of each letter."""
    assert answer.status_code == 200, answer.text
    return {row["position"]: row["result"] for row in answer.json()["results"]}


def state_of(answer: httpx.Response) -> tuple[str | None, str | None, bool]:
    """Generation and position by an answer's headers, and whether it says that it has all of the log to an instant."""
    found = answer.headers
    names = ("Creditfold-Generation", "Creditfold-Position")
    return found.get(names[0]), found.get(names[1]), "Creditfold-Complete-To" in found


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def available(door: Door, account: str) -> int:
    return sum(row["available"] for row in door.http.get(f"/v1/accounts/{account}").json()["balances"])


def test_a_letter_is_looked_at_redriven_once_and_audited(door: Door, account: str) -> None:
    """A preview does nothing; the second redrive is refused; who did it, why, and what came of it is kept."""
    (position,) = dead(door, account, misdirected("g1", account, reason="said", metadata={"order": "7"}))
    shown = letter(door, position)
    assert (shown["state"], shown["reason"], shown["key"]["text"]) == ("open", "key_mismatch", "somebody else")
    assert (shown["command"]["reason"], shown["command"]["metadata"]) == ("said", {"order": "7"})
    preview = act(door, "redrive", preview=True, positions=[position], why="")
    assert results(preview) == {position: "would_be_redriven"}
    assert preview.json()["results"][0]["command"]["account"] == account
    assert (letter(door, position)["state"], available(door, account)) == ("open", 0)
    done = act(door, "redrive", positions=[position])
    assert results(done) == {position: "accepted"}
    to = done.json()["results"][0]["to"]
    assert [state_of(preview), state_of(done)] == [("1", None, True), ("1", to, False)]
    after = letter(door, position)
    assert (after["state"], after["to"], after["why"], available(door, account)) == ("redriven", to, WHY, 5)
    again = act(door, "redrive", positions=[position])
    assert problem(again) == (409, "redrive_refused")
    assert again.json()["remedy"] == f"See the outcome: GET /v1/dead-letters/{position}"
    assert problem(act(door, "discard", positions=[position])) == (409, "redrive_refused")
    lines = door.http.get("/v1/audit", params={"limit": 6}).json()["lines"][::-1]
    assert [line["action"] for line in lines] == ["dead-letters.redrive"] * 4 + ["dead-letters.discard"] * 2
    assert {line["target"] for line in lines} == {position}
    assert [lines[0]["before"], lines[1]["after"]] == [
        {"letters": {position: "key_mismatch"}},
        {"letters": {position: f"accepted, {to}"}},
    ]
    assert "redriven already" in lines[3]["after"]["error"]
    sent = door.http.get(f"/v1/log/{to.replace(':', '/')}").json()
    headers = {header["name"]: header["value"]["text"] for header in sent["headers"]}
    assert (headers["redrive-of"], headers["redrive-why"], headers["redrive-attempt"]) == (position, WHY, "1")
    assert headers["redrive-by"].startswith("key-")
    assert (sent["record"], sent["key"]["text"], sent["fields"]["amount"]) == ("Grant", account, 5)


def test_a_correction_needs_what_its_command_needs(door: Door, account: str) -> None:
    """Who may redrive may not grant by it, nor more than their limit; without a correction the log's word stands."""
    positions = dead(door, account, *(record("Grant", f"g{n}", account, -5) for n in range(2)))
    with door.with_key(door.make_key("operate:dead-letters").text) as client:
        plain = act(door, "redrive", client, positions=positions[:1])
        assert problem(plain) == (409, "redrive_refused")
        assert "fields" in plain.json()["remedy"]
        assert "--" not in plain.json()["remedy"]
        assert problem(act(door, "redrive", client, positions=positions[:1], fields={"amount": 5})) == (
            403,
            "scope_missing",
        )
        whole = {"type": "grant", "command_id": "x", "account": account, "asset": "credits", "amount": 9}
        assert problem(act(door, "redrive", client, positions=positions[:1], command=whole)) == (403, "scope_missing")
    limited = door.make_key("operate:dead-letters", "append:grant", most_amount=5)
    with door.with_key(limited.text) as client:
        assert problem(act(door, "redrive", client, preview=True, positions=positions[:1], fields={"amount": 6})) == (
            403,
            "amount_over_limit",
        )
        assert results(act(door, "redrive", client, positions=positions[:1], fields={"amount": 5})) == {
            positions[0]: "accepted"
        }
    line = door.http.get("/v1/audit", params={"limit": 2}).json()["lines"][1]
    assert (line["who"], line["before"]["fields"]) == (limited.key.name, {"amount": 5})
    assert letter(door, positions[0])["corrected"]
    assert (letter(door, positions[1])["state"], available(door, account)) == ("open", 5)


def test_many_are_redriven_and_discarded_by_a_filter(door: Door, account: str) -> None:
    """The oldest first, so many at a time; one that is refused ends nothing; what was discarded stays so."""
    door.grant(account, 1, key="g1")
    positions = dead(door, account, *(misdirected(f"m{n}", account) for n in range(3)))
    mine = {"account": "somebody else", "partition": 0}
    first = act(door, "redrive", **mine, limit=2)
    assert results(first) == dict.fromkeys(positions[:2], "accepted")
    assert first.json()["has_more"]
    # Both are of one account, and so of one partition.
    assert state_of(first) == ("1", first.json()["results"][1]["to"], False)
    rest = act(door, "redrive", **mine, limit=2)
    assert (results(rest), rest.json()["has_more"]) == ({positions[2]: "accepted"}, False)
    assert results(act(door, "redrive", **mine)) == {}
    assert available(door, account) == 16
    append(door.settings, [record("Grant", "g1", account, 7)])
    assert wait_until(lambda: letters(door, reason="command_id_reused", account=account) != [], HANG_S)
    twice = letters(door, reason="command_id_reused", account=account)[0]["position"]
    shown = letter(door, twice)
    assert (shown["reason"], shown["first"]["amount"], shown["command"]["amount"]) == ("command_id_reused", 1, 7)
    refused = act(door, "redrive", reason="command_id_reused", account=account)
    assert results(refused) == {twice: "refused"}
    assert '"fields": {"command_id": ...}' in refused.json()["results"][0]["remedy"]
    assert results(act(door, "discard", preview=True, positions=[twice])) == {twice: "would_be_discarded"}
    assert letter(door, twice)["state"] == "open"
    discarded = act(door, "discard", reason="command_id_reused", account=account)
    assert (results(discarded), state_of(discarded)) == ({twice: "discarded"}, ("1", None, False))
    assert problem(act(door, "redrive", positions=[twice], fields={"command_id": "g2"})) == (409, "redrive_refused")
    lines = [line for line in door.http.get("/v1/audit").json()["lines"] if line["target"] == "2 dead letters"]
    assert set(lines[0]["after"]["letters"]) == set(lines[1]["before"]["letters"]) == set(positions[:2])


def test_of_operators_who_redrive_the_same_at_once_one_does(door: Door, account: str) -> None:
    """The others are answered that it is done or under way; the account has it once."""
    (position,) = dead(door, account, misdirected("g1", account))
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(_redriven_alone(door, position))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    # Two of the four are let in at a time, and both may be answered with the same one record.
    done = {answer.json()["results"][0]["to"] for answer in answers if answer.status_code == 200}
    assert len(answers) == 4
    assert len(done) == 1, [answer.text for answer in answers]
    assert {problem(answer) for answer in answers if answer.status_code != 200} <= {(409, "redrive_refused")}
    assert available(door, account) == 5


def _redriven_alone(door: Door, position: str) -> httpx.Response:
    with door.with_key(door.make_key("operate:dead-letters").text) as client:
        return act(door, "redrive", client, positions=[position])


class Dying(WorkerProcess):
    """A door that dies, as by SIGKILL, at a step of a redrive."""

    def __init__(self, settings: Settings, folder: Path, name: str, **options: Any) -> None:
        self.program = (str(ROOT / "tests" / "programs" / "redrive_killed.py"), name)
        super().__init__(settings, folder, name, **options)


def die(door: Door, folder: Path, step: str, positions: list[str]) -> None:
    """Have letters redriven by a door of its own, whose process is killed at a step."""
    settings = door.settings.model_copy(update={"api_port": free_port()})
    url, headers = f"http://127.0.0.1:{settings.api_port}", door.http.headers
    with (
        worker(settings, folder, step, kind=Dying, command="serve") as process,
        httpx.Client(base_url=url, headers=headers, timeout=HANG_S, trust_env=False) as client,
    ):

        def is_ready() -> bool:
            with suppress(httpx.TransportError):
                return client.get("/health/ready").status_code == 200
            return False

        assert wait_until(is_ready, HANG_S), process.text()[-3000:]
        with pytest.raises(httpx.TransportError):
            act(door, "redrive", client, positions=positions)
        assert process.process.wait(HANG_S) == -signal.SIGKILL, process.text()[-3000:]


@pytest.mark.parametrize("step", STEPS)
def test_a_door_that_is_killed_in_a_redrive_leaves_it_to_the_same_request(
    door: Door, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, during or after the append: nothing is lost, nothing done twice, and asked again it ends the same."""
    monkeypatch.setattr(dead_letters, "REDRIVE_S", HANG_S)
    account = f"killed-{step}"
    positions = dead(door, account, *(misdirected(f"g{number}", account) for number in range(2)))
    die(door, tmp_path, step, positions)
    states = [letter(door, position)["state"] for position in positions]
    assert states == ["open" if step == "before_insert" else "redriving", "open"]
    done = act(door, "redrive", positions=positions)
    assert results(done) == dict.fromkeys(positions, "accepted")
    to = [row["to"] for row in done.json()["results"]]
    for _ in range(2):
        assert results(act(door, "redrive", positions=positions)) == dict.fromkeys(positions, "refused")
        assert problem(act(door, "redrive", positions=positions[:1])) == (409, "redrive_refused")
    found = [letter(door, position) for position in positions]
    assert [(row["state"], row["to"]) for row in found] == [("redriven", place) for place in to]
    # What was on its way when the process died may be in the log behind the one that was sent again: it counts not.
    wait_until_folded(door.settings)
    mending = Counter((seen.header("redrive-of") or b"").decode() for seen in read_log(door.settings))
    assert mending[positions[1]] == 1
    assert mending[positions[0]] in ((1, 2) if step == "while_appending" else (1,))
    assert available(door, account) == 10
    # The killed request has its first line of the audit, and the next one both.
    lines = [line for line in door.http.get("/v1/audit").json()["lines"] if line["target"] == "2 dead letters"][::-1]
    mine = [line for line in lines if set((line["before"] or line["after"])["letters"]) == set(positions)]
    assert ["before" if line["before"] else "after" for line in mine][:3] == ["before", "before", "after"]


def test_one_that_was_interrupted_is_finished_by_the_same_request(
    door: Door, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka goes away after the decision: the answer says that it may count, and it counts once."""
    (position,) = dead(door, account, misdirected("g1", account))
    real = CommandProducer.append_record

    def lost(*arguments: Any) -> Position:
        error = AppendError("Kafka went away.", "Wait.")
        error.maybe_written = True
        real(*arguments)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(CommandProducer, "append_record", lost)
        failed = act(door, "redrive", positions=[position])
    assert (failed.status_code, failed.json()["maybe_written"]) == (503, True)
    assert "redrive it again to finish it" in failed.json()["remedy"]
    assert letter(door, position)["state"] == "redriving"
    assert results(act(door, "redrive", positions=[position])) == {position: "accepted"}
    assert available(door, account) == 5


def test_letters_are_listed_by_what_is_asked_for_and_shown_safely(door: Door, account: str) -> None:
    """By partition, reason, key, time and state, in pages that stay; bytes are text only where all can be seen."""
    noise = [Raw(HOSTILE + bytes([n]), HOSTILE, 1, (("\x1b]0;", HOSTILE), ("plain", None))) for n in range(3)]
    positions = dead(door, "1:", *noise, partition=1, reason="not_framed")
    shown = letter(door, positions[0])
    assert (shown["key"]["text"], shown["key"]["size"]) == (None, len(HOSTILE))
    assert base64.b64decode(shown["value"]["base64"]) == noise[0].value
    assert [header["name"] for header in shown["headers"]] == ["\\x1b]0;", "plain"]
    assert base64.b64decode(shown["headers"][0]["value"]["base64"]) == HOSTILE
    assert (shown["headers"][1]["value"], shown["command"], shown["first"]) == (None, None, None)
    answer = door.http.get("/v1/dead-letters", params={"partition": 1, "limit": 2})
    assert all(ord(char) >= 32 for char in answer.text)
    pages = [answer.json()]
    pages.append(door.http.get("/v1/dead-letters", params={"partition": 1, "cursor": pages[0]["next"]}).json())
    listed = [row["position"] for page in pages for row in page["dead_letters"]]
    assert listed[:3] == positions[::-1]
    assert len(listed) == len(set(listed))
    assert pages[1]["next"] is None
    at = shown["appended_at"]
    assert {row["position"] for row in letters(door, since=at, reason="not_framed")} >= set(positions)
    assert not {row["position"] for row in letters(door, until=at)} & set(positions)
    assert letters(door, reason="empty_value", partition=1) == []
    assert results(act(door, "discard", positions=positions[:1])) == {positions[0]: "discarded"}
    assert [row["position"] for row in letters(door, partition=1, open="true")] == positions[:0:-1]
    with door.with_key(door.make_key("operate:dead-letters").text) as client:
        masked = client.get(f"/v1/dead-letters/{positions[0]}").json()
        assert (masked["value"], {header["value"] for header in masked["headers"]}) == (None, {None})
        assert masked["why"] == WHY


def test_a_record_of_the_log_is_shown_as_it_is(door: Door, account: str) -> None:
    """Decoded with its headers; what people say only to who may read it; an empty value, noise, and none at all."""
    answer = door.grant(account, 5, reason="said", metadata={"order": "7"})
    path = f"/v1/log/{answer.json()['position'].replace(':', '/')}"
    found = door.http.get(path).json()
    assert (found["record"], found["key"]["text"], found["fault"]) == ("Grant", account, None)
    assert (found["fields"]["reason"], found["fields"]["metadata"]) == ("said", {"order": "7"})
    assert door.http.get(f"/schemas/{found['schema_id']}").status_code == 200
    with door.with_key(door.make_key("operate:dead-letters").text) as client:
        masked = client.get(path).json()
    assert (masked["value"], masked["fields"]["amount"]) == (None, 5)
    assert {masked["fields"][name] for name in ("source", "reason", "metadata")} == {None}
    assert "said" not in str(masked)
    partition = partition_of(account.encode(), door.settings.partitions)
    append(door.settings, [Raw(None, account.encode(), partition), Raw(HOSTILE, account.encode(), partition)])
    assert wait_until(lambda: len(letters(door, account=account)) == 2, HANG_S)
    noise, empty = (door.http.get(f"/v1/log/{row['position'].replace(':', '/')}").json()
                    for row in letters(door, account=account))  # fmt: skip
    assert (empty["value"], empty["record"], empty["schema_id"], empty["fault"] is None) == (None, None, None, False)
    assert (noise["value"]["text"], noise["fields"]) == (None, None)
    assert "not_framed" in noise["fault"]
    for place, status, code in (
        ("0/999999999", 404, "record_unknown"),
        ("77/0", 404, "record_unknown"),
        (f"0/{2**63}", 400, "invalid_request"),
        ("-1/0", 400, "invalid_request"),
        ("0/-1", 400, "invalid_request"),
        ("0/x", 400, "invalid_request"),
    ):
        answer = door.http.get(f"/v1/log/{place}")
        assert problem(answer) == (status, code), place


#: What is sent to redrive, and what it is answered with.
BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "no letters": ({}, 400, "invalid_request"),
    "positions and a filter": ({"positions": ["0:1"], "reason": "not_framed"}, 400, "invalid_request"),
    "a filter and every": ({"partition": 0, "every": True}, 400, "invalid_request"),
    "no position": ({"positions": ["x"]}, 400, "invalid_position"),
    "a position beyond": ({"positions": [f"0:{2**63}"]}, 400, "invalid_position"),
    "too many": ({"positions": [f"0:{n}" for n in range(1_001)]}, 400, "invalid_request"),
    "an unknown one": ({"positions": ["0:999999"]}, 404, "dead_letter_unknown"),
    "one that is unknown among many": ({"positions": ["0:999999", "0:999998"]}, 404, "dead_letter_unknown"),
    "an unknown reason": ({"reason": "bad_luck"}, 400, "invalid_request"),
    "a time as a number": ({"since": 1}, 400, "invalid_request"),
    "no limit": ({"every": True, "limit": 0}, 400, "invalid_request"),
    "one id for many": ({"every": True, "fields": {"command_id": "x"}}, 400, "one_id_for_many"),
    "one command for many": ({"every": True, "command": {"type": "grant"}}, 400, "one_id_for_many"),
    "a command and fields": (
        *({"positions": ["0:1"], "command": {"type": "grant"}, "fields": {"amount": 1}}, 400),
        "invalid_request",
    ),
    "a strange member": ({"every": True, "set": {}}, 400, "invalid_request"),
    "a flag as a number": ({"every": 1}, 400, "invalid_request"),
}


def test_what_says_no_letters_is_refused_and_nothing_is_done(door: Door, account: str) -> None:
    """With a problem that says what; without a reason nothing is decided either."""
    (position,) = dead(door, account, misdirected("g1", account))
    before = door.http.get("/v1/audit").json()
    for name, (body, status, code) in BAD.items():
        assert problem(act(door, "redrive", **body)) == (status, code), name
    for what in ("redrive", "discard"):
        for why in ("", "  ", "a\0"):
            answer = act(door, what, positions=[position], why=why)
            assert problem(answer) == (400, "reason_missing"), (what, why)
    assert door.http.get("/v1/audit").json() == before
    assert letter(door, position)["state"] == "open"
    assert problem(door.http.get("/v1/dead-letters/0:999999")) == (404, "dead_letter_unknown")
    assert problem(door.http.get("/v1/dead-letters/x")) == (400, "invalid_position")
    assert problem(door.http.get("/v1/dead-letters", params={"cursor": "x"})) == (400, "invalid_cursor")
