"""The workflow of a redrive: judge, decide, append, complete. Owns the order, in which a process may die at any place.

1. The decision is recorded with the very bytes to append; its primary key lets one redrive of a letter begin, ever.
2. Those bytes are appended, with headers by which the log itself shows what they mend.
3. The decision gets their position.

A process killed between 1 and 3 leaves a decision without a position. The next redrive of the letter finishes it: it
waits until the fold has passed the log's end and looks whether the record is there, else it appends the same bytes
again. Should both be in the log after all, since a broker may hold back an append for long, the second is a duplicate
without effect: the command's id is in the bytes. Should the first be a dead letter again, so is the second, which is
refused a redrive of its own, being a copy.

What is appended is judged in producers/redrive.py. Knows neither options nor output.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from creditfold.common.errors import CreditfoldError
from creditfold.common.instants import iso, milliseconds_of
from creditfold.common.position import Log, Position
from creditfold.common.settings import Settings
from creditfold.log.offsets import end_offsets
from creditfold.log.topics import describe_log
from creditfold.producers.client import CommandProducer
from creditfold.producers.models.commands import Command, Encoded
from creditfold.producers.redrive import (
    Corrections,
    Letter,
    Mended,
    RedriveRefusedError,
    command_begun,
    mend,
    next_attempt,
    redrive_headers,
)
from creditfold.projections import queries
from creditfold.projections.queries import decisions
from creditfold.projections.queries.dead_letters import OPEN, DeadLetterState
from creditfold.projections.queries.decisions import LetterDecision, NewDecision
from creditfold.projections.tables.source import refuse_other_log


class RedriveInterruptedError(CreditfoldError):
    """Ctrl-C after the decision about a letter was recorded."""

    exit_code = 130


class Redriven(NamedTuple):
    """The command that mends a letter, and its position."""

    command: Command
    to: Position


@dataclass
class Redriver:
    """Redrives dead letters for one person and one reason. `timeout_s` bounds each wait, in seconds."""

    connection: Connection[TupleRow]
    settings: Settings
    by: str
    why: str
    corrections: Corrections
    timeout_s: float
    #: Closes the producer.
    closing: ExitStack

    @cached_property
    def log(self) -> Log:
        """The log to append to, which must be the log of the letters. Raises LogChangedError."""
        log = decisions.live_log(self.connection)
        refuse_other_log(log, describe_log(self.settings))
        return log

    @cached_property
    def rules(self) -> int:
        """The lowest version of the rules in force in any partition: which one the account is in isn't known yet."""
        return min(row.rules for row in queries.progress(self.connection))

    @cached_property
    def producer(self) -> CommandProducer:
        """Opened with the first append."""
        settings, timeout_s = self.settings, self.timeout_s
        return self.closing.enter_context(
            CommandProducer(settings.kafka_client, settings.commands_topic, delivery_timeout_s=timeout_s)
        )

    def await_fold(self) -> None:
        """Wait until all that is in the log by now is folded, redrives included. Raises NotYetFoldedError."""
        ends = end_offsets(self.settings, self.log.topic, range(self.log.partitions))
        try:
            for partition, end in ends.items():
                if end:
                    queries.wait_for(self.connection, Position(partition, end - 1), self.timeout_s)
        except queries.NotYetFoldedError as error:
            raise queries.NotYetFoldedError(
                f"The fold hasn't caught up with the log within {self.timeout_s:g} s, so it isn't known what was"
                " redriven already. Nothing was appended.",
                error.remedy,
            ) from None

    def judge(self, row: DeadLetterState) -> Mended:
        """Return what redriving a letter would append. Changes nothing. Raises RedriveRefusedError."""
        found = decisions.decision_about(self.connection, self.log.topic_id, row.position)
        if found is None:
            return self._mended(row)
        return self._pending(row, found)

    def redrive(self, row: DeadLetterState) -> Redriven:
        """Redrive a letter, or finish a redrive of it that was interrupted. Raises RedriveRefusedError."""
        topic_id, position = self.log.topic_id, row.position
        mended = self.judge(row)
        # False where an earlier redrive was interrupted, or where another process was quicker.
        begun = decisions.record_decision(self.connection, topic_id, position, self._wish(mended))
        with (
            self._with_finish_remedy(position),
            decisions.hold_decision(self.connection, topic_id, position, self.timeout_s) as found,
        ):
            if begun:
                # Another process may have taken the decision for an interrupted one, and have finished it meanwhile.
                to = found.to or self._append(row, found, mended)
            else:
                mended = self._pending(row, found)
                to = self._in_the_log(position) or self._append(row, found, mended)
            decisions.record_redrive(self.connection, topic_id, position, to)
        return Redriven(mended.command, to)

    def _wish(self, mended: Mended) -> NewDecision:
        return NewDecision("redrive", self.by, self.why, self.corrections.any, mended.record.key, mended.record.value)

    def _mended(self, row: DeadLetterState) -> Mended:
        if row.to is not None:
            raise RedriveRefusedError(
                f"{row.position} was redriven already, to {row.to}, by {row.decided_by}: {row.note}. The decision was"
                " lost with an earlier database; the log shows it.",
                f"See the outcome: creditfold dead-letters show {row.position}",
            )
        said = decisions.letter_mended_by(self.connection, row.position)
        first = decisions.mending_record(self.connection, said.of) if said is not None else None
        if said is not None and first is not None and first != row.position:
            raise RedriveRefusedError(
                f"{row.position} is a copy of {first}: both mend {said.of}.",
                f"Redrive that one, and discard this: creditfold dead-letters discard {row.position} --why copy",
            )
        return mend(letter_of(row), self.corrections, self.rules)

    def _pending(self, row: DeadLetterState, found: LetterDecision) -> Mended:
        """The command of a redrive that was decided and isn't finished. Raises RedriveRefusedError for any other."""
        refuse_decided(row.position, found)
        mended = Mended(command_begun(found.value), Encoded(found.key, found.value or b""))
        if self.corrections.any and mend(letter_of(row), self.corrections, self.rules).record != mended.record:
            raise RedriveRefusedError(
                f"{row.position} is being redriven with another command, {_by(found)}.",
                "Leave out the corrections to finish that.",
            )
        return mended

    def _in_the_log(self, position: Position) -> Position | None:
        # The end is asked for with the decision held: whoever held it before is done or dead.
        self.await_fold()
        return decisions.mending_record(self.connection, position)

    def _append(self, row: DeadLetterState, found: LetterDecision, mended: Mended) -> Position:
        headers = redrive_headers(row.position, found.decided_by, found.note, next_attempt(letter_of(row)))
        return self.producer.append_record(mended.record._replace(headers=headers))

    @contextmanager
    def _with_finish_remedy(self, position: Position) -> Iterator[None]:
        """Add to the remedy of a failure after the decision that the same command finishes it."""
        how = f"The decision about {position} is recorded; redrive it again to finish it, its command counts once."
        try:
            yield
        except (RedriveRefusedError, decisions.RedriveUnderWayError):
            raise
        except CreditfoldError as error:
            error.remedy = f"{error.remedy} {how}".strip()
            raise
        except KeyboardInterrupt:
            raise RedriveInterruptedError("Interrupted.", how) from None


