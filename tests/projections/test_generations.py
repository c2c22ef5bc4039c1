"""Generations on the real stack: rebuilt, compared, switched and dropped, and what is refused.

A ledger of one test has four partitions. `history` appends grants, spends, rejections, duplicates and dead letters.
"""

import asyncio
import json
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from psycopg import AsyncConnection, Connection
from tenacity import stop_after_attempt

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.admin import KafkaAdmin
from creditfold.log.offsets import end_offsets
from creditfold.log.topics import create_topics, describe_log
from creditfold.processors.fold import fast
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.rebuild.partition import RebuildJob
from creditfold.processors.rebuild.processes import RebuildError, fold_here
from creditfold.processors.rebuild.steps import (
    ActivationOptions,
    DecidesDifferentlyError,
    NoSuchPositionError,
    Request,
    activate,
    rebuild,
)
from creditfold.projections.connections import connected, fold_pool
from creditfold.projections.failures import PostgresUnavailableError
from creditfold.projections.generations.catalog import GenerationError, NoGenerationError, SwitchBlockedError
from creditfold.projections.generations.indexes import index_ids
from creditfold.projections.generations.locks import held
from creditfold.projections.generations.removal import drop
from creditfold.projections.generations.switch import halted, switch
from creditfold.projections.generations.views import looked_through
from creditfold.projections.proof.chain import chain_at
from creditfold.projections.store.claim import claim
from creditfold.projections.store.statements import SWITCHING
from creditfold.projections.store.transaction import ChunkTransaction, FencedError
from creditfold.projections.tables.setup import prepare
from creditfold.projections.tables.source import LogChangedError
from creditfold.projections.tables.views import VIEWS
from helpers import fork_server
from helpers.command_line import run
from helpers.credit_topics import append_all, topic
from helpers.fork_server import Process
from helpers.generations import WATCH, history, read, rows_of, states
from helpers.holds import gate_in
from helpers.projection_copy import copy_of
from helpers.support import (
    HANG_S,
    IS_COMPILED,
    ROOT,
    append,
    assert_equals_second_fold,
    environment,
    fold_log,
    lag,
    query,
    record,
    wait_until_folded,
    worker,
)

pytestmark = pytest.mark.compiled_core

#: How many records `folded` has: rebuilds are stopped in several places of it.
FOLDED = 2_000


def test_a_rebuild_equals_what_workers_folded(ledger_settings: Settings, tmp_path: Path) -> None:
    """Row by row, in every table, the hash chain and its checkpoints included; the live one is not touched."""
    folded = ledger_settings
    append(folded, history(FOLDED))
    with worker(folded, tmp_path):
        wait_until_folded(folded)
    before = rows_of(folded, 1)
    done = rebuild(folded, Request(processes=2), WATCH)
    assert (done.number, done.state) == (2, "ready")
    assert rows_of(folded, 2) == before == rows_of(folded, 1)
    assert done.digest == read(folded, 1).digest
    assert assert_equals_second_fold(folded).dead


