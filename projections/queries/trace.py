"""Where a command's credits came from and went: from a spend to its lots, from a grant to its spends.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit, instants are aware datetimes in UTC.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.projections.connections import rows_of
from creditfold.projections.queries.journal import first_decision
from creditfold.projections.queries.lots import SELECT_LOTS, Lot
from creditfold.schemas.outcome import Decision


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


class TracedLot(NamedTuple):
    """A lot, the kind of the command that made it if the journal has that command, and moves of its credits."""

    lot: Lot
    made_by: str | None
    moves: Sequence[Move]


class Trace(NamedTuple):
    """Where a command's credits came from and where they went.

    `moves` are the command's own; `took` are the lots that they touched, each with those of the moves that touched it.
    `later` are moves of other commands and of time about what it began (a spend, a hold, a transfer). `made` are the
    lots that the command made, each with all moves of its credits.
    """

    decision: Decision
    moves: Sequence[Move]
    took: Sequence[TracedLot]
    later: Sequence[Move]
    made: Sequence[TracedLot]

    @property
    def spent(self) -> int:
        """What the command spent, owed credits included."""
        return sum(move.amount for move in self.moves if move.target == "spent")

    @property
    def refunded(self) -> int:
        """How much of that was refunded, forgiven debt included."""
        return sum(move.amount for move in self.later if move.source == "spent")

    @property
    def owed(self) -> int:
        """How much of that is still owed: neither forgiven nor repaid."""
        made = sum(move.amount for move in self.moves if move.source == "debt")
        return made - sum(move.amount for move in self.later if move.target == "debt")


def trace(connection: Connection[Any], account: str, command_id: str) -> Trace | None:
    """Where a command's credits came from and where they went.

    Must run in a snapshot (`creditfold.projections.connections.snapshot`). Reads the account's journal.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: the command's account.
        command_id: the command's id.

    Returns:
        The trace; None if the account has no such command.

    Example:
        >>> from creditfold.projections.connections import snapshot
        >>> with snapshot(connection):
        ...     found = trace(connection, "ada", "order-1")
        >>> found.spent, [traced.lot.command_id for traced in found.took]
        (180, ['welcome'])
    """
    names = {"account": account, "command": command_id}
    decided = first_decision(connection, account, command_id)
    if decided is None:
        return None
    made = _lots_of(connection, account, [(command_id, None)])
    moves = _moves(connection, "command_id = %(command)s", names)
    # A refund that reissues has moves of the new lot, and names its spend in the command only.
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
            SELECT_LOTS
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
