"""The page of transfers in transit: who sent what to whom, how long ago, and where it is in the log."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response

from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.common.position import Position
from creditfold.console import words
from creditfold.console.pages import Page, link, render
from creditfold.console.visits import Visit, needs
from creditfold.projections import queries

router = Routes(route_class=Page, include_in_schema=False)

#: Transfers of a page.
MOST_TRANSFERS = 50


@router.get("/console/transfers")
async def show_transfers(
    request: Request,
    visit: Annotated[Visit, needs("read:balance", everywhere=True)],
    after: Annotated[str | None, Query(max_length=60)] = None,
) -> Response:
    """Transfers that have neither arrived nor come back, by partition, the oldest first."""
    place = None if after is None else Position.parse(after)
    read = await service_of(request).read(None, queries.transfers_in_transit, MOST_TRANSFERS + 1, place)
    page, now = read.found[:MOST_TRANSFERS], datetime.now(UTC)
    return render(
        request,
        "transfers.html",
        transfers=[(one, words.span((now - one.sent_at).total_seconds())) for one in page],
        older=link("transfers", after=page[-1].position) if len(read.found) > MOST_TRANSFERS else None,
        first=None if after is None else link("transfers"),
        complete_to=read.complete_to,
    )
