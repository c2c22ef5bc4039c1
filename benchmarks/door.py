"""How long requests to the HTTP door take at fixed rates, and what that costs the fold, on the same two cores.

    python benchmarks/door.py --markdown

An open loop, as of latency.py: each request has its moment by a fixed schedule and is timed from that moment to the
last byte of its answer. In each round come spends that wait for their outcomes, then reads of balances, then the fold's
own latency at 1,000 a second, alone and beside each of both. At the end one request appends many lines and waits for no
outcome. `creditfold serve`, one worker, Kafka, PostgreSQL and what sends share the machine; CPU time is reported for
each of them.
"""

import json
import multiprocessing
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple

import psutil
from door_load import Sent, request, send, stream
from latency import Run, grant_all, ours, without_collection
from report import READS, SPENDS
from report import door as markdown
from rig import (
    CREDITFOLD,
    argument_parser,
    by_quarter,
    console,
    free_ports,
    ledger,
    middle,
    percentiles,
    servers,
    servers_cpu_s,
    show_columns,
    start,
    workers,
)

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.processors.door import is_ready, url_of
from creditfold.projections.access.audit import Actor
from creditfold.projections.access.keys import create_key
from creditfold.projections.connections import connected

#: Requests a second of each kind.
RATES = {SPENDS: 500, READS: 1_000}
#: Connections that are kept: more than requests are under way.
CONNECTIONS = 64
#: Seconds at the start of each load that don't count.
WARM_UP_S = 3.0
#: Commands a second whose latency is compared, and milliseconds between two looks.
FOLD_PER_S, LOOK_S = 1_000, 0.003
#: Lines that are sent in one piece, and seconds between two looks at the memory.
BLOCK, MEMORY_S = 1_000, 0.2

_spawn = multiprocessing.get_context("spawn")
_seeds = count(1)


class Load(NamedTuple):
    """What is sent: which requests, of how many accounts, with which key, for how long."""

    kind: str
    per_s: float
    url: str
    key: str
    accounts: int
    seconds: float
    seed: int

    def requests(self) -> list[bytes]:
        """The requests, in the order in which they are due."""
        chance = random.Random(self.seed)
        accounts = (f"user-{chance.randrange(self.accounts)}" for _ in range(round(self.per_s * self.seconds)))
        make = self._spend if self.kind == SPENDS else self._read
        return [make(number, account) for number, account in enumerate(accounts)]

    def _spend(self, number: int, account: str) -> bytes:
        headers = {**self._headers(), "Idempotency-Key": f"h{self.seed}-{number}", "Content-Type": "application/json"}
        return request("POST", f"/v1/accounts/{account}/spends", headers, b'{"asset":"credits","amount":1}')

    def _read(self, number: int, account: str) -> bytes:
        return request("GET", f"/v1/accounts/{account}/balances", self._headers())

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@without_collection()
def _send(load: Load, pipe: Connection, ended: Event) -> None:
    """Send a load; runs in a process of its own."""
    requests = load.requests()
    pipe.send(None)
    pipe.send(send(load.url, requests, load.per_s, CONNECTIONS, ended.is_set))


@contextmanager
def loaded(load: Load) -> Iterator[Callable[[bool], Sent]]:
    """Send a load for a block, which gets what became of it; cut short, if it says so."""
    pipe, theirs = _spawn.Pipe()
    ended = _spawn.Event()
    sender = _spawn.Process(target=_send, args=(load, theirs, ended))
    sender.start()
    theirs.close()
    pipe.recv()

    def sent(cut: bool) -> Sent:
        if cut:
            ended.set()
        found: Sent = pipe.recv()
        return found

    try:
        yield sent
    finally:
        ended.set()
        sender.join()