def test_a_rebuild_by_processes_equals_one_in_this_process(folded: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large logs are folded by a process for each core, with a filter in memory instead of looking up each id."""
    monkeypatch.setattr("creditfold.processors.rebuild.steps.FEW_RECORDS", 0)
    done = rebuild(folded, Request(processes=3), WATCH)
    assert rows_of(folded, done.number) == rows_of(folded, 1)


class ExactFilter:
    """In place of Python's filter, which takes a new id for an old one by chance: its hashes differ in each process."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def add(self, account: str, command_id: str) -> bool:
        before = len(self._seen)
        self._seen.add((account, command_id))
        return len(self._seen) == before


@pytest.mark.parametrize("comes", ["nowhere", "first", "late"])
def test_a_rebuild_makes_its_index_of_ids_when_one_comes_again(
    ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    """In the first transaction or a later one: then what it has to look up is found, and the result is the same."""
    folded, made = ledger_settings, list[int]()
    monkeypatch.setattr("creditfold.processors.rebuild.partition.CHUNK_RECORDS", 100)
    monkeypatch.setattr("creditfold.processors.rebuild.partition.PIECES", 2)
    if not IS_COMPILED:
        monkeypatch.setattr(fast, "new_filter", lambda *_: ExactFilter())

    async def index_and_note(connection: AsyncConnection[Any], number: int) -> None:
        made.append(number)
        await index_ids(connection, number)

    monkeypatch.setattr("creditfold.processors.rebuild.processes.index_ids", index_and_note)
    log = [record("Grant", f"c{number}", f"user-{number % 40}", 5) for number in range(2_000)]
    again = {"nowhere": [], "first": [600, 610], "late": [1_900]}[comes]
    append(folded, [*log[: again[-1] + 40], *(log[at] for at in again), *log[again[-1] + 40 :]] if again else log)
    fold_log(folded)
    assert not made
    done = rebuild(folded, Request(), WATCH)
    assert (set(made) == {done.number}) == bool(again)
    assert rows_of(folded, done.number) == rows_of(folded, 1)
    assert query(folded, "SELECT sum(duplicates) FROM ledger_0002.progress") == [(len(again),)]
    for number in (1, done.number):
        found = query(
            folded,
            f"SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'ledger_{number:04}.journal'::regclass",
        )
        names = {name.partition(".")[2] for (name,) in found}
        assert names == {"journal_pkey", "journal_command", "journal_ended", "journal_position", "journal_rejections"}


@pytest.mark.parametrize("few", [0, 10_000])
def test_a_rebuild_keeps_to_a_rate(folded: Settings, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    """All its processes together, or itself where there is little to do; and it comes to the same."""
    monkeypatch.setattr("creditfold.processors.rebuild.steps.FEW_RECORDS", few)
    began = time.monotonic()
    done = rebuild(folded, Request(processes=2, most_per_s=2_000), WATCH)
    assert time.monotonic() - began > done.records / 2_000 > 1
    assert rows_of(folded, done.number) == rows_of(folded, 1)


def test_activating_switches_readers_and_workers(folded: Settings, tmp_path: Path) -> None:
    """Under load: a worker folds while the switch is made, there and back; nothing is lost, nothing done twice."""
    rebuild(folded, Request(), WATCH)
    with worker(folded, tmp_path) as process:
        append(folded, history(2_000, 2, 3_000))
        done = activate(folded, 2, ActivationOptions(), WATCH)
        assert (done.old, done.new) == (1, 2)
        append(folded, history(500, 3, 5_000))
        wait_until_folded(folded)
        assert query(folded, "SELECT DISTINCT generation FROM ledger.progress") == [(2,)]
        assert states(folded) == {1: "retired", 2: "live"}
        assert_equals_second_fold(folded)
        # And back: the old one is behind by now, and is brought up first.
        activate(folded, 1, ActivationOptions(), WATCH)
        append(folded, history(500, 4, 7_000))
        wait_until_folded(folded)
        assert process.process.poll() is None
    assert states(folded) == {1: "live", 2: "retired"}
    assert_equals_second_fold(folded)
    epochs = query(folded, "SELECT min(o.epoch), min(n.epoch) FROM ledger_0001.progress n, ledger_0002.progress o")
    assert epochs[0][1] > epochs[0][0]


def test_readers_never_see_an_older_position(folded: Settings, tmp_path: Path) -> None:
    """Positions that readers see go up only, while generations are switched to and fro and a worker folds."""
    rebuild(folded, Request(), WATCH)
    # They read all the time, which costs two processors: not while a worker comes up or ends.
    with worker(folded, tmp_path):
        append(folded, history(20, 9, 8_000))
        wait_until_folded(folded)
        readers = watching(folded)
        try:
            await_sight(readers, 1)
            for turn, number in enumerate((2, 1, 2, 1)):
                append(folded, history(500, turn, 3_000 + 500 * turn))
                activate(folded, number, ActivationOptions(), WATCH)
                if not turn:
                    await_sight(readers, 2)
            wait_until_folded(folded)
        finally:
            for reader in readers:
                reader.send_signal(signal.SIGTERM)
    for reader in readers:
        seen, generations_seen = json.loads(reader.communicate(timeout=HANG_S)[0])
        assert seen == [], "positions went backwards, or a statement saw two generations"
        assert {1, 2} <= set(generations_seen)


def watching(settings: Settings) -> "list[subprocess.Popen[str]]":
    """Readers, by either order of the views."""
    program = str(ROOT / "tests" / "programs" / "watch_positions.py")
    return [
        Process([program, *order], env=environment(settings), stdout=subprocess.PIPE, text=True)
        for order in ([], ["journal first"])
    ]


def await_sight(readers: "list[subprocess.Popen[str]]", number: int) -> None:
    """Wait until each reader says that it sees a generation for the first time."""
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == f"{number}\n"


def test_a_generation_that_decided_otherwise_is_refused(copied: Settings) -> None:
    """What was announced stays true, unless somebody says why not; the reason is kept."""
    rebuild(copied, Request(), WATCH)
    with connected(copied.dsn) as connection:
        connection.execute("UPDATE ledger_0002.progress SET chain = '\\x00' WHERE log_partition = 1")
    with pytest.raises(DecidesDifferentlyError, match="in partition 1") as caught:
        activate(copied, 2, ActivationOptions(), WATCH)
    assert "creditfold verify 1 2" in caught.value.remedy
    assert states(copied) == {1: "live", 2: "ready"}
    refused = run(copied, "activate", "2", "--accept-differences", check=False)
    assert (refused.returncode, "--note" in refused.stderr) == (2, True)
    said = run(copied, "activate", "2", "--accept-differences", "--note", "found a bug")
    assert "They differ in partition 1" in said.stdout
    assert (states(copied)[2], read(copied, 2).note) == ("live", "found a bug")


def test_what_cannot_be_activated_is_refused(copied: Settings) -> None:
    """Each with the reason, and nothing is switched."""
    with connected(copied.dsn) as connection:
        with pytest.raises(GenerationError, match="is live"):
            activate(copied, 1, ActivationOptions(), WATCH)
        with pytest.raises(NoGenerationError):
            activate(copied, 7, ActivationOptions(), WATCH)
        partial = rebuild(copied, Request(until_offsets={0: 10}), WATCH)
        with pytest.raises(GenerationError, match="looking at"):
            activate(copied, partial.number, ActivationOptions(), WATCH)
        connection.execute("UPDATE ledger.generations SET state = 'building', until_offsets = NULL WHERE number = 2")
        with pytest.raises(GenerationError, match="isn't finished"):
            activate(copied, 2, ActivationOptions(), WATCH)
        with held(connection, 2), pytest.raises(GenerationError, match="by somebody else"):
            rebuild(copied, Request(resume=2), WATCH)
    assert states(copied)[1] == "live"


def test_activating_while_no_worker_runs(folded: Settings, tmp_path: Path) -> None:
    """The new one may be ahead of the live one; workers that start later go on in it."""
    append(folded, history(200, 9, 9_000))
    rebuild(folded, Request(), WATCH)
    activate(folded, 2, ActivationOptions(), WATCH)
    assert lag(folded) == 0
    append(folded, history(200, 10, 9_200))
    with worker(folded, tmp_path):
        wait_until_folded(folded)
    assert_equals_second_fold(folded)


def test_dropping_frees_a_generation_and_spares_the_live_one(copied: Settings) -> None:
    """Its tables are gone, the number isn't used again."""
    rebuild(copied, Request(), WATCH)
    with connected(copied.dsn) as connection:
        with pytest.raises(GenerationError, match="is live"):
            drop(connection, 1)
        drop(connection, 2)
        with pytest.raises(NoGenerationError):
            drop(connection, 2)
    assert query(copied, "SELECT to_regnamespace('ledger_0002')") == [(None,)]
    assert rebuild(copied, Request(), WATCH).number == 3
    assert states(copied) == {1: "live", 3: "ready"}


def test_a_frozen_reader_makes_the_switch_give_up(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that holds a view is not waited for for ever; nothing is switched, and the fold goes on."""
    rebuild(copied, Request(), WATCH)
    with connected(copied.dsn) as reader, reader.transaction(), monkeypatch.context() as patched:
        patched.setattr("creditfold.projections.generations.views._WHILE_READ.stop", stop_after_attempt(2))
        patched.setattr("creditfold.projections.generations.views.VIEW_LOCK_MS", 200)
        reader.execute("SELECT count(*) FROM ledger.balances")
        with pytest.raises(SwitchBlockedError, match="reader"):
            activate(copied, 2, ActivationOptions(), WATCH)
    assert states(copied)[1] == "live"
    activate(copied, 2, ActivationOptions(), WATCH)
    assert states(copied)[2] == "live"


def test_views_left_in_the_middle_of_a_switch_show_the_live_generation(copied: Settings) -> None:
    """Killed before it could settle them; dropping the other generation settles them, unless they are being read."""
    rebuild(copied, Request(), WATCH)
    with connected(copied.dsn) as other:
        other.execute("UPDATE ledger_0002.balances SET available = available + 1")
        before = other.execute("SELECT count(*), sum(available) FROM ledger.balances").fetchall()

        def die() -> None:
            with connected(copied.dsn) as connection, looked_through(connection, 2):
                connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        with pytest.raises(PostgresUnavailableError):
            die()
        definition = "SELECT count(*) FROM pg_views WHERE schemaname = 'ledger' AND definition LIKE '%ledger_0002%'"
        assert other.execute(definition).fetchone() == (len(VIEWS),)
        with connected(copied.dsn) as reader, reader.transaction():
            assert reader.execute("SELECT count(*), sum(available) FROM ledger.balances").fetchall() == before
            with pytest.raises(SwitchBlockedError, match=r"the view balances .*nothing was dropped"):
                drop(other, 2)
        drop(other, 2)
        assert other.execute(definition).fetchone() == (0,)
        assert other.execute("SELECT count(*), sum(available) FROM ledger.balances").fetchall() == before


def test_views_are_changed_by_one_at_a_time(copied: Settings) -> None:
    """Two switches at once would leave views that look at neither; the second is refused."""
    rebuild(copied, Request(), WATCH)
    with (
        connected(copied.dsn) as connection,
        looked_through(connection, 2),
        pytest.raises(SwitchBlockedError, match="Somebody else switches"),
    ):
        activate(copied, 2, ActivationOptions(), WATCH)
    activate(copied, 2, ActivationOptions(), WATCH)


def test_a_halt_that_fails_changes_nothing(copied: Settings) -> None:
    """Whatever goes wrong inside: the switch is one transaction."""

    def fail(connection: Connection[Any]) -> None:
        with halted(connection) as halt:
            assert halt.number == 1
            connection.execute("UPDATE ledger.generations SET state = 'retired' WHERE number = 1")
            raise ZeroDivisionError

    with connected(copied.dsn) as connection, pytest.raises(ZeroDivisionError):
        fail(connection)
    assert states(copied) == {1: "live"}


def test_an_activation_killed_anywhere_changes_nothing(folded: Settings, tmp_path: Path) -> None:
    """SIGKILL while the live fold is held still: PostgreSQL lets go at once, and the workers go on."""
    rebuild(folded, Request(), WATCH)
    with worker(folded, tmp_path):
        for turn, step in enumerate(("comparing", "before", "inside")):
            append(folded, history(300, 4, 3_000 + 600 * turn))
            command = [str(ROOT / "tests" / "programs" / "killed_switch.py"), step, "activate", "2"]
            done = fork_server.run(command, env=environment(folded), timeout=HANG_S)
            assert done.returncode == -signal.SIGKILL, (step, done.stderr)
            append(folded, history(300, 5, 3_300 + 600 * turn))
            wait_until_folded(folded)
            assert states(folded) == {1: "live", 2: "ready"}
        activate(folded, 2, ActivationOptions(), WATCH)
    assert_equals_second_fold(folded)


#: A process that waits for as long as a worker may take to let go.
PATIENT = (
    str(ROOT / "tests" / "programs" / "with_constants.py"),
    "creditfold.projections.generations.switch.HALT_LOCK_MS=60000",
)


def test_two_activations_at_once(folded: Settings, tmp_path: Path) -> None:
    """One comes after the other; whichever was last is live, alone, and the ledger is whole."""
    for _ in range(2):
        rebuild(folded, Request(), WATCH)
    with worker(folded, tmp_path):
        append(folded, history(1_000, 6, 3_000))
        both = [
            Process(
                [*PATIENT, "activate", number],
                env=environment(folded),
                stderr=subprocess.PIPE,
            )
            for number in ("2", "3")
        ]
        said = [(process.communicate(timeout=HANG_S)[1], process.returncode) for process in both]
        assert 0 in [code for _, code in said], said
        wait_until_folded(folded)
    assert sorted(states(folded).values()).count("live") == 1
    assert_equals_second_fold(folded)


def test_an_idle_worker_notices_that_its_generation_is_gone(folded: Settings, tmp_path: Path) -> None:
    """Switched away from and dropped while nothing came in: the next record is folded in the new one all the same."""
    with worker(folded, tmp_path):
        wait_until_folded(folded)
        assert wait_until(lambda: len(query(folded, "SELECT 1 FROM ledger.progress WHERE owner <> ''")) == 4, HANG_S)
        rebuild(folded, Request(), WATCH)
        activate(folded, 2, ActivationOptions(), WATCH)
        with connected(folded.dsn) as connection:
            drop(connection, 1)
        append(folded, history(200, 4, 3_000))
        wait_until_folded(folded)
    assert_equals_second_fold(folded)


async def test_a_claim_that_waits_for_a_switch_is_made_in_the_new_generation(copied: Settings) -> None:
    """What it finds when the switch is over is no longer live; it looks again."""
    await asyncio.to_thread(rebuild, copied, Request(), WATCH)
    async with fold_pool(copied.dsn, "test", 2) as pool:
        with connected(copied.dsn, SWITCHING) as connection:
            with halted(connection) as halt:
                claiming = asyncio.create_task(claim(pool, 0, "waiting"))
                blocked = (
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'test'"
                )
                assert await asyncio.to_thread(wait_until, lambda: query(copied, blocked) != [(0,)], HANG_S)
                switch(connection, halt.number, 2, "")
            assert (await claiming).generation == 2


def test_a_frozen_activation_lets_go(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session is ended after a while, and the fold goes on; nothing was switched."""
    monkeypatch.setattr("creditfold.projections.generations.switch.HALT_IDLE_MS", 500)
    with connected(copied.dsn) as other:

        def freeze() -> None:
            with connected(copied.dsn, SWITCHING) as connection, halted(connection):
                progress = "SELECT 1 FROM ledger_0001.progress FOR UPDATE SKIP LOCKED"
                assert wait_until(lambda: len(other.execute(progress).fetchall()) == 4, HANG_S)

        with pytest.raises(SwitchBlockedError, match="nothing was switched"):
            freeze()
    assert states(copied) == {1: "live"}


def test_another_user_s_generation_belongs_to_the_ledger_s_owner(copied: Settings) -> None:
    """Or the owner's views and workers couldn't use it."""
    name = query(copied, "SELECT current_database()")[0][0]
    with connected(copied.dsn) as connection:
        connection.execute(f"CREATE ROLE {name}_owner")  # type: ignore[arg-type]
        connection.execute(f"GRANT CREATE ON DATABASE {name} TO {name}_owner")  # type: ignore[arg-type]
        try:
            connection.execute(f"ALTER SCHEMA ledger OWNER TO {name}_owner")  # type: ignore[arg-type]
            done = rebuild(copied, Request(until_offsets=dict.fromkeys(range(4), 0)), WATCH)
            owner = "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = %s"
            assert query(copied, owner, (f"ledger_{done.number:04}",)) == [(f"{name}_owner",)]
        finally:
            connection.execute("ALTER SCHEMA ledger OWNER TO CURRENT_USER")
            connection.execute(f"REASSIGN OWNED BY {name}_owner TO CURRENT_USER")  # type: ignore[arg-type]
            connection.execute(f"DROP OWNED BY {name}_owner")  # type: ignore[arg-type]
            connection.execute(f"DROP ROLE {name}_owner")  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_rebuild_that_is_stopped_says_how_to_go_on(folded: Settings, number: signal.Signals) -> None:
    """With its exit code, and no process left behind. It is held where something is committed, and more is to come."""
    command = [str(ROOT / "tests" / "programs" / "small_pieces.py"), "rebuild", "--processes", "2"]
    with gate_in(folded, 2) as gate:
        for partition in range(4):
            gate.close(partition, 400)
        process = Process(command, env=environment(folded), stderr=subprocess.PIPE, text=True)
        assert wait_until(lambda: gate.waiting() == 2 and progressed(folded) > 0, HANG_S)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, said = process.communicate(timeout=HANG_S)
        assert process.returncode == 128 + number
        assert "creditfold rebuild --resume 2" in said
        assert wait_until(lambda: not any(child.is_running() for child in children), HANG_S)
    # Another rebuild reminds of it; one that doesn't exist can't be gone on with.
    assert "Generation 2 isn't finished. Go on: creditfold rebuild --resume 2" in run(folded, "rebuild").stderr
    missing = run(folded, "rebuild", "--resume", "9", check=False)
    assert (missing.returncode, "Go on" in missing.stderr) == (2, False)
    assert rebuild(folded, Request(resume=2), WATCH).digest


def test_a_topic_made_anew_is_refused(folded: Settings) -> None:
    """A generation of another log is neither folded on nor switched to, unless the log was replaced on purpose."""
    rebuild(folded, Request(), WATCH)
    admin = KafkaAdmin(folded).client
    admin.delete_topics([folded.commands_topic])[folded.commands_topic].result()
    assert wait_until(lambda: folded.commands_topic not in admin.list_topics(timeout=5).topics, HANG_S)
    create_topics(folded)
    with pytest.raises(LogChangedError):
        rebuild(folded, Request(resume=2), WATCH)
    with pytest.raises(LogChangedError):
        activate(folded, 2, ActivationOptions(), WATCH)
    append(folded, history(FOLDED))
    new = rebuild(folded, Request(), WATCH)
    with pytest.raises(LogChangedError, match="folded from another"):
        activate(folded, new.number, ActivationOptions(), WATCH)
    # The same commands, but at another time: what was decided differs by its clock.
    with pytest.raises(DecidesDifferentlyError):
        activate(folded, new.number, ActivationOptions(other_log=True), WATCH)
    activate(folded, new.number, ActivationOptions(differences=True, other_log=True, note="lost"), WATCH)
    assert_equals_second_fold(folded)
    assert not prepare(folded.dsn, describe_log(folded))


def test_positions_that_the_log_does_not_have_are_refused(copied: Settings) -> None:
    """Before anything is made."""
    for until in ({9: 1}, {0: 10**9}):
        with pytest.raises(NoSuchPositionError):
            rebuild(copied, Request(until_offsets=until), WATCH)
    assert states(copied) == {1: "live"}


#: How far ahead of where it stands a partition is held, in records: behind its first transactions.
NEAREST, FARTHEST = 175, 350

#: The number of the log of credits, which is written beside a book of Python's.
CREDITS = 2


@pytest.mark.parametrize(
    "number",
    [
        *(0, 1),
        pytest.param(
            CREDITS,
            marks=[pytest.mark.both_cores, pytest.mark.skipif(IS_COMPILED, reason="written by Python's core")],
        ),
    ],
)
def test_a_rebuild_killed_anywhere_is_resumed(ledger_settings: Settings, number: int) -> None:
    """SIGKILL at random points, several times; orphaned processes end, and the result is as if nothing had happened.

    The last of the logs is of credits, with more accounts than are kept in memory.
    """
    chance, folded = random.Random(number), ledger_settings
    forgetful = {"FORGETFUL": "1"} if number in (0, CREDITS) else {}
    if number == CREDITS:
        append_all(folded, topic(6, 3_000))
    else:
        append(folded, history(3_000, 5))
    prepare(folded.dsn, describe_log(folded))
    ends = end_offsets(folded, folded.commands_topic, range(4))
    arguments = ["rebuild", "--processes", "2"]
    kills = 0
    with gate_in(folded, 2) as gate:
        for _ in range(5):
            start = standing(folded)
            left = [partition for partition in range(4) if ends[partition] - start.get(partition, 0) > FARTHEST]
            if len(left) < 2:
                break
            # None of them comes to its end before the kill, however fast it is folded.
            for partition in left:
                gate.close(partition, start.get(partition, 0) + chance.randrange(NEAREST, FARTHEST))
            process = Process(
                [str(ROOT / "tests" / "programs" / "small_pieces.py"), *arguments],
                env=environment(folded) | forgetful,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            goal = sum(start.values()) + chance.randrange(0, 2 * FARTHEST)

            def reached(goal: int = goal, process: "subprocess.Popen[bytes]" = process) -> bool:
                return process.poll() is not None or gate.waiting() == 2 or progressed(folded) >= goal

            assert wait_until(reached, HANG_S)
            if process.poll() is None:
                process.kill()
                kills += 1
            _, error = process.communicate(timeout=HANG_S)
            # An orphan of the one before may still be at it.
            assert process.returncode == -signal.SIGKILL or b"by somebody else" in error, error
            gate.open()
            if 2 in states(folded):
                arguments = ["rebuild", "--resume", "2", "--processes", "2"]
    assert kills > 2
    assert wait_until(lambda: run(folded, "rebuild", "--resume", "2", check=False).returncode == 0, HANG_S)
    fresh = rebuild(folded, Request(), WATCH)
    assert rows_of(folded, 2) == rows_of(folded, fresh.number)


def standing(settings: Settings) -> dict[int, int]:
    """Where the partitions of generation 2 stand; empty before there is one."""
    if query(settings, "SELECT to_regclass('ledger_0002.progress') IS NULL") == [(True,)]:
        return {}
    return dict(query(settings, "SELECT log_partition, next_offset FROM ledger_0002.progress"))  # type: ignore[arg-type]


def progressed(settings: Settings) -> int:
    """How far generation 2 is, 0 before there is one."""
    return sum(standing(settings).values())


def test_a_rebuild_whose_commits_are_lost_ends_and_goes_on_where_it_stands(
    ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They aren't flushed one by one, so a crash of PostgreSQL takes some back; the memory of them is worth nothing."""
    monkeypatch.setattr("creditfold.processors.rebuild.partition.FIRST_RECORDS", 200)
    monkeypatch.setattr("creditfold.processors.rebuild.partition.CHUNK_RECORDS", 200)
    monkeypatch.setattr("creditfold.processors.rebuild.partition.PIECES", 1)
    append(ledger_settings, history(3_000))
    log = describe_log(ledger_settings)
    ends = end_offsets(ledger_settings, log.topic, range(log.partitions))
    job = RebuildJob(ledger_settings.kafka_client, log.topic, log.partitions, 1, ends)
    with copy_of(ledger_settings) as copy:
        commits: list[str] = []

        class SetBack(AccountCache):
            def trim(self) -> None:
                super().trim()
                commits.append("one")
                if len(commits) == 1:
                    copy.take()
                if len(commits) == 3:
                    copy.put_back()

        monkeypatch.setattr("creditfold.processors.rebuild.partition.AccountCache", SetBack)
        with pytest.raises(RebuildError, match="lost commits"):
            fold_here(job, ledger_settings.dsn)
    fold_here(job, ledger_settings.dsn)
    assert_equals_second_fold(ledger_settings)


def test_two_rebuilds_at_once(copied: Settings) -> None:
    """Each has a generation of its own."""
    command = ["-m", "creditfold.cli.main", "rebuild", "--json"]
    both = [Process(command, env=environment(copied), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [json.loads(process.communicate(timeout=HANG_S)[0]) for process in both]
    assert {row["number"] for row in said} == {2, 3}
    assert {row["digest"] for row in said} == {read(copied, 1).digest}
    assert rows_of(copied, 2) == rows_of(copied, 3) == rows_of(copied, 1)


@pytest.mark.parametrize("ends", ["PostgreSQL dies", "in the middle of a question"])
def test_what_ended_a_fold_is_raised_and_not_that_its_lock_could_not_be_given_back(copied: Settings, ends: str) -> None:
    """As a signal does; the lock is free all the same when the session has ended."""

    def fold() -> None:
        with connected(copied.dsn) as connection, held(connection, 7):
            if ends == "PostgreSQL dies":
                query(copied, "SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
            else:
                # Answered when the test gives the lock back.
                connection.pgconn.send_query(b"SELECT pg_advisory_lock(1)")
            raise SystemExit(143)

    with connected(copied.dsn) as holder:
        holder.execute("SELECT pg_advisory_lock(1)")
        with pytest.raises(SystemExit):
            fold()

    def free() -> bool:
        with suppress(GenerationError), connected(copied.dsn) as connection, held(connection, 7):
            return True
        return False

    assert wait_until(free, HANG_S)


async def test_a_zombie_of_a_rebuild_is_fenced(copied: Settings) -> None:
    """Two folds of one generation can't both write: the second claim wins."""
    number = begun(copied)
    async with fold_pool(copied.dsn, "test", 2) as pool:
        zombie = await claim(pool, 0, "zombie", number)
        await claim(pool, 0, "owner", number)
        async with pool.connection() as connection, connection.transaction():
            with pytest.raises(FencedError):
                await ChunkTransaction(connection, 0, zombie).lock()


def begun(settings: Settings) -> int:
    """An empty generation that is being built."""
    number = rebuild(settings, Request(until_offsets=dict.fromkeys(range(4), 0)), WATCH).number
    query(
        settings,
        "UPDATE ledger.generations SET state = 'building', until_offsets = NULL WHERE number = %s RETURNING 1",
        (number,),
    )
    return number


@pytest.mark.parametrize("processes", [0, 2])
def test_a_full_disk_is_reported_and_the_live_one_goes_on(folded: Settings, processes: int) -> None:
    """What PostgreSQL says when its disk is full, said by a trigger in the middle of a COPY; then there is room."""
    before, number = rows_of(folded, 1), begun(folded)
    script = str(ROOT / "tests" / "programs" / "small_pieces.py") if processes else "-m"
    command = [script, *([] if processes else ["creditfold.cli.main"])]
    with connected(folded.dsn) as connection:
        connection.execute(
            """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                   IF NEW.log_offset >= 300 THEN
                       RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
                   END IF; RETURN NEW; END $$"""
        )
        connection.execute(
            "CREATE TRIGGER full_disk BEFORE INSERT ON ledger_0002.journal FOR EACH ROW EXECUTE FUNCTION full_disk()"
        )
        resume = [*command, "rebuild", "--resume", str(number)]
        done = fork_server.run(resume, env=environment(folded), timeout=HANG_S)
        assert done.returncode == 1, done.stderr
        assert "no room left" in done.stderr
        assert "creditfold drop" in done.stderr
        assert rows_of(folded, 1) == before
        assert states(folded) == {1: "live", 2: "building"}
        connection.execute("DROP FUNCTION full_disk CASCADE")
    assert rebuild(folded, Request(resume=number), WATCH).state == "ready"
    assert rows_of(folded, 2) == before


def test_chains_can_be_asked_at_any_offset(copied: Settings) -> None:
    """From the rows, whether a checkpoint lies before or not; the same in both generations."""
    rebuild(copied, Request(), WATCH)
    ends = end_offsets(copied, copied.commands_topic, range(4))
    with connected(copied.dsn) as connection:
        for partition, end in ends.items():
            for offset in (0, 1, end // 2, end):
                assert chain_at(connection, 1, partition, offset) == chain_at(connection, 2, partition, offset)
            # Asked while the fold is further on: from the rows.
            stored = chain_at(connection, 1, partition, end)
            moved = "UPDATE ledger_0001.progress SET next_offset = %s, chain = %s WHERE log_partition = %s"
            connection.execute(moved, (end + 1, b"", partition))
            assert chain_at(connection, 1, partition, end) == stored
            connection.execute(moved, (end, stored, partition))
