"""What is well and what isn't: tables of signs of life, and the checks on a real ledger with real processes."""

import json
import signal
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from creditfold.common.disks import DANGER_BYTES, Disk, check_disk
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.offsets import End
from creditfold.processors import health
from creditfold.processors.health import (
    FROZEN_S,
    IDLE_S,
    LOOP_S,
    MANY_LETTERS,
    OVERDUE_S,
    STILL_S,
    TRANSIT_S,
    TRIES,
    UNOWNED_S,
    WORK_S,
    Reached,
    judge_ledger,
    judge_machine,
    problem_of,
    suspects,
)
from creditfold.processors.heartbeat import BEAT_S, Heart, Signs
from creditfold.projections.connections import connected
from creditfold.projections.queries.background import InTransit
from creditfold.projections.queries.health import DatabaseHealth
from creditfold.projections.queries.heartbeats import (
    KEPT_S,
    Heartbeat,
    PartitionSign,
    Sign,
    State,
    beat,
    forget_gone,
    heartbeats,
)
from creditfold.projections.queries.progress import PartitionProgress
from helpers.command_line import use
from helpers.credit_topics import LONG_AGO_MS, append_long_ago
from helpers.holds import freeze
from helpers.stack_under_test import free_port
from helpers.support import (
    HANG_S,
    Cli,
    Raw,
    all_progress,
    append,
    fold_log,
    publisher,
    query,
    record,
    wait_until_folded,
    worker,
)

NOW_MS = 1_800_000_000_000
TURNED = {"loop": 0.5, "fetching": 0.1}


# Tables, without a server.


def ago(seconds: float) -> datetime:
    return datetime.fromtimestamp(NOW_MS / 1000 - seconds, UTC)


def sign_of(*partitions: PartitionSign, pid: int = 1, age_s: float = 1.0, **changed: Any) -> Heartbeat:
    """A worker that does something about partitions."""
    sign = Sign("worker", "here", pid, "running", 1000.0, "", TURNED, partitions)
    return Heartbeat(sign._replace(**changed), age_s)


def part(partition: int, **changed: Any) -> PartitionSign:
    """A partition that a process has held for long, and about which it has nothing to do."""
    return PartitionSign(partition, holds_s=500.0)._replace(**changed)


def row(partition: int, next_offset: int, folded_s: float = 500.0, clock_s: float = 500.0) -> PartitionProgress:
    return PartitionProgress("t", partition, next_offset, 0, 0, 0, 0, 0, ago(clock_s), ago(folded_s), 1, "here:1")


def ledger(
    *heartbeats: Heartbeat, rows: Sequence[PartitionProgress] = (row(0, 10), row(1, 20)), **changed: Any
) -> DatabaseHealth:
    return DatabaseHealth(NOW_MS, heartbeats, rows, {}, InTransit(0, None), {})._replace(**changed)


ENDS = {0: End(10, 10), 1: End(20, 20)}
IDLE = sign_of(part(0), part(1))
BACKLOG = {0: End(90, 90), 1: End(20, 20)}
LONG = {0: 1e6, 1: 1e6}
PUBLISHER = sign_of(part(0), part(1), role="publisher")
DUE = NOW_MS - 1000 * int(OVERDUE_S + 181)


def held(partition: int, seconds: float) -> PartitionSign:
    return PartitionSign(partition, held_s=seconds)


class Case(NamedTuple):
    """What is judged of a ledger: nothing, or one fault."""

    judged: str
    found: DatabaseHealth
    ends: Mapping[int, End] = ENDS
    waiting_s: Mapping[int, float] = {}


