"""Ends a transaction in one partition behind its producer's back, as a marker does that comes late.

Speaks Kafka's protocol itself: the clients of the tests have no call for it. It is what `kafka-transactions.sh abort`
sends: the partition's leader ends what the producer has open there, and the coordinator of the transaction never hears
of it.
"""

import socket
import struct
from typing import NamedTuple

from creditfold.common.settings import Settings

_WRITE_TXN_MARKERS, _WRITE_VERSION = 27, 1
_DESCRIBE_PRODUCERS, _DESCRIBE_VERSION = 61, 0
_NO_TAGS = b"\x00"


class Open(NamedTuple):
    """A transaction that is open in a partition, as its leader knows it."""

    producer_id: int
    epoch: int
    coordinator_epoch: int
    start: int


def open_in(settings: Settings, topic: str, partition: int) -> list[Open]:
    """The transactions that are open in a partition."""
    answer = _Answer(_ask(settings, _DESCRIBE_PRODUCERS, _DESCRIBE_VERSION, _places(topic, partition)))
    answer.take(">i")  # How long to wait with the next question.
    assert answer.count() == 1
    answer.text()
    assert answer.count() == 1
    found_partition, error = answer.take(">ih")
    assert (found_partition, error, answer.text()) == (partition, 0, None)
    found = []
    for _ in range(answer.count()):
        producer_id, epoch, _, _, coordinator_epoch, start = answer.take(">qiiqiq")
        answer.take(">x")
        if start >= 0:
            found.append(Open(producer_id, epoch, max(coordinator_epoch, 0), start))
    return found


def abort_in(settings: Settings, topic: str, partition: int) -> int:
    """Write the marker that aborts each transaction open in a partition, there only. Returns how many these are."""
    found = open_in(settings, topic, partition)
    for one in found:
        marker = struct.pack(">qh?", one.producer_id, one.epoch, False)
        marker += _places(topic, partition)[:-1] + struct.pack(">i", one.coordinator_epoch) + _NO_TAGS
        answer = _Answer(_ask(settings, _WRITE_TXN_MARKERS, _WRITE_VERSION, b"\x02" + marker + _NO_TAGS))
        assert answer.count() == 1
        answer.take(">q")
        assert answer.count() == 1
        answer.text()
        assert answer.count() == 1
        assert answer.take(">ih") == (partition, 0)
    return len(found)


def _places(topic: str, partition: int) -> bytes:
    """One topic and one partition of it, as both questions have them, and the end of the question."""
    name = topic.encode()
    assert len(name) < 127  # So that its length is one byte.
    return b"\x02" + bytes([len(name) + 1]) + name + b"\x02" + struct.pack(">i", partition) + _NO_TAGS + _NO_TAGS


def _ask(settings: Settings, key: int, version: int, body: bytes) -> bytes:
    """The body of a broker's answer to a question in the flexible form, without the head."""
    host, port = settings.kafka_bootstrap.split(":")
    question = struct.pack(">hhih", key, version, 7, -1) + _NO_TAGS + body
    with socket.create_connection((host, int(port)), timeout=240) as broker, broker.makefile("rb") as stream:
        broker.sendall(struct.pack(">i", len(question)) + question)
        (size,) = struct.unpack(">i", stream.read(4))
        answer = stream.read(size)
    assert answer[:5] == struct.pack(">i", 7) + _NO_TAGS
    return answer[5:]


class _Answer:
    """Takes an answer apart from its beginning on."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, form: str) -> tuple[int, ...]:
        size = struct.calcsize(form)
        taken, self._data = self._data[:size], self._data[size:]
        return struct.unpack(form, taken)

    def count(self) -> int:
        """A length, of which one more is sent. None of ours needs two bytes."""
        (sent,) = self.take(">B")
        assert sent < 128
        return sent - 1

    def text(self) -> bytes | None:
        size = self.count()
        if size < 0:
            return None
        taken, self._data = self._data[:size], self._data[size:]
        return taken
