"""What monitoring is given: metrics that a real Prometheus scrapes, alert rules that promtool tries, a dashboard."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.processors import ledger_metrics
from creditfold.processors.startup import prepare_ledger
from helpers.doors import serving
from helpers.pages import DOCS
from helpers.stack_under_test import free_port
from helpers.support import HANG_S, ROOT, Raw, append, publisher, ran, record, wait_until_folded, worker

DEPLOY = ROOT / "deploy"
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
    done = ran(program("promtool"), "test", "rules", str(DEPLOY / "prometheus/alerts.test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tried_and_documented() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    tried = yaml.safe_load((DEPLOY / "prometheus/alerts.test.yml").read_text("utf-8"))["tests"]
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

    def ask(self, question: str) -> list[float]:
        """The values that a question has now."""
        answer = self._http.get("/api/v1/query", params={"query": question}).json()
        assert answer["status"] == "success", answer
        return [float(one["value"][1]) for one in answer["data"]["result"]]

    def wait(self, question: str, *values: float) -> None:
        """Wait until a question has these values."""
        assert wait_until(lambda: self.ask(question) == list(values), HANG_S), (question, self.ask(question))

    def names(self) -> set[str]:
        return {PARTS.sub("", name) for name in self._http.get("/api/v1/label/__name__/values").json()["data"]}

    def faults(self) -> list[str]:
        """What is the matter with rules."""
        groups = self._http.get("/api/v1/rules").json()["data"]["groups"]
        return [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")]

    def close(self) -> None:
        self._http.close()


@contextmanager
def prometheus(folder: Path, targets: list[str]) -> Iterator[Prometheus]:
    """Prometheus with the configuration of docker-compose.yml, but for where and how often it looks."""
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
    # A test doesn't wait for minutes; promtool does.
    rules = re.sub(r"for: \w+", "for: 1s", (DEPLOY / "prometheus/alerts.yml").read_text("utf-8"))
    (folder / "alerts.yml").write_text(rules.replace("[2m]", "[3s]"), "utf-8")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    port = free_port()
    options = ["--config.file", str(folder / "prometheus.yml"), "--storage.tsdb.path", str(folder / "tsdb")]
    with (folder / "prometheus.log").open("wb") as log:
        command = [program("prometheus"), *options, "--web.listen-address", f"127.0.0.1:{port}"]
        running = subprocess.Popen(command, stdout=log, stderr=log)
    found = Prometheus(port)
    try:
        assert wait_until(found.is_ready, HANG_S), (folder / "prometheus.log").read_text("utf-8")[-2000:]
        yield found
    finally:
        found.close()
        running.terminate()
        running.wait()


def test_prometheus_scrapes_all_and_an_alert_comes_and_goes(
    ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all four processes. A killed worker leaves records that wait, until another one folds them."""
    monkeypatch.setattr(ledger_metrics, "FRESH_S", 0.0)
    monkeypatch.setattr(ledger_metrics, "SUMS_EVERY_S", 0.0)
    processes = ("worker", "publisher", "api", "delivery")
    at = {f"{name}_metrics_address": f"127.0.0.1:{free_port()}" for name in processes}
    settings = ledger_settings.model_copy(update=at)
    prepare_ledger(settings)
    grants = [record("Grant", f"g-{number}", f"user-{number}", 7) for number in range(20)]
    spends = [record("Spend", f"s-{number}", f"user-{number}", 5 + 3 * (number % 2)) for number in range(20)]
    append(settings, [*grants, *grants[:3], *spends, Raw(b"?", b"?", partition=0)])
    with (
        publisher(settings, tmp_path),
        worker(settings, tmp_path, "delivery", command="delivery"),
        serving(settings),
        worker(settings, tmp_path) as first,
        prometheus(tmp_path, list(at.values())) as seen,
    ):
        wait_until_folded(settings)
        seen.wait("count(up == 1)", 4)
        seen.wait("sum(creditfold_fold_records_total)", 44)
        seen.wait("sum(creditfold_publisher_outcomes_total)", 40)
        decided = 'sum(creditfold_fold_decisions_total{kind="spend", outcome="rejected"})'
        assert seen.ask(decided) == [10]
        assert seen.ask('creditfold_fold_dead_letters_total{reason="key_mismatch"}') == [0]
        assert seen.ask("sum(creditfold_fold_dead_letters_total)") == [1]
        assert seen.ask("creditfold_fold_duplicates_total") == [3]
        assert seen.ask("creditfold_fold_visible_latency_seconds_count") == [44]
        seen.wait("sum(creditfold_fold_lag_records)", 0)
        seen.wait("sum(creditfold_fold_next_offset)", 44)
        assert seen.ask("max(creditfold_fold_lag_seconds)") == [0]
        seen.wait("creditfold_credits_outstanding", 90)
        assert seen.ask("max(abs(creditfold_trial_balance_difference))") == [0]
        assert seen.ask("creditfold_ledger_server_up") == [1, 1]
        # A series of each is there, but of what can't have happened.
        assert {name for name in seen.names() if name.startswith("creditfold_")} <= documented()
        parts = ("creditfold_fold", "creditfold_publisher", "creditfold_delivery")
        assert {name for name in documented() if name.startswith(parts)} <= seen.names()
        assert seen.ask('ALERTS{alertname="CreditfoldFoldStandsStill"}') == []
        first.kill()
        append(settings, [record("Grant", "late", "user-1", 1)])
        seen.wait("sum(creditfold_fold_lag_records)", 1)
        seen.wait('ALERTS{alertname="CreditfoldFoldStandsStill", alertstate="firing"}', 1)
        assert min(seen.ask("max(creditfold_fold_lag_seconds)")) > 0
        with worker(settings, tmp_path, "second"):
            wait_until_folded(settings)
            seen.wait('ALERTS{alertname="CreditfoldFoldStandsStill"}')
        assert seen.faults() == []
