"""The benchmarks measure what they say, and each of them runs."""

import asyncio
import json
import os
import random
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from helpers.fork_server import Process
from helpers.imports import read
from helpers.stack_under_test import JARS, StackUnderTest
from helpers.support import HANG_S, ROOT, query

# They are scripts beside each other, and no package.
sys.path.insert(0, str(ROOT / "benchmarks"))

import append
import baseline
import check
import door
import door_load
import fold
import latency
import load
import lots
import rebuild
import report
import scale
import search
from latency import Look, Schedule, pace, visible_at
from rig import database, ledger, middle, percentiles, servers_cpu_s, workers
from sampling import Place, stage_of

import console as console_pages
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.producers import Command
from creditfold.producers.import_head import FileFormat
from creditfold.projections import queries
from creditfold.projections.connections import connected, snapshot


@pytest.fixture(scope="session")
def servers(stack: StackUnderTest) -> Settings:
    """Settings of servers that run."""
    return stack.settings


class Forked(psutil.Popen):
    """A process of `creditfold` as a benchmark starts it, but for the time that its imports take."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        # By the names that psutil has for them.
        self._Popen__subproc = Process(command[1:], **options)
        self._init(self._Popen__subproc.pid, _ignore_nsp=True)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; psutil would wait for a child, which it isn't."""
        return self._Popen__subproc.wait(timeout)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that a benchmark starts are forked: not for one that measures a process from its start."""
    monkeypatch.setattr(psutil, "Popen", Forked)


#: A benchmark that waits in its middle, and says what it has started.
HELD_BENCHMARK = """
import json, sys
import rig
# It ends as a worker does, and begins sooner; nothing is measured, so nothing needs to be warm.
rig.warm = lambda on: None
sleep = (sys.executable, "-c", "import time; time.sleep(600)")
with rig.servers() as on, rig.workers(on, 1, sleep) as running:
    pids = [status.pid for status in rig.service_status(on)]
    print(json.dumps([str(on.data_dir), [running.processes[0].pid, *pids]]), flush=True)
    sys.stdin.read()
"""


@pytest.mark.stack
def test_a_benchmark_that_is_killed_leaves_nothing_running() -> None:
    """By SIGKILL, of which no program hears: servers, workers and their folder are gone."""
    held = subprocess.Popen(
        [sys.executable, "-c", HELD_BENCHMARK],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks"), "CREDITFOLD_JARS_DIR": str(JARS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert held.stdout is not None
    folder, pids = json.loads(held.stdout.readline())
    assert Path(folder).exists()
    assert len(pids) == 3
    assert all(map(runs, pids))
    held.kill()
    held.communicate()
    assert wait_until(lambda: not any(map(runs, pids)) and not Path(folder).exists(), HANG_S)


def runs(pid: int) -> bool:
    """Whether a process is there, and more than its entry in the system's table."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


class Clock:
    """A clock that moves when somebody sleeps, or works."""

    def __init__(self) -> None:
        self.time = 100.0

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def test_a_stall_delays_no_schedule() -> None:
    """After a stall the late commands come at once, and count from when they were due."""
    clock, schedule = Clock(), Schedule(101.0, 10)
    commands = pace(load.plain(8, 10, 1), schedule, lambda: clock.time, clock.sleep)
    taken = []
    for number, _ in enumerate(commands):
        taken.append((round(clock.time, 3), round(clock.time - schedule.due(number), 3)))
        if number == 2:
            clock.sleep(0.35)
    # when, and how late
    assert taken == [
        (101.0, 0.0),
        (101.1, 0.0),
        (101.2, 0.0),
        (101.55, 0.25),
        (101.55, 0.15),
        (101.55, 0.05),
        (101.6, 0.0),
        (101.7, 0.0),
    ]


@pytest.mark.parametrize(
    ("offset", "seen"),
    [(0, 2.0), (4, 2.0), (5, 3.0), (9, 3.0), (10, None)],
)
def test_a_command_is_visible_at_the_first_look_that_has_passed_it(offset: int, seen: float | None) -> None:
    """The next offset is the first that isn't folded."""
    looks = [Look(1.0, 0), Look(2.0, 5), Look(3.0, 10)]
    assert visible_at(looks, offset) == seen


