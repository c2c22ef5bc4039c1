"""How long the questions of support and finance take over a long journal: over HTTP, and by the command line.

    python benchmarks/questions.py --commands 1000000

Appends commands of 100,000 accounts, of which one has a tenth of all: grants that end within a year, some of which
ended already, spends with sources and reasons, spends that are rejected, voids, and records that can't be folded. Folds
them, and asks `creditfold serve` and `creditfold` each question several times. The command line's time is that of a
process from its start to its end.
"""

import json
import random
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from typing import Any, NamedTuple

from confluent_kafka import Producer
from load import DAY_MS
from rich.progress import track
from rig import CREDITFOLD, argument_parser, console, environment, free_ports, ledger, servers, show_columns, start

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.offsets import end_offsets
from creditfold.log.topics import describe_log
from creditfold.processors.rebuild.partition import RebuildJob
from creditfold.processors.rebuild.processes import fold_here
from creditfold.producers import Command, CommandProducer, Grant, Spend, VoidGrant
from creditfold.projections.connections import connected

#: The account that has a tenth of all lines.
BUSY = "busy"
ACCOUNTS = 100_000
#: One record in so many can't be folded.
NOISE_EVERY = 1_000
SOURCES = tuple(f"service-{number}" for number in range(5))
REASONS = tuple(f"reason {number}" for number in range(10))
#: Seconds within which a question is to be answered.
BOUND_S = 1.0


class Question(NamedTuple):
    """A question: its path over HTTP and its command. `{since}` and `{until}` are a time with all lines in it."""

    path: str | None
    command: str


TIME = "since={since}&until={until}"
OPTIONS = "--since {since} --until {until} --json"
QUESTIONS: Mapping[str, Question] = {
    "history of an account": Question(f"/v1/accounts/{BUSY}/history?{TIME}", f"history {BUSY} {OPTIONS}"),
    "statement, its first 1,000 lines": Question(
        f"/v1/accounts/{BUSY}/statement?from={{since}}&until={{until}}", f"statement user-1 {OPTIONS}"
    ),
    "rejections of a time": Question(f"/v1/rejections?{TIME}", f"rejections {OPTIONS}"),
    "dead letters of a time": Question(f"/v1/dead-letters?{TIME}", f"dead-letters list {OPTIONS}"),
    "what ended and why": Question(f"/v1/ended?{TIME}", f"ended {OPTIONS}"),
    "what ended, of an account": Question(f"/v1/accounts/{BUSY}/ended?{TIME}", f"ended {BUSY} {OPTIONS}"),
    "what ended, in sums": Question(f"/v1/ended/totals?{TIME}", f"ended --totals {OPTIONS}"),
    "what will end, by month": Question("/v1/expiring", "expiring --all --json"),
    "spent by class, source and reason": Question(f"/v1/spent?{TIME}", f"spent {OPTIONS}"),
}


def mix(count: int, seed: int) -> Iterator[Command]:
    """Commands of all that is asked about."""
    chance, now = random.Random(seed), int(time.time() * 1000)
    granted: list[tuple[str, str]] = []
    for number in range(count):
        account = BUSY if chance.random() < 0.1 else f"user-{chance.randrange(ACCOUNTS)}"
        id, dice = f"{seed}-{number}", chance.random()
        origin: dict[str, Any] = {"source": chance.choice(SOURCES), "reason": chance.choice(REASONS)}
        named: dict[str, Any] = {"command_id": id, "account": account}
        if dice < 0.5:
            # A tenth of these ended before they came.
            begins, ends = (
                (now - 2 * DAY_MS, now - DAY_MS) if dice < 0.05 else (0, now + chance.randint(1, 365) * DAY_MS)
            )
            terms: dict[str, Any] = {"effective_at": begins, "expires_at": ends}
            terms["lot_class"] = "promo" if chance.random() < 0.5 else "paid"
            yield Grant(**named, asset="credits", amount=chance.randint(20, 60), **terms, **origin)
            granted.append((account, id))
        elif dice < 0.52 and granted:
            account, grant = chance.choice(granted)
            yield VoidGrant(command_id=id, account=account, grant=grant, **origin)
        else:
            amount = 10**12 if dice < 0.55 else chance.randint(1, 20)
            yield Spend(**named, asset="credits", amount=amount, **origin)


