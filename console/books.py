"""The pages of the books: where all credits are, by asset and class, what ends when, and the proof.

What takes long is a page of its own, which the first one has a browser fetch where it can. It shows what came of it
last, and of when that is, while it is worked out anew.
"""

from typing import Annotated, Any, NamedTuple

from fastapi import Request
from fastapi.responses import Response
from psycopg import Connection

from creditfold.api.books import TrialBalanceAnswer, books_of, proof
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.console.pages import Page, render
from creditfold.console.visits import Visit, needs
from creditfold.projections import queries
from creditfold.projections.queries import SpentSum
from creditfold.projections.queries.monitoring import Outstanding, outstanding

router = Routes(route_class=Page, include_in_schema=False)

#: Rows of a table at most.
MOST_ROWS = 100

Reader = Annotated[Visit, needs("read:statement", everywhere=True)]


class Classes(NamedTuple):
    """What accounts have, and what was spent, by asset and class."""

    outstanding: list[Outstanding]
    spent: list[SpentSum]


@router.get("/console/books")
async def show_books(request: Request, visit: Reader) -> Response:
    """Where all credits are, by asset, as the fold keeps it."""
    read = await service_of(request).read(None, queries.totals)
    return render(request, "books.html", totals=read.found, most=MOST_ROWS, complete_to=read.complete_to)


@router.get("/console/books/classes")
async def show_classes(request: Request, visit: Reader) -> Response:
    """What accounts have and what was spent, by class. Reads each live lot."""
    latest = await service_of(request).latest.look("classes", _classes)
    return render(request, "classes.html", latest=latest)


def _classes(connection: Connection[Any]) -> Classes:
    spent = queries.spent(connection, by=["class"], limit=MOST_ROWS)
    return Classes(list(outstanding(connection))[:MOST_ROWS], list(spent))


@router.get("/console/books/ending")
async def show_ending(request: Request, visit: Reader) -> Response:
    """What ends in which month. Reads each live lot."""
    latest = await service_of(request).latest.look("ending", queries.expiring_totals)
    return render(request, "ending.html", latest=latest, most=MOST_ROWS)


@router.get("/console/books/proof")
async def show_proof(request: Request, visit: Reader) -> Response:
    """The trial balance: the proof from the journal that nothing is missing. Reads all of it."""
    latest = await service_of(request).latest.look("proof", _proof)
    return render(request, "proof.html", latest=latest)


def _proof(connection: Connection[Any]) -> TrialBalanceAnswer:
    return books_of(proof(connection))
