"""Transfers and ticks on the real stack: workers bring them about by themselves, whatever dies."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.projections.connections import connected
from helpers.command_line import use
from helpers.credit_topics import append_long_ago
from helpers.support import HANG_S, ROOT, SEED, Cli, Raw, WorkerProcess, append, query, wait_until_folded, worker
from helpers.transfer_records import (
    ANN,
    BOB,
    EVE,
    account_in,
    check_ends,
    ending,
    grant,
    in_transit,
    of,
    transfer,
    wait_until_settled,
)

pytestmark = pytest.mark.compiled_core


TRANSFERS = int(os.environ.get("CREDITFOLD_CHAOS_TRANSFERS", "300"))
ROUNDS = max(4, TRANSFERS // 100)


def ticks(settings: Settings) -> int:
    return int(query(settings, "SELECT sum(ticks) FROM ledger_0001.progress")[0][0])


def ticks_by_partition(settings: Settings) -> dict[int, int]:
    return dict(query(settings, "SELECT log_partition, ticks FROM ledger_0001.progress"))  # type: ignore[arg-type]


@pytest.fixture
def credited(ledger_settings: Settings) -> Settings:
    """A ledger whose workers make no ticks."""
    return ledger_settings.model_copy(update={"tick_seconds": 0})


def balances(settings: Settings) -> dict[str, int]:
    rows = query(settings, "SELECT account_id, available FROM ledger_0001.balances WHERE available <> 0")
    return dict(rows)


def kinds(settings: Settings, account: str) -> list[tuple[str, list[str]]]:
    rows = query(
        settings, "SELECT kind, facts FROM ledger_0001.journal WHERE account_id = %s ORDER BY version", (account,)
    )
    return [(kind, [fact["kind"] for fact in json.loads(facts)]) for kind, facts in rows]


def test_a_transfer_crosses_partitions(credited: Settings, tmp_path: Path) -> None:
    """Credits arrive with their terms, or go back where nobody takes them; news of the fold alone moves them on."""
    # By itself the worker looks for transfers every hour only.
    with worker(credited, tmp_path, constants=("processors.worker.background.IDLE_S=3600",)):
        append(credited, [grant(ANN, "g", 10, lot_class="promo", priority=7)])
        wait_until_folded(credited)
        append(credited, [transfer(ANN, "t", 4, BOB)])
        wait_until_settled(credited, 1)
        assert balances(credited) == {ANN: 6, BOB: 4}
        assert kinds(credited, ANN)[-1] == ("settle_transfer", ["completed"])
        terms = query(
            credited, "SELECT lot_class, priority, source FROM ledger_0001.lots WHERE account_id = %s", (BOB,)
        )
        assert terms == [("promo", 7, "in_transit")]
        # Both records of a transfer within one partition go the same way; a closed account sends it back.
        bill = account_in(1, "bill")
        append(credited, [of("Close", EVE, "close"), transfer(BOB, "t", 3, bill), transfer(ANN, "t2", 5, EVE)])
        wait_until_settled(credited, 3)
    assert balances(credited) == {ANN: 6, BOB: 1, bill: 3}
    assert kinds(credited, ANN)[-1] == ("settle_transfer", ["returned"])
    assert query(credited, "SELECT sum(in_transit) FROM ledger_0001.totals") == [(0,)]
    assert query(credited, "SELECT sum(dead_letters), sum(duplicates) FROM ledger.progress") == [(0, 0)]


def test_an_operator_s_tick_expires_what_nobody_touches(
    credited: Settings, tmp_path: Path, bare: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`creditfold tick`, as often as wanted within a minute; what hasn't ended stays."""
    use(credited, monkeypatch)
    with worker(credited, tmp_path):
        later = grant(ANN, "later", 3, expires_at=4_102_444_800_000)
        append_long_ago(credited, [ending(ANN, "g", 10), later, grant(ANN, "h", 3)])
        wait_until_folded(credited)
        assert balances(credited) == {ANN: 16}
        for _ in range(3):
            assert len(bare("tick", "--json").json["positions"]) == 4
        wait_until_folded(credited)
    assert kinds(credited, ANN)[-1] == ("settled", ["expired"])
    assert balances(credited) == {ANN: 6}
    assert ticks(credited) == 12


def test_workers_tick_by_themselves(credited: Settings, tmp_path: Path) -> None:
    """Where something is due, in its partition only, and no more when it is done."""
    settings = credited.model_copy(update={"tick_seconds": 0.5})
    with worker(settings, tmp_path):
        append_long_ago(settings, [grant(BOB, "g", 10), ending(ANN, "g", 10)])
        wait_until_folded(settings)
        assert wait_until(lambda: balances(settings) == {BOB: 10}, HANG_S)
        wait_until_folded(settings)
        assert kinds(settings, ANN)[-1] == ("settled", ["expired"])
        found = query(settings, "SELECT log_partition, ticks > 0 FROM ledger_0001.progress ORDER BY 1")
        assert found == [(0, True), (1, False), (2, False), (3, False)]
        after = ticks_by_partition(settings)
        # Whoever ticks this one has looked at the others again.
        append_long_ago(settings, [ending(EVE, "g", 10)])
        assert wait_until(lambda: kinds(settings, EVE)[-1:] == [("settled", ["expired"])], HANG_S)
        wait_until_folded(settings)
        again = ticks_by_partition(settings)
        assert (again.pop(2) > after.pop(2), again) == (True, after)


class Mortal(WorkerProcess):
    """A worker that dies at some of its appends."""

    program = (str(ROOT / "tests" / "programs" / "killed_forwarder.py"),)


