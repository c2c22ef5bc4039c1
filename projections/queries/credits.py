"""What readers ask about credits: lots, holds, transfers, schedules, and where credits came from and went.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit, instants are aware datetimes in UTC;
None stands for what an account's owner didn't set. All of it is as of the account's last settling by the log's clock.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.common.position import Position
from creditfold.projections.connections import rows_of
from creditfold.projections.queries.balances import Balance, first_decision
from creditfold.schemas.outcome import Decision


class Lot(NamedTuple):
    """Credits that came in together, and where each part of them is.

    `command_id` made it, `source` is the system account that it came from. `state` is pending, active, empty, expired
    or voided; a live one has something remaining or held.
    """

    account_id: str
    command_id: str
    number: int
    asset: str
    amount: int
    remaining: int
    held: int
    spent: int
    expired: int
    voided: int
    forfeited: int
    reissued: int
    transferred: int
    state: str
    is_live: bool
    # `class` is no name for a field here.
    lot_class: str
    priority: int
    scope: str | None
    effective_at: datetime | None
    expires_at: datetime | None
    source: str
    made: int
    log_partition: int
    log_offset: int


class Hold(NamedTuple):
    """Credits set aside: what was taken, and what is still held. `state` is open, lapsed or closed."""

    account_id: str
    command_id: str
    asset: str
    taken: int
    held: int
    state: str
    deadline: datetime | None
    slices: list[list[Any]]
    made: int
    log_partition: int
    log_offset: int


class Transfer(NamedTuple):
    """Credits sent to another account. `state` is in_transit or settled."""

    account_id: str
    command_id: str
    asset: str
    to_account: str
    amount: int
    state: str
    parcels: list[list[Any]]
    log_partition: int
    log_offset: int


class Schedule(NamedTuple):
    """A grant that recurs. `state` is active, finished (no turn is left) or ended (by a command)."""

    account_id: str
    command_id: str
    asset: str
    amount: int
    every: int
    period: str
    state: str
    next_number: int
    next_at: datetime | None
    first_at: datetime | None
    until: datetime | None
    cap: int | None
    lot_class: str
    priority: int
    scope: str | None
    expires_after_ms: int | None
    made: int
    log_partition: int
    log_offset: int


class AccountState(NamedTuple):
    """Whether an account is closed, and what its freeze forbids, if it is frozen."""

    account_id: str
    is_closed: bool
    frozen: str | None
    version: int
    log_partition: int
    log_offset: int


class Move(NamedTuple):
    """Credits that went from one place to another, by a fact.

    `command_id` is None for what time did, `lot_command` and `lot_number` for debt.
    """

    log_partition: int
    log_offset: int
    account_id: str
    version: int
    fact: int
    move: int
    asset: str
    command_id: str | None
    kind: str
    at: datetime
    ref: str
    lot_command: str | None
    lot_number: int | None
    source: str
    target: str
    amount: int
    decided_at: datetime


_LOT: LiteralString = """SELECT l.account_id, l.command_id, l.number, l.asset, l.amount, l.remaining, l.held, l.spent,
    l.expired, l.voided, l.forfeited, l.reissued, l.transferred, l.state, l.is_live, l.class AS lot_class, l.priority,
    l.scope, l.effective_at, l.expires_at, l.source, l.made, l.log_partition, l.log_offset FROM ledger.lots l """
#: The order in which spends take from lots.
_SPENDING: LiteralString = """l.priority, l.scope IS NULL, l.expires_at NULLS LAST, l.class <> 'promo',
    l.effective_at NULLS FIRST, l.made"""
_SCHEDULE: LiteralString = """SELECT account_id, command_id, asset, amount, every, period, state, next_number, next_at,
    first_at, until, cap, class AS lot_class, priority, scope, expires_after_ms, made, log_partition, log_offset
    FROM ledger.schedules """


def account_state(connection: Connection[Any], account: str) -> AccountState | None:
    """What concerns an account as a whole; None for one that was never frozen, closed or the like."""
    rows = rows_of(connection, AccountState, "SELECT * FROM ledger.accounts WHERE account_id = %s", (account,))
    return rows[0] if rows else None


def lots(connection: Connection[Any], account: str, asset: str | None = None, *, every: bool = False) -> Sequence[Lot]:
    """An account's live lots, by asset and in the order of spending; with `every`, the others behind them."""
    return rows_of(
        connection,
        Lot,
        _LOT
        + """WHERE l.account_id = %(account)s AND (%(asset)s::text IS NULL OR l.asset = %(asset)s)
             AND (%(every)s OR l.is_live) ORDER BY l.asset, l.is_live DESC, """
        + _SPENDING,
        {"account": account, "asset": asset, "every": every},
    )


