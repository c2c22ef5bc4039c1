"""A Kafka of three brokers, of which each is killed once under load: nothing is lost, nothing is doubled."""

import threading
from collections.abc import Iterator

import pytest
from confluent_kafka import TopicCollection

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.admin import KafkaAdmin
from creditfold.log.topics import create_topics, topic_names
from creditfold.processors.startup import prepare_ledger
from creditfold.producers import CommandProducer, Grant
from helpers.kafka_cluster import Cluster, cluster
from helpers.ledgers import with_topics_of_its_own
from helpers.published import assert_published, wait_until_published
from helpers.stack_under_test import JARS
from helpers.support import (
    HANG_S,
    all_progress,
    assert_equals_second_fold,
    patiently,
    publisher,
    query,
    wait_until_folded,
    worker,
)

#: Commands that are acknowledged while a broker is away, and before the next one is killed.
STRETCH = 40


@pytest.fixture
def three(ledger_database: Settings) -> Iterator[tuple[Cluster, Settings]]:
    """Brokers, and the settings of a ledger on them; its database is on the tests' own server."""
    with cluster(JARS, 3) as found:
        kafka = {"kafka_bootstrap": found.settings.kafka_bootstrap, "replication": 3}
        settings = with_topics_of_its_own(ledger_database).model_copy(update=kafka)
        patiently(lambda: create_topics(settings))
        prepare_ledger(settings)
        yield found, settings


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
                while not self._stopping.is_set():
                    number = self.acknowledged
                    producer.append(
                        Grant(command_id=f"g-{number}", account=f"user-{number % 50}", asset="credits", amount=1)
                    )
                    self.acknowledged += 1
        except BaseException as error:
            self._error = error


def is_in_sync(settings: Settings) -> bool:
    """Whether each partition of the ledger's topics has three replicas that have all of it."""
    admin = KafkaAdmin(settings)
    described = admin.client.describe_topics(TopicCollection(list(topic_names(settings))), request_timeout=HANG_S)
    topics = [answer.result() for answer in described.values()]
    return all(len(partition.isr) == 3 for topic in topics for partition in topic.partitions)


def test_each_broker_is_killed_once(three: tuple[Cluster, Settings], tmp_path: object) -> None:
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
