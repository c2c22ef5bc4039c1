"""How many webhooks are delivered a second to a fast receiver, alone and with dead endpoints beside it.

    python benchmarks/webhooks.py --commands 30000

Appends grants of 5,000 accounts and folds them. Then `creditfold delivery` has an endpoint that wants the commands,
from the log's start, whose receiver is another process on this machine and answers at once; in half of the rounds
with 100 endpoints beside it that want everything: nobody listens for half of them, and the other half is connected to
and never answered. Timed from the first request to the last. The receiver, delivery and PostgreSQL share the machine;
CPU time is reported for each.
"""

import asyncio
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import psutil
from confluent_kafka import Producer
from rig import CREDITFOLD, argument_parser, console, ledger, servers, servers_cpu_s, show_columns, start

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.delivery.signing import new_key
from creditfold.log.offsets import end_offsets
from creditfold.log.topics import describe_log
from creditfold.processors.rebuild.partition import RebuildJob
from creditfold.processors.rebuild.processes import fold_here
from creditfold.projections.access.audit import Actor
from creditfold.projections.connections import connected
from creditfold.projections.delivery.endpoints import create_endpoint, delete_endpoint, endpoints
from creditfold.schemas.wire import encode

ACCOUNTS = 5_000
DEAD = 100
#: Deliveries a second that are the goal.
GOAL = 1_000
#: Seconds that a round may take.
BOUND_S = 300.0
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BY = Actor("benchmark", "here", "to measure")


class Answering(asyncio.Protocol):
    """Answers each request at once, and counts: as little as a receiver can do."""

    count = 0
    first = last = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while True:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            if len(rest) < size:
                return
            self._data = rest[size:]
            Answering.count += 1
            Answering.last = time.monotonic()
            Answering.first = Answering.first or Answering.last
            self._transport.write(ANSWER)


class Had(NamedTuple):
    """What a receiver has had: how many requests, and when the first and the last, by the monotonic clock."""

    requests: int
    first: float
    last: float


class Silent(asyncio.Protocol):
    """Never answers."""


def receive(pipe: Connection) -> None:
    """The receiver's process: says its ports, and what it has had whenever it is asked; begins anew after that."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        opened = [await loop.create_server(kind, "127.0.0.1", 0, backlog=512) for kind in (Answering, Silent)]
        pipe.send([one.sockets[0].getsockname()[1] for one in opened])
        while True:
            await asyncio.sleep(0.02)
            if pipe.poll():
                if pipe.recv() == "reset":
                    Answering.count, Answering.first, Answering.last = 0, 0.0, 0.0
                pipe.send((Answering.count, Answering.first, Answering.last))

    with suppress(KeyboardInterrupt):
        asyncio.run(run())


class Receiver(NamedTuple):
    """A receiver: where it is asked, the ports of one that answers and of one that doesn't, its pid."""

    pipe: Connection
    ports: list[int]
    pid: int

    def ask(self, what: str) -> Had:
        """What it has had; `reset` has it begin anew before."""
        self.pipe.send(what)
        return Had._make(self.pipe.recv())

    def cpu_s(self) -> float:
        """Seconds of CPU time that it took."""
        return sum(psutil.Process(self.pid).cpu_times()[:2])


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver for the length of a block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=receive, args=(theirs,), daemon=True)
    process.start()
    try:
        yield Receiver(ours, ours.recv(), process.pid or 0)
    finally:
        process.terminate()
        process.join()


def fill(settings: Settings, commands: int) -> None:
    """Append grants, and fold them."""
    producer = Producer({**settings.kafka_client, "partitioner": "murmur2_random", "linger.ms": 20})
    for number in range(commands):
        account = f"user-{number % ACCOUNTS}"
        body = {"command_id": f"g{number}", "account": account, "asset": "credits", "amount": 5}
        while True:
            try:
                producer.produce(settings.commands_topic, value=encode("Grant", body), key=account.encode())
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    log = describe_log(settings)
    ends = end_offsets(settings, log.topic, range(log.partitions))
    fold_here(RebuildJob(settings.kafka_client, log.topic, log.partitions, 1, ends), settings.dsn)


def make_endpoints(settings: Settings, ports: list[int], dead: int) -> None:
    """One that answers, from the log's start, and dead ones beside it."""
    answering, silent = ports
    with connected(settings.dsn) as connection:
        for one in endpoints(connection):
            delete_endpoint(connection, one.id, by=BY)
        for number in range(dead):
            port = silent if number % 2 else 1
            create_endpoint(
                connection, f"http://127.0.0.1:{port}/{number}", new_key(), by=BY, owner="dead", from_start=True
            )
        wanted = {"types": ["command.accepted"], "from_start": True}
        create_endpoint(connection, f"http://127.0.0.1:{answering}/", new_key(), by=BY, owner="good", **wanted)  # type: ignore[arg-type]


def measure(settings: Settings, commands: int, dead: int, receiver: Receiver) -> dict[str, Any]:
    """One round: all deliveries to the good endpoint."""
    make_endpoints(settings, receiver.ports, dead)
    receiver.ask("reset")
    before, theirs = servers_cpu_s(settings), receiver.cpu_s()
    with (settings.data_dir / "delivery.log").open("ab") as log:
        process = start(settings, [*CREDITFOLD, "delivery", "--json-logs"], stdout=log, stderr=log)
        try:
            wait_until(lambda: process.poll() is not None or receiver.ask("count")[0] >= commands, BOUND_S, 0.1)
            had, ours = receiver.ask("count"), sum(process.cpu_times()[:2])
        finally:
            process.terminate()
            process.wait(60)
    if had.requests < commands:
        raise SystemExit(f"{had.requests:,} of {commands:,} came within {BOUND_S:g} s")
    after, each = servers_cpu_s(settings), 1_000_000 / commands
    return {
        "deliveries/s": round(commands / (had.last - had.first)),
        "µs CPU each: delivery": round(ours * each),
        "µs CPU each: PostgreSQL": round((after["PostgreSQL"] - before["PostgreSQL"]) * each),
        "µs CPU each: receiver": round((receiver.cpu_s() - theirs) * each),
    }


def main() -> None:
    """Measure, and show."""
    parser = argument_parser(__doc__, commands=30_000, rounds=3)
    arguments = parser.parse_args()
    rounds: list[dict[str, dict[str, Any]]] = []
    with servers() as on, receiving() as receiver, ledger(on, "webhooks") as own:
        settings = own.model_copy(update={"webhook_allowed_networks": "127.0.0.0/8"})
        with console.status("appending and folding"):
            fill(settings, arguments.commands)
        for number in range(arguments.rounds):
            found = {}
            for name, dead in (("alone", 0), (f"with {DEAD} dead ones", DEAD)):
                with console.status(f"round {number + 1} of {arguments.rounds}: {name}"):
                    found[name] = measure(settings, arguments.commands, dead, receiver)
            rounds.append(found)
    middle = {
        name: {key: sorted(one[name][key] for one in rounds)[len(rounds) // 2] for key in rounds[0][name]}
        for name in rounds[0]
    }
    if arguments.json:
        print(json.dumps({"goal": GOAL, "rounds": rounds, "median": middle}))
    else:
        show_columns(middle, f"{arguments.commands:,} webhooks, median of {arguments.rounds} rounds")


if __name__ == "__main__":
    main()
