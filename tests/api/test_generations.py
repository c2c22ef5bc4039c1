"""Generations and rules over HTTP: long operations go on by themselves, are told from interrupted ones, and audited."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from creditfold.common.waiting import wait_until
from creditfold.projections.access.audit import Actor
from creditfold.projections.access.operations import OperationGoneError, begin_operation, record_end
from creditfold.projections.access.operations import running as taken
from creditfold.projections.connections import connected
from helpers.doors import Door, forked_operations, serving
from helpers.fork_server import Process
from helpers.holds import gate_in
from helpers.stack_under_test import free_port
from helpers.support import HANG_S, WITH_CONSTANTS, query, worker

pytestmark = pytest.mark.stack

WHY = {"why": "a test needs it"}
REBUILD = "/v1/generations:rebuild"


@pytest.fixture
def started(door: Door) -> Iterator[list[Process]]:
    """The processes of operations that a test has begun, in their order."""
    with forked_operations() as found:
        yield found


def begun(door: Door, path: str, **body: Any) -> dict[str, Any]:
    """An operation that is begun by a request."""
    answer = door.http.post(path, json={**WHY, **body})
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/v1/operations/{found['operation']}"
    return found


def shown(door: Door, found: dict[str, Any]) -> dict[str, Any]:
    answer = door.http.get(f"/v1/operations/{found['operation']}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ended(door: Door, found: dict[str, Any]) -> dict[str, Any]:
    """An operation when it has ended, however it did."""
    assert wait_until(lambda: shown(door, found)["ended_at"] is not None, HANG_S), shown(door, found)
    return shown(door, found)


def done(door: Door, path: str, **body: Any) -> dict[str, Any]:
    """What an operation comes to."""
    found = ended(door, begun(door, path, **body))
    assert found["state"] == "done", found
    return found


def generations(door: Door) -> dict[int, str]:
    """Each generation's state by its number."""
    return {row["number"]: row["state"] for row in door.http.get("/v1/generations").json()}


def next_number(door: Door) -> int:
    """The number that the next generation gets."""
    text = "SELECT coalesce(last_value, 0) + 1 FROM pg_sequences WHERE sequencename = 'generations_number_seq'"
    return int(query(door.settings, text)[0][0])


