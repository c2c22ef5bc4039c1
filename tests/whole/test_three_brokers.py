"""A Kafka of three brokers, of which each is killed once under load: nothing is lost, nothing is doubled.

And its runbook, tried as it is written.
"""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, TopicCollection

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.admin import KafkaAdmin
from creditfold.log.topics import create_topics, topic_names
from creditfold.processors.startup import prepare_ledger
from creditfold.producers import CommandProducer, Grant
from helpers.documents import Runner, Walk
from helpers.kafka_cluster import Cluster, cluster
from helpers.ledgers import with_topics_of_its_own
from helpers.published import assert_published, wait_until_published
from helpers.stack_under_test import JARS, StackUnderTest
from helpers.support import (
    HANG_S,
    ROOT,
    all_progress,
    append,
    assert_equals_second_fold,
    patiently,
    publisher,
    query,
    record,
    wait_until_folded,
    worker,
)

#: Commands that are acknowledged while a broker is away, and before the next one is killed: enough for each partition.
STRETCH = 20
#: Between two of them, in seconds.
PACE_S = 0.1

#: One process starts the cluster.
pytestmark = pytest.mark.xdist_group("three brokers")


@pytest.fixture(scope="module")
def brokers(stack: StackUnderTest) -> Iterator[Cluster]:
    """Three brokers, made once: a test leaves all of them running."""
    with cluster(JARS, 3) as found:
        yield found


@pytest.fixture
def three(brokers: Cluster, ledger_database: Settings) -> tuple[Cluster, Settings]:
    """Brokers, and the settings of a ledger on them; its database is on the tests' own server."""
    kafka = {"kafka_bootstrap": brokers.settings.kafka_bootstrap, "replication": 3}
    settings = with_topics_of_its_own(ledger_database).model_copy(update=kafka)
    patiently(lambda: create_topics(settings))
    prepare_ledger(settings)
    return brokers, settings


class Load:
    """Appends commands one after the other until it is stopped, and counts those that were acknowledged."""

    def __init__(self, settings: Settings) -> None:
        self.acknowledged = 0
        self._settings = settings
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def wait_for_more(self) -> None:
        """Wait until STRETCH more commands are acknowledged."""
        enough = self.acknowledged + STRETCH
        assert wait_until(lambda: self.acknowledged >= enough or not self._thread.is_alive(), HANG_S)
        assert self.acknowledged >= enough

    def _run(self) -> None:
        settings = self._settings
        try:
            with CommandProducer(settings.kafka_client, settings.commands_topic, delivery_timeout_s=HANG_S) as producer:
                # Not as fast as can be: three brokers write each record, and have to start beside that.
                while not self._stopping.wait(PACE_S):
                    number = self.acknowledged
                    producer.append(
                        Grant(command_id=f"g-{number}", account=f"user-{number % STRETCH}", asset="credits", amount=1)
                    )
                    self.acknowledged += 1
        except BaseException as error:
            self._error = error


def is_in_sync(settings: Settings) -> bool:
    """Whether each partition of the ledger's topics has three replicas that have all of it."""
    admin, asked = KafkaAdmin(settings), TopicCollection(list(topic_names(settings)))
    # A client that has just met a broker may learn meanwhile that there is another one at its address.
    with suppress(KafkaException):
        topics = [answer.result() for answer in admin.client.describe_topics(asked, request_timeout=HANG_S).values()]
        return all(len(partition.isr) == 3 for topic in topics for partition in topic.partitions)
    return False


def test_each_broker_is_killed_once(three: tuple[Cluster, Settings], tmp_path: Path) -> None:
    """Two of three are enough to append, fold and publish; the third catches up before the next one dies."""
    kafka, settings = three
    with worker(settings, tmp_path), publisher(settings, tmp_path):
        with Load(settings) as load:
            load.wait_for_more()
            for broker in kafka.brokers:
                broker.stop(kill=True)
                load.wait_for_more()
                broker.start()
                assert wait_until(lambda: is_in_sync(settings), HANG_S), broker.end_of_log
                load.wait_for_more()
        wait_until_folded(settings)
        wait_until_published(settings)
        rows = all_progress(settings)
        assert sum(row.accepted for row in rows) == load.acknowledged
        # An idempotent producer sends again what no answer came to, and the log has it once.
        assert sum(row.duplicates + row.dead_letters + row.rejected for row in rows) == 0
        assert query(settings, "SELECT sum(available) FROM ledger.balances") == [(load.acknowledged,)]
        assert_equals_second_fold(settings)
        assert_published(settings)


def test_a_broker_is_lost(three: tuple[Cluster, Settings], tmp_path: Path) -> None:
    """By the runbook: one of three, which comes back."""
    kafka, settings = three
    walk = Walk(Runner(settings, tmp_path), ROOT / "docs" / "runbooks" / "broker.md")
    with worker(settings, tmp_path):
        append(settings, [record("Grant", "g", "ann", 5)])
        wait_until_folded(settings)
        broker = kafka.brokers[2]
        broker.stop(kill=True)
        walk.part("Check", until=True)
        broker.start()
        walk.part("It is over when", until=True)
        walk.end()
    assert wait_until(lambda: is_in_sync(settings), HANG_S)