@pytest.mark.parametrize(
    "case",
    [
        # Nothing to do, and someone to do it.
        Case("", ledger(IDLE)),
        # A backlog is no fault: at work, its turn waited for, just committed, only just claimed or only just appended.
        Case("", ledger(sign_of(part(0, work_s=0.2), part(1))), BACKLOG, LONG),
        Case("", ledger(sign_of(part(0, work_s=WORK_S - 2), part(1))), BACKLOG, LONG),
        Case("", ledger(IDLE, rows=[row(0, 10, folded_s=IDLE_S - 1), row(1, 20)]), BACKLOG, LONG),
        Case("", ledger(sign_of(part(0, holds_s=5.0), part(1))), BACKLOG, LONG),
        Case("", ledger(IDLE), BACKLOG, {0: 1.0}),
        # Not fetched, though everything looks well: what went unnoticed elsewhere for 16 hours.
        Case("partition 0 has records to fold, and isn't folded for 31 s", ledger(IDLE), BACKLOG, {0: IDLE_S + 1}),
        # What an open transaction holds back is no work yet.
        Case("", ledger(IDLE), {0: End(10, 90), 1: End(20, 20)}, LONG),
        # Bounded.
        Case("partition 0 has been at one chunk for 901 s", ledger(sign_of(part(0, work_s=WORK_S), part(1))), BACKLOG),
        Case(
            "partition 0 fails, for 3 s: a defect",
            ledger(sign_of(part(0, work_s=2.0, tries=TRIES, why="a defect"), part(1))),
            BACKLOG,
        ),
        Case("", ledger(sign_of(part(0, work_s=2.0, why="lock timeout"), part(1))), BACKLOG),
        Case(
            "partition 0 fails, for 31 s: no room",
            ledger(sign_of(part(0, work_s=IDLE_S, why="no room"), part(1))),
            BACKLOG,
        ),
        # Nobody is there, though nothing is to be done.
        Case("no worker is at work; none was ever there", ledger()),
        Case(
            "no worker is at work; the last one, here:1: frozen, cut off or gone: no sign of life for 60 s",
            ledger(IDLE._replace(age_s=60.0)),
        ),
        Case(
            "no worker is at work; the last one, here:1: stopped 1 s ago",
            ledger(sign_of(part(0), part(1), state="stopped")),
        ),
        # A rebalance takes a while, and no longer.
        Case("", ledger(sign_of(part(0), held(1, UNOWNED_S - 2)))),
        Case("no live worker holds partition 1 for 26 s", ledger(sign_of(part(0), held(1, UNOWNED_S)))),
        Case("", ledger(sign_of(up_s=3.0))),
        Case("no live worker holds partition 0, 1", ledger(sign_of(up_s=UNOWNED_S + 1))),
        # One is frozen: its partitions are another's, or will be.
        Case("", ledger(sign_of(part(1), pid=2, age_s=900.0), IDLE)),
        Case("", ledger(sign_of(part(1), pid=2, age_s=FROZEN_S + 1), sign_of(part(0)))),
        Case(
            "no live worker holds partition 1 for 26 s",
            ledger(sign_of(part(1), pid=2, age_s=UNOWNED_S + 1), sign_of(part(0))),
        ),
        # The log is another one, or lost its end.
        Case("partition 0: the log is shorter than what was folded", ledger(IDLE), {0: End(9, 9), 1: End(20, 20)}),
        # Overdue, where the fold has caught up; in a backlog the tick may wait.
        Case("", ledger(IDLE, due_since_ms={1: DUE + 1_000})),
        Case("what is due in partition 1 is overdue by 241 s", ledger(IDLE, due_since_ms={1: DUE})),
        Case("", ledger(sign_of(part(0, work_s=1.0), part(1)), due_since_ms={0: NOW_MS - 9_000_000}), BACKLOG),
        Case("", ledger(IDLE, due_since_ms=None)),
        Case("", ledger(IDLE, transit=InTransit(1, NOW_MS - 1000 * int(TRANSIT_S)))),
        Case(
            "a transfer has been in transit for 301 s",
            ledger(IDLE, transit=InTransit(1, NOW_MS - 1000 * int(TRANSIT_S + 1))),
        ),
        # Publishers, where there are any.
        Case("", ledger(IDLE, PUBLISHER)),
        Case("", ledger(IDLE, sign_of(part(0), role="publisher", state="stopped"))),
        Case(
            "no publisher is at work; the last one, here:1: frozen, cut off or gone: no sign of life for 60 s",
            ledger(IDLE, PUBLISHER._replace(age_s=60.0)),
        ),
        Case("no live publisher holds partition 1", ledger(IDLE, sign_of(part(0), held(1, 60.0), role="publisher"))),
        Case(
            "publisher here:1: partition 0 has outcomes to publish and has published none for 61 s",
            ledger(IDLE, sign_of(part(0, still_s=STILL_S + 1), part(1), role="publisher")),
        ),
    ],
)
def test_the_ledger_as_a_whole(case: Case) -> None:
    """Each fault is named, and nothing else."""
    judged = judge_ledger(case.found, Reached(case.ends, case.waiting_s), 60.0)
    assert [problem.what for problem in judged.problems] == [case.judged] * bool(case.judged)
    assert all(problem.remedy for problem in judged.problems)


