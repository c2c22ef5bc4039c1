"""Somebody's transaction stays open in a topic: what waits behind it is counted, named and reported, until it ends."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Producer
from structlog.testing import capture_logs

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log import open_transactions as open_transactions_module
from creditfold.log.offsets import End, log_ends
from creditfold.log.open_transactions import LONG_OPEN_S, open_transactions
from creditfold.log.topics import describe_log
from creditfold.processors.worker import app as app_module
from creditfold.processors.worker.app import create_app
from creditfold.processors.worker.blockage import HeldBack
from helpers.support import HANG_S, Cli, WorkerProcess, append, lag, record, wait_until_folded, worker


@contextmanager
def open_transaction(settings: Settings, topic: str, partition: int, records: int = 1) -> Iterator[Producer]:
    """A shop's producer in the middle of its transaction, for the length of a block or until it commits."""
    producer = Producer(
        {**settings.kafka_client, "transactional.id": f"{topic}-shop", "transaction.timeout.ms": 600_000}
    )
    producer.init_transactions(HANG_S)
    producer.begin_transaction()
    for number in range(records):
        grant = record("Grant", f"in-{topic}-{number}", "ann", 1)
        producer.produce(topic, grant.value, grant.key, partition)
    assert producer.flush(HANG_S) == 0
    yield producer


def commit(producer: Producer) -> None:
    producer.commit_transaction(HANG_S)


def alerts(process: WorkerProcess, event: str) -> list[dict[str, Any]]:
    return [line for line in process.lines() if line["event"] == event]


def test_episodes_are_reported_once_each() -> None:
    """
    at s | partition 0   | partition 1   | to report | ended
    0    | open from 5   |               |           |
    late | open from 5   | open from 9   | 0         |
    late | open from 5   | committed     | nothing, as 1 was short and 0 is known
    late | open from 8   |               |           | 0, the first
    late | open from 8   |               | 0         |
    late | committed     |               |           | 0
    """
    episodes, late = HeldBack(), LONG_OPEN_S
    assert episodes.look({0: 5}, 0.0) == ([], {})
    assert episodes.look({0: 5, 1: 9}, late) == ([0], {})
    episodes.reported([0])
    assert episodes.look({0: 5}, late + 1) == ([], {})
    assert episodes.look({0: 8}, late + 2) == ([], {0: late + 2})
    assert episodes.look({0: 8}, 2 * late + 2) == ([0], {})
    # What couldn't be reported is due again.
    assert episodes.look({0: 8}, 2 * late + 3) == ([0], {})
    episodes.reported([0])
    assert episodes.look({}, 2 * late + 4) == ([], {0: late + 2})


def test_both_ends_of_a_partition(ledger_settings: Settings) -> None:
    """The very end has what is in an open transaction and behind it; they are one again after the commit."""
    topic = ledger_settings.commands_topic
    append(ledger_settings, [record("Grant", "before", "ann", 1)._replace(partition=2)])
    with open_transaction(ledger_settings, topic, 2, records=3) as producer:
        append(ledger_settings, [record("Grant", "behind", "ann", 1)._replace(partition=2)])
        assert log_ends(ledger_settings, topic, range(4)) == {0: End(0, 0), 1: End(0, 0), 2: End(1, 5), 3: End(0, 0)}
        (one,) = open_transactions(ledger_settings, topic, range(4))
        assert (one.topic, one.partition, one.start, one.waiting) == (topic, 2, 1, 4)
        assert one.since_ms is not None
        assert one.open_s(one.since_ms + 2_500) == 2.5
        assert one.description(one.since_ms + 2_000) == "partition 2 from offset 1 on for 2 s (4 records wait)"
        commit(producer)
    assert wait_until(lambda: log_ends(ledger_settings, topic, [2]) == {2: End(6, 6)}, HANG_S)
    assert open_transactions(ledger_settings, topic, range(4)) == []