def test_percentiles_are_of_the_nearest_rank() -> None:
    """No value is made up between two that were measured."""
    assert percentiles([number / 1e3 for number in range(200, 0, -1)]) == {
        "p50_ms": 100.0,
        "p90_ms": 180.0,
        "p99_ms": 198.0,
        "max_ms": 200.0,
    }
    assert percentiles([0.007]) == {"p50_ms": 7.0, "p90_ms": 7.0, "p99_ms": 7.0, "max_ms": 7.0}
    assert percentiles([]) == {}


def test_the_same_seed_draws_the_same_commands() -> None:
    """Four spends for each grant, whoever asks."""
    first = list(load.plain(5_000, 100, 7))
    assert first == list(load.plain(5_000, 100, 7))
    assert 0.77 < sum(command.type == "spend" for command in first) / 5_000 < 0.83
    assert first[:10] == list(islice(load.plain(50, 100, 7), 10))
    assert first[:10] != list(load.plain(10, 100, 8))


@pytest.mark.parametrize(
    ("places", "stage"),
    [
        # innermost function first
        ("creditfold.ledger.decide:decide creditfold.processors.fold.chunk:fold", "decide"),
        ("enum:property.__get__ creditfold.ledger.decide:decide", "decide"),
        (
            "fastavro.read:read creditfold.schemas.wire:decode creditfold.processors.fold.chunk:read_one",
            "decode and check",
        ),
        ("creditfold.processors.fold.chunk:_Fold.add creditfold.processors.fold.transaction:fold_chunk", "decide"),
        ("creditfold.projections.store.chain:extend creditfold.projections.store.transaction:write", "lines and chain"),
        ("psycopg.copy:write creditfold.projections.store.transaction:_copy", "psycopg"),
        ("aiokafka.codec:zstd_decode asyncio.events:run", "Kafka and Faust"),
        ("creditfold.schemas.wire:<module> importlib._bootstrap:_load", "start-up"),
        ("threading:wait", "other"),
    ],
)
def test_time_counts_towards_the_innermost_stage(places: str, stage: str) -> None:
    """What a stage calls is its own, unless that is another stage."""
    assert stage_of([Place(*place.split(":")) for place in places.split()]) == stage


def test_a_goal_is_met_by_its_figure_alone() -> None:
    """What wasn't measured isn't met."""
    least, most = report.Goal("rate", ("a", "b"), 1.25), report.Goal("time", ("a", "b"), 50, " ms", at_most=True)
    assert least.row({"a": {"b": 1.25}}) == ("rate", "at least 1.25", "1.25", "met")
    assert least.row({"a": {"b": 1.24}})[3] == "**not met**"
    assert least.row({"a": {}})[2:] == ("", "not measured")
    assert most.row({"a": {"b": 50.1}})[2:] == ("50.1 ms", "**not met**")


def test_only_blocks_of_figures_are_written_anew() -> None:
    """Prose stays, an unknown block is an error, and doing it again changes nothing."""
    text = "Before.\n\n<!-- figures: hot -->\nold\n<!-- end -->\n\nAfter.\n"
    results = {"hot": {"runs": {"uniform": {"per_s_by_1_workers": 20_000}}}}
    filled = report.fill(text, results)
    assert "| one worker | 20,000 |" in filled
    assert "old" not in filled
    assert filled.startswith("Before.\n\n<!-- figures: hot -->\n")
    assert filled.endswith("<!-- end -->\n\nAfter.\n")
    assert report.fill(filled, results) == filled
    with pytest.raises(KeyError):
        report.fill(text.replace("hot", "cold"), results)


def test_the_documents_can_be_written_before_anything_was_measured() -> None:
    """A missing result leaves gaps, and says so in the goals."""
    for name in report.DOCS:
        text = (ROOT / "docs" / name).read_text("utf-8")
        assert report.fill(text, {}) != ""
    assert report.goals({}).count("not measured") == len(report.GOALS)


def test_what_is_extrapolated_is_called_so() -> None:
    """Ten times the rows cost as much more as they did before; where nothing was measured, nothing is reported."""
    costs = zip((1_000_000, 5_000_000, 10_000_000), (8.0, 9.0, 10.0), strict=True)
    tenths = [{"journal_rows": rows, "fold_per_s": 100, "postgres_cpu_us_per_command": cost} for rows, cost in costs]
    lines = report.journal({"scale": {"long": {"by_tenth": tenths}}}).splitlines()
    assert lines[2] == "| 1,000,000 | measured | 100 | 8.0 |"
    assert lines[-2:] == ["| 10,000,000 | measured | 100 | 10.0 |", "| 100,000,000 | extrapolated |  | 12.0 |"]
    assert report.journal({"scale": {"long": {}}}) == "Not measured.\n"


