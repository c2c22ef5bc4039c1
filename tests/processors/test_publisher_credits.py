"""The publisher and credits, on the real stack: many outcomes of one record, each once and in order."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.topics import describe_log
from creditfold.processors.publisher import partition as outboxes
from creditfold.processors.publisher.messages import read_outcome
from creditfold.processors.publisher.partition import Outbox, Pool, with_smaller_messages
from creditfold.projections.queries import windows as outbox_queries
from creditfold.projections.tables.setup import prepare
from creditfold.schemas.wire import encode
from helpers.credit_folds import fold_in_pieces
from helpers.credit_histories import START_MS, history
from helpers.outboxes import (
    Moment,
    opened,
    publish_all,
    publish_to,
    publish_until_killed,
    publish_until_overtaken,
    topics_of,
)
from helpers.published import assert_outcomes_published, next_offsets, rows_of_the_journal, wait_until_published
from helpers.records import FakeRecord
from helpers.support import (
    HANG_S,
    SEED,
    Raw,
    all_progress,
    alter,
    append,
    publisher,
    query,
    read_topic,
    wait_until_folded,
    worker,
)
from helpers.transfer_records import account_in, grant, of, transfer

DAY_MS = 86_400_000


def month_end(first: int, accounts: int) -> list[FakeRecord]:
    """Grants to accounts of all kinds of names that end together, and the tick at which they do."""
    begun = START_MS + 365 * DAY_MS
    firsts = "zZaAé~ab\U00010000\uffff"
    names = [f"{firsts[number % len(firsts)]}{number}" for number in range(accounts)]
    grants = [
        {
            "command_id": f"month-{number}",
            "account": name,
            "asset": "credits",
            "amount": 5,
            "expires_at": begun + DAY_MS,
        }
        for number, name in enumerate(names)
    ]
    records = [
        FakeRecord(first + number, begun, fields["account"].encode(), encode("Grant", fields))
        for number, fields in enumerate(grants)
    ]
    minute = (begun + DAY_MS) // 60_000 + 1
    tick = encode("Tick", {"command_id": f"tick-0-{minute}", "minute": minute})
    return [*records, FakeRecord(first + accounts, minute * 60_000, None, tick)]


pytestmark = pytest.mark.unprepared


@pytest.fixture
def prepared(ledger_settings: Settings) -> Settings:
    """An empty projection of the topic's first partition."""
    assert prepare(ledger_settings.dsn, describe_log(ledger_settings)._replace(partitions=1))
    return ledger_settings


async def fold_histories(settings: Settings, records: int, accounts: int) -> None:
    """Fold a history by chance, and behind it a month's end."""
    made = history(SEED, records)
    await fold_in_pieces(settings, [*made, *month_end(len(made), accounts)], random.Random(SEED), None)


def assert_credits_published(settings: Settings) -> list[dict[str, Any]]:
    """Both topics hold exactly what was folded, though the log holds none of it. Returns the journal's rows."""
    rows = assert_outcomes_published(settings)
    seen = read_topic(settings, settings.dead_letters_topic)
    dead = [int(message.header("creditfold-offset") or b"") for message in seen]
    assert dead == [offset for (offset,) in query(settings, "SELECT log_offset FROM ledger.dead_letters ORDER BY 1")]
    return rows


def in_small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_queries, "WINDOW_OFFSETS", 60)
    monkeypatch.setattr(outbox_queries, "WINDOW_ROWS", 20)
    monkeypatch.setattr(outbox_queries, "_FETCHED_ROWS", 7)


#: When it dies.
MOMENTS: tuple[Moment, ...] = (
    ("begin_transaction", 4, True),
    ("produce", 30, True),
    ("commit_transaction", 3, False),
    ("commit_transaction", 3, True),
    ("commit_transaction", 4, False),
    ("commit_transaction", 5, True),
)