def test_everyone_reports_what_waits(
    cli: Cli, ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's log, once, and again at the end; `status` and its check, `doctor` and `archive`."""
    topic = ledger_settings.commands_topic
    monkeypatch.setattr(open_transactions_module, "LONG_OPEN_S", 0.0)
    soon = ("processors.worker.blockage.LONG_OPEN_S=0.1", "processors.worker.app.REPORT_EVERY_S=0.5")
    with worker(ledger_settings, tmp_path, constants=soon) as process:
        append(ledger_settings, [record("Grant", "before", "ann", 1)])
        wait_until_folded(ledger_settings)
        partition = next(p for p, end in log_ends(ledger_settings, topic, range(4)).items() if end.high)
        with open_transaction(ledger_settings, topic, partition) as producer:
            append(ledger_settings, [record("Grant", "behind", "ann", 1)])
            held = "an open transaction holds a partition back"
            assert wait_until(lambda: process.said(held), HANG_S), process.text()[-2000:]
            (alert,) = alerts(process, held)
            assert (alert["partition"], alert["offset"]) == (partition, 1)
            # The worker may have looked before the second one came.
            assert alert["waiting"] in (1, 2)
            assert f"abort --topic {topic} --partition {partition} --start-offset 1" in alert["remedy"]

            done = cli("status", "--check", "--interval", "0.1", "--json")
            assert done.code == 1
            assert (done.json["totals"]["lag"], done.json["totals"]["held"]) == (2, 2)
            assert [one["waiting"] for one in done.json["open_transactions"]] == [2]
            problem = json.loads(done.err)
            assert f"partition {partition} from offset 1 on" in problem["error"]
            assert "(2 records wait)" in problem["error"]
            assert "kafka-transactions.sh" in problem["try"]
            assert f"Open transaction: {topic} partition {partition} " in cli("status", "--interval", "0.1").out

            checks = {(row["subject"], row["name"]): row for row in cli("doctor", "--json").json["checks"]}
            assert checks[topic, "open transactions"]["state"] == "danger"
            assert checks[ledger_settings.outcomes_topic, "open transactions"]["state"] == "ok"

            archived = cli("archive", str(tmp_path / "archive"))
            assert archived.code == 0
            assert f"2 records at the end of partition {partition} are behind a transaction" in archived.err
            commit(producer)
        assert wait_until(lambda: process.said("the open transaction has ended"), HANG_S), process.text()[-2000:]
        assert len(alerts(process, held)) == 1
        wait_until_folded(ledger_settings)
    assert lag(ledger_settings) == 0
    assert cli("status", "--json", "--interval", "0.1").json["open_transactions"] == []


async def test_what_was_met_long_ago_is_no_alert(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition isn't fetched while its lane has enough to do: a transaction that it met may have ended since."""
    topic = ledger_settings.commands_topic
    append(ledger_settings, [record("Grant", "before", "ann", 1)])
    partition = next(p for p, end in log_ends(ledger_settings, topic, range(4)).items() if end.high)
    app = create_app(ledger_settings, describe_log(ledger_settings))
    monkeypatch.setattr(app.consumer, "held_back", lambda: {partition: End(1, 2)})
    monkeypatch.setattr(app_module, "time", SimpleNamespace(monotonic=itertools.count(0, LONG_OPEN_S).__next__))
    with open_transaction(ledger_settings, topic, partition) as producer:
        commit(producer)
    # A broker shows a transaction as open for a moment after it has confirmed its end.
    assert wait_until(lambda: not open_transactions(ledger_settings, topic, [partition]), HANG_S)
    with capture_logs() as logs:
        await app.report_held_back()
        await app.report_held_back()
    assert logs == []


def test_a_topic_of_outcomes_is_looked_at_too(cli: Cli, ledger_settings: Settings) -> None:
    """Followers wait behind it as the fold does."""
    topic = ledger_settings.outcomes_topic
    with open_transaction(ledger_settings, topic, 3) as producer:
        found = cli("status", "--json", "--interval", "0.1").json["open_transactions"]
        assert [(one["topic"], one["partition"], one["waiting"]) for one in found] == [(topic, 3, 1)]
        commit(producer)
