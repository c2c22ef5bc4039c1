"""How long a command takes from the moment at which it is due to the moment at which a reader can see it.

    python benchmarks/latency.py --rate 1000 --rate 10000

An open loop: each command has its moment by a fixed schedule, whether the one before was answered or not, and is timed
from that moment, so a stall counts for every command that it holds up (no coordinated omission). A process of its own
appends with the producer library. Another session of PostgreSQL asks every 3 milliseconds how far each partition
is folded; a command is visible at the first answer whose next offset has passed it, so a figure is too long by one such
pause at most, and never too short. More often would be at the cost of what is measured: every millisecond, it takes a
sixth of a core. The worker has met each account before, as one that has run for long; with --new-accounts it hasn't.
The baseline gets the same schedule in turn: 16 clients, one operation a call, timed to the answer of its commit;
asyncio's timer adds up to a millisecond to it.
"""

import asyncio
import gc
import json
import multiprocessing
import random
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple

import baseline
from load import LOGS, MOST_GRANTED, PLAIN, draw
from rig import argument_parser, console, database, ledger, middle, percentiles, servers, show_columns, workers

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.producers import Command, CommandProducer, Grant
from creditfold.producers.deliveries import Outcome
from creditfold.projections.connections import pinned

#: The clock that all processes of a machine share, in seconds.
now = time.monotonic

#: A producer's first commands wait for its connections, which is no business of the fold.
FIRST = 100

#: What the servers are warmed up with, in commands a second and in seconds.
WARM_UP_PER_S = 1_000
WARM_UP_S = 40.0

#: How long the last commands may take to be seen, in seconds.
PATIENCE_S = 60.0


class Schedule(NamedTuple):
    """When each command is due: `per_s` a second from `start` on, in seconds of the clock."""

    start: float
    per_s: float

    def due(self, number: int) -> float:
        """When the command of that number is due. It depends on nothing that happens."""
        return self.start + number / self.per_s


class Appended(NamedTuple):
    """A command that the log has: its number, where it stands, and when the log said so."""

    number: int
    partition: int
    offset: int
    at: float


class Look(NamedTuple):
    """What a reader saw: when the answer was there, and the next offset of a partition."""

    at: float
    next_offset: int


def pace(
    commands: Iterable[Command],
    schedule: Schedule,
    clock: Callable[[], float] = now,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Command]:
    """Give each command not before it is due; a late one at once."""
    for number, command in enumerate(commands):
        while (wait := schedule.due(number) - clock()) > 0:
            sleep(wait)
        yield command


def visible_at(looks: Sequence[Look], offset: int) -> float | None:
    """When a reader first saw that an offset was folded; None if never. `looks` are in the order of time."""
    first = bisect_right(looks, offset, key=lambda look: look.next_offset)
    return looks[first].at if first < len(looks) else None


class Run(NamedTuple):
    """What to append: so many commands a second, for so long."""

    per_s: int
    seconds: float
    accounts: int
    seed: int

    @property
    def commands(self) -> int:
        """How many commands that makes."""
        return round(self.per_s * self.seconds)


@contextmanager
def without_collection() -> Iterator[None]:
    """Look for no cycles: among a run's commands that takes some 300 ms, in which nothing would be appended."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def grant_all(settings: Settings, accounts: int) -> None:
    """Append a grant to each account, which a worker that has run for long has met."""
    with CommandProducer(settings.kafka_client, settings.commands_topic) as producer:
        producer.append_many(
            Grant(command_id=f"first-{number}", account=f"user-{number}", asset="credits", amount=MOST_GRANTED)
            for number in range(accounts)
        )


@without_collection()
def append(settings: Settings, run: Run, pipe: Connection, ended: Event) -> None:
    """Append by the schedule; send its start, and at the end what was appended. Runs in a process of its own.

    It ends early once `ended` is set.
    """
    found: list[Appended] = []
    commands = list(LOGS[PLAIN](FIRST + run.commands, run.accounts, run.seed))

    def deliver(command: Command, outcome: Outcome) -> None:
        if not isinstance(outcome, Position):
            raise outcome
        found.append(Appended(int(command.command_id.partition("-")[2]), outcome.partition, outcome.offset, now()))

    with CommandProducer(settings.kafka_client, settings.commands_topic) as producer:
        producer.append_many(commands[:FIRST])
        producer.flush()
        schedule = Schedule(now() + 0.1, run.per_s)
        pipe.send(schedule.start)
        producer.append_many(takewhile(lambda _: not ended.is_set(), pace(commands[FIRST:], schedule)), deliver)
        producer.flush()
    pipe.send([one._replace(number=one.number - FIRST) for one in found])


def ours(
    settings: Settings, run: Run, warm_up_s: float, every_s: float, is_over: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Latencies of the ledger, whose worker runs; the first seconds don't count. It ends early once `is_over`."""
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    ended = spawn.Event()
    sender = spawn.Process(target=append, args=(settings, run, theirs, ended))
    sender.start()
    theirs.close()  # Or a sender that fails would be waited for for ever.
    start = pipe.recv()
    looks, pauses, appended = _look(settings.dsn, pipe, every_s, is_over, ended)
    sender.join()
    schedule = Schedule(start, run.per_s)
    counted = [one for one in appended if one.number / run.per_s >= warm_up_s]
    if not counted:
        raise SystemExit("it ended before a command was timed: take a longer log")
    to_log = [one.at - schedule.due(one.number) for one in counted]
    seen = [(visible_at(looks[one.partition], one.offset), schedule.due(one.number)) for one in counted]
    to_reader = [at - due for at, due in seen if at is not None]
    from_log = [at - one.at for (at, _), one in zip(seen, counted, strict=True) if at is not None]
    last = max(one.at for one in appended)
    return {
        **percentiles(to_reader),
        "to_the_log": percentiles(to_log),
        # Less than nothing where the fold was faster than the log's answer to the producer.
        "from_the_log": percentiles(from_log),
        "commands_per_transaction": round(len(appended) / sum(len(known) - 1 for known in looks.values()), 1),
        "not_seen": len(seen) - len(to_reader),
        "commands": len(counted),
        "appended_per_s": round(len(appended) / (last - start)),
        "a_look_every_ms": {name: percentiles(pauses)[name] for name in ("p50_ms", "p99_ms", "max_ms")},
    }


