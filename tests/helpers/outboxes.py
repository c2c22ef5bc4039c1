"""Publishes partitions in the process of the tests, window by window, and dies where a test says."""

import sys
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import pytest
from confluent_kafka import KafkaException, Producer

from creditfold.common.settings import Settings
from creditfold.log.topics import describe_topic
from creditfold.processors.publisher.partition import Outbox, Pool, Topics, was_fenced
from helpers.published import next_offsets
from helpers.support import HANG_S


def topics_of(settings: Settings, **sizes: int) -> Topics:
    """The topics as they are."""
    dead_letters = describe_topic(settings, settings.dead_letters_topic)
    size = dead_letters.max_message_bytes or 0
    return Topics(
        describe_topic(settings).log, settings.outcomes_topic, settings.dead_letters_topic, size, size
    )._replace(**sizes)


@contextmanager
def opened(
    settings: Settings, pool: Pool, partition: int, topics: Topics | None = None, **more: Any
) -> Iterator[Outbox]:
    """An outbox that has found where it stands."""
    outbox = Outbox(settings, topics or topics_of(settings), partition, pool, **more)
    try:
        outbox.open()
        yield outbox
    finally:
        outbox.close()


def publish_all(settings: Settings, pool: Pool, topics: Topics | None = None) -> None:
    """Publish every partition to its end."""

    def publish(partition: int, folded: int) -> None:
        with opened(settings, pool, partition, topics) as outbox:
            publish_to(outbox, folded)
            outbox.confirm()

    of_each_partition(settings, publish)


def of_each_partition(settings: Settings, task: Callable[[int, int], None]) -> None:
    """Call a task for each partition and how far it is folded, all at once: they mostly wait for Kafka."""
    ends = next_offsets(settings)
    with ThreadPoolExecutor(len(ends)) as threads:
        for _ in threads.map(task, ends.keys(), ends.values()):
            pass


def publish_to(outbox: Outbox, folded: int) -> None:
    """Publish window by window up to before an offset."""
    while outbox.publish(folded) is not None:
        pass
    assert outbox.published_to >= folded


#: A call of the producer, its number at which the process dies, and whether the call is made first.
Moment: TypeAlias = tuple[str, int, bool]


class KilledError(BaseException):
    """The process dies here."""


class InterruptedProducer:
    """A producer, and what happens just before or after a call of it that others make too.

    Args:
        conf: the producer's.
        call: its name.
        numbers: of the calls of that name, from 1 on, at which it happens.
        happens: what.
        after: the call is made first.
    """

    def __init__(
        self, conf: dict[str, Any], call: str, numbers: Container[int], happens: Callable[[], None], after: bool = False
    ) -> None:
        self._producer = Producer(conf)
        self._call, self._numbers, self._happens, self._after = call, numbers, happens, after
        self._made = 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._producer, name)
        if name != self._call:
            return call

        def interrupted(*arguments: Any, **named: Any) -> Any:
            self._made += 1
            if self._made not in self._numbers:
                return call(*arguments, **named)
            done = call(*arguments, **named) if self._after else None
            # What was handed to the client before may well have been sent.
            if name == "produce":
                self._producer.flush(HANG_S)
            self._happens()
            return done if self._after else call(*arguments, **named)

        return interrupted


def die() -> None:
    """End the process here."""
    raise KilledError


def publish_until_overtaken(settings: Settings, pool: Pool, folded: int, is_moment: Callable[[Outbox], bool]) -> None:
    """Publish the first partition until everything but a commit is sent; then another publishes all partitions.

    The commit is refused. `is_moment` says of the outbox, at a commit, whether it is the one.
    """
    zombies: list[Outbox] = []
    overtaken: list[bool] = []

    def overtake() -> None:
        if zombies and not overtaken and is_moment(zombies[0]):
            overtaken.append(True)
            zombies[0]._producer.flush(HANG_S)
            publish_all(settings, pool)

    make: Any = partial(InterruptedProducer, call="commit_transaction", numbers=range(1, sys.maxsize), happens=overtake)
    with opened(settings, pool, 0, make_producer=make) as zombie:
        zombies.append(zombie)
        with pytest.raises(KafkaException) as refused:
            publish_to(zombie, folded)
        assert was_fenced(refused.value)
    assert overtaken


def publish_until_killed(settings: Settings, pool: Pool, partition: int, folded: int, moment: Moment) -> Outbox:
    """Publish a partition from the start until the process would die. Returns the outbox, which nobody closes."""
    call, number, after = moment
    make: Any = partial(InterruptedProducer, call=call, numbers={number}, happens=die, after=after)
    outbox = Outbox(settings, topics_of(settings), partition, pool, make_producer=make)
    with pytest.raises(KilledError):
        publish_from_the_start(outbox, folded)
    return outbox


def publish_from_the_start(outbox: Outbox, folded: int) -> None:
    """Open, which sends a transaction of its own with the place to go on from, and publish all."""
    outbox.open()
    publish_to(outbox, folded)
