"""What monitoring is given: metrics that a real Prometheus scrapes, alert rules that promtool tries, a dashboard."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.processors import ledger_metrics
from creditfold.processors.rebuild.steps import Request, rebuild
from helpers.documents import Runner, Walk
from helpers.doors import serving
from helpers.pages import DOCS
from helpers.stack_under_test import free_port
from helpers.support import (
    HANG_S,
    ROOT,
    Quiet,
    Raw,
    WorkerProcess,
    append,
    publisher,
    ran,
    record,
    wait_until_folded,
    worker,
)

DEPLOY = ROOT / "deploy"
#: What the alert rules are tried by.
ALERT_TESTS = sorted((DEPLOY / "prometheus").glob("alerts*.test.yml"))
#: The processes that show metrics, in the order in which the drill gives them addresses.
METERED = ("worker", "publisher", "delivery", "api")
NAME = re.compile(r"\bcreditfold_[a-z_]+")
#: What Prometheus adds to the name of a histogram.
PARTS = re.compile(r"_(bucket|sum|count)$")


def program(name: str) -> str:
    """A program of Debian's package `prometheus`."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here: `apt-get install prometheus`, or the archive of prometheus.io, has it")
    return found


def named(text: str) -> set[str]:
    return {PARTS.sub("", name) for name in NAME.findall(text)}


def operating() -> str:
    """The document."""
    (found,) = (one for one in DOCS if one.name == "operating.md")
    return found.read_text("utf-8")


