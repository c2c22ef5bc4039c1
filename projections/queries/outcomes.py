"""What became of a record of the log, looked up by its position: accepted, rejected, a duplicate or a dead letter.

Owns the one statement that answers it, for a reader's connection and for the library of producers, which waits. Reads
the views in schema `ledger` only.

A position has a line of the journal, or a dead letter, or nothing at all: a duplicate is counted and leaves no row. So
what has no dead letter and is folded was decided where its account and id were decided first, at this position or
before. An id alone would answer for a dead letter with the outcome of another command. A dead letter of another account
is none of who asks: whoever may read one account learns nothing of another by its record's position. All of it is one
statement, and so of one snapshot, whatever is folded or switched meanwhile.
"""

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any, LiteralString

from psycopg import AsyncConnection, Connection
from psycopg.rows import TupleRow

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.projections.connections import connected_async
from creditfold.projections.queries.progress import NotYetFoldedError, wait_for
from creditfold.schemas.outcome import Appended, CommandOutcome, Decision, OutcomeKind

# The lines of a batch's steps follow its own. What is asked of the journal has a limit, so that it is asked command by
# command, by the index of the account, whatever the planner believes of the tables.
_OUTCOMES: LiteralString = """
    SELECT asked.number, folded.next_offset, folded.generation, dead.reason, dead.detail,
           line.log_partition, line.log_offset, line.account_id, line.version, line.command_id, line.kind, line.asset,
           line.amount, line.change, line.balance, line.accepted, line.rejection, line.rules, line.decided_at,
           line.occurred_at, line.source, line.note, line.pending, line.held, line.debt, line.step, line.details,
           line.facts
    FROM unnest(%s::integer[], %s::bigint[], %s::text[], %s::text[]) WITH ORDINALITY
         AS asked (log_partition, log_offset, account_id, command_id, number)
    LEFT JOIN ledger.progress folded ON folded.log_partition = asked.log_partition
    LEFT JOIN LATERAL (
        SELECT reason, detail FROM ledger.dead_letters
        WHERE log_partition = asked.log_partition AND log_offset = asked.log_offset
            AND key = convert_to(asked.account_id, 'UTF8') LIMIT 1
    ) dead ON true
    LEFT JOIN LATERAL (
        SELECT account_id, version,
               CASE WHEN kind = 'batch' AND accepted THEN json_array_length(details -> 'steps') ELSE 0 END AS steps
        FROM ledger.journal WHERE account_id = asked.account_id AND command_id = asked.command_id LIMIT 1
    ) own ON dead.reason IS NULL
    LEFT JOIN LATERAL (
        SELECT * FROM ledger.journal
        WHERE account_id = own.account_id AND version BETWEEN own.version AND own.version + own.steps
        ORDER BY version LIMIT 1 + own.steps
    ) line ON true
    ORDER BY asked.number, line.version"""
_PROGRESS: LiteralString = "SELECT topic, log_partition, next_offset FROM ledger.progress"
# Number, next offset, generation, reason and detail of a dead letter.
_AHEAD = 5


class UnexplainedOutcomeError(CreditfoldError):
    """The fold has passed a command, and the projection has neither a decision nor a dead letter."""


class OtherTopicError(CreditfoldError):
    """The projection is folded from another topic than the one that commands are appended to."""


def outcome_at(connection: Connection[Any], position: Position, account: str, command_id: str) -> CommandOutcome:
    """The outcome of the command at a position: accepted, rejected, a duplicate or a dead letter.

    Args:
        connection: a reader's connection to the projection (`connected`).
        position: where the command is in the log, as an append returns it.
        account: the command's account.
        command_id: the command's id.

    Returns:
        The outcome, with the decision and, for a batch, those of its steps.

    Raises:
        NotYetFoldedError: the fold hasn't passed the position.
        UnexplainedOutcomeError: the fold has passed it, and there is neither a dead letter at the position nor a
            decision about such a command up to there.

    Example:
        >>> position = first_decision(connection, "ada", "order-2").position
        >>> outcome = outcome_at(connection, position, "ada", "order-2")
        >>> outcome.is_accepted, outcome.reason
        (False, 'insufficient_credits')
    """
    (found,) = outcomes_at(connection, [Appended(position, account, command_id)])
    if isinstance(found, CreditfoldError):
        raise found
    if found is None:
        raise NotYetFoldedError(f"The fold has not reached {position} yet.", "See `creditfold status`, and ask again.")
    return found


def outcomes_at(
    connection: Connection[Any], appended: Sequence[Appended]
) -> Sequence[CommandOutcome | CreditfoldError | None]:
    """The outcomes of several commands, of one snapshot.

    Args:
        connection: a reader's connection to the projection (`connected`).
        appended: the commands, each with its position, its account and its id.

    Returns:
        One for each, in their order. None stands for a command that isn't folded yet, an error for one of which nothing
        is shown.

    Example:
        >>> from creditfold.schemas.outcome import Appended
        >>> position = first_decision(connection, "ada", "order-1").position
        >>> [one.kind.value for one in outcomes_at(connection, [Appended(position, "ada", "order-1")])]
        ['accepted']
    """
    return list(_outcomes(appended, connection.execute(_OUTCOMES, _asked(appended)).fetchall()))


