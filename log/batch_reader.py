"""Reads one partition of a topic for asyncio: as log/reader.py does, and faster where the core is compiled.

There `batches.pyx` parses a broker's answer, in a sixth of the CPU time that librdkafka and its messages take. aiokafka
sends the request and returns the answer unparsed. Owns when the fast way is left, for good: at anything unexpected in
the broker, an answer or a batch. Then librdkafka reads on from the same offset; it copes, or reports what is wrong.
"""

import asyncio
import importlib
import importlib.util
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from creditfold.log.reader import LogReader
from creditfold.log.record import LogRecord, LogSlice

if TYPE_CHECKING:
    from creditfold.log import batches

try:
    _batches: Any = importlib.import_module("creditfold.log.batches")
except ImportError:
    _batches = None
if importlib.util.find_spec("aiokafka") is None:  # It comes with the extra [worker]; librdkafka is always there.
    _batches = None

#: Most bytes of an answer, compressed; a larger batch comes alone.
ANSWER_BYTES = 2**20
#: How long the broker may wait for records, in seconds.
WAIT_S = 0.5
#: How long an answer may take, in seconds.
ANSWER_S = 10.0

#: How long closing the connection may take, in seconds.
CLOSE_S = 2.0
#: By how much records are larger than the bytes that they are compressed to, at most, and how large those of a batch
#: are; others are left to librdkafka, which has a bound of its own.
MOST_RATIO = 64
MOST_BYTES = 2**26

_COMMITTED = 1  # Kafka's number for reading what is committed.

_log = logging.getLogger("creditfold.log.batches")


def prepare() -> None:
    """Import what the first reader needs, ahead of it."""
    if _batches is not None:
        importlib.import_module("aiokafka.client")


class BatchReader:
    """Reads a partition from an offset on; each `take` goes on where the last one ended.

    Args:
        kafka: librdkafka settings that every client of ours starts from.
        topic: its name.
        partition: of the topic.
        start: offset of the first record wanted.
    """

    def __init__(self, kafka: Mapping[str, str], topic: str, partition: int, start: int) -> None:
        self._kafka = kafka
        self._place = (topic, partition)
        self._position = start
        self._fallback: LogReader | None = None
        self._client: Any = None
        self._batches: batches.Batches | None = None
        # Of the leader when the record right before the position was written; -1 where that isn't known.
        self._epoch = -1
        # What the last batch has beyond what was taken, and the offset behind it.
        self._rest: list[LogRecord] = []
        self._rest_end = start
        # Up to where the broker had records that are committed.
        self._known_end = start
        # The read of librdkafka that is under way; it goes on when the task that waits for it is cancelled.
        self._taking: asyncio.Task[LogSlice] | None = None

    @property
    def position(self) -> int:
        """The offset behind what was returned."""
        return self._position

    async def take(self, most: int, timeout_s: float) -> LogSlice:
        """Return the next records, at once where there are any.

        Args:
            most: how many records at most.
            timeout_s: how long to wait where there are none, in seconds; longer where the broker is slow to answer.

        Returns:
            Fewer records at the log's end, none where nothing came in time.

        Raises:
            UnreadableError: the offset isn't in the topic any more, or the client gives up.
        """
        if self._fallback is None and _batches is not None:
            try:
                return await self._take_batches(most, timeout_s)
            except Exception as error:
                is_expected = isinstance(error, (OSError, _batches.StrangeBatchError, *_expected_errors()))
                _log.log(logging.DEBUG if is_expected else logging.WARNING, "librdkafka reads on: %r", error)
        if self._fallback is None:
            await self._disconnect()
            self._fallback = LogReader(self._kafka, *self._place, self._position, self._epoch)
        if self._taking is None:
            self._taking = asyncio.create_task(asyncio.to_thread(self._fallback.take, most, timeout_s))
        taken = await asyncio.shield(self._taking)
        self._taking = None
        self._position = taken.end
        return taken

    async def close(self) -> None:
        """Close the connection. Can be called again."""
        await self._disconnect()
        if self._taking is not None:
            await asyncio.wait({self._taking})
        if self._fallback is not None:
            self._fallback.close()

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        self._reset(self._position)
        if client is not None:
            with suppress(Exception):
                async with asyncio.timeout(CLOSE_S):
                    await client.close()

    def _reset(self, position: int) -> None:
        self._position = self._rest_end = self._known_end = position
        self._batches, self._rest = None, []

    async def _take_batches(self, most: int, timeout_s: float) -> LogSlice:
        start, records, epoch = self._position, list[LogRecord](), self._epoch
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                self._take_rest(records, most)
                if len(records) >= most:
                    break
                batch = None if self._batches is None else self._batches.next(self._rest_end)
                if batch is None:
                    is_late = time.monotonic() >= deadline
                    if self._position > start and (is_late or self._position >= self._known_end):
                        break
                    batch = await self._fetch(deadline)
                if batch is not None and self._batches is not None:
                    self._rest_end, self._rest = batch
                    epoch = self._batches.epoch
                elif records or time.monotonic() >= deadline:
                    break
        except BaseException:
            # What was taken so far is read again.
            self._reset(start)
            raise
        # Only here, for what was given up above is read again from the start.
        self._epoch = epoch
        return LogSlice(self._position, records)

    def _take_rest(self, records: list[LogRecord], most: int) -> None:
        room = most - len(records)
        if len(self._rest) <= room:
            records += self._rest
            self._rest, self._position = [], self._rest_end
        elif room > 0:
            records += self._rest[:room]
            self._rest = self._rest[room:]
            self._position = self._rest[0].offset

    async def _fetch(self, deadline: float) -> tuple[int, list[LogRecord]] | None:
        """Fetch more from the broker. Returns its first batch, None where it has nothing."""
        from aiokafka.errors import NoError, for_code
        from aiokafka.protocol.fetch import FetchRequest
        from aiokafka.record.util import calc_crc32c
        from aiokafka.structs import TopicPartition

        if self._client is None:
            async with asyncio.timeout(ANSWER_S):
                self._client = await _connect(self._kafka, self._place[0])
        topic, partition = self._place
        wait_ms = round(max(0.0, min(deadline - time.monotonic(), WAIT_S)) * 1000)
        asked = [(topic, [(partition, self._rest_end, ANSWER_BYTES)])]
        request = FetchRequest(wait_ms, 1, ANSWER_BYTES, _COMMITTED, asked)
        leader = self._client.cluster.leader_for_partition(TopicPartition(*self._place))
        async with asyncio.timeout(ANSWER_S):
            answer = await self._client.send(leader, request)
        ((_, ((_, code, _, committed, *_, aborted, data),)),) = _without_replica(answer)
        if for_code(code) is not NoError:
            raise for_code(code)
        if aborted:
            raise _batches.StrangeBatchError
        self._known_end = committed
        if not data:
            return None
        self._batches = _batches.Batches(bytes(data), _decoders(), calc_crc32c)
        batch: tuple[int, list[LogRecord]] | None = self._batches.next(self._rest_end)
        if batch is None or batch[0] <= self._rest_end:
            raise _batches.StrangeBatchError
        return batch


