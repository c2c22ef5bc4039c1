"""Reads one partition of a topic for asyncio: as stack/log.py's reader does, and quickly where the core is compiled.

There a broker's answer is taken apart by `batches.pyx`, in a sixth of the time that librdkafka and its messages take of
the processor. aiokafka asks for it, which sends what it is told and hands out an answer as it is. Owns when that way is
left: at anything that isn't as expected, be it the broker, an answer or a batch, and for good. Then librdkafka reads on
from the same place; it copes, or says what is wrong.
"""

import asyncio
import importlib
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from creditfold.stack.log import LogReader, LogRecord, Taken

if TYPE_CHECKING:
    from creditfold.processors import batches

try:
    _batches: Any = importlib.import_module("creditfold.processors.batches")
except ImportError:
    _batches = None

#: Most bytes of an answer, compressed; a larger batch comes alone.
ANSWER_BYTES = 2**20
#: How long the broker may wait for records, in seconds.
WAIT_S = 0.5
#: How long an answer may take, in seconds.
ANSWER_S = 10.0

_COMMITTED = 1  # Kafka's number for reading what is committed.

_log = logging.getLogger("creditfold.processors.batches")


def prepare() -> None:
    """Import what a first reader would, for whom there is time to do so."""
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
        self._slow: LogReader | None = None
        self._client: Any = None
        self._batches: batches.Batches | None = None
        # What the last batch has beyond what was taken, and the offset behind it.
        self._rest: list[LogRecord] = []
        self._rest_end = start

    @property
    def position(self) -> int:
        """The offset behind what was taken."""
        return self._position

    @property
    def is_slow(self) -> bool:
        """Whether librdkafka reads."""
        return self._slow is not None

    async def take(self, most: int, timeout_s: float) -> Taken:
        """Take at most so many records, after at most so long; fewer at the log's end, none where there is nothing new.

        Somewhat longer where the broker doesn't answer. Raises UnreadableError when the offset isn't in the topic any
        more, or the client gives up.
        """
        if self._slow is None and _batches is not None:
            try:
                return await self._take_batches(most, timeout_s)
            except Exception as error:
                _log.debug("librdkafka reads on: %r", error)
        if self._slow is None:
            await self._let_go()
            self._slow = LogReader(self._kafka, *self._place, self._position)
        taken = await asyncio.to_thread(self._slow.take, most, timeout_s)
        self._position = taken.end
        return taken

    async def close(self) -> None:
        """Let go of the connection. Can be done again."""
        await self._let_go()
        if self._slow is not None:
            self._slow.close()

    async def _let_go(self) -> None:
        client, self._client, self._batches, self._rest = self._client, None, None, []
        if client is not None:
            await client.close()

    async def _take_batches(self, most: int, timeout_s: float) -> Taken:
        start, records = self._position, list[LogRecord]()
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                self._take_rest(records, most)
                if len(records) >= most:
                    break
                batch = None if self._batches is None else self._batches.next(self._rest_end)
                if batch is None:
                    batch = await self._ask(deadline)
                if batch is not None:
                    self._rest_end, self._rest = batch
                elif records or time.monotonic() >= deadline:
                    break
        except BaseException:
            # What was taken so far is read again.
            self._position = self._rest_end = start
            self._batches, self._rest = None, []
            raise
        return Taken(self._position, records)

    def _take_rest(self, records: list[LogRecord], most: int) -> None:
        room = most - len(records)
        if len(self._rest) <= room:
            records += self._rest
            self._rest, self._position = [], self._rest_end
        elif room > 0:
            records += self._rest[:room]
            self._rest = self._rest[room:]
            self._position = self._rest[0].offset

    async def _ask(self, deadline: float) -> tuple[int, list[LogRecord]] | None:
        """Ask the broker for more; gives what its first batch has, None where it has nothing."""
        from aiokafka.errors import NoError, for_code
        from aiokafka.protocol.fetch import FetchRequest
        from aiokafka.structs import TopicPartition

        if self._client is None:
            self._client = await asyncio.wait_for(_opened(self._kafka, self._place[0]), ANSWER_S)
        topic, partition = self._place
        wait_ms = round(max(0.0, min(deadline - time.monotonic(), WAIT_S)) * 1000)
        asked = [(topic, [(partition, self._rest_end, ANSWER_BYTES)])]
        request = FetchRequest(wait_ms, 1, ANSWER_BYTES, _COMMITTED, asked)
        leader = self._client.cluster.leader_for_partition(TopicPartition(*self._place))
        answer = await asyncio.wait_for(self._client.send(leader, request), ANSWER_S)
        ((_, ((_, code, _, *_, aborted, data),)),) = _without_replica(answer)
        if for_code(code) is not NoError:
            raise for_code(code)
        if aborted:
            raise _batches.StrangeBatchError
        if not data:
            return None
        self._batches = _batches.Batches(bytes(data), _decoders())
        batch: tuple[int, list[LogRecord]] | None = self._batches.next(self._rest_end)
        if batch is None:
            raise _batches.StrangeBatchError
        return batch


def _without_replica(answer: Any) -> Any:
    """The answer's topics, each partition's data behind its aborted transactions."""
    if answer.API_VERSION < 11:
        return answer.topics
    # From here on the replica that the broker prefers stands between the two.
    return [(topic, [(*of[:-2], of[-1]) for of in partitions]) for topic, partitions in answer.topics]


def _decoders() -> dict[int, Callable[[bytes], bytes]]:
    from aiokafka import codec

    return {1: codec.gzip_decode, 2: codec.snappy_decode, 3: codec.lz4_decode, 4: codec.zstd_decode}


async def _opened(kafka: Mapping[str, str], topic: str) -> Any:
    """A client that knows who leads the topic's partitions."""
    from aiokafka.client import AIOKafkaClient

    # What goes wrong is told by librdkafka, which reads then.
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
        await client.set_topics([topic])
    except BaseException:
        await client.close()
        raise
    return client
