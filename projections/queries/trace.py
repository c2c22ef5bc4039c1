"""Where a command's credits came from and went: from a spend to its lots, from a grant to its spends.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit, instants are aware datetimes in UTC.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from json.encoder import encode_basestring
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.projections.connections import rows_of
from creditfold.projections.queries.journal import first_decision, last_version
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

    @property
    def is_cut(self) -> bool:
        """Whether the page ends where enough lines were looked through, and not since it is full."""
        return self.following is not None and self.following.fact == 0


def trace(
    connection: Connection[Any],
    account: str,
    command_id: str,
    *,
    limit: int = 1_000,
    place: TracePlace | None = None,
    lines: int | None = None,
) -> Trace | None:
    """Where a command's credits came from and where they went.

    Must run in a snapshot (`creditfold.projections.connections.snapshot`). Reads the account's journal from the command
    on, until it has the page, and no further than to the last record that changed something of the command's: its lots,
    what it spent, its hold, its transfer, its schedule.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: the command's account.
        command_id: the command's id.
        limit: how many moves at most.
        place: the moves behind it only, of the page before; None for the first.
        lines: how many of the account's lines are looked through at most, so that a page may have fewer moves than
            there are behind it; None for any number.

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
    # As the journal writes it within its JSON.
    names: dict[str, Any] = {"account": account, "command": command_id, "written": encode_basestring(command_id)}
    names |= {"first": decided.version, "offset": decided.log_offset}
    start = place or TracePlace(decided.version, 0, 0)
    found, following = _moves_behind(connection, names, start, limit + 1, lines)
    page = found[:limit]
    own = [move for move in page if move.command_id == command_id]
    return Trace(
        decided,
        own,
        _traced(connection, account, own, [key for key in map(_lot_of, own) if key[0] not in (None, command_id)]),
        [move for move in page if command_id not in (move.command_id, move.lot_command)],
        _traced(connection, account, page, sorted({key for key in map(_lot_of, page) if key[0] == command_id})),
        *_amounts(connection, names),
        TracePlace(page[-1].version, page[-1].fact, page[-1].move) if len(found) > limit else following,
    )


# The last record that changed something that a command made, or brought back what it spent: its rows have its place.
_LAST_CHANGE: LiteralString = """
    SELECT greatest(%(offset)s, max(log_offset)) FROM (
        SELECT log_offset FROM ledger.changed_spends WHERE account_id = %(account)s AND command_id = %(command)s
        UNION ALL
        SELECT log_offset FROM ledger.lots WHERE account_id = %(account)s AND command_id = %(command)s
        UNION ALL
        SELECT log_offset FROM ledger.holds WHERE account_id = %(account)s AND command_id = %(command)s
        UNION ALL
        SELECT log_offset FROM ledger.transfers WHERE account_id = %(account)s AND command_id = %(command)s
        UNION ALL
        SELECT log_offset FROM ledger.schedules WHERE account_id = %(account)s AND command_id = %(command)s
    ) AS changes
"""
# The lines that may have such moves. To look for an id in a text takes a fraction of what it takes to read the JSON.
_NAMING: LiteralString = """
    SELECT version FROM ledger.journal_texts
    WHERE account_id = %(account)s AND version BETWEEN %(from)s AND %(to)s
      AND (command_id = %(command)s OR strpos(facts, %(written)s) > 0
           OR kind = 'refund' AND details ->> 'spend' = %(command)s)
    ORDER BY version LIMIT %(lines)s
"""


def _moves_behind(
    connection: Connection[Any], names: dict[str, Any], place: TracePlace, most: int, lines: int | None
) -> tuple[list[Move], TracePlace | None]:
    """The first moves about a command behind a place, and where to look on if that many lines had fewer."""
    ((changed,),) = connection.execute(_LAST_CHANGE, names).fetchall()
    last = last_version(connection, names["account"], until=changed)
    end = last if lines is None else min(last, place.version + lines)
    found: list[Move] = []
    first, has_more = place.version, True
    while has_more and len(found) < most:
        # Each of them has a move, as a rule: so many lines are the page, and more are looked for where they aren't.
        rows = connection.execute(_NAMING, {**names, "from": first, "to": end, "lines": most})
        versions = [version for (version,) in rows]
        page = {"versions": versions, **place._asdict(), "limit": most - len(found)}
        found += rows_of(connection, Move, _PAGE, {**names, **page})
        has_more = len(versions) == most
        first = versions[-1] + 1 if versions else end
    return found, TracePlace(end + 1, 0, 0) if end < last and not has_more else None


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
_LEFT_OF_SPEND: LiteralString = """
    SELECT refundable, debt FROM ledger.changed_spends WHERE account_id = %(account)s AND command_id = %(command)s
"""


def _amounts(connection: Connection[Any], names: dict[str, Any]) -> tuple[int, int, int]:
    """What a command spent, how much of that was refunded, and how much is owed."""
    ((spent, owed),) = connection.execute(_SPENT, names).fetchall()
    changed = connection.execute(_LEFT_OF_SPEND, names).fetchone() if spent else None
    if changed is None:
        return spent, 0, owed
    refundable, debt = changed
    return spent, spent - refundable, debt


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
