"""The steps of a redrive: judge, decide, append, complete. Owns their order, so that one may die between any two.

1. The decision is recorded with the very bytes to append; its primary key lets one redrive of a letter begin, ever.
2. Those bytes are appended, with headers by which the log itself tells what they mend.
3. The decision learns where they are.

Whoever is killed between 1 and 3 leaves a decision that says where nothing is. The next redrive of the letter finishes
it: first it waits until the fold has passed the log's end and looks whether the record is there, else it appends the
same bytes again. Should both be in the log after all, since a broker may hold back an append for long, then the second
is a duplicate without effect: the command's id is in the bytes. And should the first be a dead letter again, then so
is the second, which is refused a redrive of its own, being a copy.

Knows neither options nor words for people but those of a refusal.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from creditfold.cli.terms.output import instant
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Log, Position
from creditfold.log.topics import describe_log, end_offsets
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
from creditfold.projections.queries.dead_letters import TreatedLetter
from creditfold.projections.queries.decisions import Decided, Wish
from creditfold.projections.tables.source import refuse_other_log

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from creditfold.common.settings import Settings
    from creditfold.producers.client import CommandProducer


class Redriven(NamedTuple):
    """A letter that was redriven: the command that mends it, and where that is."""

    command: Command
    to: Position


@dataclass
class Redriver:
    """Redrives dead letters for one person and one reason. Times are in seconds."""

    connection: "Connection[TupleRow]"
    settings: "Settings"
    by: str
    why: str
    corrections: Corrections
    timeout_s: float
    #: Closes what is opened on the way.
    closing: ExitStack

    @cached_property
    def log(self) -> Log:
        """The log that is appended to, which must be the one that the letters are of. Raises LogChangedError."""
        log = decisions.live_log(self.connection)
        refuse_other_log(log, describe_log(self.settings))
        return log

    @cached_property
    def rules(self) -> int:
        """The rules in force in every partition: an account's is known only with its command."""
        return min(row.rules for row in queries.progress(self.connection))

    @cached_property
    def producer(self) -> "CommandProducer":
        """Opened with the first append."""
        from creditfold.cli.append.commands import open_producer

        return self.closing.enter_context(open_producer(self.settings, self.timeout_s))

    def await_fold(self) -> None:
        """Wait until the fold knows all that is in the log by now, redrives among it. Raises NotYetFoldedError."""
        ends = end_offsets(self.settings, self.log.topic, range(self.log.partitions))
        try:
            for partition, end in ends.items():
                if end:
                    queries.wait_for(self.connection, Position(partition, end - 1), self.timeout_s)
        except queries.NotYetFoldedError as error:
            raise queries.NotYetFoldedError(
                f"The fold hasn't caught up with the log within {self.timeout_s:g} s, so it can't be told what was"
                " redriven already. Nothing was appended.",
                error.remedy,
            ) from None

    def judge(self, row: TreatedLetter) -> Mended:
        """What redriving a letter would append. Raises RedriveRefusedError. Changes nothing."""
        found = decisions.decided(self.connection, self.log.topic_id, row.position)
        if found is None:
            return self._mended(row)
        return self._pending(row, found)

    def redrive(self, row: TreatedLetter) -> Redriven:
        """Redrive a letter, or finish a redrive of it that was interrupted. Raises RedriveRefusedError."""
        topic_id, position = self.log.topic_id, row.position
        mended = self.judge(row)
        # Its record stands already where an earlier redrive was interrupted, or somebody else is quicker.
        begun = decisions.decide(self.connection, topic_id, position, self._wish(mended))
        with (
            self._told_how_to_go_on(position),
            decisions.held(self.connection, topic_id, position, self.timeout_s) as found,
        ):
            if begun:
                # Somebody may have taken the decision for an interrupted one, and have finished it in that moment.
                to = found.to or self._append(row, found, mended)
            else:
                mended = self._pending(row, found)
                to = self._in_the_log(position) or self._append(row, found, mended)
            decisions.complete(self.connection, topic_id, position, to)
        return Redriven(mended.command, to)

    def _wish(self, mended: Mended) -> Wish:
        return Wish("redrive", self.by, self.why, self.corrections.any, mended.record.key, mended.record.value)

    def _mended(self, row: TreatedLetter) -> Mended:
        if row.to is not None:
            raise RedriveRefusedError(
                f"{row.position} was redriven already, to {row.to}, by {row.decided_by}: {row.note}. The decision was"
                " lost with an earlier database; the log knows of it.",
                f"See what came of it: creditfold dead-letters show {row.position}",
            )
        said = decisions.mends(self.connection, row.position)
        first = decisions.mended_at(self.connection, said.of) if said is not None else None
        if said is not None and first is not None and first != row.position:
            raise RedriveRefusedError(
                f"{row.position} is a copy of {first}: both mend {said.of}.",
                f"Redrive that one, and discard this: creditfold dead-letters discard {row.position} --why copy",
            )
        return mend(letter_of(row), self.corrections, self.rules)

    def _pending(self, row: TreatedLetter, found: Decided) -> Mended:
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
        return decisions.mended_at(self.connection, position)

    def _append(self, row: TreatedLetter, found: Decided, mended: Mended) -> Position:
        headers = redrive_headers(row.position, found.decided_by, found.note, next_attempt(letter_of(row)))
        return self.producer.append_record(mended.record._replace(headers=headers))

    @contextmanager
    def _told_how_to_go_on(self, position: Position) -> Iterator[None]:
        """Say of a failure after the decision that the same command finishes it."""
        how = f"The decision about {position} is recorded; redrive it again to finish it, its command counts once."
        try:
            yield
        except (RedriveRefusedError, decisions.UnderWayError):
            raise
        except CreditfoldError as error:
            error.remedy = f"{error.remedy} {how}".strip()
            raise
        except KeyboardInterrupt:
            from creditfold.cli.append.commands import InterruptedAppendError

            raise InterruptedAppendError("Interrupted.", how) from None


def letter_of(row: TreatedLetter) -> Letter:
    """What the judgement needs of a letter."""
    return Letter(row.position, row.reason, row.detail, row.value, row.headers)


def refuse_decided(position: Position, found: Decided) -> None:
    """Raise RedriveRefusedError for a letter about which all is decided and done."""
    if found.decision == "discard":
        raise RedriveRefusedError(f"{position} was discarded {_by(found)}.", "A decision stands. Send a new command.")
    if found.to is not None:
        raise RedriveRefusedError(
            f"{position} was redriven already, to {found.to}, {_by(found)}.",
            f"See what came of it: creditfold dead-letters show {position}",
        )


def _by(found: Decided) -> str:
    return f"by {found.decided_by} at {instant(found.decided_at)}: {found.note}"
