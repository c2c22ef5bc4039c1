"""What a worker counts and measures, and how Prometheus is shown it."""

import socket
import time
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from creditfold.processors.exposition import MetricsAddressError, exposed
from creditfold.processors.worker.meter import LATENCY_BUCKETS, Distribution, Meter
from creditfold.projections.store.results import Tally
from helpers.stack_under_test import free_port
from helpers.support import HANG_S

NOW_MS = 1_800_000_000_000


def samples(collector: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    registry = CollectorRegistry()
    registry.register(collector)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def read_at(time_ms: int) -> Any:
    return SimpleNamespace(timestamp=time_ms, offset=0), None


@given(st.lists(st.integers(0, 4_000_000), max_size=60))
def test_ages_are_counted_as_one_by_one(ages_ms: list[int]) -> None:
    """Many at once, by looking for the bounds among them, as if each were looked for among the bounds."""
    together, alone = Distribution(LATENCY_BUCKETS), Distribution(LATENCY_BUCKETS)
    together.add_ages(sorted(NOW_MS - age for age in ages_ms), NOW_MS)
    for age in ages_ms:
        alone.add(age / 1000)
    expected, found = alone.family("x", ""), together.family("x", "")
    assert [sample[:3] for sample in found.samples[:-1]] == [sample[:3] for sample in expected.samples[:-1]]
    assert found.samples[-1].value == pytest.approx(expected.samples[-1].value)
    assert found.samples[-2].value == len(ages_ms)


def test_a_bound_belongs_to_its_bucket() -> None:
    found = Distribution((1, 10))
    for value in (0.5, 1, 1.5, 10, 11):
        found.add(value)
    buckets = {sample.labels["le"]: sample.value for sample in found.family("x", "").samples if "le" in sample.labels}
    assert buckets == {"1.0": 2, "10.0": 4, "+Inf": 5}


def test_transactions_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: NOW_MS * 1_000_000)
    meter, tally = Meter(), Tally()
    tally.decisions.update({("grant", ""): 2, ("spend", "insufficient_credits"): 1})
    tally.dead_letters["invalid_command"] += 1
    tally.duplicates, tally.ticks, meter.claims = 3, 4, 5
    meter.count([read_at(NOW_MS - 20), read_at(NOW_MS - 30_000), read_at(NOW_MS + 500)], tally)
    meter.count([read_at(NOW_MS - 7_000_000)], tally)
    with meter.stage("fold"):
        pass
    found = samples(meter)
    prefix = "creditfold_fold"
    accepted = (("kind", "grant"), ("outcome", "accepted"), ("reason", ""))
    refused = (("kind", "spend"), ("outcome", "rejected"), ("reason", "insufficient_credits"))
    assert found[f"{prefix}_decisions_total", accepted] == 4
    assert found[f"{prefix}_decisions_total", refused] == 2
    assert found[f"{prefix}_dead_letters_total", (("reason", "invalid_command"),)] == 2
    assert [found[f"{prefix}_{name}_total", ()] for name in ("duplicates", "ticks", "claims", "records")] == [
        6,
        8,
        5,
        4,
    ]
    assert found[f"{prefix}_chunk_records_count", ()] == 2
    latency = f"{prefix}_visible_latency_seconds"
    by_bound = {labels[0][1]: value for (name, labels), value in found.items() if name == f"{latency}_bucket"}
    # The record that is ahead of this clock is no older than none.
    assert (by_bound["0.005"], by_bound["0.025"], by_bound["30.0"], by_bound["3600.0"], by_bound["+Inf"]) == (
        *(1, 2, 3, 3),
        4,
    )
    assert found[f"{latency}_sum", ()] == pytest.approx(7_030.02)
    assert found[f"{prefix}_stage_seconds_total", (("stage", "fold"),)] > 0


def test_metrics_are_shown_at_their_address() -> None:
    address = ("127.0.0.1", free_port())
    name = "worker_metrics_address"
    with socket.create_server(address), pytest.raises(MetricsAddressError) as caught, exposed([Meter()], address, name):
        pass
    assert "CREDITFOLD_WORKER_METRICS_ADDRESS to another address" in caught.value.remedy
    url = f"http://127.0.0.1:{address[1]}/metrics"
    with exposed([Meter()], address, name), urlopen(url, timeout=HANG_S) as answer:
        families = {family.name for family in text_string_to_metric_families(answer.read().decode())}
    assert {"creditfold_fold_records", "process_resident_memory_bytes"} <= families
    with socket.socket() as probe:
        assert probe.connect_ex(address) != 0
    with exposed([Meter()], None, name):
        pass