def discard(connection: Connection[TupleRow], topic_id: str, letter: DeadLetterState, wish: NewDecision | None) -> None:
    """Record that nothing is done about a letter; without a wish, only judge. Raises RedriveRefusedError."""
    position = letter.position
    if letter.state == OPEN and (wish is None or decisions.record_decision(connection, topic_id, position, wish)):
        return
    found = decisions.decision_about(connection, topic_id, position)
    if found is not None:
        refuse_decided(position, found)
    where = f"to {letter.to}" if letter.to else "and isn't finished"
    raise RedriveRefusedError(
        f"{position} is redriven already, {where}.", f"See it: creditfold dead-letters show {position}"
    )


def letter_of(row: DeadLetterState) -> Letter:
    """The part of a dead letter that decides what is appended."""
    return Letter(row.position, row.reason, row.detail, row.value, row.headers)


def refuse_decided(position: Position, found: LetterDecision) -> None:
    """Raise RedriveRefusedError for a letter that was discarded or redriven to the end."""
    if found.decision == "discard":
        raise RedriveRefusedError(f"{position} was discarded {_by(found)}.", "A decision stands. Send a new command.")
    if found.to is not None:
        raise RedriveRefusedError(
            f"{position} was redriven already, to {found.to}, {_by(found)}.",
            f"See the outcome: creditfold dead-letters show {position}",
        )


def _by(found: LetterDecision) -> str:
    return f"by {found.decided_by} at {iso(milliseconds_of(found.decided_at))}: {found.note}"
