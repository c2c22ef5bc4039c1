"""Traces on a real PostgreSQL: what a search of every line of the journal finds, and the same in pages of any size."""

import random
from collections import Counter
from typing import Any

import pytest

from creditfold.common.settings import Settings
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.fast import new_filter
from creditfold.projections import queries
from creditfold.projections.connections import snapshot
from helpers.credit_folds import fold_in_pieces
from helpers.credit_histories import history
from helpers.databases import planned_once
from helpers.support import query

#: What became of the lots that a command made.
OF_LOTS = """
    SELECT version, fact, move FROM ledger.moves
    WHERE account_id = %(account)s AND lot_command = %(command)s ORDER BY version, fact, move
"""


async def test_a_trace_is_read_in_pages(prepared: Settings) -> None:
    """Each move once and in order, of any size of a page; the amounts and the lots of a page are right on each."""
    records = history(3, 300)
    await fold_in_pieces(prepared, records, random.Random(3), AccountCache(3, is_fresh=True, ids=new_filter(2**16)))
    commands = query(
        prepared,
        "SELECT account_id, command_id FROM ledger_0001.journal WHERE command_id IS NOT NULL ORDER BY log_offset",
    )
    most = 0
    with planned_once(prepared) as connection, snapshot(connection):
        for account, command_id in commands:
            whole = queries.trace(connection, account, command_id, limit=10_000)
            assert whole is not None
            assert whole.following is None
            made = [move for lot in whole.made for move in lot.moves]
            stored = connection.execute(OF_LOTS, {"account": account, "command": command_id}).fetchall()
            assert sorted((move.version, move.fact, move.move) for move in made) == stored
            limit = random.Random(command_id).choice((1, 3))
            read, place, count = Counter[tuple[str, queries.Move]](), None, 0
            while count == 0 or place is not None:
                page = queries.trace(connection, account, command_id, limit=limit, place=place)
                assert page is not None
                found = moves_of(page)
                assert len({move for _, move in found}) <= limit
                assert (page.spent, page.refunded, page.owed) == (whole.spent, whole.refunded, whole.owed)
                read, place, count = read + found, page.following, count + 1
            assert read == moves_of(whole)
            most = max(most, count)
    assert most > 5


#: What a trace finds by the places of what a command made, by a search of every line.
ABOUT = """
    SELECT version, fact, move FROM ledger.moves m
    WHERE account_id = %(account)s AND version >= %(first)s
      AND (command_id = %(command)s OR lot_command = %(command)s OR ref = %(command)s
           OR source = 'spent' AND kind = 'reissued' AND EXISTS (
               SELECT FROM ledger.journal r
               WHERE r.account_id = m.account_id AND r.command_id = m.command_id AND r.kind = 'refund'
                 AND r.details ->> 'spend' = %(command)s))
    ORDER BY version, fact, move
"""


@pytest.mark.parametrize(
    ("seed", "kinds"),
    [
        (7, "captured expired reissued returned sent"),
        (12, "expired forfeited lapsed occurred refunded"),
        (38, "captured released repaid spent voided"),
    ],
)
async def test_a_trace_is_what_a_search_of_every_line_finds(prepared: Settings, seed: int, kinds: str) -> None:
    """However late the last move is: the rows of what a command made have the place of their last change, all of them.

    `kinds` are some of those moves that come behind the command's own line.
    """
    records = history(seed, 400)
    await fold_in_pieces(prepared, records, random.Random(seed), AccountCache(3, is_fresh=True, ids=new_filter(2**16)))
    commands = query(prepared, "SELECT account_id, command_id, version FROM ledger_0001.journal WHERE command_id <> ''")
    later: set[str] = set()
    with planned_once(prepared) as connection, snapshot(connection):
        for account, command_id, first in commands:
            found = queries.trace(connection, account, command_id, limit=10_000)
            assert found is not None
            # A move of a lot that it both took and made stands at both.
            of_lots = [move for lot in found.made for move in lot.moves]
            moves = {(move.version, move.fact, move.move): move for move in [*found.moves, *found.later, *of_lots]}
            names = {"account": account, "command": command_id, "first": first}
            assert sorted(moves) == connection.execute(ABOUT, names).fetchall(), command_id
            later |= {move.kind for move in moves.values() if move.version > first}
            refunded = sum(move.amount for move in found.later if move.source == "spent")
            repaid = sum(move.amount for move in found.later if move.target == "debt")
            own_debt = sum(move.amount for move in found.moves if move.source == "debt")
            if found.decision.kind in ("spend", "capture"):
                assert (found.refunded, found.owed) == (refunded, own_debt - repaid), command_id
            assert in_pieces(connection, account, command_id) == moves_of(found)
    assert set(kinds.split()) <= later, later


def in_pieces(connection: Any, account: str, command_id: str) -> "Counter[tuple[str, queries.Move]]":
    """The moves of a trace of which each page looks through three lines at most."""
    read, place, count = Counter[tuple[str, queries.Move]](), None, 0
    while count == 0 or place is not None:
        page = queries.trace(connection, account, command_id, limit=3, place=place, lines=3)
        assert page is not None
        assert len({move for _, move in moves_of(page)}) <= 3
        read, place, count = read + moves_of(page), page.following, count + 1
    return read


def moves_of(trace: queries.Trace) -> "Counter[tuple[str, queries.Move]]":
    """The moves of a page, and as what they stand there."""
    parts = {"own": trace.moves, "later": trace.later}
    parts |= {f"took {traced.lot.command_id}/{traced.lot.number}": traced.moves for traced in trace.took}
    parts |= {f"made {traced.lot.command_id}/{traced.lot.number}": traced.moves for traced in trace.made}
    return Counter((name, move) for name, moves in parts.items() for move in moves)