def live(door: Door) -> int:
    return next(number for number, state in generations(door).items() if state == "live")


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_generation_is_made_proven_switched_to_and_the_old_one_dropped(door: Door, account: str) -> None:
    """Each step is an operation with its result, but the last; the audit has who, why, before and after of each."""
    door.grant(account, 5, key="g")
    door.grant(account, 1)
    assert door.append(account, "spends", key="s", asset="credits", amount=1).status_code == 201
    trace = f"/v1/accounts/{account}/commands/g/trace"
    of_trace = door.http.get(trace, params={"limit": 1}).json()["next"]
    pages = {name: f"/v1/accounts/{account}/{name}" for name in ("statement", "history")}
    cursors = {name: door.http.get(url, params={"limit": 1}).json()["next"] for name, url in pages.items()}
    old, new = live(door), next_number(door)
    rebuilt = done(door, "/v1/generations:rebuild", note="a try")
    assert (rebuilt["generation"], rebuilt["result"]["state"], rebuilt["result"]["note"]) == (new, "ready", "a try")
    assert rebuilt["done"] == rebuilt["total"]
    assert rebuilt["remedy"] is None
    proven = done(door, f"/v1/generations/{new}:verify")
    assert (proven["result"]["left"], proven["result"]["right"], proven["result"]["equal"]) == (old, new, True)
    switched = done(door, f"/v1/generations/{new}:activate", why="the new tables")
    assert (switched["result"]["old"], switched["result"]["new"]) == (old, new)
    assert (generations(door)[old], generations(door)[new]) == ("retired", "live")
    row = next(row for row in door.http.get("/v1/generations").json() if row["number"] == new)
    assert (row["note"], row["is_partial"], row["until"]) == ("the new tables", False, None)
    # What it says may be otherwise by now: no page of the one follows a page of the other.
    for name, url in pages.items():
        assert problem(door.http.get(url, params={"cursor": cursors[name]})) == (409, "generation_changed")
        following = door.http.get(url, params={"limit": 1}).json()["next"]
        assert len(door.http.get(url, params={"cursor": following}).json()["lines"]) == 2
    assert problem(door.http.get(trace, params={"cursor": of_trace})) == (409, "generation_changed")
    query = "query($a: String!, $c: String) {account(account: $a) {statement(cursor: $c) {next}}}"
    asked = {"query": query, "variables": {"a": account, "c": cursors["statement"]}}
    (refused,) = door.http.post("/graphql", json=asked).json()["errors"]
    assert (refused["extensions"]["status"], refused["extensions"]["code"]) == (409, "generation_changed")
    door.grant(account, 5)
    gone = door.http.delete(f"/v1/generations/{old}", params=WHY)
    assert (gone.status_code, gone.json()["number"]) == (200, old)
    assert problem(door.http.delete(f"/v1/generations/{old}", params=WHY)) == (404, "generation_unknown")
    assert door.http.get(f"/v1/accounts/{account}").json()["balances"][0]["available"] == 10
    lines = door.http.get("/v1/audit", params={"limit": 8}).json()["lines"][::-1]
    steps = ("generations.rebuild", "generations.verify", "generations.activate", "generations.drop")
    assert [line["action"] for line in lines] == [step for step in steps for _ in range(2)]
    for first, last in zip(lines[::2], lines[1::2], strict=True):
        assert (first["request_id"], first["target"]) == (last["request_id"], last["target"])
        assert first["who"].startswith("key-")
        assert first["address"] == last["address"] == "127.0.0.1"
        assert (first["after"], last["before"]) == (None, None)
    assert [(line["before"] or {}).get("live") for line in lines[4:6]] == [old, None]
    assert (lines[4]["reason"], lines[5]["after"]["new"]) == ("the new tables", new)
    assert (lines[6]["before"]["number"], lines[7]["after"]) == (old, {"state": "dropped"})
    listed = door.http.get("/v1/operations", params={"limit": 2}).json()
    assert [one["operation"] for one in listed["operations"]] == [switched["operation"], proven["operation"]]
    more = door.http.get("/v1/operations", params={"cursor": listed["next"]}).json()
    assert more["operations"][0] == shown(door, rebuilt)


def test_one_that_runs_is_left_alone_and_one_that_was_killed_goes_on(
    door: Door, account: str, started: list[Process]
) -> None:
    """Others who want the same meanwhile get told which it is. After a kill it is interrupted, and is resumed."""
    door.grant(account, 5)
    number = next_number(door)
    with gate_in(door.settings, number) as gate:
        for partition in range(door.settings.partitions):
            gate.close(partition, 0)
        running = begun(door, "/v1/generations:rebuild", processes=1)
        assert wait_until(lambda: gate.waiting() > 0, HANG_S), shown(door, running)
        found = shown(door, running)
        assert (found["state"], found["generation"], found["step"]) == ("running", number, "Folding")
        again = door.http.post("/v1/generations:rebuild", json=WHY)
        assert problem(again) == (409, "operation_under_way")
        assert (again.headers["Location"], again.json()["operation"]) == (
            f"/v1/operations/{running['operation']}",
            running["operation"],
        )
        refused = door.http.post(f"/v1/generations/{number}:activate", json=WHY)
        assert problem(refused) == (409, "generation_refused")
        assert "isn't finished" in refused.json()["detail"]
        assert problem(door.http.delete(f"/v1/generations/{number}", params=WHY)) == (409, "generation_refused")
        last = door.http.get("/v1/audit", params={"limit": 1}).json()["lines"][0]
        assert "is being folded by somebody else" in last["after"]["error"]
        started[-1].kill()
        assert wait_until(lambda: shown(door, running)["state"] == "interrupted", HANG_S)
    assert f'"resume": {number}' in shown(door, running)["remedy"]
    assert generations(door)[number] == "building"
    assert done(door, "/v1/generations:rebuild", resume=number)["generation"] == number
    assert generations(door)[number] == "ready"
    assert door.http.delete(f"/v1/generations/{number}", params=WHY).status_code == 200


def cancelled(door: Door, found: dict[str, Any], status: int) -> dict[str, Any]:
    """An operation after a request to cancel it."""
    answer = door.http.post(f"/v1/operations/{found['operation']}:cancel", json={"why": "the disk is full"})
    assert answer.status_code == status, answer.text
    assert ("Location" in answer.headers) == (status == 202)
    return dict(answer.json())


