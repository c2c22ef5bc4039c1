"""Appending and waiting for what becomes of it, on the real stack. No publisher runs: none is needed."""

import asyncio
import re
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.offsets import end_offsets
from creditfold.producers import (
    AsyncCommandProducer,
    Batch,
    Capture,
    Command,
    CommandOutcome,
    CommandProducer,
    ForkedProducerError,
    Grant,
    GrantStep,
    OutcomeKind,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    ProducerSettingError,
    Spend,
    SpendStep,
    Transfer,
)
from creditfold.projections.connections import connected
from creditfold.projections.queries.journal import first_decision
from creditfold.projections.queries.outcomes import ProjectedOutcomes
from helpers.forks import said_by_child
from helpers.holds import freeze
from helpers.stack_under_test import StackUnderTest, free_port
from helpers.support import HANG_S, WorkerProcess, all_progress, query, wait_until_folded, worker

MANY = 1_000


def grant(id: str, amount: int = 100, account: str = "ann") -> Grant:
    return Grant(command_id=id, account=account, asset="credits", amount=amount)


def spend(id: str, amount: int, account: str = "ann") -> Spend:
    return Spend(command_id=id, account=account, asset="credits", amount=amount)


def batch(id: str, *steps: tuple[str, int]) -> Batch:
    made = [
        (SpendStep if amount < 0 else GrantStep)(command_id=name, asset="credits", amount=abs(amount))
        for name, amount in steps
    ]
    return Batch(command_id=id, account="ann", steps=tuple(made))


#: Appended one after the other: a command, what its outcome is, why, whether it has taken effect, and its steps.
LEDGER: Sequence[tuple[Command, str, str | None, bool, Sequence[str]]] = [
    (grant("g-1"), "accepted", None, True, ()),
    (spend("order-7", 10), "accepted", None, True, ()),
    (spend("order-7", 500), "dead_letter", "command_id_reused", False, ()),
    (spend("order-7", 10), "duplicate", None, True, ()),
    (spend("order-8", 500), "rejected", "insufficient_credits", False, ()),
    (spend("order-8", 500), "duplicate", "insufficient_credits", False, ()),
    (Capture(command_id="c-1", account="ann", hold="none"), "rejected", "hold_not_found", False, ()),
    (batch("b-1", ("b-1-1", 5), ("b-1-2", -3)), "accepted", None, True, ("b-1-1", "b-1-2")),
    (batch("b-1", ("b-1-1", 5), ("b-1-2", -3)), "duplicate", None, True, ("b-1-1", "b-1-2")),
    (batch("b-2", ("b-2-1", 5), ("b-2-2", -900)), "rejected", "insufficient_credits", False, ()),
    # The id of a step is used up too; the batch has made the same grant.
    (grant("b-1-1", 5), "duplicate", None, True, ()),
    (grant("b-1-1", 6), "dead_letter", "command_id_reused", False, ()),
    (batch("b-3", ("order-7", 5)), "dead_letter", "command_id_reused", False, ()),
    (Transfer(command_id="t-1", account="ann", asset="credits", amount=7, to="bob"), "accepted", None, True, ()),
    (Transfer(command_id="t-2", account="ann", asset="credits", amount=700, to="bob"), "rejected", None, False, ()),
    # As nobody has it.
    (grant("g-1", account="é"), "accepted", None, True, ()),
]


def reported(outcome: CommandOutcome) -> tuple[str, str | None, bool, Sequence[str | None]]:
    return outcome.kind, outcome.reason, outcome.is_accepted, tuple(step.command_id for step in outcome.steps)


def producer_of(settings: Settings) -> CommandProducer:
    outcomes = ProjectedOutcomes(settings.dsn)
    return CommandProducer(settings.kafka_client, settings.commands_topic, outcomes=outcomes)


def async_producer_of(settings: Settings) -> AsyncCommandProducer:
    outcomes = ProjectedOutcomes(settings.dsn)
    return AsyncCommandProducer(settings.kafka_client, settings.commands_topic, outcomes=outcomes)


@contextmanager
def frozen(process: WorkerProcess) -> Iterator[None]:
    """Hold a worker for a block: nothing is folded in it."""
    freeze(process)
    try:
        yield
    finally:
        process.send(signal.SIGCONT)


def waiting_in_log(producer: CommandProducer) -> int:
    """How many wait whose command the log has confirmed."""
    assert producer._follower is not None
    return producer._follower._in_log


