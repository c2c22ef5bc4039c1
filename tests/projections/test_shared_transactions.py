"""Small chunks of several partitions in one transaction on a real PostgreSQL.

They come to what each would alone, all or nothing, and what is wrong with one partition holds up no other.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from creditfold.common.position import Log
from creditfold.common.settings import Settings
from creditfold.ledger import RULESETS
from creditfold.log.partitioner import partition_of
from creditfold.processors.fold import transaction as fold_module
from creditfold.processors.fold.chunk import Chunk
from creditfold.processors.fold.transaction import Share, fold_together
from creditfold.processors.worker import folder as folder_module
from creditfold.processors.worker.partitions import Partitions
from creditfold.projections.store import send as sending
from creditfold.projections.store.claim import Claim
from creditfold.projections.store.transaction import Write
from creditfold.projections.tables.setup import prepare
from creditfold.schemas.wire import encode
from helpers.credit_folds import assert_folded_to, forget_ids, in_memory
from helpers.credit_histories import START_MS, history
from helpers.ledgers import filled_once, new_database, patience
from helpers.records import FakeRecord
from helpers.stack_under_test import StackUnderTest
from helpers.store import kill, lanes_of, wait_until_blocked
from helpers.support import HANG_S, query
from programs.rules_two import decide_two

pytestmark = pytest.mark.both_cores

PARTITIONS = 3
Records = Sequence[Sequence[FakeRecord]]


@pytest.fixture(scope="module")
def empty(stack: StackUnderTest) -> Iterator[Settings]:
    """What `shared` copies."""
    log = Log("creditfold.commands.v1", "an-id", PARTITIONS)
    with filled_once(stack.settings, lambda database: prepare(database.dsn, log)) as settings:
        yield settings


@pytest.fixture
def shared(empty: Settings) -> Iterator[Settings]:
    """A database with an empty projection of several partitions."""
    with patience(), new_database(empty, empty) as settings:
        yield settings


def split(records: Sequence[FakeRecord]) -> Records:
    """Records of one partition as those of several, control records in each."""
    found: list[list[FakeRecord]] = [[] for _ in range(PARTITIONS)]
    for record in records:
        own = found if record.key is None else [found[partition_of(record.key, PARTITIONS)]]
        for known in own:
            known.append(record._replace(offset=len(known)))
    return found


def assert_same(settings: Settings, log: Records) -> None:
    """What is stored is what a fold of each partition in memory comes to."""
    assert_folded_to(settings, [in_memory(records, place, PARTITIONS) for place, records in enumerate(log)])


def stands(settings: Settings) -> list[tuple[int]]:
    """The next offset of each partition, in their order."""
    return query(settings, "SELECT next_offset FROM ledger_0001.progress ORDER BY log_partition")


def chunks(claims: Mapping[int, Claim], log: Records, ends: Mapping[int, int]) -> list[Chunk]:
    """From where the claims stand to before these offsets."""
    return [
        Chunk(partition, won.epoch, won.next_offset, ends[partition], log[partition][won.next_offset : ends[partition]])
        for partition, won in claims.items()
    ]


async def folded_until(lanes: Partitions, is_done: Callable[[], bool]) -> None:
    """Have lanes fold until something is so."""
    while not is_done():
        await lanes.wait_for_room(1.0)
        lanes.without_room()


async def feed(lanes: Partitions, claims: dict[int, Claim], log: Records, chance: random.Random) -> None:
    """Put small chunks of all partitions at once until all is folded."""
    async with asyncio.timeout(HANG_S):
        while behind := {one: won for one, won in claims.items() if won.next_offset < len(log[one])}:
            ends = {one: min(len(log[one]), won.next_offset + chance.choice((1, 2, 8))) for one, won in behind.items()}
            lanes.queue(chunks(behind, log, ends))
            await folded_until(lanes, lambda ends=ends: all(lanes.offsets()[one] >= end for one, end in ends.items()))
            for one, end in ends.items():
                claims[one] = claims[one]._replace(next_offset=end)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("recognizes", [True, False])
@pytest.mark.parametrize("plain", [0, 0.8])
async def test_together_comes_to_the_same_as_alone(
    shared: Settings, seed: int, recognizes: bool, plain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chains, counts, balances and totals, with ticks, duplicates, reused ids and garbage in between; also where old
    duplicates aren't recognized, and hardly anything may be made or loaded in one transaction."""
    folded: list[int] = []

    async def counted(connection: AsyncConnection[Any], shares: Sequence[Share]) -> list[int]:
        reached = await fold_together(connection, shares)
        folded.append(len(shares))
        return reached

    monkeypatch.setattr(folder_module, "fold_together", counted)
    monkeypatch.setattr(folder_module, "WORKER_ACCOUNTS", 2 * PARTITIONS)
    if not recognizes:
        forget_ids(monkeypatch)
        monkeypatch.setattr(folder_module, "DOUBTED_CHUNKS", 2)
    if seed % 2:
        monkeypatch.setattr(fold_module, "MOST_MADE", 3)
        monkeypatch.setattr(fold_module, "MOST_LOTS", 5)
    log = split(history(seed, 350 if plain else 400, plain=plain))
    assert min(map(len, log)) > 30
    async with lanes_of(shared, partitions=PARTITIONS) as lanes:
        await feed(lanes, await lanes.claim(range(PARTITIONS)), log, random.Random(seed))
    assert sum(count > 1 for count in folded) > 5
    assert max(folded) == PARTITIONS
    assert_same(shared, log)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("plain", [0.4, 0.8])