def audited(door: Door, count: int) -> list[tuple[str, str, Any]]:
    """The latest lines of the audit, oldest first: action, reason, and the state before or after."""
    lines = door.http.get("/v1/audit", params={"limit": count}).json()["lines"][::-1]
    return [(one["action"], one["reason"], (one["after"] or one["before"] or {}).get("state")) for one in lines]


@pytest.mark.parametrize("few_records", [None, 0], ids=["in one process", "in processes of its own"])
def test_a_rebuild_that_is_cancelled_in_the_middle_is_resumed(
    door: Door, account: str, few_records: int | None
) -> None:
    """It ends in order, whoever asks once more; another can be begun, and what was folded stays."""
    constant = f"creditfold.processors.rebuild.steps.FEW_RECORDS={few_records}"
    program = () if few_records is None else (WITH_CONSTANTS, constant)
    door.grant(account[:100], 5)
    number = next_number(door)
    with gate_in(door.settings, number) as gate, forked_operations(program) as started:
        for partition in range(door.settings.partitions):
            gate.close(partition, 0)
        running = begun(door, REBUILD, processes=2)
        assert wait_until(lambda: gate.waiting() > 0, HANG_S), shown(door, running)
        with door.with_key(door.make_key("operate:rules").text) as client:
            refused = client.post(f"/v1/operations/{running['operation']}:cancel", json=WHY)
            assert problem(refused) == (403, "scope_missing")
        assert problem(door.http.post(f"/v1/operations/{running['operation']}:cancel", json={})) == (
            400,
            "invalid_request",
        )
        assert shown(door, running)["state"] == "running"
        first = cancelled(door, running, 202)
        assert (first["state"], first["ended_at"]) == ("cancelling", None)
        over = ended(door, running)
        assert started[-1].wait(HANG_S) == 0
    assert (over["state"], over["generation"], over["result"], over["error"]) == ("cancelled", number, None, None)
    assert f'"resume": {number}' in over["remedy"]
    assert cancelled(door, running, 200) == over
    assert [line for line in audited(door, 4) if line[0] != "keys.create"] == [
        ("generations.rebuild", "a test needs it", None),
        ("operations.cancel", "the disk is full", "running"),
        ("generations.rebuild", "a test needs it", "cancelled"),
    ]
    assert generations(door)[number] == "building"
    with forked_operations(program):
        resumed = done(door, REBUILD, resume=number)
    assert (resumed["generation"], generations(door)[number]) == (number, "ready")
    assert cancelled(door, resumed, 200) == resumed
    assert door.http.delete(f"/v1/generations/{number}", params=WHY).status_code == 200


@pytest.mark.parametrize("action", ["verify", "diff"])
def test_a_comparison_that_is_cancelled_leaves_nothing(door: Door, account: str, action: str) -> None:
    """What it folded to compare with is dropped before it ends."""
    door.grant(account, 5)
    number, path = next_number(door), {"verify": f"/v1/generations/{live(door)}:verify", "diff": "/v1/rules:diff"}
    with gate_in(door.settings, number) as gate:
        for partition in range(door.settings.partitions):
            gate.close(partition, 0)
        running = begun(door, path[action])
        assert wait_until(lambda: gate.waiting() > 0, HANG_S), shown(door, running)
        assert number in generations(door)
        cancelled(door, running, 202)
        assert ended(door, running)["state"] == "cancelled"
        assert number not in generations(door)
    done(door, path[action])


def test_one_that_has_not_begun_is_cancelled_at_once(door: Door) -> None:
    """Its process, if it comes all the same, does nothing. An activation stays, and an unknown one is none."""
    by = Actor("tests", "here", "a test needs it")
    with connected(door.settings.dsn) as connection:
        waiting = begin_operation(connection, "rules.diff", {"rules": None, "limit": 1}, by=by).number
        over = cancelled(door, {"operation": waiting}, 200)
        assert (over["state"], over["remedy"]) == ("cancelled", "Begin another one.")
        assert audited(door, 2) == [
            ("operations.cancel", "the disk is full", "starting"),
            ("rules.diff", "a test needs it", "cancelled"),
        ]
        with pytest.raises(OperationGoneError), taken(connection, waiting):
            pass
        switching = begin_operation(connection, "generations.activate", {"generation": 1}, by=by).number
        path = f"/v1/operations/{switching}:cancel"
        assert problem(door.http.post(path, json=WHY)) == (409, "operation_not_cancellable")
        record_end(connection, switching, result={})
        assert door.http.post(path, json=WHY).json()["state"] == "done"


