"""What may go wrong around a switch of generations while workers are there: servers that end, workers that hang or die.

The history is that of tests/projections/test_generations.py.
"""

import re
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tenacity import stop_after_attempt

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.archive.restore import restore_topic
from creditfold.log.archive.writer import archive_topic
from creditfold.processors.rebuild import steps as rebuilding
from creditfold.processors.rebuild.steps import ActivationOptions, Request, activate, rebuild
from creditfold.projections.failures import PostgresUnavailableError
from creditfold.projections.generations import switch, views
from creditfold.projections.generations.catalog import SwitchBlockedError
from helpers.command_line import run
from helpers.generations import WATCH, history, read, states
from helpers.holds import freeze_inside_a_transaction
from helpers.stack_under_test import StackUnderTest
from helpers.support import HANG_S, append, assert_equals_second_fold, query, wait_until_folded, worker

#: Where PostgreSQL ends, by the function that was called last, and whether the switch is committed then.
STEPS = [
    (rebuilding, "bring_to", False),
    (views, "write_view", False),
    (rebuilding, "_take_over", False),
    (rebuilding, "switch", False),
    # The views still look at both.
    (rebuilding, "_switch_over", True),
]


def test_postgres_crashes_at_any_step_of_an_activation_under_a_worker(
    folded: Settings, stack: StackUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One generation is live, readers see it, the worker goes on by itself, and another activation brings the rest."""
    rebuild(folded, Request(), WATCH)
    starts = count(3_000, 100)
    with worker(folded, tmp_path) as process:
        for module, step, switched in STEPS:
            print(f"PostgreSQL ends behind {step}")
            wait_until_folded(folded)
            append(folded, history(100, 4, next(starts)))
            before = states(folded)
            (other,) = (number for number, state in before.items() if state != "live")
            real = getattr(module, step)

            def crash(*arguments: Any, real: Callable[..., Any] = real) -> Any:
                done = real(*arguments)
                stack.restart_postgres(kill=True)
                return done

            with monkeypatch.context() as patched:
                patched.setattr(module, step, crash)
                with pytest.raises(PostgresUnavailableError):
                    activate(folded, other, ActivationOptions(), WATCH)
            live = other if switched else 3 - other
            assert states(folded) == ({other: "live", 3 - other: "retired"} if switched else before)
            assert query(folded, "SELECT DISTINCT generation FROM ledger.progress") == [(live,)]
            append(folded, history(100, 5, next(starts)))
            wait_until_folded(folded)
            assert_equals_second_fold(folded)
            run(folded, "activate", str(3 - live))
            append(folded, history(100, 6, next(starts)))
            wait_until_folded(folded)
            assert process.process.poll() is None
    assert_equals_second_fold(folded)
    run(folded, "verify", "1", "2")


def test_activating_while_a_worker_is_frozen_inside_a_transaction(
    folded: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is switched, and its sessions are named; once they are ended, it is, and the worker wakes fenced."""
    rebuild(folded, Request(), WATCH)
    with worker(folded, tmp_path) as zombie:
        append(folded, history(200, 4, 3_000))
        wait_until_folded(folded)
        freeze_inside_a_transaction(folded, zombie, history(2_000, 5, 3_200))
        with monkeypatch.context() as patched:
            patched.setattr(switch, "HALT_LOCK_MS", 200)
            patched.setattr(rebuilding._WHILE_BLOCKED, "stop", stop_after_attempt(2))
            with pytest.raises(SwitchBlockedError, match="nothing was switched") as caught:
                activate(folded, 2, ActivationOptions(), WATCH)
        assert states(folded) == {1: "live", 2: "ready"}
        (statement,) = re.findall(r"SELECT pg_terminate_backend\(\d+\).*?;", caught.value.remedy)
        query(folded, statement)
        assert activate(folded, 2, ActivationOptions(), WATCH).new == 2
        stands = "SELECT log_partition, next_offset, chain FROM ledger_0001.progress ORDER BY 1"
        before = query(folded, stands)
        zombie.send(signal.SIGCONT)
        wait_until_folded(folded)
        assert query(folded, stands) == before
        assert zombie.process.poll() is None
    assert_equals_second_fold(folded)


def test_activating_while_one_of_two_workers_is_dead(folded: Settings, tmp_path: Path) -> None:
    """Killed with partitions of its own, which nobody folds until Kafka notices: all are switched all the same."""
    rebuild(folded, Request(), WATCH)
    owners = "SELECT count(DISTINCT owner) FROM ledger.progress WHERE owner <> ''"
    with worker(folded, tmp_path, "one") as one, worker(folded, tmp_path, "two"):
        assert wait_until(lambda: query(folded, owners) == [(2,)], HANG_S)
        one.kill()
        append(folded, history(1_000, 4, 3_000))
        assert activate(folded, 2, ActivationOptions(), WATCH).new == 2
        assert query(folded, "SELECT DISTINCT generation FROM ledger.progress") == [(2,)]
        wait_until_folded(folded)
    assert_equals_second_fold(folded)


def test_a_worker_of_the_old_log_is_refused_when_a_restored_one_takes_over(folded: Settings, tmp_path: Path) -> None:
    """Its records are at the positions of others in the new log: it must fold none of them into what is live now."""
    archive_topic(folded, tmp_path / "archive")
    restored = folded.model_copy(
        update={"commands_topic": f"{folded.commands_topic}.restored", "group": f"{folded.group}.restored"}
    )
    with worker(folded, tmp_path, "old") as old:
        wait_until_folded(folded)
        owned = "SELECT count(*) FROM ledger.progress WHERE owner <> ''"
        assert wait_until(lambda: query(folded, owned) == [(4,)], HANG_S)
        restore_topic(restored, tmp_path / "archive")
        rebuild(restored, Request(), WATCH)
        # What a refused activation would point to.
        assert "Equal" in run(restored, "verify", "1", "2").stdout
        activate(restored, 2, ActivationOptions(other_log=True), WATCH)
        before = read(restored, 2).digest
        append(folded, history(100, 4, 3_000))
        assert old.process.wait(HANG_S) == 1
        assert "Folding on would give wrong balances" in old.text()
        assert read(restored, 2).digest == before
    with worker(restored, tmp_path, "new"):
        append(restored, history(500, 5, 3_000))
        wait_until_folded(restored)
    assert_equals_second_fold(restored)
