"""The fold on the real stack: what goes in, what comes out, and what outages and bad input do to it."""

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.ledger.limits import MAX_RECORD_BYTES
from creditfold.log.partitioner import partition_of
from creditfold.projections.tables.roles import READER_ROLE
from creditfold.schemas.dead_letters import DeadLetterReason
from helpers.support import (
    HANG_S,
    TRANSACTION_MS,
    BriefWorker,
    Raw,
    WorkerProcess,
    all_progress,
    append,
    append_misnamed,
    assert_equals_second_fold,
    fold_log,
    lag,
    query,
    record,
    wait_until_folded,
    worker,
)

pytestmark = pytest.mark.both_cores


@pytest.fixture
def running(ledger_settings: Settings, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker that folds the test's own topic."""
    with worker(ledger_settings, tmp_path) as process:
        yield process


# As at a first start: the worker makes the tables.
@pytest.mark.unprepared
def test_grants_and_spends_become_balances(ledger_settings: Settings, running: WorkerProcess) -> None:
    """ann: +10 -4 (-7 rejected) = 6; bob: +5 = 5."""
    append(
        ledger_settings,
        [
            record("Grant", "1", "ann", 10, source="shop", reason="welcome", occurred_at=1_700_000_000_000),
            record("Spend", "2", "ann", 4),
            record("Spend", "3", "ann", 7),
            record("Grant", "1", "bob", 5),
            record("Spend", "2", "ann", 4),
        ],
    )
    wait_until_folded(ledger_settings)
    rows = query(ledger_settings, "SELECT account_id, asset, available, version FROM ledger.balances ORDER BY 1")
    assert rows == [("ann", "credits", 6, 3), ("bob", "credits", 5, 1)]
    journal = query(
        ledger_settings,
        """SELECT version, command_id, kind, amount, change, balance, accepted, rejection, source, note,
                  occurred_at IS NULL, decided_at BETWEEN now() - interval '1 hour' AND now() + interval '1 minute'
           FROM ledger.journal WHERE account_id = 'ann' ORDER BY version""",
    )
    assert journal == [
        (1, "1", "grant", 10, 10, 10, True, None, "shop", "welcome", False, True),
        (2, "2", "spend", 4, -4, 6, True, None, "", "", True, True),
        (3, "3", "spend", 7, 0, 6, False, "insufficient_credits", "", "", True, True),
    ]
    totals = query(ledger_settings, "SELECT sum(accepted), sum(rejected), sum(duplicates) FROM ledger.progress")
    assert totals == [(3, 1, 1)]
    assert_equals_second_fold(ledger_settings)


GOOD = record("Grant", "1", "ann", 5).value or b""
LONG = "x" * 1_000_000

# reason                             | record
BAD_INPUT = [
    (DeadLetterReason.EMPTY_VALUE, Raw(None, b"ann")),
    (DeadLetterReason.EMPTY_VALUE, Raw(b"", b"ann")),
    (DeadLetterReason.OVERSIZE, Raw(b"\0" * 2_000_000, b"ann")),
    (DeadLetterReason.OVERSIZE, record("Grant", LONG, "ann", 5)),
    (DeadLetterReason.OVERSIZE, record("Grant", "1", LONG, 5)),
    (DeadLetterReason.OVERSIZE, Raw(b"x" * (MAX_RECORD_BYTES + 1), b"ann")),
    (DeadLetterReason.NOT_FRAMED, Raw(b"not avro", b"ann")),
    (DeadLetterReason.NOT_FRAMED, Raw(b'{"account": "ann"}', None)),
    (DeadLetterReason.UNKNOWN_SCHEMA_ID, Raw(b"\0\0\0\0\1" + GOOD[5:], b"ann")),
    (DeadLetterReason.NOT_AVRO, Raw(GOOD[:-1], b"ann")),
    (DeadLetterReason.NOT_AVRO, Raw(GOOD + b"\0", b"ann")),
    (DeadLetterReason.NOT_AVRO, Raw(GOOD[:5] + b"\x04\xff\xfe" + GOOD[7:], b"ann")),
    (DeadLetterReason.INVALID_COMMAND, record("Grant", "", "ann", 5)),
    (DeadLetterReason.INVALID_COMMAND, record("Grant", "1", "", 5)),
    (DeadLetterReason.INVALID_COMMAND, record("Grant", "1", "ann", -5)),
    (DeadLetterReason.INVALID_COMMAND, record("Spend", "1", "ann", 0)),
    (DeadLetterReason.INVALID_COMMAND, record("Grant", "1", "ann", 2**53)),
    (DeadLetterReason.INVALID_COMMAND, record("Grant", "1", "ann", 2**63 - 1)),
    (DeadLetterReason.INVALID_COMMAND, record("Grant", "1", "ann", -(2**63))),
    (DeadLetterReason.INVALID_COMMAND, record("Grant", "nul\0", "ann", 5)),
    (DeadLetterReason.INVALID_COMMAND, record("Grant", "1", "ann", 5, reason="nul\0")),
    (DeadLetterReason.INVALID_COMMAND, record("Grant", "1", "ann", 5, metadata={"nul\0": ""})),
    (DeadLetterReason.INVALID_COMMAND, record("Grant", "1", "ann", 5, occurred_at=2**62)),
    (DeadLetterReason.KEY_MISMATCH, Raw(GOOD, b"bob")),
    (DeadLetterReason.KEY_MISMATCH, Raw(GOOD, None, partition=0)),
    (DeadLetterReason.KEY_MISMATCH, Raw(GOOD, b"ann\xff")),
    (DeadLetterReason.KEY_MISMATCH, Raw(GOOD, b"")),
    (DeadLetterReason.WRONG_PARTITION, Raw(GOOD, b"ann", partition=(partition_of(b"ann", 4) + 1) % 4)),
    (DeadLetterReason.COMMAND_ID_REUSED, record("Grant", "first", "ann", 6)),
    (DeadLetterReason.COMMAND_ID_REUSED, record("Spend", "first", "ann", 5)),
]


def test_every_reason_for_a_dead_letter_is_reached() -> None:
    """A reason without a case is a gap in the table, and the table keeps the enum's order.

    The last needs a second version of the rules: tests/ledger/test_rules.py has it.
    """
    assert list(dict.fromkeys(reason for reason, _ in BAD_INPUT)) == list(DeadLetterReason)[:-1]


def test_bad_input_becomes_dead_letters_and_the_rest_is_folded(
    ledger_settings: Settings, running: WorkerProcess
) -> None:
    """Each record of the table between two good ones of its account: both are folded, it is kept byte for byte."""
    headers = (("trace", b"\xff\0"), ("trace", None), ("naïve\n", b""))
    good = [record("Grant", "first", "ann", 5)]
    for number, (_, bad) in enumerate(BAD_INPUT):
        good += [bad._replace(headers=headers), record("Grant", f"after-{number}", "ann", 1)]
    append(ledger_settings, good, **{"message.max.bytes": 4_000_000, "compression.type": "gzip"})
    wait_until_folded(ledger_settings)

    letters = query(ledger_settings, "SELECT reason, key, value, headers, detail FROM ledger.dead_letters")
    found = [row[:3] for row in letters]
    expected = sorted(((str(reason), bad.key, bad.value) for reason, bad in BAD_INPUT), key=repr)
    assert sorted(found, key=repr) == expected
    assert {json.dumps(row[3]) for row in letters} == {
        json.dumps([["trace", "/wA="], ["trace", None], ["na\\xefve\\n", ""]])
    }
    assert all(row[4] for row in letters)
    rows = query(ledger_settings, "SELECT account_id, available FROM ledger.balances")
    assert rows == [("ann", 5 + len(BAD_INPUT))]


def test_random_bytes_stop_nothing(ledger_settings: Settings, running: WorkerProcess) -> None:
    """Ten thousand records of noise, half of them behind a true header, among good commands."""
    chance = random.Random(7)
    noise = []
    for number in range(10_000):
        head = GOOD[:5] if number % 2 else b""
        noise.append(Raw(head + chance.randbytes(chance.randrange(1, 60)), chance.randbytes(4)))
        if number % 10 == 0:
            noise.append(record("Grant", str(number), f"user-{number % 70}", 3))
    append(ledger_settings, noise)
    wait_until_folded(ledger_settings)
    counted = query(ledger_settings, "SELECT sum(accepted), sum(dead_letters), sum(records) FROM ledger.progress")
    assert counted == [(1_000, 10_000, 11_000)]


def test_a_header_name_that_is_not_utf8_stops_nothing(ledger_settings: Settings, running: WorkerProcess) -> None:
    """The worker's client can't parse such a batch at all. What else is in it is folded as ever, in order."""
    append(ledger_settings, [record("Grant", f"a{n}", f"user-{n % 90}", 1) for n in range(1_000)])
    wait_until_folded(ledger_settings)
    accounts = [next(f"user-{n}" for n in range(100) if partition_of(f"user-{n}".encode(), 4) == p) for p in range(4)]
    batch = [record("Spend" if n % 2 else "Grant", f"bad-{n}", accounts[0], 1) for n in range(701)]
    batch[350] = Raw(b"noise", b"k")
    asyncio.run(append_misnamed(ledger_settings, batch, 350))
    append(ledger_settings, [record("Grant", f"b{n}", f"user-{n % 90}", 1) for n in range(1_000)])
    wait_until_folded(ledger_settings)
    letters = query(ledger_settings, "SELECT reason, key, value, headers FROM ledger.dead_letters")
    assert letters == [("not_framed", b"k", b"noise", [["unreadable-headers", None]])]
    assert_equals_second_fold(ledger_settings)


def test_aborted_transactions_are_not_folded_and_their_marks_are_passed_over(
    ledger_settings: Settings, running: WorkerProcess
) -> None:
    """Aborted records leave no trace, and a log that ends in control records has lag zero."""
    transacting = {"transactional.id": ledger_settings.group, "transaction.timeout.ms": TRANSACTION_MS}
    producer = Producer({**ledger_settings.kafka_client, **transacting})
    producer.init_transactions(HANG_S)
    for number, ends in enumerate(["commit", "abort", "commit", "abort"]):
        producer.begin_transaction()
        for partition in range(4):
            account = next(name for n in range(100) if partition_of((name := f"user-{n}").encode(), 4) == partition)
            value = record("Grant", str(number), account, 1).value
            producer.produce(ledger_settings.commands_topic, value, account.encode(), partition=partition)
        producer.flush(HANG_S)
        _ = producer.commit_transaction(HANG_S) if ends == "commit" else producer.abort_transaction(HANG_S)
    wait_until_folded(ledger_settings)
    assert query(ledger_settings, "SELECT sum(available), count(*), sum(version) FROM ledger.balances") == [(8, 4, 8)]
    assert_equals_second_fold(ledger_settings)


def test_a_second_worker_takes_its_share_and_the_rest_when_the_first_dies(
    ledger_settings: Settings, tmp_path: Path
) -> None:
    """Four partitions over two owners, then one, as soon as a broker lets a session end."""
    append(ledger_settings, [record("Grant", str(n), f"user-{n % 50}", 1) for n in range(1_000)])
    with worker(ledger_settings, tmp_path, "one", BriefWorker) as one:
        wait_until_folded(ledger_settings)
        with worker(ledger_settings, tmp_path, "two") as two:

            def owners() -> set[str]:
                return {row.owner for row in all_progress(ledger_settings)}

            assert wait_until(lambda: len(owners()) == 2, HANG_S)
            one.kill()
            append(ledger_settings, [record("Spend", f"s{n}", f"user-{n % 50}", 1) for n in range(1_000)])
            wait_until_folded(ledger_settings)
            assert wait_until(lambda: len(owners()) == 1, HANG_S)
            assert two.stop() == 0
    assert_equals_second_fold(ledger_settings)


class BesideAStartingKafka(WorkerProcess):
    """A worker whose Kafka knows no topic until after the group's first assignment."""

    program = (str(Path(__file__).parents[1] / "programs" / "late_metadata.py"),)


def test_an_assignment_made_before_kafka_knew_its_topics_is_soon_made_anew(
    ledger_settings: Settings, tmp_path: Path
) -> None:
    """A broker that has just come up may not know its topics yet: whoever assigns then has nothing to give."""
    append(ledger_settings, [record("Grant", str(n), f"user-{n % 50}", 1) for n in range(100)])
    beside = BesideAStartingKafka(ledger_settings, tmp_path)
    try:
        wait_until_folded(ledger_settings)
        assert beside.said("Ignoring missing topic")
    finally:
        assert beside.stop() == 0


def test_sigterm_stops_in_seconds_and_leaves_nothing_half(ledger_settings: Settings, tmp_path: Path) -> None:
    """Stopped in the middle of a log, and of a chunk, the worker exits with 0, and the next goes on where it was."""
    append(ledger_settings, [record("Grant", str(n), f"user-{n % 500}", 1) for n in range(4_000)])
    small = ledger_settings.model_copy(update={"chunk_records": 50})
    with worker(small, tmp_path, constants=("processors.worker.partition.GRACE_S=1",)) as first:
        assert wait_until(lambda: any(row.next_offset for row in all_progress(ledger_settings)), HANG_S)
        with psycopg.connect(ledger_settings.dsn) as holding:
            # What is folded next is written and can't be committed, whenever the worker is stopped.
            holding.execute("LOCK TABLE ledger_0001.journal IN SHARE MODE")
            assert first.stop() == 0
        assert "Traceback" not in first.text()
    assert lag(ledger_settings)
    with worker(ledger_settings, tmp_path, "next"):
        wait_until_folded(ledger_settings)
    assert_equals_second_fold(ledger_settings)


def test_readers_can_read_and_do_nothing_else(ledger_settings: Settings) -> None:
    """The role sees the views; it can neither write nor look behind them."""
    append(ledger_settings, [record("Grant", "1", "ann", 10)])
    fold_log(ledger_settings)
    allowed = "SELECT available FROM ledger.balances"
    refused = [
        "UPDATE ledger.balances SET available = 1000",
        "DELETE FROM ledger.journal",
        "INSERT INTO ledger.balances SELECT * FROM ledger.balances",
        "SELECT * FROM ledger_0001.balances",
        "CREATE TABLE ledger.mine (n int)",
        "CREATE TABLE mine (n int)",
    ]
    with psycopg.connect(ledger_settings.dsn, autocommit=True) as connection:
        connection.execute(f"SET ROLE {READER_ROLE}")  # type: ignore[arg-type]
        assert connection.execute(allowed).fetchall() == [(10,)]  # type: ignore[arg-type]
        for view in ("balances", "journal", "rejections", "dead_letters", "progress"):
            connection.execute(f"SELECT * FROM ledger.{view}")  # type: ignore[arg-type]
        for statement in refused:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)  # type: ignore[arg-type]