def test_one_whose_process_dies_while_it_is_cancelled_is_interrupted(
    door: Door, account: str, started: list[Process]
) -> None:
    """Nobody says that it ended in order; it stays so, whoever cancels it then."""
    door.grant(account, 5)
    number = next_number(door)
    with gate_in(door.settings, number) as gate:
        for partition in range(door.settings.partitions):
            gate.close(partition, 0)
        found = begun(door, REBUILD, processes=1)
        assert wait_until(lambda: gate.waiting() > 0, HANG_S), shown(door, found)
        os.kill(started[-1].pid, signal.SIGSTOP)
        assert cancelled(door, found, 202)["state"] == "cancelling"
        assert cancelled(door, found, 202)["state"] == "cancelling"
        again = door.http.post(REBUILD, json=WHY)
        assert problem(again) == (409, "operation_under_way")
        started[-1].kill()
        assert wait_until(lambda: shown(door, found)["state"] == "interrupted", HANG_S)
        assert cancelled(door, found, 200)["state"] == "interrupted"
    assert [action for action, _, _ in audited(door, 2)] == ["generations.rebuild", "operations.cancel"]
    assert done(door, REBUILD, resume=number)["generation"] == number
    assert door.http.delete(f"/v1/generations/{number}", params=WHY).status_code == 200


def test_an_operation_outlives_the_server_that_started_it(door: Door, account: str, tmp_path: Path) -> None:
    """The server is killed in the middle; another one shows that the operation runs, and then its result."""
    door.grant(account, 5)
    number = next_number(door)
    settings = door.settings.model_copy(update={"api_port": free_port()})
    with gate_in(door.settings, number) as gate, worker(settings, tmp_path, "serve", command="serve") as serve:
        other = httpx.Client(
            base_url=f"http://127.0.0.1:{settings.api_port}", headers=door.http.headers, timeout=HANG_S, trust_env=False
        )

        def is_up() -> bool:
            try:
                return other.get("/health/live").status_code == 200
            except httpx.TransportError:
                return False

        with other:
            assert wait_until(is_up, HANG_S), serve.text()
            for partition in range(settings.partitions):
                gate.close(partition, 0)
            running = other.post("/v1/generations:rebuild", json=WHY).json()
        assert wait_until(lambda: gate.waiting() > 0, HANG_S), serve.text()
        serve.kill()
        assert shown(door, running)["state"] == "running"
    assert ended(door, running)["state"] == "done", shown(door, running)
    assert door.http.delete(f"/v1/generations/{number}", params=WHY).status_code == 200