def _without_replica(answer: Any) -> Any:
    """The answer's topics, each partition's data behind its aborted transactions."""
    if answer.API_VERSION < 11:
        return answer.topics
    # From here on the replica that the broker prefers stands between the two.
    return [(topic, [(*of[:-2], of[-1]) for of in partitions]) for topic, partitions in answer.topics]


def _expected_errors() -> tuple[type[Exception], ...]:
    """Which other errors are expected: Kafka's, and those of bytes that can't be decompressed."""
    import cramjam
    from aiokafka.errors import KafkaError

    return KafkaError, cramjam.DecompressionError


def _decoders() -> dict[int, Callable[[bytes], bytes]]:
    """What decompresses, by the codec's number in a batch. Without snappy, whose lengths would have to be believed."""
    import cramjam

    of_codec = {1: cramjam.gzip, 3: cramjam.lz4, 4: cramjam.zstd}
    return {number: partial(_decoded, module.decompress_into) for number, module in of_codec.items()}


def _decoded(decompress_into: Callable[[bytes, bytearray], int], data: bytes) -> bytes:
    room = bytearray(min(MOST_RATIO * len(data) + 2**16, MOST_BYTES))
    size = decompress_into(data, room)
    return bytes(memoryview(room)[:size])


async def _connect(kafka: Mapping[str, str], topic: str) -> Any:
    """A client that knows who leads the topic's partitions."""
    from aiokafka.client import AIOKafkaClient
    from aiokafka.protocol.metadata import MetadataRequest

    # librdkafka reports what goes wrong, as it reads on then.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    protocol = kafka.get("security.protocol", "PLAINTEXT")
    client = AIOKafkaClient(
        bootstrap_servers=kafka["bootstrap.servers"].split(","),
        client_id="creditfold-reader",
        security_protocol=protocol,
        ssl_context=ssl.create_default_context(cafile=kafka.get("ssl.ca.location")) if "SSL" in protocol else None,
        sasl_mechanism=kafka.get("sasl.mechanism", "PLAIN"),
        sasl_plain_username=kafka.get("sasl.username"),
        sasl_plain_password=kafka.get("sasl.password"),
    )
    try:
        await client.bootstrap()
        # Asked so, a broker that makes topics that it is asked for doesn't make one that was deleted.
        asked = MetadataRequest([topic], allow_auto_topic_creation=False)
        client.cluster.update_metadata(await client.send(client.get_random_node(), asked))
    except BaseException:
        await client.close()
        raise
    return client