class Door:
    """`creditfold serve` on a ledger with a worker, and what all processes took."""

    def __init__(self, settings: Settings, process: psutil.Popen, worker_cpu_s: Callable[[], float]) -> None:
        self.settings = settings
        self.url = url_of(settings)
        self.process = process
        self._worker_cpu_s = worker_cpu_s
        with connected(settings.dsn) as connection:
            scopes = ("append:grant", "append:spend", "read:balance")
            self.key = create_key(connection, "bench", scopes, by=Actor("bench", "here", "a benchmark")).text

    def load(self, kind: str, accounts: int, seconds: float) -> Load:
        """A load that no other has the commands of."""
        return Load(kind, RATES[kind], self.url, self.key, accounts, seconds, next(_seeds))

    def cpu_s(self) -> dict[str, float]:
        """Seconds of CPU time so far, by who took them."""
        own = self.process.cpu_times()
        return {
            "creditfold serve": own.user + own.system,
            "worker": self._worker_cpu_s(),
            **servers_cpu_s(self.settings),
        }


@contextmanager
def serving(settings: Settings, worker_cpu_s: Callable[[], float]) -> Iterator[Door]:
    """Serve HTTP for a block."""
    own = settings.model_copy(update={"api_port": free_ports(1)[0]})
    with (settings.data_dir / "serve.log").open("wb") as log:
        process = start(own, [*CREDITFOLD, "serve"], stdout=log, stderr=log)
        try:
            if not wait_until(lambda: is_ready(own), 60):
                raise SystemExit("creditfold serve doesn't get ready")
            yield Door(own, process, worker_cpu_s)
        finally:
            process.terminate()
            process.wait(30)


def timed(to: Door, kind: str, accounts: int, seconds: float) -> dict[str, Any]:
    """Latencies of a load and what each request costs."""
    load = to.load(kind, accounts, WARM_UP_S + seconds)
    with loaded(load) as sent:
        before = to.cpu_s()
        found = sent(False)
        after = to.cpu_s()
    done = len(found.taken_s)
    per_request = {name: round((after[name] - before[name]) / done * 1e6) for name in after}
    counted = [taken for number, taken in found.taken_s if number >= WARM_UP_S * load.per_s]
    return {
        **percentiles(counted),
        "requests": len(counted),
        "done_per_s": round(done / found.seconds),
        "statuses": {str(status): number for status, number in sorted(found.statuses.items())},
        "cpu_us_per_request": {**per_request, "what sends": round(found.cpu_s / done * 1e6)},
    }


def folded(to: Door, accounts: int, seconds: float, beside: str | None) -> dict[str, Any]:
    """The fold's latency, alone or beside a load."""
    run = Run(FOLD_PER_S, WARM_UP_S + seconds, accounts, 1_000 + next(_seeds))
    if beside is None:
        return ours(to.settings, run, WARM_UP_S, LOOK_S)
    # Longer than what is timed beside it, which its processes take a while to begin.
    with loaded(to.load(beside, accounts, 3 * run.seconds + 30)) as sent:
        found = ours(to.settings, run, WARM_UP_S, LOOK_S)
        refuse_failures(sent(True).statuses)
    return found


def refuse_failures(statuses: Mapping[int, int]) -> None:
    """End the benchmark where requests failed."""
    failed = {status: number for status, number in statuses.items() if status not in (200, 201, 202, 422)}
    if failed:
        raise SystemExit(f"requests failed: {failed}")


def compared(to: Door, accounts: int, seconds: float) -> dict[str, Any]:
    """One round."""
    alone = folded(to, accounts, seconds, None)
    found = {"alone": alone, **{f"beside {kind}": folded(to, accounts, seconds, kind) for kind in RATES}}
    for one in found.values():
        one["ratio"] = round(alone["p50_ms"] / one["p50_ms"], 2)
        one["ratio_of_99"] = round(alone["p99_ms"] / one["p99_ms"], 2)
    return found


def _lines(lines: int, accounts: int) -> Iterator[bytes]:
    for first in range(0, lines, BLOCK):
        yield b"".join(
            b'{"type":"grant","command_id":"b-%d","account":"user-%d","asset":"credits","amount":1}\n'
            % (number, number % accounts)
            for number in range(first, min(lines, first + BLOCK))
        )


