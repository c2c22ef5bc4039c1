"""Decides a command on its account as folded, as the fold would decide it next, and writes nothing.

The same code reads the record, loads the account and decides as in the fold. What is decided later may differ, since
other records may come before, and since time passes.
"""

from typing import NamedTuple, cast

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from creditfold.common.position import Position
from creditfold.ledger import Command, CreditBook, Verdict
from creditfold.ledger.account import Account
from creditfold.ledger.facts import CreditOutcome
from creditfold.log.record import LogRecord
from creditfold.processors.fold.chunk import keys, read_one
from creditfold.projections.store.results import DeadLetter
from creditfold.projections.store.snapshot import snapshot_of


class Preview(NamedTuple):
    """What a command would come to.

    Fields:
        at: where in the log it would be decided: behind all that is folded.
        generation: whose state it was decided on.
        topic_id: of the log that the state is folded from.
        folded_ms: the log's clock there, in milliseconds since 1970 UTC; 0 where the partition has no record.
        clock_ms: what counted as its append time, in milliseconds since 1970 UTC.
        outcome: what the rules decide; a verdict for an id that was used before, a dead letter for
            what can't be folded.
        account: the account's state afterwards.
    """

    at: Position
    generation: int
    topic_id: str
    folded_ms: int
    clock_ms: int
    outcome: CreditOutcome | Verdict | DeadLetter
    account: Account


async def preview(
    connection: AsyncConnection[TupleRow], account: str, value: bytes, at_ms: int | None = None
) -> Preview:
    """Decide a record on its account as folded.

    Args:
        connection: of a user who may read the live generation's tables; in no transaction.
        account: the record's key.
        value: the framed Avro record.
        at_ms: what counts as its append time, in milliseconds since 1970 UTC; None for the database's present.

    Raises NotPreparedError, UnknownRulesError, or what PostgreSQL raises.
    """
    async with snapshot_of(connection, account) as found:
        now_ms = found.now_ms if at_ms is None else at_ms
        state = (found.next, found.generation, found.topic_id, found.clock_ms)
        record = LogRecord(found.next.offset, now_ms, account.encode(), value, ())
        content = read_one(record, found.next.partition, found.partitions)
        if isinstance(content, DeadLetter):
            return Preview(*state, now_ms, content, Account())
        # Of a producer's record nothing else can come.
        command = cast(Command, content)
        accounts: dict[str, Account] = {}
        await found.accounts.load([found.next.partition], accounts, [account], [command])
        known = await found.load_known(keys([command]))
        book = CreditBook(accounts, known, found.clock_ms, found.minute, found.rules)
        outcome = decide_next(book, command, found.next.offset, now_ms)
        return Preview(*state, book.clock_ms, outcome, book.account(account))


def decide_next(book: CreditBook, command: Command, offset: int, at_ms: int) -> CreditOutcome | Verdict:
    """Decide a command as the fold does where it is the next record: appended at an instant, in milliseconds UTC.

    The book needs no more than the command's account, and those of its ids that are known.
    """
    book.advance(at_ms)
    return book.apply(command, offset)
