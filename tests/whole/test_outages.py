"""Outages on the real stack: the worker waits, says so, and goes on by itself; and it refuses to fold a wrong log."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState, TopicPartition
from confluent_kafka.admin import AdminClient

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.offsets import end_offsets
from creditfold.processors.status import UnhealthyError, check_machine
from helpers.holds import freeze, freeze_inside_a_transaction
from helpers.stack_under_test import StackUnderTest
from helpers.support import (
    HANG_S,
    ROOT,
    BriefWorker,
    WorkerProcess,
    all_progress,
    append,
    assert_equals_second_fold,
    fold_log,
    make_anew,
    query,
    record,
    wait_until_folded,
    worker,
)

pytestmark = pytest.mark.compiled_core


def grants(prefix: str, count: int = 500) -> list[Any]:
    return [record("Grant", f"{prefix}{n}", f"user-{n % 90}", 1) for n in range(count)]


def unready(settings: Settings) -> str:
    """Why this machine's worker isn't ready; empty if it is."""
    try:
        check_machine(settings, "worker", live=False)
    except UnhealthyError as error:
        return error.message
    return ""


def test_a_postgresql_outage_is_waited_out(stack: StackUnderTest, ledger_settings: Settings, tmp_path: Path) -> None:
    """Commands arrive while PostgreSQL is down; the worker says that it waits, and folds them when it is back."""
    with worker(ledger_settings, tmp_path) as process:
        append(ledger_settings, grants("before"))
        wait_until_folded(ledger_settings)
        stack.stop_postgres()
        try:
            append(ledger_settings, grants("during"))
            assert wait_until(lambda: process.said("PostgreSQL is away"), HANG_S), process.text()[-2000:]
            assert process.process.poll() is None
        finally:
            stack.start_postgres()
        wait_until_folded(ledger_settings)
        assert process.process.poll() is None
        # Waiting is no error: the log has no traceback for it.
        assert "Traceback" not in process.text()
        assert not [line for line in process.lines() if "exception" in line]
    assert_equals_second_fold(ledger_settings)


def test_a_kafka_outage_is_waited_out(stack: StackUnderTest, ledger_settings: Settings, tmp_path: Path) -> None:
    """The broker is away for longer than a session; the same worker goes on when it is back."""
    with worker(ledger_settings, tmp_path, kind=BriefWorker) as process:
        append(ledger_settings, grants("before"))
        wait_until_folded(ledger_settings)
        stack.stop_kafka()
        try:
            # It shows for whom it waits, and isn't to be restarted for it.
            assert wait_until(lambda: "it waits for Kafka" in unready(ledger_settings), HANG_S)
            check_machine(ledger_settings, "worker", live=True)
            time.sleep(BriefWorker.SESSION_S + 1)  # What is tested is an outage of more than that.
            assert process.process.poll() is None
        finally:
            stack.start_kafka()
        append(ledger_settings, grants("after"))
        wait_until_folded(ledger_settings)
        assert wait_until(lambda: unready(ledger_settings) == "", HANG_S), unready(ledger_settings)
        assert process.process.poll() is None
        # The libraries would say it a hundred times a second.
        assert len(process.lines()) < 200
    assert_equals_second_fold(ledger_settings)


@pytest.mark.parametrize("which", ["kafka", "postgres"])
def test_a_worker_started_during_an_outage_waits_too(
    stack: StackUnderTest, ledger_settings: Settings, tmp_path: Path, which: str
) -> None:
    """Whichever is away at the start."""
    append(ledger_settings, grants("before"))
    stop, start = (getattr(stack, f"{does}_{which}") for does in ("stop", "start"))
    stop()
    try:
        with worker(ledger_settings, tmp_path) as process:
            try:
                assert wait_until(lambda: process.said("waiting"), HANG_S), process.text()[-2000:]
            finally:
                start()
            wait_until_folded(ledger_settings)
    finally:
        start()
    assert_equals_second_fold(ledger_settings)


def test_sigterm_during_an_outage_stops_in_seconds(
    stack: StackUnderTest, ledger_settings: Settings, tmp_path: Path
) -> None:
    """A worker that waits can be asked to stop."""
    with worker(ledger_settings, tmp_path) as process:
        append(ledger_settings, grants("before"))
        wait_until_folded(ledger_settings)
        stack.stop_postgres()
        try:
            append(ledger_settings, grants("during"))
            assert wait_until(lambda: process.said("PostgreSQL is away"), HANG_S)
            assert process.stop() == 0
        finally:
            stack.start_postgres()


class Patient(WorkerProcess):
    """A worker whose session lasts longer than any test: half an hour, the most that a broker grants."""

    program = (
        str(ROOT / "tests" / "programs" / "with_constants.py"),
        "creditfold.processors.worker.app.SESSION_S=1800",
        "creditfold.processors.worker.app.ANSWER_S=1801",
    )


def test_sigterm_while_the_join_waits_stops_in_seconds(ledger_settings: Settings, tmp_path: Path) -> None:
    """Kafka lets nobody in before the frozen member's session has run out; who waits for that can be asked to stop."""
    with ExitStack() as running:
        frozen = Patient(ledger_settings, tmp_path, "frozen")
        running.callback(frozen.kill)
        assert wait_until(lambda: frozen.said("claimed"), HANG_S)
        freeze(frozen)
        # Not earlier: it would be let in at once.
        waiting = Patient(ledger_settings, tmp_path, "waiting")
        running.callback(waiting.kill)
        assert wait_until(lambda: joins(ledger_settings), HANG_S)
        assert waiting.stop() == 0