async def test_deaths_among_the_outcomes_of_one_record_lose_and_double_nothing(
    prepared: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A history, then a tick of many windows in which it is killed at every step; each row comes once."""
    print(f"seed {SEED}")
    in_small_windows(monkeypatch)
    await fold_histories(prepared, 300, 250)
    tick = next_offsets(prepared)[0] - 1
    with opened(prepared, pool, 0) as outbox:
        publish_to(outbox, tick)
    kept, within = [], set()
    for number, moment in enumerate(MOMENTS):
        # One window a reading of the journal, or all of them.
        monkeypatch.setattr(outboxes, "STRETCH_S", (0.0, 60.0)[number % 2])
        kept.append(publish_until_killed(prepared, pool, 0, tick + 1, moment))
        within |= {kept[-1]._outcomes_from}
    assert sum(place.offset == tick and bool(place.account) for place in within) >= 3
    with opened(prepared, pool, 0) as outbox:
        publish_to(outbox, tick + 1)
    rows = assert_credits_published(prepared)
    assert sum(row["log_offset"] == tick for row in rows) >= 250
    assert {row["kind"] for row in rows if row["command_id"] is None} >= {"settled"}


async def test_a_zombie_among_the_outcomes_of_one_record_is_fenced(
    prepared: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has published a part of a tick, and sent more of it, when another takes over and publishes the rest."""
    in_small_windows(monkeypatch)
    await fold_histories(prepared, 20, 60)
    folded_to = next_offsets(prepared)[0]

    def is_among(zombie: Outbox) -> bool:
        return zombie.published_to == folded_to - 1 and bool(zombie._outcomes_from.version)

    publish_until_overtaken(prepared, pool, folded_to, is_among)
    assert_credits_published(prepared)


async def test_an_outcome_too_long_for_its_topic_is_cut(prepared: Settings, pool: Pool) -> None:
    """By the size that the topic is said to take, and, if it takes less than that, after it has refused."""
    alter(prepared, prepared.outcomes_topic, max_message_bytes="20000")
    noise = random.Random(1)
    grants = [
        ("Grant", {"command_id": noise.randbytes(30).hex(), "asset": "credits", "amount": number + 1})
        for number in range(600)
    ]
    commands = [*grants, ("Close", {"command_id": "close", "forfeit": True})]
    records = [
        FakeRecord(number, 2, b"ann", encode(record, {"account": "ann", **fields}))
        for number, (record, fields) in enumerate(commands)
    ]
    await fold_in_pieces(prepared, records, random.Random(1), None)
    folded_to = next_offsets(prepared)[0]
    topics = topics_of(prepared, outcome_bytes=1_000_000)
    with opened(prepared, pool, 0, topics) as outbox, pytest.raises(KafkaException):
        publish_to(outbox, folded_to)
    # Made here, because the client may raise what became of the transaction, and only the next try what of the message.
    too_large = KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    for _ in range(6):
        topics = with_smaller_messages(topics, too_large)
    assert topics.outcome_bytes == 16_384
    publish_all(prepared, pool, topics)
    *_, closed, forfeited = list(outcomes_in(prepared))
    assert (closed.record, closed.left_out) == ("CommandAccepted", {})
    assert (forfeited.left_out, forfeited.fields["balance"]) == ({"moves": 600}, 0)
    (fact,) = forfeited.fields["facts"]
    assert (fact["kind"], fact["moves"]) == ("forfeited", [])


def outcomes_in(settings: Settings) -> Iterator[Any]:
    for message in read_topic(settings, settings.outcomes_topic):
        yield read_outcome(message.value, message.headers, message.partition)


def test_everything_is_published_whatever_its_size(ledger_settings: Settings, tmp_path: Path) -> None:
    """Schedules that begin in 1970, whose facts are megabytes each, a transfer across partitions, and a dead letter
    that is larger than the broker's segments: each comes once and in order, with what there was room for."""
    settings = ledger_settings.model_copy(update={"tick_seconds": 0})
    alter(settings, settings.dead_letters_topic, segment_bytes="1048576")
    old = {"asset": "credits", "amount": 1, "period": "days", "first_at": 1}
    ann, bob = account_in(0, "ann"), account_in(1, "bob")
    noise = Raw(random.Random(1).randbytes(1_048_400), b"k", 0)
    commands = [of("CreateSchedule", account_in(0, f"old{number}"), "s", **old) for number in range(2)]
    commands += [grant(ann, "g", 10), transfer(ann, "t", 4, bob), noise, grant(ann, "g2", 1)]
    append(settings, commands, **{"message.max.bytes": 2_000_000})
    settled = "SELECT FROM ledger.journal WHERE kind = 'settle_transfer'"
    with worker(settings, tmp_path), publisher(settings, tmp_path) as running:
        # All of it is read once: each reading takes a second.
        assert wait_until(lambda: bool(all_progress(settings)) and bool(query(settings, settled)), HANG_S)
        wait_until_folded(settings)
        wait_until_published(settings)
        assert "can't be published" not in running.text()
    rows = [(row["log_partition"], row["log_offset"], row["version"]) for row in rows_of_the_journal(settings)]
    published = list(outcomes_in(settings))
    assert [(*outcome.position, outcome.fields["version"]) for outcome in published] == rows
    (letter,) = read_topic(settings, settings.dead_letters_topic)
    assert (noise.value or b"").startswith(letter.value or b"-")
    assert letter.header("creditfold-truncated") == b"1048400"
    assert sum(outcome.left_out.get("moves", 0) > 20_000 for outcome in published) == 2