def transfers(chance: random.Random, names: list[str]) -> Iterator[Raw]:
    """Random transfers among accounts: some of more than there is, some to the closed one, some sent twice."""
    for number in range(TRANSFERS):
        sender, to = chance.sample(names, 2)
        record = transfer(sender, f"t{number}", chance.randint(1, 30), to)
        yield record
        if chance.random() < 0.1:
            yield record


@pytest.mark.chaos
def test_no_transfer_is_lost_or_doubled_whatever_dies(
    ledger_settings: Settings, tmp_path: Path, bare: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers are killed again and again, at any moment and at their appends; then all is where it belongs."""
    print(f"seed {SEED}, {TRANSFERS} transfers")
    chance = random.Random(SEED)
    settings = ledger_settings.model_copy(update={"chunk_records": 20, "tick_seconds": 0.5, "retry_max_s": 1.0})
    names = [account_in(n % 4, f"user{n}") for n in range(12)]
    now = time.time_ns() // 1_000_000
    grants = [
        grant(name, f"g{n}", 100, expires_at=0 if n % 3 else now + chance.randint(2_000, 15_000))
        for name in names[1:]
        for n in range(4)
    ]
    # One that ends whatever the machine does; the others end in between, if they come in time.
    append_long_ago(settings, [of("Close", names[0], "close"), ending(names[1], "old", 100)])
    append(settings, grants)
    records = list(transfers(chance, names[1:] + names[:1]))
    size = len(records) // ROUNDS + 1
    with ExitStack() as running:
        workers: list[WorkerProcess] = []
        for number in range(ROUNDS):
            # A group of its own, which needn't wait for the dead of the last one.
            mortal = settings.model_copy(update={"group": f"{settings.group}-{number}"})
            before = claims(settings)
            workers = [Mortal(mortal, tmp_path, f"{name}-{number}") for name in ("one", "two")]
            for process in workers:
                running.callback(process.kill)
            append(settings, records[number * size : (number + 1) * size])
            assert wait_until(partial(claimed, settings, before), HANG_S)
            chance.shuffle(workers)
            for process in workers:
                with suppress(subprocess.TimeoutExpired):
                    # It may be dead before that by its own hand.
                    process.process.wait(chance.uniform(0, 1.5))
                process.kill()
        died = [process.process.returncode for process in workers]
        last = running.enter_context(worker(settings, tmp_path, "last"))
        wait_until_folded(settings)
        assert wait_until(lambda: in_transit(settings) == 0, HANG_S)
        assert wait_until(lambda: not due(settings), HANG_S)
        wait_until_folded(settings)
        # The others may have left it nothing to do, and it must have come as far as to hear a signal.
        assert wait_until(lambda: last.said("worker starts"), HANG_S)
        assert last.stop() == 0
    assert set(died) == {-signal.SIGKILL}
    (counts,) = query(settings, "SELECT sum(duplicates), sum(ticks) FROM ledger_0001.progress")
    print(f"{counts[0]} duplicates, {counts[1]} ticks")
    check(settings)
    use(settings, monkeypatch)
    assert bare("rebuild").code == 0
    for table in ("journal", "balances", "accounts", "lots", "transfers", "totals", "checkpoints"):
        assert differing(settings, table) == []
    chains = [query(settings, f"SELECT chain FROM ledger_000{n}.progress ORDER BY log_partition") for n in (1, 2)]
    assert chains[0] == chains[1]


# Of a lot that is empty: whether it was, when its window closed, hangs on what was folded in one transaction.
NOT_COMPARED = {"lots": {"is_lapsed", "is_pending", "log_offset"}}


def differing(settings: Settings, table: str) -> list[str]:
    """The columns in which generations 1 and 2 differ."""
    found = []
    for number in (1, 2):
        with connected(settings.dsn) as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(SQL("SELECT * FROM {} AS t ORDER BY t").format(Identifier(f"ledger_000{number}", table)))
            found.append(cursor.fetchall())
    left, right = found
    assert len(left) == len(right)
    columns = {name for one, other in zip(left, right, strict=True) for name in one if one[name] != other[name]}
    return sorted(columns - NOT_COMPARED.get(table, set()))


def claims(settings: Settings) -> dict[int, int]:
    """The claim in force of each partition."""
    return dict(query(settings, "SELECT log_partition, epoch FROM ledger_0001.progress"))  # type: ignore[arg-type]


def claimed(settings: Settings, before: dict[int, int]) -> bool:
    """Whether each partition was claimed since."""
    now = claims(settings)
    return all(now[partition] > epoch for partition, epoch in before.items())


def due(settings: Settings) -> list[tuple[Any, ...]]:
    return query(settings, "SELECT account_id FROM ledger_0001.lots WHERE next_at_ms IS NOT NULL")


def check(settings: Settings) -> None:
    """Nothing is in transit, all that was granted is somewhere, and each transfer has come to one end."""
    accepted = "SELECT sum(amount) FROM ledger_0001.journal WHERE kind = 'grant' AND rejection IS NULL"
    ((granted,),) = query(settings, accepted)
    (row,) = query(
        settings,
        """SELECT sum(credits), sum(issued), sum(expired), sum(in_transit),
                  sum(credits - debt + spent + expired + voided + forfeited + reissued) FROM ledger_0001.totals""",
    )
    assert row[1] == row[4] == granted > 0
    assert row[3] == 0
    assert row[0] == sum(balances(settings).values())
    assert row[2] > 0
    assert check_ends(settings) > 0
    assert query(settings, "SELECT sum(duplicates) > 0 FROM ledger.progress") == [(True,)]