def test_each_kind_of_outcome(ledger_settings: Settings, tmp_path: Path) -> None:
    """Whatever the same id has come to before, each record has its own; from threads and from an event loop alike.

    The first is appended before there is a projection at all, and waits for it.
    """
    outcomes = []
    with producer_of(ledger_settings) as producer:
        early = producer.submit_for_outcome(LEDGER[0][0], HANG_S)
        with worker(ledger_settings, tmp_path):
            outcomes.append(early.result(HANG_S))
            outcomes += [producer.append_and_wait(command, HANG_S) for command, *_ in LEDGER[1:]]
            # The reason of the transfer's rejection is in the journal; that it has one is enough here.
            wanted = [
                (kind, reason or outcome.reason, *more)
                for (_, kind, reason, *more), outcome in zip(LEDGER, outcomes, strict=True)
            ]
            assert [reported(outcome) for outcome in outcomes] == wanted
            assert len({outcome.position for outcome in outcomes}) == len(LEDGER)
            # It was a step's id: the sender of a batch that names only its own would look in the wrong place.
            (mixed,) = [done for (sent, *_), done in zip(LEDGER, outcomes, strict=True) if sent.command_id == "b-3"]
            assert "command id 'b-3' of this account, or that of one of its steps, was decided before" in mixed.detail

            # What an id was first decided as is something else: the trap.
            with connected(ledger_settings.dsn) as connection:
                first = first_decision(connection, "ann", "order-7")
            assert first is not None
            assert (first.accepted, first.amount, first.position) == (True, 10, outcomes[1].position)
            assert outcomes[2].decision is None
            assert outcomes[3].decided_at_position == outcomes[1].position

            async def again() -> list[CommandOutcome]:
                async with async_producer_of(ledger_settings) as other:
                    return [await other.append_and_wait(command, HANG_S) for command, *_ in LEDGER]

            repeated = asyncio.run(again())
            assert [outcome.kind for outcome in repeated] == [
                "dead_letter" if kind == "dead_letter" else "duplicate" for _, kind, *_ in LEDGER
            ]
            assert [outcome.decided_at_position for outcome in repeated] == [
                outcome.decided_at_position for outcome in outcomes
            ]
            assert [reported(one)[1:] for one in repeated] == [reported(one)[1:] for one in outcomes]


def ran_out(producer: CommandProducer, command: Command) -> tuple[OutcomeTimeoutError, float]:
    """The error of a wait whose time was over when the log had confirmed its command, and that time.

    However long the log takes: the same is sent again, with more time for it.
    """
    seconds = 1.0
    while True:
        with pytest.raises(OutcomeTimeoutError) as late:
            producer.append_and_wait(command, seconds)
        if late.value.position is not None:
            return late.value, seconds
        seconds *= 4
        assert seconds < HANG_S, late.value


def sessions(connection: Connection[Any]) -> int:
    text = """SELECT count(*) FROM pg_stat_activity
              WHERE datname = current_database() AND application_name = 'creditfold-outcomes'"""
    return int(connection.execute(text).fetchall()[0][0])


def threads() -> int:
    """How many this process has, librdkafka's among them."""
    return len(list(Path("/proc/self/task").iterdir()))


def test_a_thousand_wait_with_one_thread_and_one_connection(ledger_settings: Settings, tmp_path: Path) -> None:
    """While nothing is folded, nobody takes a thread. Those that are cancelled leave nothing; their commands count."""

    async def run(process: WorkerProcess) -> None:
        async with async_producer_of(ledger_settings) as producer:
            inner = producer._producer
            # Of one thread: the loop's own makes another one, where the first hasn't noticed yet that it is done.
            waiting = partial(asyncio.get_running_loop().run_in_executor, pool)
            first = await producer.append_and_wait(grant("g-0"), HANG_S)
            assert first.kind == OutcomeKind.ACCEPTED
            with frozen(process), connected(ledger_settings.dsn) as connection:
                # One of them for the waits below.
                await waiting(threads)
                before = threads()
                commands = [grant(f"g-{number}", 1, f"user-{number % 50}") for number in range(1, MANY + 1)]
                tasks = [asyncio.create_task(producer.append_and_wait(command, HANG_S)) for command in commands]
                assert await waiting(wait_until, lambda: waiting_in_log(inner) == MANY, HANG_S)
                # Those of clients that other parts of the test have used may end meanwhile.
                assert threads() <= before
                assert sessions(connection) == 1
                for task in tasks[::10]:
                    task.cancel()
                left = MANY - len(tasks[::10])
                assert await waiting(wait_until, lambda: waiting_in_log(inner) == left, HANG_S)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for number, outcome in enumerate(outcomes):
                if number % 10:
                    assert isinstance(outcome, CommandOutcome)
                    assert outcome.decision is not None
                    assert outcome.decision.command_id == commands[number].command_id
                    assert outcome.kind == OutcomeKind.ACCEPTED
                else:
                    assert isinstance(outcome, asyncio.CancelledError)
            assert inner._follower is not None
            assert inner._follower.waiting == 0
            again = await producer.append_and_wait(commands[0], HANG_S)
            assert again.kind == OutcomeKind.DUPLICATE

    with worker(ledger_settings, tmp_path) as process, ThreadPoolExecutor(1) as pool:
        asyncio.run(run(process))
        wait_until_folded(ledger_settings)
    assert query(ledger_settings, "SELECT sum(available) FROM ledger.balances WHERE account_id LIKE 'user-%%'") == [
        (MANY,)
    ]