def test_what_accounts_are_searched_by_comes_with_a_generation(door: Door, account: str) -> None:
    """A rebuild by a door of other settings has other keys, of the past too; nothing is started anew."""
    door.append(account, "grants", asset="credits", amount=5, metadata={"order": "o", "invoice": "i"})
    old, new = live(door), next_number(door)

    def statuses(*keys: str) -> list[int]:
        asked = [door.http.get("/v1/accounts", params={f"metadata[{key}]": key[0]}) for key in keys]
        assert all(one.json()["accounts"][0]["account"] == account for one in asked if one.status_code == 200)
        assert {one.json()["code"] for one in asked if one.status_code != 200} <= {"not_searchable"}
        return [one.status_code for one in asked]

    assert statuses("order", "invoice") == [200, 400]
    other = {"searchable_metadata": "order, invoice", "searchable_balances": True}
    with serving(door.settings.model_copy(update=other)) as url:
        rebuilt = httpx.post(url + REBUILD, json=WHY, headers=door.http.headers, timeout=HANG_S)
        assert ended(door, rebuilt.json())["generation"] == new
    assert statuses("order", "invoice") == [200, 400]
    shown_of = {row["number"]: row for row in door.http.get("/v1/generations").json()}
    assert (shown_of[old]["searchable"], shown_of[old]["indexes_balances"]) == (["order"], False)
    assert (shown_of[new]["searchable"], shown_of[new]["indexes_balances"]) == (["invoice", "order"], True)
    assert done(door, f"/v1/generations/{new}:verify")["result"]["equal"]
    done(door, f"/v1/generations/{new}:activate")
    assert statuses("order", "invoice") == [200, 200]
    door.append(account, "spends", "later", asset="credits", amount=1, metadata={"invoice": "i"})
    found = door.http.get("/v1/accounts", params={"metadata[invoice]": "i", "asset": "credits", "least": 1}).json()
    assert found["accounts"][0]["commands"][0]["command_id"] == "later"
    done(door, f"/v1/generations/{old}:activate")
    assert statuses("order", "invoice") == [200, 400]
    by_balance = door.http.get("/v1/accounts", params={"asset": "credits", "least": 1, "account_prefix": account})
    assert [one["account"] for one in by_balance.json()["accounts"]] == [account]
    assert door.http.delete(f"/v1/generations/{new}", params=WHY).status_code == 200


def test_rules_are_shown_and_tried_out(door: Door, account: str) -> None:
    """By the rules that are in force history comes to the same; only who may read what people say sees who did it."""
    door.grant(account, 5)
    rules = door.http.get("/v1/rules").json()
    assert (rules["known"], set(rules["in_force"].values()), rules["activations"]) == ([1], {1}, [])
    found = done(door, "/v1/rules:diff", rules=1)
    assert (found["kind"], found["result"]["changed"], found["result"]["rules"]) == ("rules.diff", 0, 1)
    assert set(generations(door).values()) == {"live"}
    key = door.make_key("operate:generations").text
    with door.with_key(key) as client:
        assert problem(client.get(f"/v1/operations/{found['operation']}")) == (403, "scope_missing")
        kinds = {one["kind"] for one in client.get("/v1/operations").json()["operations"]}
        assert not any(kind.startswith("rules") for kind in kinds)


def test_a_part_of_the_log_is_for_looking_at(door: Door, account: str) -> None:
    """A rebuild that ends somewhere can't be activated; one that can't be done says why as its error."""
    position = door.grant(account, 5).json()["position"]
    partial = done(door, "/v1/generations:rebuild", until_positions=[position])
    number = partial["generation"]
    refused = door.http.post(f"/v1/generations/{number}:activate", json=WHY)
    assert problem(refused) == (409, "generation_refused")
    assert door.http.delete(f"/v1/generations/{number}", params=WHY).status_code == 200
    failed = ended(door, begun(door, "/v1/generations:rebuild", until_positions=["0:999999"]))
    assert (failed["state"], failed["error"]["code"]) == ("failed", "no_such_position")
    assert failed["remedy"]
    line = door.http.get("/v1/audit", params={"limit": 1}).json()["lines"][0]
    assert (line["target"], line["after"]["code"]) == (f"operation {failed['operation']}", "no_such_position")


