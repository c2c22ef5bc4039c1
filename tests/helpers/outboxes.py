"""Publishes partitions in the process of the tests, window by window, and dies where a test says."""

from collections.abc import Callable, Iterator
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


#: A call of the producer, how often it is made before the process dies of it, and whether it dies after the last.
Moment: TypeAlias = tuple[str, int, bool]


class KilledError(BaseException):
    """The process dies here."""


class MortalProducer:
    """A producer whose process dies at one moment: before or after a call, when it was made so many times."""

    def __init__(self, conf: dict[str, Any], call: str, times: int, after: bool) -> None:
        self._producer = Producer(conf)
        self._fatal, self._left, self._after = call, times, after

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._producer, name)
        if name != self._fatal:
            return call

        def mortal(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise KilledError
            done = call(*arguments, **named)
            if self._left == 0:
                # What was handed to the client before its process died may well have been sent.
                if name == "produce":
                    self._producer.flush(HANG_S)
                raise KilledError
            return done

        return mortal


def publish_until_overtaken(settings: Settings, pool: Pool, folded: int, is_moment: Callable[[Outbox], bool]) -> None:
    """Publish the first partition until everything but a commit is sent; then another publishes all partitions.

    The commit is refused. `is_moment` says of the outbox, at a commit, whether it is the one.
    """
    overtaken: list[bool] = []

    class SleepyProducer(MortalProducer):
        def __getattr__(self, name: str) -> Any:
            if name == "commit_transaction" and zombies and not overtaken and is_moment(zombies[0]):
                overtaken.append(True)
                self._producer.flush(HANG_S)
                publish_all(settings, pool)
            return getattr(self._producer, name)

    zombies: list[Outbox] = []
    make: Any = partial(SleepyProducer, call="", times=0, after=False)
    with opened(settings, pool, 0, make_producer=make) as zombie:
        zombies.append(zombie)
        with pytest.raises(KafkaException) as refused:
            publish_to(zombie, folded)
        assert was_fenced(refused.value)
    assert overtaken


def publish_until_killed(settings: Settings, pool: Pool, partition: int, folded: int, moment: Moment) -> Outbox:
    """Publish a partition from the start until the process would die. Returns the outbox, which nobody closes."""
    call, times, after = moment
    make: Any = partial(MortalProducer, call=call, times=times, after=after)
    outbox = Outbox(settings, topics_of(settings), partition, pool, make_producer=make)
    with pytest.raises(KilledError):
        publish_from_the_start(outbox, folded)
    return outbox


def publish_from_the_start(outbox: Outbox, folded: int) -> None:
    """Open, which sends a transaction of its own with the place to go on from, and publish all."""
    outbox.open()
    publish_to(outbox, folded)
