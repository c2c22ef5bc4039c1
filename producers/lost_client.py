"""Makes another librdkafka client where one has lost all brokers although Kafka answers; see common/brokers.py.

Owns no queue and no thread.
"""

import logging
from collections.abc import Callable

from confluent_kafka import Producer

from creditfold.common.brokers import finds_kafka
from creditfold.producers.models.errors import ProducerSettingError

#: Seconds in which nothing was confirmed although something should be, after which a client is asked for Kafka.
SILENCE_S = 5.0

_log = logging.getLogger("creditfold.producers.kafka")


class LostClientCheck:
    """Looks for Kafka with a client, and with a new one where that finds nothing.

    Args:
        make: makes a client of the same settings.
        topic: the topic that is asked for.
        find_s: seconds that a client gets to find Kafka.

    Attributes:
        silence_s: seconds without an answer after which a client is asked.
    """

    def __init__(self, make: Callable[[], Producer], topic: str, find_s: float) -> None:
        self._make = make
        self._topic = topic
        self.find_s = find_s
        self.silence_s = SILENCE_S

    def finds_kafka(self, client: Producer) -> bool:
        """Whether a client reaches a broker."""
        return finds_kafka(client, self._topic, self.find_s)

    def replacement(self, lost: Producer, is_wanted: Callable[[], bool]) -> Producer | None:
        """A client that finds Kafka in place of one that didn't; None where neither does, or both do by now."""
        try:
            new = self._make()
        except ProducerSettingError as error:
            _log.warning("no new client of kafka can be made: %s", error.message)
            return None
        # The old one is asked again where the new one finds Kafka, which may have come back just now.
        if not self.finds_kafka(new) or not is_wanted() or self.finds_kafka(lost):
            return None
        return new