def documented() -> set[str]:
    """The metrics in the tables of docs/operating.md."""
    return set(re.findall(r"^\| `(creditfold_[a-z_]+)`", operating(), re.MULTILINE))


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DEPLOY / "grafana/creditfold.json").read_text("utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def test_alerts_come_and_go_as_they_should() -> None:
    """As promtool runs them, with series of hours in a second."""
    done = ran(program("promtool"), "test", "rules", *ALERT_TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tried_and_documented() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    tried = [test for file in ALERT_TESTS for test in yaml.safe_load(file.read_text("utf-8"))["tests"]]
    names = {rule["alert"] for rule in rules}
    cases = [case for test in tried for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert set(re.findall(r"^\| `(Creditfold\w+)`", operating(), re.MULTILINE)) == names


def test_what_is_asked_for_is_shown() -> None:
    """The dashboard and the rules name no metric that there isn't."""
    asked = named(json.dumps(panels())) | named((DEPLOY / "prometheus/alerts.yml").read_text("utf-8"))
    assert asked - documented() == set()


def test_the_dashboard_s_questions_can_be_asked(tmp_path: Path) -> None:
    """Each as a rule, which promtool reads; what Grafana puts in is put in."""
    questions = [target["expr"] for panel in panels() for target in panel["targets"]]
    assert len(questions) > 20
    rules = [
        {"record": f"question_{number}", "expr": text.replace("$__rate_interval", "1m")}
        for number, text in enumerate(questions)
    ]
    file = tmp_path / "questions.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), "utf-8")
    done = ran(program("promtool"), "check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_whole() -> None:
    found = panels()
    assert len({panel["id"] for panel in found}) == len(found)
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in found)
    places = [panel["gridPos"] for panel in found]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({(place["x"], place["y"]) for place in places}) == len(places)


class Prometheus:
    """A Prometheus that is running."""

    def __init__(self, port: int) -> None:
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S, trust_env=False)

    def is_ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait(self, question: str, *values: float) -> None:
        """Wait until a question has these values.

        One answer says nothing: a scrape that a busy machine doesn't answer in time takes a metric away until the next.
        """
        assert wait_until(lambda: self._values(question) == list(values), HANG_S), (question, self._values(question))

    def _values(self, question: str) -> list[float]:
        answer = self._http.get("/api/v1/query", params={"query": question}).json()
        assert answer["status"] == "success", answer
        return [float(one["value"][1]) for one in answer["data"]["result"]]

    def names(self) -> set[str]:
        return {PARTS.sub("", name) for name in self._http.get("/api/v1/label/__name__/values").json()["data"]}

    def faults(self) -> list[str]:
        """What is the matter with rules."""
        groups = self._http.get("/api/v1/rules").json()["data"]["groups"]
        return [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")]

    def close(self) -> None:
        self._http.close()


class Drill:
    """The drill, on a ledger whose processes are the test's own, with a Prometheus that needn't be waited for."""

    def __init__(self, settings: Settings, folder: Path, running: ExitStack) -> None:
        self.settings = settings
        self.port = free_port()
        self._folder = folder
        self._running = running
        self._worker: WorkerProcess | None = None
        addresses = [getattr(settings, f"{name}_metrics_address") for name in METERED]
        # A test doesn't wait for minutes; promtool does.
        rules = re.sub(r"for: \w+", "for: 1s", (DEPLOY / "prometheus/alerts.yml").read_text("utf-8"))
        (folder / "alerts.yml").write_text(rules.replace("[2m]", "[3s]"), "utf-8")
        places = {
            **{f"127.0.0.1:{29081 + number}": str(address) for number, address in enumerate(addresses)},
            "127.0.0.1:9090": f"127.0.0.1:{self.port}",
            "deploy/prometheus/alerts.yml": "alerts.yml",
            "interval: 5s": "interval: 1s",
        }
        runner = Runner(settings, folder, start=self._start, places=places)
        self.walk = Walk(runner, ROOT / "docs" / "runbooks" / "drill.md")

    def _start(self, words: Sequence[str]) -> None:
        """Start what a command starts: Prometheus, or those processes of the ledger that don't run."""
        if words[0] == "prometheus":
            self._running.enter_context(_prometheus(self._folder, [program(words[0]), *words[1:]]))
            return
        assert words == ["creditfold", "up", "--worker"]
        if self._worker is None:
            self._running.enter_context(publisher(self.settings, self._folder))
            self._running.enter_context(worker(self.settings, self._folder, "delivery", command="delivery"))
            self._running.enter_context(serving(self.settings))
            self._worker = self._running.enter_context(worker(self.settings, self._folder))
        else:
            # The drill has killed it.
            assert self._worker.process.wait(HANG_S) != 0
            self._worker.restart()


@contextmanager
def _prometheus(folder: Path, command: Sequence[str]) -> Iterator[None]:
    with (folder / "prometheus.log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        yield
    finally:
        running.terminate()
        running.wait()


class StoppedError(Exception):
    """A rebuild was stopped, as by Ctrl-C."""


class StopsBeforeItsIndexes(Quiet):
    """Stops a rebuild that has folded everything."""

    def begin(self, step: str, done: int, total: int) -> None:
        if step == "Making indexes":
            raise StoppedError


def test_the_drill_and_what_prometheus_sees_of_it(
    ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all four processes. A killed worker leaves records that wait, until another one folds them."""
    program("prometheus")
    monkeypatch.setattr(ledger_metrics, "FRESH_S", 0.0)
    monkeypatch.setattr(ledger_metrics, "SUMS_EVERY_S", 0.0)
    at = {f"{name}_metrics_address": f"127.0.0.1:{free_port()}" for name in METERED}
    settings = ledger_settings.model_copy(update=at)
    with ExitStack() as running:
        drill = Drill(settings, tmp_path, running)
        seen = Prometheus(drill.port)
        running.callback(seen.close)
        drill.walk.part("Start a ledger that shows its metrics", until=True)
        grants = [record("Grant", f"g-{number}", f"user-{number}", 7) for number in range(20)]
        spends = [record("Spend", f"s-{number}", f"user-{number}", 5 + 3 * (number % 2)) for number in range(20)]
        append(settings, [*grants, *grants[:3], *spends, Raw(b"?", b"?", partition=0)])
        drill.walk.part("Have Prometheus scrape it")
        assert wait_until(seen.is_ready, HANG_S), (tmp_path / "prometheus.log").read_text("utf-8")[-2000:]
        wait_until_folded(settings)
        drill.walk.part("It scrapes when", until=True)
        seen.wait("sum(creditfold_fold_records_total)", 45)
        seen.wait("sum(creditfold_publisher_outcomes_total)", 41)
        decided = 'sum(creditfold_fold_decisions_total{kind="spend", outcome="rejected"})'
        seen.wait(decided, 10)
        seen.wait('creditfold_fold_dead_letters_total{reason="key_mismatch"}', 0)
        seen.wait("sum(creditfold_fold_dead_letters_total)", 1)
        seen.wait("creditfold_fold_duplicates_total", 3)
        seen.wait("creditfold_fold_visible_latency_seconds_count", 45)
        seen.wait("sum(creditfold_fold_lag_records)", 0)
        seen.wait("sum(creditfold_fold_next_offset)", 45)
        seen.wait("max(creditfold_fold_lag_seconds)", 0)
        seen.wait("creditfold_credits_outstanding", 590)
        seen.wait("max(abs(creditfold_trial_balance_difference))", 0)
        seen.wait("creditfold_ledger_server_up", 1, 1)
        # A series of each is there, but of what can't have happened.
        assert {name for name in seen.names() if name.startswith("creditfold_")} <= documented()
        parts = ("creditfold_fold", "creditfold_publisher", "creditfold_delivery")
        ours = {name for name in documented() if name.startswith(parts)}
        assert wait_until(lambda: ours <= seen.names(), HANG_S), ours - seen.names()
        seen.wait('ALERTS{alertname="CreditfoldFoldStandsStill"}')
        drill.walk.part("Make the alert fire")
        seen.wait("sum(creditfold_fold_lag_records)", 1)
        drill.walk.part("It fires when", until=True)
        seen.wait("max(creditfold_fold_lag_seconds) > bool 0", 1)
        drill.walk.part("Have it clear")
        wait_until_folded(settings)
        drill.walk.part("It has cleared when", until=True)
        drill.walk.end()
        with pytest.raises(StoppedError):
            rebuild(settings, Request(), StopsBeforeItsIndexes())
        append(settings, [record("Grant", "later", "user-1", 1)])
        seen.wait('creditfold_rebuild_lag_records{generation="2", purpose="rebuild"}', 1)
        seen.wait('sum(creditfold_rebuild_next_offset{generation="2"})', 46)
        rebuild(settings, Request(resume=2), Quiet())
        seen.wait("sum(creditfold_ledger_server_up) unless on() creditfold_rebuild_lag_records", 2)
        seen.wait("sum(creditfold_ledger_server_up) unless on() creditfold_rebuild_next_offset", 2)
        assert seen.faults() == []
