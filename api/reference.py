"""The reference as a page: `/docs` renders `/openapi.json` in a browser, with nothing from any other server.

Owns the page's files, what the browser may load with them, and that they need no key: they are the same wherever the
package is installed, and say nothing of a ledger. Where Swagger UI's files come from is in `page/vendored.json`.
"""

from functools import cache
from importlib.resources import files
from typing import Annotated

from fastapi import Header
from fastapi.responses import Response

from creditfold.api.answers import is_known, tag_of
from creditfold.api.problems import ProblemError
from creditfold.api.routes import Routes

router = Routes(include_in_schema=False)

#: The media types of the files that are served, by name.
FILES = {
    "index.html": "text/html",
    "start.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
}
#: No script, style or connection but the door's own; pictures within the style sheet are data.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # The next release has others under the same names.
    "Cache-Control": "no-cache",
}
IfNoneMatch = Annotated[str, Header()]


@router.get("/docs")
async def page(if_none_match: IfNoneMatch = "") -> Response:
    """The page. Needs no key."""
    return _answer("index.html", if_none_match)


@router.get("/docs/{name}")
async def file(name: str, if_none_match: IfNoneMatch = "") -> Response:
    """A file that the page loads. Needs no key."""
    if name not in FILES:
        raise ProblemError(404, "not_found", f"The page has no file {name[:60]!r}.", "GET /docs is the page.")
    return _answer(name, if_none_match)


def _answer(name: str, if_none_match: str) -> Response:
    content, tag = _file(name)
    headers = {**_HEADERS, "ETag": tag}
    if is_known(tag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(content, 200, headers, FILES[name])


@cache
def _file(name: str) -> tuple[bytes, str]:
    """A file with its ETag."""
    content = files("creditfold.api").joinpath("page", name).read_bytes()
    return content, tag_of(content)
