"""The page of an account: what it has, what that is made of, and what happened to it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple

from fastapi import Query, Request
from fastapi.responses import Response
from psycopg import Connection

from creditfold.api.accounts import State, state_of
from creditfold.api.at_least import reading
from creditfold.api.parameters import Account, Asset
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.console import words
from creditfold.console.helping import helps_for
from creditfold.console.pages import Page, render
from creditfold.console.pictures import LotTime, Point, bars_of, plot_of
from creditfold.console.visits import Visit, needs
from creditfold.projections import queries
from creditfold.projections.queries import (
    BalanceNow,
    Hold,
    Lot,
    NextEnd,
    Schedule,
    StatementLine,
    Transfer,
)
from creditfold.schemas.outcome import Decision

router = Routes(route_class=Page, include_in_schema=False)

#: Rows of each list on the page.
MOST_ROWS = 25
#: Lines of the journal that the plot is of.
MOST_POINTS = 500
#: For how long ahead it is shown what ends, and how many of the first ends.
AHEAD, MOST_ENDS = timedelta(days=365), 3


class Found(NamedTuple):
    """What the page shows, all of one snapshot. Lists that may have more have one row more than are shown."""

    state: State
    balances: Sequence[BalanceNow]
    lots: Sequence[Lot]
    holds: Sequence[Hold]
    transfers: Sequence[Transfer]
    schedules: Sequence[Schedule]
    ending: Sequence[NextEnd]
    lines: Sequence[Decision]
    changes: Sequence[StatementLine]
    asset: str | None


class Line(NamedTuple):
    """A line of the journal in words."""

    line: Decision
    sentences: Sequence[words.Sentence]

    @property
    def about(self) -> str | None:
        """The command that *why* and *trace* are of: its own, else the first that the line names."""
        return self.line.command_id or next((one.about for one in self.sentences if one.about), None)


@router.get("/console/accounts/{account}")
async def show_account(
    request: Request,
    account: Account,
    visit: Annotated[Visit, needs("read:balance")],
    asset: Asset = None,
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> Response:
    """An account: balances, lots, holds, and its statement in words."""
    has_lines = visit.has("read:statement")
    read = await reading(
        service_of(request), visit.caller, account, None, _read, asset=asset, before=before, has_lines=has_lines
    )
    found: Found = read.found
    now = datetime.now(UTC)
    lots = found.lots[:MOST_ROWS]
    return render(
        request,
        "account.html",
        account=account,
        helps=helps_for(visit),
        found=found,
        now=now,
        has_lines=has_lines,
        before=before,
        most=MOST_ROWS,
        most_ends=MOST_ENDS,
        lots=[(lot, lot.unsettled_state(now) or lot.state) for lot in lots],
        bars=bars_of([LotTime(lot.effective_at, lot.expires_at, lot.remaining, lot.amount) for lot in lots], now),
        plot=plot_of([Point(line.decided_at, line.available) for line in found.changes], now),
        holds=[(hold, words.deadline_words(hold.deadline, now)) for hold in found.holds[:MOST_ROWS]],
        lines=lines_of(found.lines[:MOST_ROWS], visit),
        older=found.lines[MOST_ROWS - 1].version if len(found.lines) > MOST_ROWS else None,
        position=read.position,
        complete_to=read.complete_to,
        behind=words.behind(read.complete_to, now),
    )


def lines_of(lines: Sequence[Decision], visit: Visit) -> list[Line]:
    """Lines of the journal in words, without what only some may read."""
    return [Line(seen_by(visit, line), words.sentences(line)) for line in lines]


def seen_by(visit: Visit, line: Decision) -> Decision:
    """A line of the journal without what only some may read."""
    return line if visit.has("read:personal") else line._replace(source="", note="", details=None)


def _read(
    connection: Connection[Any], account: str, *, asset: str | None, before: int | None, has_lines: bool
) -> Found:
    balances = queries.balances_now(connection, account)
    chosen = asset if asset is not None else balances[0].asset if balances else None

    def listed(listing: queries.Listing, asset: str | None = None) -> Sequence[Any]:
        return queries.listed(connection, account, listing, MOST_ROWS + 1, asset=asset)

    return Found(
        state_of(connection, account),
        balances,
        listed(queries.LIVE_LOTS, chosen),
        listed(queries.OPEN_HOLDS),
        listed(queries.IN_TRANSIT),
        listed(queries.EVERY_SCHEDULE),
        queries.next_ends(connection, account, MOST_ENDS + 1, datetime.now(UTC) + AHEAD),
        queries.history(connection, account, MOST_ROWS + 1, before) if has_lines else (),
        queries.last_changes(connection, account, chosen, MOST_POINTS) if has_lines and chosen is not None else (),
        chosen,
    )