def holds(connection: Connection[Any], account: str, *, every: bool = False) -> Sequence[Hold]:
    """An account's open holds, the first to lapse first; with `every`, the others behind them."""
    return rows_of(
        connection,
        Hold,
        """SELECT * FROM ledger.holds WHERE account_id = %s AND (%s OR state = 'open')
           ORDER BY state <> 'open', deadline, made""",
        (account, every),
    )


def transfers(connection: Connection[Any], account: str, *, every: bool = False) -> Sequence[Transfer]:
    """An account's transfers to others that are on their way; with `every`, the settled ones behind them."""
    return rows_of(
        connection,
        Transfer,
        """SELECT * FROM ledger.transfers WHERE account_id = %s AND (%s OR state = 'in_transit')
           ORDER BY state, log_offset, command_id""",
        (account, every),
    )


def schedules(connection: Connection[Any], account: str) -> Sequence[Schedule]:
    """An account's schedules: the next to fall due first, those without a turn behind them."""
    query = _SCHEDULE + "WHERE account_id = %s ORDER BY next_at NULLS LAST, made"
    return rows_of(connection, Schedule, query, (account,))


def balances_after(connection: Connection[Any], account: str, version: int) -> Sequence[Balance]:
    """An account's balances after its journal line of a number, by asset; limits aren't told."""
    return rows_of(
        connection,
        Balance,
        """SELECT DISTINCT ON (asset) account_id, asset, balance AS available, version, log_partition, log_offset,
                  pending, held, debt
           FROM ledger.journal WHERE account_id = %s AND version <= %s AND asset <> '' ORDER BY asset, version DESC""",
        (account, version),
    )


class FailedBatch(NamedTuple):
    """A batch that was rejected, and the index of the step that was asked about."""

    batch: Decision
    asked: int


def failed_batches(connection: Connection[Any], account: str, step: str) -> Sequence[FailedBatch]:
    """The rejected batches that had a step of this id, newest first."""
    rows = connection.execute(
        """SELECT j.command_id, (s.at - 1)::integer
           FROM ledger.rejections j
           CROSS JOIN LATERAL json_array_elements(j.details -> 'steps') WITH ORDINALITY AS s (step, at)
           WHERE j.account_id = %s AND j.kind = 'batch' AND s.step ->> 'command_id' = %s ORDER BY j.version DESC""",
        (account, step),
    ).fetchall()
    found = ((first_decision(connection, account, command_id), asked) for command_id, asked in rows)
    return [FailedBatch(batch, asked) for batch, asked in found if batch is not None]


class Letter(NamedTuple):
    """A dead letter that holds a text somewhere, and what was decided about it."""

    log_partition: int
    log_offset: int
    reason: str
    detail: str
    value: bytes
    state: str


_LETTER: LiteralString = """SELECT log_partition, log_offset, reason, detail, value, state
    FROM ledger.dead_letters JOIN ledger.dead_letter_states USING (log_partition, log_offset) """


def letters_with(connection: Connection[Any], text: str) -> Sequence[Letter]:
    """The dead letters whose bytes hold a text, in the log's order. Reads all of them."""
    query = _LETTER + "WHERE position(%s IN value) > 0 ORDER BY log_partition, log_offset"
    return rows_of(connection, Letter, query, (text.encode(),))