def make(own: Settings, count: int) -> None:
    """Append the commands and the noise, and fold them."""
    with CommandProducer(own.kafka_client, own.commands_topic) as producer:
        producer.append_many(track(mix(count, 1), "appending", count, console=console))
        producer.flush()
    append_noise(own, count // NOISE_EVERY)
    fold(own)


def append_noise(own: Settings, count: int) -> None:
    """Append records that can't be folded."""
    noise = Producer(own.kafka_client)
    for number in range(count):
        noise.produce(own.commands_topic, key=b"noise", value=b"noise %d" % number)
    noise.flush()


def fold(own: Settings) -> None:
    """Fold the log of a ledger from its beginning, and leave PostgreSQL as it is after its next pause."""
    log = describe_log(own)
    ends = end_offsets(own, log.topic, range(log.partitions))
    with console.status("folding"):
        fold_here(RebuildJob(own.kafka_client, log.topic, log.partitions, 1, ends), own.dsn)
    with connected(own.dsn) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


@contextmanager
def door(own: Settings) -> Iterator[HTTPConnection]:
    """A connection to a door on a ledger."""
    (port,) = free_ports(1)
    output = subprocess.DEVNULL
    process = start(own, [*CREDITFOLD, "serve", "--insecure-local", "--port", str(port)], stdout=output, stderr=output)
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        wait_until(lambda: is_ready(connection), 60)
        yield connection
    finally:
        connection.close()
        process.terminate()
        process.wait(30)


def is_ready(connection: HTTPConnection) -> bool:
    """Whether a door answers."""
    try:
        return get(connection, "/health/ready")[0] == 200
    except OSError:
        connection.close()
        return False


def get(connection: HTTPConnection, path: str) -> tuple[int, bytes]:
    """Ask a path."""
    # By a new connection: a door closes one that asks nothing for a while, and a command may take that long.
    connection.close()
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def ask(own: Settings, rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of each question, the median and the most of some rounds."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    times = {name: f"{now + timedelta(days=days):%Y-%m-%dT%H:%MZ}" for name, days in (("since", -1), ("until", 1))}
    found: dict[str, dict[str, Any]] = {}
    with door(own) as connection:
        for what, question in QUESTIONS.items():
            with console.status(what):
                found[what] = {}
                if question.path is not None:
                    path = question.path.format(**times)
                    found[what] |= timed("http", rounds, lambda path=path: answered(connection, path))
                command = question.command.format(**times).split()
                found[what] |= timed("cli", rounds, lambda command=command: run(own, command))
    return found


def answered(connection: HTTPConnection, path: str) -> int:
    """Ask a path that must have an answer; gives its size in bytes."""
    status, body = get(connection, path)
    if status != 200:
        raise SystemExit(f"{path} was answered with {status}: {body[:500]!r}")
    return len(body)


def run(own: Settings, command: Sequence[str]) -> int:
    """Run a command; gives the size of its output in bytes."""
    done = subprocess.run([*CREDITFOLD, *command], env=environment(own), capture_output=True, check=True)
    return len(done.stdout)


def timed(way: str, rounds: int, once: Any) -> dict[str, Any]:
    """Milliseconds of what is done some times: the first time doesn't count, since caches are empty then."""
    taken, size = [], 0
    for _ in range(rounds + 1):
        began = time.perf_counter()
        size = once()
        taken.append((time.perf_counter() - began) * 1e3)
    return {
        f"{way}_ms": round(statistics.median(taken[1:])),
        f"{way}_most_ms": round(max(taken[1:])),
        f"{way}_first_ms": round(taken[0]),
        f"{way}_bytes": size,
    }


def main() -> None:
    """Run the benchmark and print it as a table, or as JSON."""
    parser = argument_parser(__doc__, commands=1_000_000, rounds=5)
    options = parser.parse_args()
    with servers() as settings, ledger(settings, "questions", partitions=4) as own:
        make(own, options.commands)
        with connected(own.dsn) as connection:
            (lines,) = connection.execute("SELECT count(*) FROM ledger.journal").fetchone() or (0,)
            (lots,) = connection.execute("SELECT count(*) FROM ledger.lots WHERE is_live").fetchone() or (0,)
        found = {"commands": options.commands, "lines": lines, "live_lots": lots, "questions": ask(own, options.rounds)}
    if options.json:
        print(json.dumps(found))
        return
    show_columns(found["questions"], f"Milliseconds of a question, {lines:,} lines of the journal, {lots:,} live lots")


if __name__ == "__main__":
    main()