def test_the_middle_round_counts() -> None:
    """Neither the best nor the worst, in whatever order they came; of two, the lesser."""
    rounds = [{"ratio": 2.0}, {"ratio": 0.5}, {"ratio": 1.0}]
    assert middle(rounds, "ratio") == {"ratio": 1.0}
    assert middle(rounds[:2], "ratio") == {"ratio": 0.5}


def test_ratios_are_of_the_same_round() -> None:
    """A machine that was slow for one round was so for both."""
    rounds = [
        {"work": {"per_s": 90.0}, "base": {"per_s": 100.0}},
        {"work": {"per_s": 50.0}, "base": {"per_s": 40.0}},
        {"work": {"per_s": 30.0}, "base": {"per_s": 30.0}},
    ]
    assert check.ratios(rounds) == {"per_s": {"min": 0.9, "median": 1.0, "max": 1.25}}


def test_the_other_revision_is_run_by_its_own_code(tmp_path: Path) -> None:
    """A checkout's rooms come before those that are installed."""
    tree = tmp_path / "tree"
    subprocess.run(["git", "clone", "--quiet", ROOT, tree], check=True)
    assert check.code_of(tree) == {"PYTHONPATH": str(tree / ".link"), "CREDITFOLD_CORE": "plain"}


@pytest.mark.stack
def test_the_baseline_decides_each_operation_once(servers: Settings) -> None:
    """In batches as one at a time; no account goes below nothing, and a repeated id changes nothing."""
    with database(servers, "bench_test") as dsn:
        baseline.prepare(dsn, 2)

        async def decide() -> list[object]:
            async with baseline.calls(dsn, 1, 1) as (one,), baseline.calls(dsn, 1, 9) as (many,):
                return [
                    await one(["a"], [0], [-20]),
                    await one(["b"], [0], [-1]),
                    await one(["a"], [0], [-20]),
                    await many(["c", "d", "a", "e", "f"], [1, 0, 0, 1, 0], [-21, 5, -20, 7, -5]),
                    await one(["g"], [0], [-1]),
                    await one(["h"], [1], [-27]),
                ]

        assert asyncio.run(decide()) == [True, False, True, 3, False, True]


@pytest.mark.stack
@pytest.mark.usefixtures("forked")
def test_the_fold_is_measured_beside_the_baseline(servers: Settings) -> None:
    """Rates, ratios, bytes: nothing is missing that the report shows."""
    options = Namespace(commands=2_000, accounts=100, workers=1, seed=1)
    found = fold.compare(servers, load.PLAIN, options)
    results = {"fold": {"logs": {load.PLAIN: found}}}
    assert found["baseline_batched_per_s"] > 0
    assert found["postgres_to_needed"] > 1
    assert 0 < found["kafka_bytes_per_command"] < 2 * found["kafka_bytes_needed"]
    assert all(line.count("|  |") == 0 for line in report.disk(results).splitlines())


@pytest.mark.stack
def test_appending_is_measured_beside_the_fold(servers: Settings) -> None:
    """From this process and from each kind of file; what is appended is what is folded."""
    found = append.compare(servers, load.CREDITS, 2_000, 100, 1)
    assert found.keys() == report.WAYS.keys()
    assert all(one["per_s"] > 0 and one["cpu_us"] > 0 for way, one in found.items() if way != "fold")
    text = report.append({"append": {"logs": {load.CREDITS: append.summary([found])}}})
    assert all(f"| {load.CREDITS} | {what} |" in text for what in report.WAYS.values())


def test_a_file_holds_the_commands_that_are_appended(tmp_path: Path) -> None:
    """Each of them, whatever its kind, and the same in every format."""
    commands = list(load.credits_mix(2_000, 50, 3))
    assert {command.type for command in commands} >= {"grant", "spend", "hold", "capture", "release", "refund"}
    paths = append.write_files(tmp_path, load.CREDITS, 2_000, 50, 3)
    for name, path in paths.items():
        file_format: FileFormat = "csv" if name.startswith("csv") else "jsonl"
        with path.open("rb") as file:
            found, bad = read(file, file_format)
        assert not bad
        assert [_but_for_time(command) for command in found] == [_but_for_time(command) for command in commands]


def _but_for_time(command: Command) -> dict[str, object]:
    return command.model_dump(exclude={"expires_at", "deadline"})