def letters_at(connection: Connection[Any], position: Position) -> Sequence[Letter]:
    """The dead letter made of the record at a position, if it is one."""
    return rows_of(connection, Letter, _LETTER + "WHERE (log_partition, log_offset) = (%s, %s)", tuple(position))


class TracedLot(NamedTuple):
    """A lot, the kind of the command that made it if the journal has it, and the moves that are asked about."""

    lot: Lot
    made_by: str | None
    moves: Sequence[Move]


class Trace(NamedTuple):
    """Both ways from a command.

    `took` are the lots that its own moves touched, `moves` those; `later` are other commands' and time's moves about
    what it began (a spend, a hold, a transfer). `made` are the lots that it made, each with all moves of its credits.
    """

    decision: Decision
    moves: Sequence[Move]
    took: Sequence[TracedLot]
    later: Sequence[Move]
    made: Sequence[TracedLot]

    @property
    def spent(self) -> int:
        """What it spent, owed credits among it."""
        return sum(move.amount for move in self.moves if move.target == "spent")

    @property
    def refunded(self) -> int:
        """What of that was refunded, debt that was forgiven among it."""
        return sum(move.amount for move in self.later if move.source == "spent")

    @property
    def owed(self) -> int:
        """What of that is still owed: what neither was forgiven nor repaid."""
        made = sum(move.amount for move in self.moves if move.source == "debt")
        return made - sum(move.amount for move in self.later if move.target == "debt")


def trace(connection: Connection[Any], account: str, command_id: str) -> Trace | None:
    """Where a command's credits came from and went; None if the account has no such command.

    Must run in a snapshot. Reads the account's journal.
    """
    names = {"account": account, "command": command_id}
    decided = first_decision(connection, account, command_id)
    if decided is None:
        return None
    made = _lots_of(connection, account, [(command_id, None)])
    moves = _moves(connection, "command_id = %(command)s", names)
    # A refund that reissues tells of the new lot, and names its spend in the command only.
    later = _moves(
        connection,
        """command_id IS DISTINCT FROM %(command)s AND lot_command IS DISTINCT FROM %(command)s
           AND (ref = %(command)s OR source = 'spent' AND kind = 'reissued' AND command_id IN (
               SELECT command_id FROM ledger.journal
               WHERE account_id = %(account)s AND kind = 'refund' AND details ->> 'spend' = %(command)s))""",
        names,
    )
    of_lots = _moves(connection, "lot_command = %(command)s", names) if made else []
    touched = dict.fromkeys((move.lot_command, move.lot_number) for move in moves if move.lot_command)
    took = [key for key in touched if key[0] != command_id]
    return Trace(
        decided,
        moves,
        [_traced(connection, lot, moves) for lot in _lots_of(connection, account, took)],
        later,
        [_traced(connection, lot, of_lots) for lot in made],
    )


def _lots_of(connection: Connection[Any], account: str, keys: Iterable[tuple[str | None, int | None]]) -> list[Lot]:
    """The lots of a command and a number, or all of a command, in the order of the keys."""
    found: list[Lot] = []
    for command_id, number in keys:
        found += rows_of(
            connection,
            Lot,
            _LOT
            + """WHERE l.account_id = %s AND l.command_id = %s AND (%s::integer IS NULL OR l.number = %s)
                 ORDER BY l.number""",
            (account, command_id, number, number),
        )
    return found


def _traced(connection: Connection[Any], lot: Lot, moves: Iterable[Move]) -> TracedLot:
    maker = first_decision(connection, lot.account_id, lot.command_id)
    own = [move for move in moves if (move.lot_command, move.lot_number) == (lot.command_id, lot.number)]
    return TracedLot(lot, None if maker is None else maker.kind, own)


def _moves(connection: Connection[Any], condition: LiteralString, names: dict[str, str]) -> list[Move]:
    query: LiteralString = "SELECT * FROM ledger.moves WHERE account_id = %(account)s AND "
    return rows_of(connection, Move, query + condition + " ORDER BY version, fact, move", names)