def await_outcome(
    connection: Connection[Any], position: Position, account: str, command_id: str, timeout_s: float
) -> CommandOutcome:
    """Wait until the fold has passed a command, and return its outcome.

    For many commands at once, and in a service that appends them, use CommandProducer.append_and_wait(), which takes
    one connection for all.

    Args:
        connection: a reader's connection in autocommit (`connected`): a transaction might see one state throughout.
        position: where the command is in the log, as an append returns it.
        account: the command's account.
        command_id: the command's id.
        timeout_s: how long to wait, in seconds.

    Returns:
        The outcome, as `outcome_at` returns it.

    Raises:
        NotYetFoldedError: the time is over. The command is in the log, and will be folded.
        UnexplainedOutcomeError: as for `outcome_at`.

    Example:
        >>> position = first_decision(connection, "ada", "order-1").position
        >>> await_outcome(connection, position, "ada", "order-1", timeout_s=10.0).is_accepted
        True
    """
    deadline = time.monotonic() + timeout_s
    while True:
        wait_for(connection, position, max(0.0, deadline - time.monotonic()))
        try:
            return outcome_at(connection, position, account, command_id)
        except NotYetFoldedError:
            # Between the two, the views came to show a projection that isn't folded so far.
            if time.monotonic() >= deadline:
                raise


class ProjectedOutcomes:
    """Where a producer finds its commands' outcomes in PostgreSQL; give it to CommandProducer(..., outcomes=...).

    Args:
        dsn: of the database, for a user who may read the views (the role creditfold_reader).
        application: what its one session calls itself in pg_stat_activity.

    Example:
        >>> from creditfold.producers import CommandProducer, Spend
        >>> outcomes = ProjectedOutcomes(settings.dsn)
        >>> with CommandProducer(settings.kafka_client, settings.commands_topic, outcomes=outcomes) as producer:
        ...     spend = Spend(command_id="order-1", account="ada", asset="credits", amount=180)
        ...     outcome = producer.append_and_wait(spend, timeout=30.0)
        >>> outcome.kind.value, outcome.is_accepted
        ('duplicate', True)
    """

    def __init__(self, dsn: str, application: str = "creditfold-outcomes") -> None:
        self._dsn = dsn
        self._application = application

    @asynccontextmanager
    async def session(self, topic: str) -> AsyncIterator["ProjectedSession"]:
        """One connection, for a block. Raises PostgresUnavailableError, NotPreparedError."""
        async with connected_async(self._dsn, self._application) as connection:
            yield ProjectedSession(connection, topic)


class ProjectedSession:
    """A connection to the projection of one topic."""

    def __init__(self, connection: AsyncConnection[TupleRow], topic: str) -> None:
        self._connection = connection
        self._topic = topic

    async def next_offsets(self) -> Mapping[int, int]:
        """How far each partition is folded. Raises OtherTopicError, NotPreparedError where there is no projection."""
        rows = await (await self._connection.execute(_PROGRESS, prepare=True)).fetchall()
        others = {topic for topic, _, _ in rows} - {self._topic}
        if others:
            raise OtherTopicError(
                f"The projection is folded from {others.pop()}, and commands are appended to {self._topic}.",
                "Set CREDITFOLD_POSTGRES_DSN and CREDITFOLD_COMMANDS_TOPIC to what belongs together.",
            )
        return {partition: next_offset for _, partition, next_offset in rows}

    async def outcomes_at(self, appended: Sequence[Appended]) -> Sequence[CommandOutcome | CreditfoldError | None]:
        """The outcomes of several commands, of one snapshot.

        None stands for a command that isn't folded yet, an error for one of which nothing is shown.
        """
        cursor = await self._connection.execute(_OUTCOMES, _asked(appended), prepare=True)
        return list(_outcomes(appended, await cursor.fetchall()))


def _asked(appended: Sequence[Appended]) -> tuple[list[int], list[int], list[str], list[str]]:
    return (
        [one.position.partition for one in appended],
        [one.position.offset for one in appended],
        [one.account for one in appended],
        [one.command_id for one in appended],
    )


def _outcomes(
    appended: Sequence[Appended], rows: Iterable[tuple[Any, ...]]
) -> Iterator[CommandOutcome | CreditfoldError | None]:
    # At least one row of each, in their order.
    for number, own in groupby(rows, key=itemgetter(0)):
        yield _outcome(appended[number - 1], list(own))


def _outcome(appended: Appended, rows: Sequence[tuple[Any, ...]]) -> CommandOutcome | CreditfoldError | None:
    position = appended.position
    _, next_offset, generation, reason, detail = rows[0][:_AHEAD]
    if next_offset is None:
        return UnexplainedOutcomeError(
            f"The projection has no partition {position.partition}.", "See `creditfold status` for the topic it folds."
        )
    if next_offset <= position.offset:
        return None
    if reason is not None:
        return CommandOutcome(OutcomeKind.DEAD_LETTER, position, reason=reason, detail=detail, generation=generation)
    decision, *steps = (Decision._make(row[_AHEAD:]) for row in rows)
    if decision.account_id is None or decision.position.partition != position.partition or decision.position > position:
        return UnexplainedOutcomeError(
            f"The fold has passed {position} and shows nothing of command {appended.command_id}.",
            "Does the projection belong to this topic, and the position to this command? See `creditfold status`.",
        )
    if decision.position < position:
        kind = OutcomeKind.DUPLICATE
    else:
        kind = OutcomeKind.ACCEPTED if decision.accepted else OutcomeKind.REJECTED
    return CommandOutcome(kind, position, decision, steps, decision.rejection, generation=generation)