def test_time_runs_out_and_postgresql_goes_away(
    ledger_settings: Settings, stack: StackUnderTest, tmp_path: Path
) -> None:
    """Waits are bounded, errors say what is known; who has time left gets the outcome when all is back.

    Sent again with its id, a command that ran out of time is a duplicate with the first outcome.
    """
    with worker(ledger_settings, tmp_path) as process, producer_of(ledger_settings) as producer:
        assert producer.append_and_wait(grant("g-1"), HANG_S).kind == OutcomeKind.ACCEPTED
        with frozen(process):
            first = end_offsets(ledger_settings, ledger_settings.commands_topic, range(4))
            late, seconds = ran_out(producer, spend("order-7", 10))
            assert late.position is not None
            assert late.maybe_written
            not_yet = f"in the log at {late.position}, and the fold has not reached it within {seconds:g} s"
            assert not_yet in late.message
            # Where it was sent the first time, if it had to be sent again.
            position = Position(late.position.partition, first[late.position.partition])
            assert f"it stands at {position}" in late.message
            assert "Send it again with the same command id" in late.remedy

            patient = producer.submit_for_outcome(spend("order-7", 10), HANG_S)
            assert wait_until(lambda: waiting_in_log(producer) == 1, HANG_S)
            stack.stop_postgres()
            try:
                assert producer._follower is not None
                assert wait_until(lambda: producer._follower._trouble is not None, HANG_S)  # type: ignore[union-attr]
                late, _ = ran_out(producer, spend("order-8", 500))
                assert re.search(r"can't be looked up for .* s: PostgreSQL", late.message)
            finally:
                stack.start_postgres()
        outcome = patient.result(HANG_S)
        assert (outcome.kind, outcome.decided_at_position) == (OutcomeKind.DUPLICATE, position)
        assert producer.append_and_wait(spend("order-8", 500), HANG_S).reason == "insufficient_credits"
        last = producer.append_and_wait(spend("order-9", 20), HANG_S)
        assert last.is_accepted
        assert last.decision is not None
        assert last.decision.balance == 70


def test_closing_and_forking_with_somebody_waiting(ledger_settings: Settings, tmp_path: Path) -> None:
    """A child is refused and harms nothing; whoever still waits at the close is woken, and knows the position.

    The lookup holds no connection, so that a child may use it with a producer of its own.
    """
    outcomes = ProjectedOutcomes(ledger_settings.dsn)
    with worker(ledger_settings, tmp_path) as process:
        producer = CommandProducer(ledger_settings.kafka_client, ledger_settings.commands_topic, outcomes=outcomes)
        assert producer.append_and_wait(grant("g-1"), HANG_S).kind == OutcomeKind.ACCEPTED
        with frozen(process):
            futures = [producer.submit_for_outcome(grant(f"g-{number}"), HANG_S) for number in range(2, 5)]
            assert wait_until(lambda: waiting_in_log(producer) == len(futures), HANG_S)

            def refused() -> str:
                with pytest.raises(ForkedProducerError) as error:
                    producer.append_and_wait(grant("g-9"), HANG_S)
                producer.close()
                return str(error.value)

            assert "after the fork" in said_by_child(refused)
        for future in futures:
            assert future.result(HANG_S).kind == OutcomeKind.ACCEPTED

        def waited() -> str:
            with CommandProducer(
                ledger_settings.kafka_client, ledger_settings.commands_topic, outcomes=outcomes
            ) as own:
                return own.append_and_wait(grant("g-8"), HANG_S).kind

        assert said_by_child(waited) == "accepted"
        with frozen(process):
            pending = producer.submit_for_outcome(grant("g-5"), HANG_S)
            assert wait_until(lambda: waiting_in_log(producer) == 1, HANG_S)
            producer.close()
            error = pending.exception(HANG_S)
            assert isinstance(error, OutcomeUnknownError)
            assert error.position is not None
            assert "closed while the outcome was waited for" in error.message
        wait_until_folded(ledger_settings)
    assert all_progress(ledger_settings)[error.position.partition].next_offset > error.position.offset


def test_a_producer_without_a_lookup_takes_nothing() -> None:
    """It says what is missing before anything is appended."""
    with CommandProducer({"bootstrap.servers": f"127.0.0.1:{free_port()}"}, "commands") as producer:
        with pytest.raises(ProducerSettingError, match="outcomes=ProjectedOutcomes"):
            producer.append_and_wait(grant("g-1"))
        producer.flush()