#: A request, and the status and the code that it is answered with. `live` stands for the live generation's number.
REFUSED: dict[str, tuple[str, str, dict[str, Any] | None, int, str]] = {
    **{
        f"{action} {number}": ("POST", f"/v1/generations/{number}:{action}", WHY, 400, "invalid_request")
        for action in ("verify", "activate")
        for number in ("0", "-1", str(2**63), "1.5", "one", "%00")
    },
    **{
        f"drop {number}": ("DELETE", f"/v1/generations/{number}?why=x", None, 400, "invalid_request")
        for number in ("0", "-1", str(2**63), "x")
    },
    "an unknown one verified": ("POST", "/v1/generations/77777:verify", WHY, 404, "generation_unknown"),
    "an unknown one activated": ("POST", "/v1/generations/77777:activate", WHY, 404, "generation_unknown"),
    "an unknown one dropped": ("DELETE", "/v1/generations/77777?why=x", None, 404, "generation_unknown"),
    "against an unknown one": (
        "POST",
        "/v1/generations/live:verify",
        WHY | {"against": 77777},
        404,
        "generation_unknown",
    ),
    "an unknown one resumed": ("POST", REBUILD, WHY | {"resume": 77777}, 404, "generation_unknown"),
    "the live one activated": ("POST", "/v1/generations/live:activate", WHY, 409, "generation_refused"),
    "the live one dropped": ("DELETE", "/v1/generations/live?why=x", None, 409, "generation_refused"),
    "the live one resumed": ("POST", REBUILD, WHY | {"resume": "live"}, 409, "generation_refused"),
    "against itself": (
        "POST",
        "/v1/generations/live:verify",
        WHY | {"against": "live"},
        400,
        "same_generation_refused",
    ),
    "no reason": ("POST", REBUILD, {}, 400, "invalid_request"),
    "a blank reason": ("POST", "/v1/generations/live:verify", {"why": " \t"}, 400, "invalid_request"),
    "a reason that can't be kept": ("POST", "/v1/generations/live:verify", {"why": "a\0"}, 400, "invalid_request"),
    "no reason to drop": ("DELETE", "/v1/generations/live", None, 400, "invalid_request"),
    "a blank reason to drop": ("DELETE", "/v1/generations/live?why=%20", None, 400, "invalid_request"),
    "resumed to another end": (
        "POST",
        "/v1/generations:rebuild",
        WHY | {"resume": 1, "note": "x"},
        400,
        "invalid_request",
    ),
    "two ends of a partition": (
        *("POST", REBUILD, WHY | {"until_positions": ["0:1", "0:2"]}),
        *(400, "invalid_position"),
    ),
    "an end that is none": (
        "POST",
        "/v1/generations:rebuild",
        WHY | {"until_positions": ["x"]},
        400,
        "invalid_position",
    ),
    "an instant as a number": ("POST", REBUILD, WHY | {"until": 1}, 400, "invalid_request"),
    "no processes": ("POST", REBUILD, WHY | {"processes": 0}, 400, "invalid_request"),
    "a flag as text": ("POST", "/v1/generations/live:activate", WHY | {"log_replaced": "no"}, 400, "invalid_request"),
    "a strange member": ("POST", "/v1/rules:diff", WHY | {"rule": 1}, 400, "invalid_request"),
    "unknown rules": ("POST", "/v1/rules:diff", WHY | {"rules": 99}, 404, "rules_unknown"),
    "an unknown operation cancelled": ("POST", "/v1/operations/77777:cancel", WHY, 404, "operation_unknown"),
    "no operation cancelled": ("POST", f"/v1/operations/{2**63}:cancel", WHY, 400, "invalid_request"),
    "an unknown operation": ("GET", "/v1/operations/77777", None, 404, "operation_unknown"),
    "no operation": ("GET", f"/v1/operations/{2**63}", None, 400, "invalid_request"),
}


def test_what_cannot_be_is_refused_at_once_and_begins_nothing(door: Door, started: list[Process]) -> None:
    """With a problem that says which it is; nothing is begun and nothing is dropped."""
    number = live(door)
    before = (door.http.get("/v1/operations").json(), generations(door))
    for name, (method, path, body, status, code) in REFUSED.items():
        sent = body and {key: number if value == "live" else value for key, value in body.items()}
        answer = door.http.request(method, path.replace("/live", f"/{number}"), json=sent)
        assert problem(answer) == (status, code), (name, answer.text)
        assert answer.json()["remedy"], name
    assert (door.http.get("/v1/operations").json(), generations(door), started) == (*before, [])


def test_of_many_who_begin_at_once_one_does(door: Door, started: list[Process]) -> None:
    """However many ask in the same moment: one operation, one process."""
    answers: list[httpx.Response] = []
    gate = threading.Barrier(6)

    def ask() -> None:
        gate.wait()
        answers.append(httpx.post(f"{door.url}/v1/rules:diff", json=WHY, headers=headers, timeout=HANG_S))

    headers = dict(door.http.headers)
    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    # A diff takes longer than to ask; should one have ended before another asked, that is begun too.
    accepted = [answer.json() for answer in answers if answer.status_code == 202]
    assert len(accepted) == len(started) >= 1
    assert {problem(answer) for answer in answers if answer.status_code != 202} <= {(409, "operation_under_way")}
    for one in accepted:
        assert ended(door, one)["state"] == "done"
