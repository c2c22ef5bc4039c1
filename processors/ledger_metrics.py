"""The metrics of a ledger as a whole, for Prometheus: what no process can say of itself, least of all a dead one.

Owns their names, their labels, and how often the servers are asked, which doesn't depend on how often Prometheus asks.
Nothing is by account. What couldn't be asked is left out, never shown as it was before: a server that is away is seen
by `creditfold_ledger_server_up`.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, NamedTuple

import psycopg
import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from creditfold.common.errors import CreditfoldError
from creditfold.common.settings import Settings
from creditfold.log.offsets import End, log_ends
from creditfold.processors.health import Reached, condition, judge_ledger, suspects
from creditfold.processors.status import waited_s
from creditfold.projections import queries
from creditfold.projections.connections import connected
from creditfold.projections.failures import why
from creditfold.projections.generations.catalog import Building, building
from creditfold.projections.proof.dates import ProofKind, proofs
from creditfold.projections.queries.health import DatabaseHealth, database_health
from creditfold.projections.queries.ledger_lines import Total
from creditfold.projections.queries.monitoring import EndingSoon, Outstanding, ending_soon, outstanding

#: For how long an answer of the servers is shown again, in seconds: several who ask don't ask them more often.
FRESH_S = 5.0
#: How old sums over all lots may be, in seconds: they read each live lot.
SUMS_EVERY_S = 300.0
#: How long one who asks waits for the servers, in seconds; by default Prometheus waits ten.
WAIT_S = 6.0
#: Days in which credits end that are summed up.
ENDING_DAYS = (1, 7, 30)

log = structlog.get_logger()


class Figures(NamedTuple):
    """What the servers answered; None, or empty, of one that didn't."""

    health: DatabaseHealth | None = None
    totals: Sequence[Total] = ()
    proven: Mapping[str, float] = {}
    building: Sequence[Building] = ()
    ends: Mapping[int, End] | None = None
    #: Seconds for which the first record that isn't folded has been in the log, where that could be read.
    waiting_s: Mapping[int, float] = {}
    problems: int | None = None


class Sums(NamedTuple):
    """Sums over all lots."""

    outstanding: Sequence[Outstanding]
    ending: Sequence[EndingSoon]


class _Answer:
    """What a question came to, asked in a thread of its own, again once it is too old."""

    def __init__(self, question: Callable[[], Any], fresh_s: float, name: str) -> None:
        self._question = question
        self._fresh_s = fresh_s
        self._name = name
        self._lock = threading.Lock()
        self._asked: Future[Any] | None = None
        self._at = 0.0

    def get(self, wait_s: float) -> Any:
        """The answer; None where it doesn't come in time."""
        with self._lock:
            now = time.monotonic()
            if self._asked is None or (self._asked.done() and now - self._at > self._fresh_s):
                self._at, self._asked = now, Future()
                # A server that stands still must not keep the process from its end.
                threading.Thread(target=self._ask, args=(self._asked,), name=self._name, daemon=True).start()
            asked = self._asked
        try:
            return asked.result(wait_s)
        except FutureTimeoutError:
            return None

    def _ask(self, asked: "Future[Any]") -> None:
        try:
            asked.set_result(self._question())
        except BaseException as error:
            log.exception("the ledger's metrics can't be made")
            asked.set_result(None)
            if not isinstance(error, Exception):
                raise


class LedgerMetrics(Collector):
    """Shows a ledger to Prometheus.

    Args:
        settings: where Kafka and PostgreSQL are.
    """

    def __init__(self, settings: Settings) -> None:
        self._figures = _Answer(lambda: figures(settings), FRESH_S, "ledger-metrics")
        self._sums = _Answer(lambda: _sums(settings), SUMS_EVERY_S, "ledger-sums")

    def describe(self) -> Iterator[Metric]:
        """Nothing: a registry asks for it, and no server is to be asked then."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metrics, for Prometheus."""
        found: Figures = self._figures.get(WAIT_S) or Figures()
        yield _gauge(
            "ledger_server_up",
            "Whether a server answered: 1, or 0.",
            ["server"],
            {"kafka": found.ends is not None, "postgresql": found.health is not None},
        )
        if found.health is not None:
            yield from _of_health(found.health, found)
        # They may take longer than anybody waits; then they are there the next time.
        sums: Sums | None = self._sums.get(0.0 if found.health is None else 0.5)
        if sums is not None:
            yield _gauge(
                "credits_outstanding",
                "Credits that accounts have: remaining and held.",
                ["asset", "class"],
                {(row.asset, row.lot_class): row.amount for row in sums.outstanding},
            )
            yield _gauge(
                "credits_expiring",
                "Credits that end within a time unless they are spent before.",
                ["asset", "within"],
                {(row.asset, f"{row.days}d"): row.amount for row in sums.ending},
            )


