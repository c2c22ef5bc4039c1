"""Where a command's credits came from and went: from a spend to its lots, from a grant to its spends.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit, instants are aware datetimes in UTC.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from json.encoder import encode_basestring
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


class TracePlace(NamedTuple):
    """A place in a trace: that of the last move that was read."""

    version: int
    fact: int
    move: int


class Trace(NamedTuple):
    """Where a command's credits came from and where they went: a page of the moves, in the order of the journal.

    `moves` are the command's own; `took` are the lots that they touched, each with those of the moves that touched it.
    `later` are moves of other commands and of time about what it began (a spend, a hold, a transfer). `made` are the
    lots that the command made, each with moves of its credits. All are those of this page: a lot stands on each page
    that has moves of it. `following` is where the next page begins, None after the last.

    The amounts are of the whole, whichever page this is: `spent` is what the command spent, owed credits included,
    `refunded` how much of that was refunded, forgiven debt included, and `owed` how much of it is still owed.
    """

    decision: Decision
    moves: Sequence[Move]
    took: Sequence[TracedLot]
    later: Sequence[Move]
    made: Sequence[TracedLot]
    spent: int
    refunded: int
    owed: int
    following: TracePlace | None


def trace(
    connection: Connection[Any],
    account: str,
    command_id: str,
    *,
    limit: int = 1_000,
    place: TracePlace | None = None,
) -> Trace | None:
    """Where a command's credits came from and where they went.

    Must run in a snapshot (`creditfold.projections.connections.snapshot`). Reads the account's journal from the command
    on, until it has the page; all of it where the command spent something.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: the command's account.
        command_id: the command's id.
        limit: how many moves at most.
        place: the moves behind it only, of the page before; None for the first.

    Returns:
        The trace; None if the account has no such command.

    Example:
        >>> from creditfold.projections.connections import snapshot
        >>> with snapshot(connection):
        ...     found = trace(connection, "ada", "order-1")
        >>> found.spent, [traced.lot.command_id for traced in found.took]
        (180, ['welcome'])
    """
    decided = first_decision(connection, account, command_id)
    if decided is None:
        return None
    names: dict[str, Any] = {"account": account, "command": command_id, "first": decided.version}
    # As the journal writes it within its JSON.
    names["written"] = encode_basestring(command_id)
    names["versions"] = [row[0] for row in connection.execute(_NAMING, names)]
    start = place or TracePlace(decided.version, 0, 0)
    found = rows_of(connection, Move, _PAGE, {**names, **start._asdict(), "limit": limit + 1})
    page = found[:limit]
    own = [move for move in page if move.command_id == command_id]
    return Trace(
        decided,
        own,
        _traced(connection, account, own, [key for key in map(_lot_of, own) if key[0] not in (None, command_id)]),
        [move for move in page if command_id not in (move.command_id, move.lot_command)],
        _traced(connection, account, page, sorted({key for key in map(_lot_of, page) if key[0] == command_id})),
        *_amounts(connection, names),
        TracePlace(page[-1].version, page[-1].fact, page[-1].move) if len(found) > limit else None,
    )


# The lines that may have such moves. To look for an id in a text takes a fraction of what it takes to read the JSON.
_NAMING: LiteralString = """
    SELECT version FROM ledger.journal
    WHERE account_id = %(account)s AND version >= %(first)s
      AND (command_id = %(command)s OR kind = 'refund' OR strpos(facts::text, %(written)s) > 0)
    ORDER BY version
"""
# What is about a command: its own moves, those of the lots that it made, and what became of what it began. A refund
# that reissues has moves of the new lot, and names its spend in the command only.
_ABOUT: LiteralString = """
    FROM ledger.moves m
    WHERE m.account_id = %(account)s AND m.version = ANY (%(versions)s::bigint[])
      AND (m.command_id = %(command)s OR m.lot_command = %(command)s OR m.ref = %(command)s
           OR m.source = 'spent' AND m.kind = 'reissued' AND EXISTS (
               SELECT FROM ledger.journal r
               WHERE r.account_id = m.account_id AND r.command_id = m.command_id AND r.kind = 'refund'
                 AND r.details ->> 'spend' = %(command)s))
"""
_PAGE: LiteralString = (
    "SELECT *"
    + _ABOUT
    + """ AND m.version >= %(version)s AND (m.version, m.fact, m.move) > (%(version)s, %(fact)s, %(move)s)
    ORDER BY m.version, m.fact, m.move LIMIT %(limit)s"""
)
_SPENT: LiteralString = """
    SELECT coalesce(sum(amount) FILTER (WHERE target = 'spent'), 0)::bigint,
           coalesce(sum(amount) FILTER (WHERE source = 'debt'), 0)::bigint
    FROM ledger.moves WHERE account_id = %(account)s AND version = %(first)s AND command_id = %(command)s
"""
_SUMS: LiteralString = """
    SELECT coalesce(sum(amount) FILTER (WHERE source = 'spent'), 0)::bigint,
           coalesce(sum(amount) FILTER (WHERE target = 'debt'), 0)::bigint
"""
_OF_OTHERS: LiteralString = """
      AND m.command_id IS DISTINCT FROM %(command)s AND m.lot_command IS DISTINCT FROM %(command)s
"""


def _amounts(connection: Connection[Any], names: dict[str, Any]) -> tuple[int, int, int]:
    """What a command spent, how much of that was refunded, and how much is owed."""
    ((spent, owed),) = connection.execute(_SPENT, names).fetchall()
    if not spent:
        return 0, 0, 0
    ((refunded, repaid),) = connection.execute(_SUMS + _ABOUT + _OF_OTHERS, names).fetchall()
    return spent, refunded, owed - repaid


def _lot_of(move: Move) -> tuple[str | None, int | None]:
    return move.lot_command, move.lot_number


def _traced(
    connection: Connection[Any],
    account: str,
    moves: Iterable[Move],
    keys: Collection[tuple[str | None, int | None]],
) -> list[TracedLot]:
    """Lots in the order of their keys, each with the moves of its credits."""
    if not keys:
        return []
    commands, numbers = (list(set(column)) for column in zip(*keys, strict=True))
    names = {"account": account, "commands": commands, "numbers": numbers}
    # More than the keys, where several commands made several lots each.
    rows = rows_of(connection, Lot, SELECT_LOTS + _OF_KEYS, names)
    lots = {(lot.command_id, lot.number): lot for lot in rows}
    makers = dict(connection.execute(_MAKERS, names).fetchall())
    of_lot: dict[Any, list[Move]] = {key: [] for key in keys if key in lots}
    for move in moves:
        if _lot_of(move) in of_lot:
            of_lot[_lot_of(move)].append(move)
    return [TracedLot(lots[key], makers.get(key[0]), own) for key, own in of_lot.items()]


_OF_KEYS: LiteralString = """
    WHERE l.account_id = %(account)s AND l.command_id = ANY(%(commands)s) AND l.number = ANY(%(numbers)s)
"""
_MAKERS: LiteralString = """
    SELECT command_id, kind FROM ledger.journal WHERE account_id = %(account)s AND command_id = ANY(%(commands)s)
"""