@without_collection()
def _stream(url: str, key: str, lines: int, accounts: int, pipe: Connection) -> None:
    """Send lines as fast as they are taken; runs in a process of its own."""
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/x-ndjson",
        "Prefer": "respond-async",
        "Transfer-Encoding": "chunked",
    }
    # Made before: what is timed is the door's work.
    blocks = list(_lines(lines, accounts))
    pipe.send(None)
    pipe.send(stream(url, request("POST", "/v1/commands", headers), iter(blocks)))


def bulk(to: Door, lines: int, accounts: int) -> dict[str, Any]:
    """Lines a second of one request, and the memory that the door has meanwhile."""
    pipe, theirs = _spawn.Pipe()
    sender = _spawn.Process(target=_stream, args=(to.url, to.key, lines, accounts, theirs))
    sender.start()
    theirs.close()
    pipe.recv()
    before, memory = to.cpu_s(), [to.process.memory_info().rss]
    while not pipe.poll(MEMORY_S):
        memory.append(to.process.memory_info().rss)
    answered, seconds, cpu_s = pipe.recv()
    after = to.cpu_s()
    sender.join()
    if answered != lines:
        raise SystemExit(f"of {lines:,} lines {answered:,} have an answer")
    per_line = {name: round((after[name] - before[name]) / lines * 1e6, 1) for name in after}
    quarters = by_quarter(memory)
    return {
        "lines": lines,
        "per_s": round(lines / seconds),
        "memory_mb_by_quarter": quarters,
        # The first quarter is that in which what it works with is made.
        "growth": round(quarters[3] / quarters[1], 2),
        "cpu_us_per_line": {**per_line, "what sends": round(cpu_s / lines * 1e6, 1)},
    }


def measured(to: Door, options: Any) -> dict[str, Any]:
    """All figures."""
    rounds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in RATES}
    folds: list[dict[str, Any]] = []
    with console.status("warming up"):
        for kind in RATES:
            refuse_failures(
                {int(s): n for s, n in timed(to, kind, options.accounts, options.warm_up)["statuses"].items()}
            )
        folded(to, options.accounts, options.warm_up, None)
    for nth in range(options.rounds):
        for kind in RATES:
            with console.status(f"{kind}, {nth + 1} of {options.rounds}"):
                rounds[kind].append(timed(to, kind, options.accounts, options.seconds))
        with console.status(f"the fold beside, {nth + 1} of {options.rounds}"):
            folds.append(compared(to, options.accounts, options.seconds))
    fold = {
        name: {
            **middle([one[name] for one in folds], "ratio"),
            "ratio_of_each": [one[name]["ratio"] for one in folds],
        }
        for name in folds[0]
    }
    found = {"requests": {kind: middle(each, "p99_ms") for kind, each in rounds.items()}, "fold": fold}
    if options.lines:
        with console.status("many lines"):
            found["bulk"] = bulk(to, options.lines, options.accounts)
    return found


def main() -> None:
    """Run the benchmark and print it as a table, as JSON, or as the part of docs/benchmarks.md that it is."""
    parser = argument_parser(__doc__, accounts=10_000, rounds=3, lines=1_000_000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--warm-up", type=float, default=10.0, help="seconds of each kind before anything counts")
    parser.add_argument("--markdown", action="store_true", help="print what docs/benchmarks.md shows of it")
    options = parser.parse_args()
    with servers() as settings, ledger(settings, "http") as own:
        grant_all(own, options.accounts)
        with workers(own, 1) as running, serving(own, running.cpu_s) as to:
            found = measured(to, options)
            running.check()
    found = {"seconds": options.seconds, "rounds": options.rounds, "accounts": options.accounts, **found}
    if options.json:
        print(json.dumps(found))
    elif options.markdown:
        print(markdown({"door": found}))
    else:
        show_columns(found["requests"], "HTTP, from due to the last byte of the answer")
        show_columns(found["fold"], f"The fold at {FOLD_PER_S:,} a second, from due to visible")
        show_columns({"many lines": found.get("bulk", {})}, "One request to POST /v1/commands")


if __name__ == "__main__":
    main()