def _of_health(health: DatabaseHealth, found: Figures) -> Iterator[Metric]:
    stands = {row.log_partition: row.next_offset for row in health.progress}
    yield _gauge(
        "fold_next_offset", "The next offset of the log to fold, by partition.", ["partition"], _by_partition(stands)
    )
    if found.ends is not None:
        lags = {
            partition: max(found.ends[partition].high - offset, 0)
            for partition, offset in stands.items()
            if partition in found.ends
        }
        yield _gauge(
            "fold_lag_records", "Records that aren't folded yet, by partition.", ["partition"], _by_partition(lags)
        )
        waiting = {partition: found.waiting_s.get(partition) for partition in lags}
        seconds = {
            partition: 0.0 if lags[partition] == 0 else waited
            for partition, waited in waiting.items()
            if lags[partition] == 0 or waited is not None
        }
        yield _gauge(
            "fold_lag_seconds",
            "Seconds for which the first record that isn't folded has been in the log; 0 where there is none.",
            ["partition"],
            _by_partition(seconds),
        )
    yield from _of_rebuilds(found)
    if found.problems is not None:
        yield _gauge("ledger_problems", "Problems that `creditfold status --check` reports.", [], {(): found.problems})
    yield _gauge(
        "dead_letters_recent",
        "Dead letters of the last hour, by reason.",
        ["reason"],
        {row.reason: row.letters for row in health.dead_letters},
    )
    if health.transit is not None:
        oldest_ms = health.transit.oldest_ms
        age_s = 0.0 if oldest_ms is None else max(health.now_ms - oldest_ms, 0) / 1000
        yield _gauge("transfers_in_transit", "Transfers that have left and not arrived.", [], {(): health.transit[0]})
        yield _gauge("oldest_transfer_seconds", "Age of the oldest of them; 0 where there is none.", [], {(): age_s})
    processes: dict[tuple[str, str], int] = {}
    for one in health.heartbeats:
        key = (one.sign.role, condition(one))
        processes[key] = processes.get(key, 0) + 1
    yield _gauge("processes", "Processes by their last sign of life.", ["role", "condition"], processes)
    yield _gauge(
        "trial_balance_difference",
        "What the fold's totals of an asset lack, or have too much: always 0.",
        ["asset"],
        {total.asset: _difference(total) for total in found.totals},
    )
    yield _gauge(
        "chain_verified_timestamp_seconds",
        "When the live generation was last found equal to the log.",
        [],
        _proven(found, "verify"),
    )
    yield _gauge(
        "log_archived_timestamp_seconds",
        "When the log was last archived to its end.",
        [],
        _proven(found, "archive"),
    )


def _of_rebuilds(found: Figures) -> Iterator[Metric]:
    yield _gauge(
        "rebuild_next_offset",
        "The next offset that a generation which is being built folds, by partition.",
        ["generation", "partition"],
        {(str(one.number), str(place)): at for one in found.building for place, at in sorted(one.next_offsets.items())},
    )
    if found.ends is not None:
        yield _gauge(
            "rebuild_lag_records",
            "Records that a generation which is being built doesn't have yet.",
            ["generation", "purpose"],
            {(str(one.number), one.purpose): _left(one, found.ends) for one in found.building},
        )


def _left(one: Building, ends: Mapping[int, End]) -> int:
    wanted = {
        partition: min(ends[partition].high, one.until_offsets.get(partition, ends[partition].high))
        for partition in one.next_offsets
        if partition in ends
    }
    return sum(max(end - one.next_offsets[partition], 0) for partition, end in wanted.items())


def _difference(total: Total) -> int:
    gone = (total.spent, total.expired, total.voided, total.forfeited, total.reissued, total.in_transit)
    return total.credits - total.debt + sum(gone) - total.issued


def figures(settings: Settings) -> Figures:
    """Ask both servers once. What one of them doesn't answer is left out."""
    found = Figures()
    try:
        # First: the fold goes on meanwhile, and must not seem to be ahead of the log's end.
        with connected(settings.dsn) as connection:
            health = database_health(connection)
            proven = {kind: at.timestamp() for kind, at in proofs(connection).items()}
            found = found._replace(
                health=health, totals=queries.totals(connection), proven=proven, building=building(connection)
            )
    except (psycopg.Error, CreditfoldError) as error:
        log.warning("PostgreSQL can't be asked for metrics", why=_why(error))
    rows = () if found.health is None else found.health.progress
    try:
        ends = log_ends(settings, settings.commands_topic, [row.log_partition for row in rows] or [0])
        found = found._replace(ends=ends)
        if found.health is not None:
            found = _with_ages(settings, found, found.health, ends)
    except CreditfoldError as error:
        log.warning("Kafka can't be asked for metrics", why=_why(error))
    return found


def _with_ages(settings: Settings, found: Figures, health: DatabaseHealth, ends: Mapping[int, End]) -> Figures:
    waiting_s = waited_s(settings, health.progress, ends)
    unread = {partition: waiting_s.get(partition, float("inf")) for partition in suspects(health, ends)}
    judged = judge_ledger(health, Reached(ends, unread), settings.tick_seconds)
    return found._replace(waiting_s=waiting_s, problems=len(judged.problems))


def _sums(settings: Settings) -> Sums | None:
    try:
        with connected(settings.dsn) as connection:
            return Sums(outstanding(connection), ending_soon(connection, ENDING_DAYS))
    except (psycopg.Error, CreditfoldError) as error:
        log.warning("sums over all lots can't be shown", why=_why(error))
        return None


def _why(error: Exception) -> str:
    return error.message if isinstance(error, CreditfoldError) else why(error)


def _proven(found: Figures, kind: ProofKind) -> dict[tuple[()], float]:
    at = found.proven.get(kind)
    return {} if at is None else {(): at}


def _by_partition(values: Mapping[int, Any]) -> dict[str, Any]:
    return {str(partition): value for partition, value in sorted(values.items())}


def _gauge(name: str, documentation: str, labels: Sequence[str], values: Mapping[Any, Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"creditfold_{name}", documentation, labels=labels)
    for key, value in values.items():
        family.add_metric([key] if isinstance(key, str) else list(key), float(value))
    return family