@pytest.mark.stack
@pytest.mark.usefixtures("forked")
def test_latency_is_measured_for_every_command(servers: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was appended is seen, by ours and by the baseline, in accounts that were granted something first."""
    monkeypatch.setattr(latency, "PATIENCE_S", HANG_S)
    run = latency.Run(200, 1.0, 100, 3)
    with ledger(servers, "latency") as own, database(servers, "bench_test") as dsn:
        latency.grant_all(own, 100)
        with workers(own, 1):
            found = latency.ours(own, run, 0.0, 0.005)
            # It may be over long before its own time.
            counted = "SELECT 1 FROM ledger.journal WHERE command_id = '4-150'"
            short = latency.ours(own, run._replace(seconds=60.0, seed=4), 0.0, 0.005, lambda: query(own, counted) != [])
        first = query(own, "SELECT account_id, version FROM ledger.journal WHERE command_id LIKE 'first-%%'")
        baseline.prepare(dsn, 100)
        theirs = latency.theirs(dsn, run, 0.0)
    assert (found["commands"], found["not_seen"], theirs["commands"]) == (200, 0, 200)
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert 0 < short["commands"] < 200 * 60
    assert short["not_seen"] == 0
    assert sorted(first) == sorted((f"user-{number}", 1) for number in range(100))


@pytest.mark.stack
@pytest.mark.usefixtures("forked")
def test_requests_are_measured_from_when_they_are_due(servers: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its answer and its cost, and each line of many; what is reported says which goals are met."""
    monkeypatch.setattr(door, "WARM_UP_S", 0.5)
    monkeypatch.setattr(door, "RATES", {door.SPENDS: 20, door.READS: 40})
    with ledger(servers, "door") as own:
        latency.grant_all(own, 10)
        with workers(own, 1) as running, door.serving(own, running.cpu_s) as to:
            requests = {kind: door.timed(to, kind, 10, 1.0) for kind in door.RATES}
            bulk = door.bulk(to, 2_000, 10)
    assert [one["requests"] for one in requests.values()] == [20, 40]
    assert requests[door.SPENDS]["statuses"] == {"201": 30}
    assert requests[door.READS]["statuses"] == {"200": 60}
    assert all(0 < one["p50_ms"] <= one["p99_ms"] <= one["max_ms"] for one in requests.values())
    assert all(one["cpu_us_per_request"]["creditfold serve"] > 0 for one in requests.values())
    assert bulk["per_s"] > 0
    said = report.door({"door": {"requests": requests, "bulk": bulk}})
    assert said.count("not measured") == 2
    assert "2,000 lines in one request" in said


def test_a_request_that_waits_for_a_connection_is_late(tmp_path: Path) -> None:
    """Each is timed from when it was due: of two at once by one connection, the second has waited for the first."""
    code = """
import socket, threading
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
taken, _ = listening.accept()
for _ in range(2):
    taken.recv(4096)
    threading.Event().wait(0.2)
    taken.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        sent = door_load.send(url, [door_load.request("GET", "/", {})] * 2, 1_000_000.0, 1)
    assert sent.statuses == {200: 2}
    (_, first), (_, second) = sent.taken_s
    assert first >= 0.2
    assert second >= 0.4


@pytest.mark.stack
@pytest.mark.usefixtures("forked")
def test_growth_is_measured_with_accounts_that_are_there(servers: Settings) -> None:
    """Copied accounts are as good as folded ones: the fold spends from their lots."""
    options = Namespace(commands=500, accounts=[300], log=load.PLAIN)
    (found,) = scale.by_accounts(servers, options)
    assert found["accounts"] == 300
    assert found["cpu_us_per_command"].keys() >= {"workers"}


@pytest.mark.stack
@pytest.mark.usefixtures("forked")
def test_growth_is_measured_over_a_long_log(servers: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """To its end, in stretches that follow each other; a fold that outruns the looks has fewer."""
    half, first = 1_000, list[dict[str, float]]()

    def measured(own: Settings) -> dict[str, float]:
        # Something is left to fold at the first look at which something was folded, however fast it is.
        if not first:
            load.produce(own, load.PLAIN, half, 100_000, 1)
        first.append(servers_cpu_s(own))
        return first[-1]

    monkeypatch.setattr(scale, "produce", lambda own, log, _, *more: load.produce(own, log, half, *more))
    monkeypatch.setattr(scale, "servers_cpu_s", measured)
    found = scale.by_length(servers, Namespace(log=load.PLAIN, long=2 * half))
    rows = [one["journal_rows"] for one in found["by_tenth"]]
    assert rows
    assert rows == sorted(set(rows))
    assert all(half / 10 < one["journal_rows"] <= 2 * half + 16 for one in found["by_tenth"])
    assert found["most_mb"] > 1


@pytest.mark.stack
@pytest.mark.usefixtures("forked")
def test_a_rebuild_is_measured_behind_a_live_fold_of_its_log(servers: Settings) -> None:
    """The ratio is that of both rates, and the rebuild came to the same."""
    with ledger(servers, "pair") as own:
        load.produce(own, load.PLAIN, 2_000, 100, 1)
        found = rebuild.pair(own, 1)
    assert found["rebuild_per_s"] > 0
    assert found["live_per_s"] >= 0
    assert found["ratio"] == pytest.approx(found["rebuild_per_s"] / max(found["live_per_s"], 1), rel=0.01, abs=0.01)


@pytest.mark.stack
def test_spends_among_lots_are_measured(servers: Settings) -> None:
    """In memory and into PostgreSQL, with and without what a worker remembers."""
    assert lots.in_memory(3, 2, 10) > 0
    assert all(one > 0 for one in asyncio.run(lots.into_postgres(servers, 3, 2, 10)))


@pytest.mark.stack
def test_searches_and_what_they_cost_the_fold_are_measured(servers: Settings) -> None:
    """Each kind of search in a projection that has something for each, and a fold of commands that say an order."""
    with database(servers, "bench_test") as dsn:
        found = search.searched(dsn, 1_000, 4)
        assert found.keys() == search.kinds(1_000).keys()
        assert all(0 < row["half_ms"] <= row["p95_ms"] for row in found.values())
        with connected(dsn) as connection, snapshot(connection):
            asked = {name: make(random.Random(5)) for name, make in search.kinds(1_000).items()}
            empty = [name for name, one in asked.items() if not queries.search_accounts(connection, one).accounts]
        assert empty == []
    with database(servers, "bench_test") as dsn:
        log = list(search.records(100, 10, says=True))
        costs = asyncio.run(search.folded(dsn, log, ["order_id"]))
        assert costs["process_us"] > 0
        # The system counts it in hundredths of a second, of which so few commands may take none.
        assert costs["postgres_us"] >= 0
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT count(*) FROM ledger.metadata").fetchall() == [(100,)]


@pytest.mark.stack
@pytest.mark.usefixtures("forked")
def test_each_page_of_the_console_is_measured(servers: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has what it is to show: pages that are larger in a larger ledger are bounded here too."""
    for name in ("HOLDS", "TRANSFERS", "ASSETS", "NOISE", "ACCOUNTS"):
        monkeypatch.setattr(console_pages, name, 60)
    with ledger(servers, "test", searchable_metadata="order") as own:
        console_pages.make(own, 2_000)
        found = console_pages.measured(own, 1)
    assert all(0 < one.half_ms <= one.most_ms for one in found.values())
    assert [name for name, one in found.items() if one.bytes > console_pages.BOUND_BYTES] == []
    # Something is on each: the smallest is the form of the login.
    assert [name for name, one in found.items() if one.bytes < found["login"].bytes] == []
    slow = console_pages.Figures(1.0, 300.0, 400.0, 5)
    shown = {"rules": slow, "books: trial balance": slow, "books: trial balance, until it is there": slow}
    assert console_pages.beyond(shown) == ["rules", "books: trial balance"]


@pytest.mark.stack
def test_time_is_reported_by_stage(servers: Settings) -> None:
    """The stages are within what the process used, and hold most of it."""
    with database(servers, "bench_test") as dsn:
        # In a process of its own, whose main thread the timer may interrupt.
        script = (
            "import asyncio, json, sys; sys.path.insert(0, sys.argv[1]); import stages, load;"
            "print(json.dumps(asyncio.run(stages.alone(sys.argv[2], load.PLAIN, 10_000, 500, 1000))))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(ROOT / "benchmarks"), dsn], capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout)
    reported = sum(found["cpu_us_per_command"].values())
    # Of the processor's time, which others that have it meanwhile take nothing of.
    assert 0.5 * found["process_us_per_command"] < reported < 1.2 * found["process_us_per_command"]
    assert found["cpu_us_per_command"]["decide"] > 0


@pytest.mark.stack
def test_the_work_tree_is_folded_beside_a_revision(servers: Settings) -> None:
    """Here beside itself."""
    with ledger(servers, "check") as log:
        check.make_log(log, ROOT, load.PLAIN, 500, 100)
        found = check.fold(log, ROOT, 1)
    assert found["per_s"] >= 0
