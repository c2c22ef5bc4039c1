"""Transactions that are committed and yet aborted in a partition: nothing is published behind what readers miss."""

from typing import Any

import pytest

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.visibility import HiddenRecordError
from creditfold.processors.publisher.main import PartitionThread
from creditfold.processors.publisher.partition import Outbox, Pool, ScatteredWindowError
from creditfold.projections.queries import windows as outbox_queries
from helpers.late_marker import abort_in
from helpers.outboxes import InterruptedProducer, opened, publish_all, publish_to, topics_of
from helpers.published import assert_published, fold, next_offsets
from helpers.support import HANG_S, Raw, record


def commands() -> list[Raw]:
    """Grants in every partition, and a record that can't be folded behind each."""
    grants = [record("Grant", f"g{number}", f"user-{number}", 1) for number in range(400)]
    return [raw for number, grant in enumerate(grants) for raw in (grant, Raw(b"?", b"?", partition=number % 4))]


class Marker:
    """Aborts, in partition 0 of a topic and nowhere else, what a producer has open there just before some calls."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._place = settings, topic, 0
        #: How many transactions it aborted, each time.
        self.aborted: list[int] = []

    def producer(self, call: str, numbers: set[int]) -> Any:
        """Makes a producer to whose calls of these numbers it happens."""
        return lambda conf: InterruptedProducer(conf, call, numbers, self._abort)

    def _abort(self) -> None:
        self.aborted.append(abort_in(*self._place))


@pytest.mark.parametrize("topic", ["outcomes", "dead_letters"])
def test_nothing_is_published_behind_a_window_that_a_late_marker_aborted(
    ledger_settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    """The producer hears that its commit is done; the next commit is refused, and another outbox publishes both."""
    monkeypatch.setattr(outbox_queries, "WINDOW_OFFSETS", 40)
    fold(ledger_settings, commands())
    topics = topics_of(ledger_settings)
    marker = Marker(ledger_settings, getattr(topics, topic))
    # The first commit is that of `open`, which holds no record.
    make = marker.producer("commit_transaction", {3})
    with (
        opened(ledger_settings, pool, 0, topics, make_producer=make) as outbox,
        pytest.raises(HiddenRecordError, match="its transaction is aborted there"),
    ):
        publish_to(outbox, next_offsets(ledger_settings)[0])
    assert marker.aborted == [1]
    publish_all(ledger_settings, pool, topics)
    assert_published(ledger_settings)


def test_a_window_that_a_late_marker_cut_in_two_is_not_committed(ledger_settings: Settings, pool: Pool) -> None:
    """The marker stands between two of its messages, so that readers would get the second part only."""
    fold(ledger_settings, commands())
    topics = topics_of(ledger_settings)
    marker = Marker(ledger_settings, topics.outcomes)
    with (
        opened(ledger_settings, pool, 0, topics, make_producer=marker.producer("produce", {30})) as outbox,
        pytest.raises(ScatteredWindowError, match="not one behind the other"),
    ):
        publish_to(outbox, next_offsets(ledger_settings)[0])
    assert marker.aborted == [1]
    publish_all(ledger_settings, pool, topics)
    assert_published(ledger_settings)


def test_a_partition_with_nothing_more_to_publish_notices_what_is_hidden(ledger_settings: Settings, pool: Pool) -> None:
    """No window comes after the one that was aborted; it is looked for all the same, and published again."""
    fold(ledger_settings, commands())
    topics = topics_of(ledger_settings)
    marker = Marker(ledger_settings, topics.outcomes)
    opened_outboxes: list[Outbox] = []

    def make_outbox(topics: Any, partition: int) -> Outbox:
        make = marker.producer("commit_transaction", set() if opened_outboxes else {2})
        opened_outboxes.append(Outbox(ledger_settings, topics, partition, pool, make_producer=make))
        return opened_outboxes[-1]

    thread = PartitionThread(topics, 0, make_outbox, lambda partition: None, 0.5)
    thread.set_folded(next_offsets(ledger_settings)[0])
    thread.start()
    try:
        assert wait_until(
            lambda: len(opened_outboxes) > 1 and opened_outboxes[-1].published_to == thread.folded, HANG_S
        )
    finally:
        thread.stop()
        thread.join(HANG_S)
    assert marker.aborted == [1]
    publish_all(ledger_settings, pool, topics)
    assert_published(ledger_settings)