@without_collection()
def _look(
    dsn: str, pipe: Connection, every_s: float, is_over: Callable[[], bool], ended: Event
) -> tuple[Mapping[int, list[Look]], list[float], list[Appended]]:
    """Look how far each partition is until all that was appended is seen; what was seen when, and the pauses."""
    looks: defaultdict[int, list[Look]] = defaultdict(list)
    appended: list[Appended] = []
    ends: dict[int, int] = {}
    pauses: list[float] = []
    has_ended, before, deadline = False, now(), float("inf")
    with pinned(dsn) as connection:
        # The view is a join of a few rows, but the table below it is read with one page and no plan to speak of.
        (generation,) = connection.execute("SELECT max(generation) FROM ledger.progress").fetchone() or (1,)
        query = f"SELECT log_partition, next_offset FROM ledger_{generation:04}.progress"
        while before < deadline:
            rows = connection.execute(query, prepare=True).fetchall()
            at = now()
            for partition, next_offset in rows:
                known = looks[partition]
                if not known or known[-1].next_offset < next_offset:
                    known.append(Look(at, next_offset))
            pauses.append(at - before)
            before = at
            if is_over():
                ended.set()
            if not has_ended and pipe.poll():
                has_ended = True
                appended = pipe.recv()
                deadline = now() + PATIENCE_S
                for one in appended:
                    ends[one.partition] = max(ends.get(one.partition, 0), one.offset + 1)
            if has_ended and all(looks[partition][-1].next_offset >= end for partition, end in ends.items()):
                break
            time.sleep(max(0.0, every_s - (now() - at)))
    return looks, pauses, appended


def theirs(dsn: str, run: Run, warm_up_s: float) -> dict[str, Any]:
    """Latencies of the baseline, one operation a call."""
    return asyncio.run(_theirs(dsn, run, warm_up_s))


async def _theirs(dsn: str, run: Run, warm_up_s: float) -> dict[str, Any]:
    taken: list[float] = []
    chance = random.Random(run.seed)
    numbers = iter(range(run.commands))
    async with baseline.calls(dsn, baseline.SINGLE_CLIENTS, 1) as ready:
        schedule = Schedule(now() + 0.1, run.per_s)

        async def client(call: baseline.Call) -> None:
            # Whoever is free takes the next; where nobody is, it waits, and its waiting counts.
            for number in numbers:
                account, amount = draw(chance, run.accounts)
                due = schedule.due(number)
                if (wait := due - now()) > 0:
                    await asyncio.sleep(wait)
                await call([f"{run.seed}-{number}"], [account], [amount])
                if number / run.per_s >= warm_up_s:
                    taken.append(now() - due)

        await asyncio.gather(*(client(call) for call in ready))
        seconds = now() - schedule.start
    return {**percentiles(taken), "commands": len(taken), "appended_per_s": round(run.commands / seconds)}


def main() -> None:
    """Run the benchmark and print it as a table, or as JSON."""
    parser = argument_parser(__doc__, accounts=100_000, workers=1, rounds=3)
    parser.add_argument("--rate", type=int, action="append", help="commands a second; may be given again")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=5.0, help="seconds at the start that don't count")
    parser.add_argument("--new-accounts", action="store_true", help="begin with accounts that nothing was granted")
    parser.add_argument("--look-every-ms", type=float, default=3.0)
    options = parser.parse_args()
    rates = options.rate or [1_000, 10_000]
    found: dict[str, dict[str, Any]] = {}
    with servers() as settings, ledger(settings, "latency") as own, database(settings, "bench_baseline") as dsn:
        baseline.prepare(dsn, options.accounts)
        if not options.new_accounts:
            grant_all(own, options.accounts)
        with workers(own, options.workers) as running:
            # A broker that has just begun takes a core to compile its own code, for half a minute of requests.
            with console.status("warming up"):
                ours(own, Run(WARM_UP_PER_S, WARM_UP_S, options.accounts, 99), 0, 0.01)
            for number, rate in enumerate(rates):
                run = Run(rate, options.warm_up + options.seconds, options.accounts, number)
                rounds = []
                for again in range(options.rounds):
                    with console.status(f"{rate:,} a second, {again + 1} of {options.rounds}"):
                        # Other commands in each, which the ledger would take for the same ones again.
                        one = run._replace(seed=number + 100 * again)
                        rounds.append(ours(own, one, options.warm_up, options.look_every_ms / 1e3))
                        running.check()
                found[f"{rate}/s"] = {**middle(rounds, "p50_ms"), "p50_ms_of_each": [one["p50_ms"] for one in rounds]}
                with console.status(f"{rate:,} a second, the baseline"):
                    found[f"{rate}/s, baseline"] = theirs(dsn, run, options.warm_up)
    if options.json:
        print(json.dumps({"workers": options.workers, "seconds": options.seconds, "rates": found}))
        return
    show_columns(found, f"From due to visible, {options.workers} workers; the baseline without Kafka")


if __name__ == "__main__":
    main()
