"""The files that the pages load: the style sheet, and htmx as its npm package has it (`static/vendored.json`)."""

from functools import cache
from importlib.resources import files
from typing import Annotated

from fastapi import Header
from fastapi.responses import Response

from creditfold.api.answers import is_known, tag_of
from creditfold.api.problems import ProblemError
from creditfold.api.routes import Routes
from creditfold.console.pages import SECURITY, Page

router = Routes(route_class=Page, include_in_schema=False)

#: The media types of the files that are served, by name.
FILES = {"console.css": "text/css", "htmx.min.js": "text/javascript"}


@router.get("/console/static/{name}")
async def file(name: str, if_none_match: Annotated[str, Header()] = "") -> Response:
    """A file that pages load. Needs no login."""
    if name not in FILES:
        raise ProblemError(404, "not_found", f"The console has no file {name[:60]!r}.", "GET /console is the console.")
    content, tag = _file(name)
    # The next release has others under the same names.
    headers = {**SECURITY, "Cache-Control": "no-cache", "ETag": tag}
    if is_known(tag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(content, 200, headers, FILES[name])


@cache
def _file(name: str) -> tuple[bytes, str]:
    """A file with its ETag."""
    content = files("creditfold.console").joinpath("static", name).read_bytes()
    return content, tag_of(content)
