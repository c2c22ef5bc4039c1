"""Stands between clients and a real Kafka; on demand it reports that there are no brokers, or loses an answer.

That is what a broker says of itself while it shuts down or starts; librdkafka may then never look for one again. Run as
a program it is `creditfold`, whose clients never do.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from creditfold.common.settings import Settings

_PRODUCE = 0
_METADATA = 3
_COORDINATOR = 10
#: Settings of a client that forgets Kafka for certain when it hears of no broker, and not only by a race.
FORGETTING = {"metadata.recovery.strategy": "none", "topic.metadata.refresh.interval.ms": "500"}


class ForgetfulKafka:
    """Passes on what clients and a broker say, as if it were the broker.

    Args:
        settings: where the broker is.
    """

    def __init__(self, settings: Settings) -> None:
        host, port = settings.kafka_bootstrap.split(":")
        self._broker = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self._port = self._server.getsockname()[1]
        self.settings = settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{self._port}"})
        self._connections = self._forgetting = self._losing = 0
        self._forgotten = threading.Event()

    def __enter__(self) -> "ForgetfulKafka":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.close()

    def forget(self, bound_s: float = 240.0) -> None:
        """Report on all connections that are there now that there are no brokers; wait until the first has asked."""
        self._forgotten.clear()
        self._forgetting = self._connections
        assert self._forgotten.wait(bound_s)

    def lose(self, answers: int) -> None:
        """End the connection in place of passing on as many answers to a producer, whose records are in the log."""
        self._losing = answers

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(self._broker)
            except OSError:
                client.close()
                continue
            self._connections += 1
            passed = _Passed(self._connections, client, broker, {})
            for relay in (self._ask, self._answer):
                threading.Thread(target=self._relay, args=(relay, passed), daemon=True).start()

    def _relay(self, relay: Callable[["_Passed"], None], passed: "_Passed") -> None:
        with contextlib.suppress(OSError):
            relay(passed)
        for end in (passed.client, passed.broker):
            # The thread of the other way still reads from it: closing alone would leave it open for as long.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _ask(self, passed: "_Passed") -> None:
        _, client, broker, asked = passed
        for frame in _frames(client):
            key, version, number = struct.unpack_from(">hhi", frame)
            if key in (_METADATA, _COORDINATOR):
                # What librdkafka asks with; others' answers are written in another way.
                assert (key, version >= 9) in ((_METADATA, True), (_COORDINATOR, False)), (key, version)
            asked[number] = key
            broker.sendall(_framed(frame))

    def _answer(self, passed: "_Passed") -> None:
        connection, client, broker, asked = passed
        for frame in _frames(broker):
            (number,) = struct.unpack_from(">i", frame)
            key = asked.pop(number)
            if key == _PRODUCE and self._losing:
                self._losing -= 1
                return
            forgets = key == _METADATA and connection <= self._forgetting
            client.sendall(_framed(self._changed(key, frame, forgets=forgets)))
            if forgets:
                self._forgotten.set()

    def _changed(self, key: int, frame: bytes, *, forgets: bool) -> bytes:
        """Put our port in place of each broker's, or leave the brokers out."""
        if key == _COORDINATOR:
            return frame[:-4] + struct.pack(">i", self._port)
        if key != _METADATA:
            return frame
        start = 4 + 1 + 4  # The number, no tagged fields, the throttle.
        count, at = _varint(frame, start)
        changed = bytearray(frame)
        for _ in range(count - 1):
            at = _behind_text(frame, at + 4)
            struct.pack_into(">i", changed, at, self._port)
            at = _behind_text(frame, at + 4) + 1
        return frame[:start] + b"\x01" + frame[at:] if forgets else bytes(changed)


class _Passed(NamedTuple):
    """A connection: its number from 1 on, its ends, and by each question's number what was asked."""

    number: int
    client: socket.socket
    broker: socket.socket
    asked: dict[int, int]


def _frames(source: socket.socket) -> Iterator[bytes]:
    with source.makefile("rb") as stream:
        while len(size := stream.read(4)) == 4:
            frame = stream.read(struct.unpack(">i", size)[0])
            if len(frame) < struct.unpack(">i", size)[0]:
                return
            yield frame


def _framed(frame: bytes) -> bytes:
    return struct.pack(">i", len(frame)) + frame


def _varint(frame: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (frame[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if frame[at - 1] < 0x80:
            return value, at


def _behind_text(frame: bytes, at: int) -> int:
    """Where a text ends, which may be null."""
    size, at = _varint(frame, at)
    return at + max(size - 1, 0)


if __name__ == "__main__":
    from creditfold.cli.main import main
    from creditfold.processors.publisher import main as publishing

    # It has to miss Kafka at two looks.
    publishing.CHECK_EVERY_S = 1.0
    of_all = Settings.kafka_client.fget
    assert of_all is not None
    Settings.kafka_client = property(lambda settings: {**of_all(settings), **FORGETTING})  # type: ignore[method-assign,assignment]
    main()
