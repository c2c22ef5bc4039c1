"""The search: accounts by the beginning of their name, by a command's id, and by what commands say of an order."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import Query, Request
from fastapi.responses import Response
from psycopg import Connection

from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.console.pages import Page, render
from creditfold.console.visits import Visit, needs
from creditfold.ledger.limits import MAX_ACCOUNT, MAX_COMMAND_ID, MAX_SEARCHABLE_VALUE, is_id
from creditfold.projections import queries
from creditfold.projections.queries import AccountFilter, FoundAccounts

router = Routes(route_class=Page, include_in_schema=False)

#: Accounts of each way to find them.
MOST_FOUND = 20


class Hits(NamedTuple):
    """Accounts that were found by one way: `by` says which."""

    by: str
    found: FoundAccounts


@router.get("/console")
async def show_search(
    request: Request,
    visit: Annotated[Visit, needs("read:balance")],
    q: Annotated[str, Query(max_length=1_000)] = "",
) -> Response:
    """The search, and what it finds."""
    text = q.strip()
    hits: Sequence[Hits] = ()
    if text:
        read = await service_of(request).read(
            None, _search, text, visit.caller.account_prefix, is_personal=visit.has("read:personal")
        )
        hits = read.found
    return render(request, "search.html", q=text, hits=hits, is_found=any(one.found.accounts for one in hits))


def _search(connection: Connection[Any], text: str, prefix: str, *, is_personal: bool) -> list[Hits]:
    """Accounts by each way that a text can be meant in, within a caller's prefix."""
    asked: list[tuple[str, AccountFilter]] = []
    # What begins none of a caller's accounts may still be a command's id.
    if is_id(text, MAX_ACCOUNT) and (text.startswith(prefix) or prefix.startswith(text)):
        asked.append(("account", AccountFilter(max(text, prefix, key=len))))
    if is_id(text, MAX_COMMAND_ID):
        asked.append(("command", AccountFilter(prefix, command_id=text)))
    if is_personal and len(text) <= MAX_SEARCHABLE_VALUE:
        keys = queries.searchable_metadata(connection)
        asked += [(f"metadata {key}", AccountFilter(prefix, metadata={key: text})) for key in keys]
    return [Hits(by, queries.search_accounts(connection, wanted, MOST_FOUND)) for by, wanted in asked]