def test_who_is_suspected_of_being_left_alone() -> None:
    """Only then is the log asked since when its next record waits."""
    assert suspects(ledger(IDLE), ENDS) == {}
    assert suspects(ledger(IDLE), BACKLOG) == {0: 10}
    assert suspects(ledger(sign_of(part(0, work_s=1.0), part(1))), BACKLOG) == {}
    assert suspects(ledger(IDLE, rows=[row(0, 10, folded_s=1.0), row(1, 20)]), BACKLOG) == {}


@pytest.mark.parametrize(
    ("one", "unready", "dead"),
    [
        #                                                                      not ready  to be restarted
        (IDLE, False, False),
        (sign_of(part(0, work_s=WORK_S - 1)), False, False),
        (sign_of(state="starting", waits_for="Kafka: away"), True, False),
        (sign_of(part(0), waits_for="Kafka: away"), True, False),
        (sign_of(part(0), waits_for="Kafka: away", turned_s={"loop": 1.0, "fetching": 1e4}), True, False),
        (sign_of(part(0, work_s=1e4, why="no room")), True, False),
        (sign_of(part(0, work_s=9.0, tries=TRIES, why="a defect")), True, False),
        (sign_of(part(0), age_s=FROZEN_S + 1), True, True),
        (sign_of(part(0), turned_s={"loop": LOOP_S + 1}), True, True),
        (sign_of(part(0), turned_s={"loop": 1.0, "fetching": 1e4}), True, True),
        (sign_of(held(0, 9.0), turned_s={"loop": 1.0, "fetching": 1e4}), False, False),
        (sign_of(part(0, work_s=WORK_S + 1)), True, True),
    ],
)
def test_a_process_is_unready_or_dead(one: Heartbeat, unready: bool, dead: bool) -> None:
    """It isn't killed for what it waits for."""
    assert (problem_of(one, live=False) is not None, problem_of(one, live=True) is not None) == (unready, dead)


def test_a_machine_is_judged_by_its_own_processes() -> None:
    """
    here, live            | well
    here, frozen          | named
    here, gone            | as if it weren't: if another one is here, that counts
    elsewhere             | none is here
    """
    gone, other = sign_of(part(0), pid=7, age_s=900.0), sign_of(part(0), host="there")
    assert judge_machine("worker", [IDLE, gone, other], "here", lambda pid: pid == 1, live=False) == []
    (frozen,) = judge_machine("worker", [IDLE, gone], "here", lambda _: True, live=True)
    assert frozen.what.startswith("worker here:7: frozen")
    (none,) = judge_machine("worker", [gone, other], "here", lambda _: False, live=True)
    assert none.what == (
        "no worker runs on this machine (here); here:7 gave its last sign 900 s ago; 1 on other machines"
    )
    (stopped,) = judge_machine("publisher", [IDLE], "here", lambda _: True, live=True)
    assert stopped.what == "no publisher runs on this machine (here)"


