"""Sends HTTP requests at fixed times, and times each from the moment at which it is due. Knows no route.

It shares the cores with what it measures, so it is cheap: requests are made before, a few connections are kept, and one
thread waits for all of them. A request that is due while every connection is busy waits for one, which counts.
"""

import re
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from latency import Schedule, now

#: A server that answers nothing for so many seconds ends the run.
PATIENCE_S = 30.0
#: Bytes that are read at once.
PART = 262_144

_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)
#: What each line of a bulk answer has, and what ends a body that comes in chunks; neither is longer than the other.
_LINE, _END = b'"line":', b"\r\n0\r\n\r\n"


class Sent(NamedTuple):
    """What became of the requests.

    Fields:
        taken_s: for each, in the order of the answers: its number, and seconds from when it was due to its answer.
        statuses: how many had which status.
        seconds: from when the first was due to the last answer.
        cpu_s: seconds of CPU time that sending and reading took.
    """

    taken_s: list[tuple[int, float]]
    statuses: Counter[int]
    seconds: float
    cpu_s: float


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A request of HTTP/1.1 as it is sent."""
    fields = {"Host": "127.0.0.1", **headers, **({"Content-Length": str(len(body))} if body else {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class _Connection:
    """A kept connection, with at most one request on its way."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = -1
        self._read = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, number: int, data: bytes) -> None:
        self.number, self._read = number, b""
        self.socket.sendall(data)

    def answer(self) -> int | None:
        """The status of the answer once all of it is here."""
        part = self.socket.recv(PART)
        if not part:
            raise SystemExit(f"the server closed a connection: {self._read[-500:]!r}")
        self._read += part
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end:
            return None
        length = _LENGTH.search(head + end)
        if length is None:
            raise SystemExit(f"an answer without a length: {head!r}")
        return int(head[9:12]) if len(body) >= int(length[1]) else None


def send(
    url: str,
    requests: Sequence[bytes],
    per_s: float,
    connections: int,
    is_over: Callable[[], bool] = lambda: False,
) -> Sent:
    """Send each request when it is due, and wait for all answers; no more is sent once `is_over`."""
    # In turn, so that none is idle for as long as a server keeps one.
    free = deque(_Connection(url) for _ in range(connections))
    busy: set[_Connection] = set()
    due: deque[int] = deque()
    taken: list[tuple[int, float]] = []
    statuses: Counter[int] = Counter()
    following, last = 0, len(requests)
    cpu, schedule = time.process_time(), Schedule(now() + 0.05, per_s)
    while following < last or due or busy:
        if following < last and is_over():
            # What is late isn't sent either.
            last = following
            due.clear()
        while following < last and schedule.due(following) <= now():
            due.append(following)
            following += 1
        while due and free:
            connection = free.popleft()
            connection.send(due[0], requests[due.popleft()])
            busy.add(connection)
        wait = max(0.0, schedule.due(following) - now()) if following < last else PATIENCE_S
        readable, _, _ = select.select(busy, (), (), wait)
        if not readable and following >= last and busy:
            raise SystemExit(f"{len(busy)} requests had no answer within {PATIENCE_S:g} s")
        for connection in readable:
            status = connection.answer()
            if status is not None:
                taken.append((connection.number, now() - schedule.due(connection.number)))
                statuses[status] += 1
                busy.remove(connection)
                free.append(connection)
    seconds = now() - schedule.start
    for connection in free:
        connection.socket.close()
    return Sent(taken, statuses, seconds, time.process_time() - cpu)


def stream(url: str, head: bytes, blocks: Iterator[bytes]) -> tuple[int, float, float]:
    """Send one request's blocks as fast as they are taken, and read the answers meanwhile.

    Args:
        url: of the server.
        head: of the request, which says that its body comes in chunks.
        blocks: of the body.

    Returns:
        How many answers there were, and seconds: those from the first byte to the last answer, and those of CPU time.
    """
    connection = _Connection(url).socket
    cpu, began = time.process_time(), now()
    left, count, tail = memoryview(head), 0, b""
    is_last = is_sent = False
    connection.setblocking(False)
    while True:
        readable, writable, _ = select.select([connection], [] if is_sent else [connection], [], PATIENCE_S)
        if not readable and not writable:
            raise SystemExit(f"nothing was taken and nothing came for {PATIENCE_S:g} s")
        if writable:
            left = left[connection.send(left) :]
            is_sent = is_last and not left
            if not left and not is_last:
                # The end of the body is an empty chunk.
                block = next(blocks, b"")
                is_last = not block
                left = memoryview(b"%x\r\n%b\r\n" % (len(block), block))
        if readable:
            part = connection.recv(PART)
            # One that is cut in two by the parts is counted with the later one.
            count += (tail + part).count(_LINE) - tail.count(_LINE)
            tail = (tail + part)[-len(_END) :]
            if not part or tail == _END:
                break
    seconds = now() - began
    connection.close()
    return count, seconds, time.process_time() - cpu