def joins(settings: Settings) -> bool:
    """Say whether a member waits for the others to join."""
    admin = AdminClient(settings.kafka_client)
    found = admin.describe_consumer_groups([settings.group])[settings.group].result(HANG_S)
    return bool(found.state == ConsumerGroupState.PREPARING_REBALANCING)


def test_a_worker_frozen_inside_a_transaction_does_not_hold_up_its_successor(
    ledger_settings: Settings, tmp_path: Path
) -> None:
    """The zombie never wakes; PostgreSQL ends its transaction, and the other worker folds on."""
    settings = ledger_settings.model_copy(update={"chunk_records": 300})
    with worker(settings, tmp_path, "zombie") as zombie:
        append(settings, grants("before"))
        wait_until_folded(settings)
        freeze_inside_a_transaction(settings, zombie, grants("frozen", 3_000))
        with worker(settings, tmp_path, "successor") as successor:
            wait_until_folded(settings)
            assert successor.stop() == 0
        # It wakes after all, writes nothing, and can go on.
        zombie.send(signal.SIGCONT)
        append(settings, grants("woken"))
        wait_until_folded(settings)
    assert_equals_second_fold(settings)


def test_a_topic_made_anew_is_refused(ledger_settings: Settings, tmp_path: Path) -> None:
    """Deleted and made again under the same name it is another log, which must not be folded into the old state."""
    append(ledger_settings, grants("before"))
    fold_log(ledger_settings)
    make_anew(ledger_settings)
    append(ledger_settings, grants("anew"))
    again = WorkerProcess(ledger_settings, tmp_path, "again")
    assert again.process.wait(HANG_S) == 1
    assert "Folding on would give wrong balances" in again.text()
    assert query(ledger_settings, "SELECT sum(available) FROM ledger.balances") == [(500,)]


def test_a_topic_made_anew_under_a_running_worker_is_refused(ledger_settings: Settings, tmp_path: Path) -> None:
    """Kafka gives the new topic's records under the old name without a word; the worker asks, and stops."""
    append(ledger_settings, grants("before"))
    running = WorkerProcess(ledger_settings, tmp_path, "running")
    try:
        wait_until_folded(ledger_settings)
        make_anew(ledger_settings)
        append(ledger_settings, grants("anew", 2_000))
        assert running.process.wait(HANG_S) == 1
        assert "Folding on would give wrong balances" in running.text()
    finally:
        running.kill()
    assert query(ledger_settings, "SELECT sum(available) FROM ledger.balances") == [(500,)]


def test_a_truncated_log_is_refused(ledger_settings: Settings, tmp_path: Path) -> None:
    """Records deleted before they were folded are a loss: the worker names the offsets, and folds what isn't hit."""
    append(ledger_settings, grants("before"))
    fold_log(ledger_settings)
    append(ledger_settings, grants("deleted"))
    append(ledger_settings, grants("kept"))
    fold_end = {row.log_partition: row.next_offset for row in all_progress(ledger_settings)}
    cut = TopicPartition(ledger_settings.commands_topic, 0, fold_end[0] + 5)
    admin = AdminClient(ledger_settings.kafka_client)
    admin.delete_records([cut])[cut].result(HANG_S)
    ends = end_offsets(ledger_settings, ledger_settings.commands_topic, range(4))
    with worker(ledger_settings, tmp_path, "again") as again:
        assert wait_until(lambda: again.said("refuses to fold a partition"), HANG_S)
        assert f"Partition 0 of {ledger_settings.commands_topic} is folded to offset {fold_end[0]}" in again.text()

        def folded() -> dict[int, int]:
            return {row.log_partition: row.next_offset for row in all_progress(ledger_settings)}

        assert wait_until(lambda: folded() == {**ends, 0: fold_end[0]}, HANG_S), folded()
