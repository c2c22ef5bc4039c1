"""What the console has no page for: said on a page, as everything else is. Its routes come last."""

from fastapi import Request
from fastapi.responses import Response

from creditfold.api.problems import ProblemError
from creditfold.api.routes import Routes
from creditfold.console.pages import ROOT, Page, moved

router = Routes(route_class=Page, include_in_schema=False)


@router.get("/console/")
async def show_root(request: Request) -> Response:
    """Leads to the search, whose path has no slash at its end."""
    return moved(ROOT)


@router.get("/console/{path:path}")
async def show_unknown(request: Request, path: str) -> Response:
    """A page that isn't there."""
    raise ProblemError(404, "not_found", f"The console has no page {path[:100]!r}.", "Go on from the search.")