async def test_other_rules_come_into_force_in_the_middle(
    shared: Settings, plain: float, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands before the record is decided by rules 1, and what stands behind it by rules 2, also in one chunk."""
    monkeypatch.setitem(RULESETS, 2, decide_two)
    records = history(11, 600, plain=plain)
    value = encode("ActivateRules", {"command_id": "rules-2", "rules": 2})
    log = split([*records[:300], FakeRecord(0, records[300].timestamp, None, value), *records[300:]])
    async with lanes_of(shared, partitions=PARTITIONS) as lanes:
        claims = await lanes.claim(range(PARTITIONS))
        if small:
            await feed(lanes, claims, log, random.Random(11))
        else:
            ends = {one: len(records) for one, records in enumerate(log)}
            lanes.queue(chunks(claims, log, ends))
            async with asyncio.timeout(HANG_S):
                await folded_until(lanes, lambda: lanes.offsets() == ends)
    assert_same(shared, log)
    assert query(shared, "SELECT rules FROM ledger_0001.progress") == [(2,)] * PARTITIONS
    large = "SELECT rules FROM ledger_0001.journal WHERE kind = 'spend' AND amount > 10 AND rejection IS NULL"
    assert query(shared, f"{large} GROUP BY rules") == [(1,)]


async def test_a_partition_that_is_another_s_holds_up_no_other(shared: Settings) -> None:
    """Of three partitions one is claimed by another worker, and another one's chunk leaves a gap."""
    log = split(history(7, 200))
    lost: list[tuple[int, bool]] = []
    async with (
        lanes_of(shared, lost, partitions=PARTITIONS) as lanes,
        lanes_of(shared, partitions=PARTITIONS) as other,
    ):
        claims = await lanes.claim(range(PARTITIONS))
        await feed(lanes, claims, [records[:10] for records in log], random.Random(1))
        await other.claim([1])
        far = {0: claims[0]._replace(next_offset=12), 1: claims[1], 2: claims[2]}
        lanes.queue(chunks(far, log, {0: 15, 1: 15, 2: 15}))
        await folded_until(lanes, lambda: len(lost) >= 2 and lanes.offsets()[2] >= 15)
    assert sorted(lost) == [(0, False), (1, True)]
    assert stands(shared) == [(10,), (10,), (15,)]


@pytest.mark.parametrize("how", ["killed", "failed", "cancelled"])
@pytest.mark.parametrize("step", ["before", "loaded", "sent", "committed"])
async def test_a_kill_at_any_step_leaves_all_or_nothing(
    shared: Settings, step: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is ended at each step of a shared transaction, or the worker's own part of it fails or is cancelled;
    all chunks are folded after it, each exactly once."""
    log = split(history(3, 150))
    killed: list[str] = []
    write = fold_module.write_together

    async def end(connection: AsyncConnection[Any]) -> None:
        if killed or len(seen) <= 2:
            return
        killed.append(step)
        if how == "killed":
            assert kill(shared, connection.info.backend_pid)
        elif how == "failed":
            raise RuntimeError("a defect")
        else:
            task = asyncio.current_task()
            assert task is not None
            assert task.get_name() == "round"
            task.cancel()
            await asyncio.sleep(0)

    seen: list[int] = []

    async def folding(connection: AsyncConnection[Any], shares: Sequence[Share]) -> list[int]:
        seen.append(len(shares))
        if step == "before":
            await end(connection)
        reached = await fold_together(connection, shares)
        if step == "committed":
            await end(connection)
            if killed == ["committed"]:
                killed.append("reported")
                raise psycopg.OperationalError("the connection was lost before the answer to COMMIT")
        return reached

    async def writing(writes: Sequence[Write]) -> None:
        if step == "loaded":
            await end(writes[0].transaction.connection)
        await write(writes)

    state = sending.send_state

    async def stating(cursor: Any, generation: int, states: Any) -> None:
        # Behind the lines, in the pipeline that ends the transaction.
        if len(states) > 1 and step == "sent":
            await end(cursor.connection)
        await state(cursor, generation, states)

    monkeypatch.setattr(folder_module, "fold_together", folding)
    monkeypatch.setattr(fold_module, "write_together", writing)
    monkeypatch.setattr(sending, "send_state", stating)
    async with lanes_of(shared, partitions=PARTITIONS) as lanes:
        await feed(lanes, await lanes.claim(range(PARTITIONS)), log, random.Random(2))
    assert killed[:1] == [step]
    assert_same(shared, log)


@pytest.mark.parametrize("is_claimed", [True, False])
async def test_a_claim_under_way_is_waited_for(
    shared: Settings, is_claimed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a write finds in the row is what it is behind the claim, whether that is committed or not."""
    log = grants([("", "")] * 100)
    lost: list[tuple[int, bool]] = []
    write = fold_module.write_together
    outcomes: list[str] = []

    async def writing(writes: Sequence[Write]) -> None:
        if outcomes:
            await write(writes)
            return
        with psycopg.connect(shared.dsn) as claiming:
            claiming.execute("UPDATE ledger_0001.progress SET epoch = epoch + 1 WHERE log_partition = 1")
            waiting = asyncio.ensure_future(write(writes))
            await wait_until_blocked(shared)
            assert not waiting.done()
            if is_claimed:
                claiming.commit()
            else:
                claiming.rollback()
            outcomes.append("began")
            await waiting
            outcomes.append("written")

    async with lanes_of(shared, lost, partitions=PARTITIONS) as lanes:
        claims = await lanes.claim(range(PARTITIONS))
        await feed(lanes, claims, [records[:10] for records in log], random.Random(1))
        monkeypatch.setattr(fold_module, "write_together", writing)
        lanes.queue(chunks(claims, log, dict.fromkeys(range(PARTITIONS), 15)))
        await folded_until(lanes, lambda: all(lanes.offsets()[one] >= 15 or (one, True) in lost for one in claims))
    assert outcomes == (["began"] if is_claimed else ["began", "written"])
    assert lost == ([(1, True)] if is_claimed else [])
    assert stands(shared) == [(15,), (10 if is_claimed else 15,), (15,)]


def grants(texts: Iterable[tuple[str, str]]) -> Records:
    """Grants with these sources and reasons, and nothing else."""
    records = []
    for number, (source, reason) in enumerate(texts):
        account = f"user-{number % 97}"
        body = {"command_id": f"c{number}", "account": account, "asset": "credits", "amount": 5}
        value = encode("Grant", {**body, "source": source, "reason": reason})
        records.append(FakeRecord(number, START_MS, account.encode(), value))
    return split(records)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_claim_between_reading_and_writing_fences(
    shared: Settings, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is locked while what is needed is loaded and decided: the write finds that a partition is another's.

    Later rounds of the others succeed, though psycopg was about to prepare the statements for good in that one.
    """
    log = grants([("", "")] * 200)
    lost: list[tuple[int, bool]] = []
    write = fold_module.write_together
    refused: list[int] = []
    written: list[int] = []
    start = 6

    async def writing(writes: Sequence[Write]) -> None:
        if not refused:
            await other.claim([place])
        try:
            await write(writes)
        except sending.DisplacedError:
            assert stands(shared) == [(start,)] * PARTITIONS
            refused.append(len(writes))
            raise
        written.append(len(writes))

    async with (
        lanes_of(shared, lost, partitions=PARTITIONS) as lanes,
        lanes_of(shared, partitions=PARTITIONS) as other,
    ):
        claims = await lanes.claim(range(PARTITIONS))
        for number in range(start):
            # One record of each partition at a time: so many rounds, but for the first, which nothing is remembered in.
            await feed(lanes, claims, [records[: number + 1] for records in log], random.Random(1))
        monkeypatch.setattr(fold_module, "write_together", writing)
        lanes.queue(chunks(claims, log, dict.fromkeys(range(PARTITIONS), start + 5)))
        await folded_until(
            lanes, lambda: len(lost) >= 1 and sum(offset < start + 5 for offset in lanes.offsets().values()) <= 1
        )
        assert refused == [PARTITIONS]
        assert lost == [(place, True)]
        others = {one: won._replace(next_offset=start + 5) for one, won in claims.items() if one != place}
        for number in range(start + 6, start + 12):
            await feed(lanes, others, [records[:number] for records in log], random.Random(1))
    assert written == [PARTITIONS - 1] * 6
    stored = query(shared, "SELECT log_partition FROM ledger_0001.progress WHERE next_offset = %s", (start,))
    assert stored == [(place,)]


async def test_texts_come_out_as_they_went_in(shared: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """By COPY and by INSERT, whatever they would take for something else: nothing, an end, a column's end."""
    harmless = ["", "'\"$1%s{}", "é", "NULL"]
    escapes = ["\\", "\\N", "\\\\N", "\\x", "a\\\\x00", "\\.", "é\\", "\\\\\\x", "\\t"]
    texts = [*harmless, *escapes, "\t", "\n", "\r\n", "\x08\x0b\x0c"]
    # The harmless ones come first, so that whole chunks have no others.
    pairs = [*itertools.product(harmless, repeat=2)] * 5 + [*itertools.product(texts, repeat=2)]
    ways: set[str] = set()
    copy = sending._copy

    async def copying(cursor: Any, statement: bytes, pieces: Any) -> None:
        ways.update(["copied"] if pieces else [])
        await copy(cursor, statement, pieces)

    def is_unescaped(lines: bytes) -> bool:
        ways.add("sent" if (found := unescaped(lines)) else "escaped")
        return found

    unescaped = sending._is_unescaped
    monkeypatch.setattr(sending, "_copy", copying)
    monkeypatch.setattr(sending, "_is_unescaped", is_unescaped)
    log = grants(pairs)
    async with lanes_of(shared, partitions=PARTITIONS) as lanes:
        await feed(lanes, await lanes.claim(range(PARTITIONS)), log, random.Random(3))
    rows = query(shared, "SELECT source, note FROM ledger_0001.journal")
    assert sorted(rows) == sorted(pairs)
    assert ways == {"copied", "sent", "escaped"}
    assert_same(shared, log)