@pytest.mark.parametrize(
    ("free", "total", "state"),
    [
        (DANGER_BYTES - 1, 2**40, "danger"),
        (DANGER_BYTES, 2**40, "warning"),
        (2**31 - 1, 2**33, "warning"),
        (2**31, 2**33, "ok"),
        (15 * 2**30, 2**40, "warning"),
        (25 * 2**30, 2**40, "ok"),
    ],
)
def test_little_room_on_a_disk(free: int, total: int, state: str) -> None:
    """In bytes; of a large disk a small share is little, too."""
    assert check_disk(Disk("Kafka's log", Path("/data"), free, total)).state == state


# On a real ledger.


def check(run: Cli, *arguments: str) -> str:
    """The error of a check, empty if all is well."""
    done = run(*arguments)
    return done.err.splitlines()[0].removeprefix("error: ") if done.code else ""


STATUS = ("status", "--check", "--interval", "0.05")
WORKER = ("worker", "--check")
LIVE = ("worker", "--check", "--live")


def assert_well(run: Cli, *checks: Sequence[str]) -> None:
    """Each check passes, sooner or later: a process that gets no time of the machine looks frozen meanwhile."""
    found = [""]

    def are_well() -> bool:
        found[:] = [check(run, *arguments) for arguments in checks]
        return not any(found)

    assert wait_until(are_well, HANG_S), found


def test_a_worker_s_life_is_seen(
    cli: Cli, ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None yet, at work, frozen, thawed, stopped; with nothing in the log all the while."""
    assert check(cli, *STATUS).startswith("Unhealthy: no worker is at work; none was ever there")
    assert check(cli, *WORKER).startswith("Unhealthy: no worker runs on this machine")
    with worker(ledger_settings, tmp_path) as process:
        assert_well(cli, STATUS, WORKER, LIVE)
        name = f"{socket.gethostname()}:{process.process.pid}"

        def seen() -> dict[str, Any]:
            (one,) = cli("status", "--json", "--interval", "0.05").json["processes"]
            return dict(one)

        assert wait_until(lambda: (seen()["partitions"], seen()["condition"]) == ([0, 1, 2, 3], "idle"), HANG_S), seen()
        assert (seen()["role"], seen()["name"]) == ("worker", name)

        freeze(process)
        with monkeypatch.context() as patched:
            patched.setattr(health, "FROZEN_S", BEAT_S + 1)
            assert wait_until(lambda: "frozen" in check(cli, *LIVE), HANG_S)
            assert f"worker {name}: frozen" in check(cli, *WORKER)
            assert "frozen" in cli("status", "--interval", "0.05").out
            assert check(cli, *STATUS).startswith("Unhealthy: no worker is at work; the last one")

        process.send(signal.SIGCONT)
        assert_well(cli, STATUS, LIVE)
        process.stop()
    assert "stopped" in check(cli, *STATUS)
    assert check(cli, *LIVE).startswith("Unhealthy: no worker runs on this machine")


#: What PostgreSQL says when a lock was waited for in vain, said in each try to write.
IN_VAIN = """
    CREATE FUNCTION in_vain() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'canceling statement due to lock timeout' USING ERRCODE = 'lock_not_available';
    END $$;
    CREATE TRIGGER in_vain BEFORE INSERT ON ledger_0001.journal EXECUTE FUNCTION in_vain();
"""


def test_a_backlog_is_no_fault(
    cli: Cli, ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition whose chunk is in work, or waits its turn, is well for as long as it may take, however much waits."""
    cli("grant", "alice", "5", "--no-wait")
    with worker(ledger_settings, tmp_path):
        wait_until_folded(ledger_settings)
        (partition,) = [one.log_partition for one in all_progress(ledger_settings) if one.next_offset]

        def doing() -> str:
            rows = cli("status", "--json", "--interval", "0.05").json["partitions"]
            return str(rows[partition]["doing"])

        with psycopg.connect(ledger_settings.dsn, autocommit=True) as connection:
            with psycopg.connect(ledger_settings.dsn) as holder:
                # Whoever holds this row holds the partition's fold in the middle of its chunk.
                holder.execute("SELECT FROM ledger_0001.progress WHERE log_partition = %s FOR UPDATE", (partition,))
                append(ledger_settings, [record("Grant", f"g{n}", "alice", 1) for n in range(50)])
                # However slow this machine is: what is bounded is tested with tables.
                monkeypatch.setattr(health, "IDLE_S", 1e9)
                assert wait_until(lambda: doing().startswith(("at work", "fails")), HANG_S), doing()
                assert_well(cli, STATUS, WORKER)
                assert cli("status", "--json", "--interval", "0.05").json["totals"]["lag"] == 50
                connection.execute(IN_VAIN)
            assert wait_until(lambda: doing() == "fails", HANG_S)
            monkeypatch.setattr(health, "IDLE_S", 0.0)
            assert wait_until(lambda: f"partition {partition} fails, for " in check(cli, *STATUS), HANG_S)
            assert wait_until(lambda: "lock timeout" in check(cli, *WORKER), HANG_S)
            assert_well(cli, LIVE)
            monkeypatch.undo()
            use(ledger_settings, monkeypatch)
            connection.execute("DROP FUNCTION in_vain CASCADE")
        wait_until_folded(ledger_settings)
        assert_well(cli, STATUS)


def test_what_is_due_and_not_done_is_overdue(
    cli: Cli, ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker folds, and none ticks: credits that have ended stand in the balances."""
    silent = ledger_settings.model_copy(update={"tick_seconds": 0.0})
    grant = record("Grant", "g", "alice", 5, expires_at=LONG_AGO_MS + 60_000)
    append_long_ago(silent, [grant])
    with worker(silent, tmp_path):
        wait_until_folded(silent)
        assert wait_until(lambda: "is overdue by" in check(cli, *STATUS), HANG_S), check(cli, *STATUS)
        assert_well(cli, WORKER)
        # Who wants no ticks isn't reminded of them.
        use(silent, monkeypatch)
        assert_well(cli, STATUS)
        use(ledger_settings, monkeypatch)
        assert cli("tick").code == 0
        assert_well(cli, STATUS)


def test_a_publisher_is_judged_by_itself(
    cli: Cli, ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen, it fails its own check and the ledger's, and not the worker's."""
    ours = ("publisher", "--check")
    assert check(cli, *ours).startswith("Unhealthy: no publisher runs on this machine")
    with worker(ledger_settings, tmp_path), publisher(ledger_settings, tmp_path) as process:
        assert_well(cli, ours, STATUS)
        freeze(process)
        with monkeypatch.context() as patched:
            patched.setattr(health, "FROZEN_S", BEAT_S + 1)
            assert wait_until(lambda: "frozen" in check(cli, *ours, "--live"), HANG_S)
            assert wait_until(lambda: check(cli, *STATUS).startswith("Unhealthy: no publisher is at work"), HANG_S)
        assert_well(cli, WORKER)
        process.send(signal.SIGCONT)
        assert_well(cli, ours, STATUS)
        process.stop()
        # Who stopped it meant it.
        assert_well(cli, STATUS)
        assert check(cli, *ours).startswith("Unhealthy: no publisher runs on this machine")


def test_dead_letters_in_number_are_shown(cli: Cli, ledger_settings: Settings) -> None:
    """By `status` and `doctor`, with their reasons, until it is decided what is done about them."""
    append(ledger_settings, [Raw(b"", b"k", 1)] * MANY_LETTERS)
    fold_log(ledger_settings)
    warnings = {one["name"]: one["seen"] for one in cli("status", "--json", "--interval", "0.05").json["warnings"]}
    count = MANY_LETTERS
    assert warnings["dead letters"] == f"{count} within 60 minutes: {count} empty_value; {count} not decided about"
    assert "warning: projection: dead letters" in cli("status", "--interval", "0.05").out
    checks = {row["name"]: row["state"] for row in cli("doctor", "--json").json["checks"]}
    assert checks["dead letters"] == "warning"
    assert cli("dead-letters", "discard", "1:0", "--why", "noise").code == 0
    assert "warning: projection: dead letters" not in cli("status", "--interval", "0.05").out
    checks = {row["name"]: (row["state"], row["seen"]) for row in cli("doctor", "--json").json["checks"]}
    seen = f"{count} within 60 minutes: {count} empty_value; {count - 1} not decided about"
    assert checks["dead letters"] == ("ok", seen)


def signed(settings: Settings, state: State, pid: int) -> None:
    with connected(settings.dsn) as connection:
        beat(connection, Sign("worker", "there", pid, state, 5.0, "", {"loop": 0.5}, [part(0, work_s=1.5)]))


def test_signs_are_kept_beside_the_generations(cli: Cli, ledger_settings: Settings) -> None:
    """One row a process, the last sign over the one before; long after it has gone that is removed."""
    signed(ledger_settings, "starting", 1)
    signed(ledger_settings, "running", 1)
    signed(ledger_settings, "running", 2)
    with connected(ledger_settings.dsn) as connection:
        one, _ = heartbeats(connection)
        assert (one.sign.owner, one.sign.state, one.sign.partitions) == ("there:1", "running", (part(0, work_s=1.5),))
        assert 0 <= one.age_s < HANG_S
        assert one.sign.up_s == pytest.approx(5.0, abs=0.5)
        connection.execute(
            "UPDATE ledger.heartbeats SET beat_at = beat_at - make_interval(secs => %s) WHERE pid = 2", (KEPT_S,)
        )
        forget_gone(connection)
        assert [one.sign.pid for one in heartbeats(connection)] == [1]
    assert query(ledger_settings, "SELECT has_table_privilege('creditfold_reader', 'ledger.heartbeats', 'SELECT')") == [
        (True,)
    ]


def test_a_ledger_from_before_gets_its_table(cli: Cli, ledger_settings: Settings) -> None:
    """Whatever made the database: a worker's start, or `init`, makes what is missing."""
    with connected(ledger_settings.dsn) as connection:
        connection.execute("DROP TABLE ledger.heartbeats")
    assert cli("status", "--json", "--interval", "0.05").json["processes"] == []
    assert cli("init").code == 0
    assert query(ledger_settings, "SELECT count(*) FROM ledger.heartbeats") == [(0,)]


def test_a_check_says_in_one_line_what_is_wrong(cli: Cli, ledger_settings: Settings) -> None:
    """And as JSON on standard error, where `status` is asked for that."""
    done = cli("worker", "--check")
    assert (done.code, done.out) == (1, "")
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["error", "try"]
    assert json.loads(cli(*STATUS, "--json").err)["error"].startswith("Unhealthy: no worker")


def test_signs_of_life_never_stop_a_process() -> None:
    """Where PostgreSQL is away there are none; the thread ends with the process, in seconds."""
    signs = Signs()
    signs.waits_for("PostgreSQL", "connection\n  refused")
    with Heart(f"postgresql://nobody@127.0.0.1:{free_port()}/none", "worker", signs):
        signs.turn("loop")
        sign = signs.sign("worker")
    assert (sign.state, sign.waits_for, list(sign.turned_s)) == ("starting", "PostgreSQL: connection refused", ["loop"])
    assert signs.sign("worker").state == "stopped"
    signs.found("PostgreSQL")
    assert signs.sign("worker").waits_for == ""
