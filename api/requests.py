"""What each request must be before a route looks at it: one meaning only, in its path, its query and its headers.

A request that two readers may understand in two ways is refused: money must not depend on which of them is right.
Knows no route; what a route takes is read from the OpenAPI document.
"""

import ipaddress
import re
from collections.abc import Collection
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from fastapi import Request
from starlette.types import Scope

from creditfold.api.problems import ProblemError, headers_too_large

#: Headers of which a request may have one at most.
_SINGLE = frozenset(
    {b"authorization", b"content-type", b"creditfold-why", b"idempotency-key", b"if-none-match", b"last-event-id"}
)
#: Bytes of a request's line and headers.
MOST_HEAD_BYTES = 32_768
# Stands for a slash that is part of a name, while routes look at the path. No path may have it else.
_SLASH = "\0"
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})").search


def make_plain(scope: Scope) -> None:
    """Refuse what has no one meaning, and give routes a path in which %2F separates nothing. Raises ProblemError."""
    _refuse_head(scope)
    _refuse_framing(scope["headers"])
    scope["path"] = _path_of(scope.get("raw_path") or scope["path"].encode())
    if scope["query_string"]:
        _text_of(scope["query_string"].replace(b"+", b" "), "query")


def _refuse_head(scope: Scope) -> None:
    # What reads it has a bound for what isn't whole, and none for what comes at once.
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if size + sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > MOST_HEAD_BYTES:
        raise headers_too_large()
    if scope["http_version"] not in ("1.0", "1.1"):
        raise ProblemError(
            505,
            "http_version_not_supported",
            f"The request is of HTTP/{scope['http_version']}.",
            "Send HTTP/1.1.",
            headers={"Connection": "close"},
        )


def _refuse_framing(headers: list[tuple[bytes, bytes]]) -> None:
    names = [name.lower() for name, _ in headers]
    if len(set(names)) == len(names) and b"transfer-encoding" not in names:
        return
    if b"content-length" in names and b"transfer-encoding" in names:
        raise ProblemError(
            400,
            "ambiguous_request",
            "The request has both Content-Length and Transfer-Encoding.",
            "Send one of them; a proxy that adds the other is a danger.",
            headers={"Connection": "close"},
        )
    double = next((name for name in names if name in _SINGLE and names.count(name) > 1), None)
    if double is not None:
        raise ProblemError(
            400, "ambiguous_request", f"The request has the header {double.decode()} twice.", "Send it once."
        )


def _path_of(raw: bytes) -> str:
    if raw.isascii() and b"%" not in raw and b"\0" not in raw:
        return raw.decode()
    return "/".join(_text_of(part, "path").replace("/", _SLASH) for part in raw.split(b"/"))


def _text_of(part: bytes, where: str) -> str:
    try:
        text = unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        text = _SLASH
    if _SLASH in text or _BROKEN_ESCAPE(part):
        raise ProblemError(
            400,
            "invalid_request",
            f"The {where} of the URL is not UTF-8, has a broken %-escape, or a NUL.",
            "Encode each part by itself as UTF-8, with %XX, as encodeURIComponent does.",
        )
    return text


async def checked(request: Request) -> None:
    """Give a route's parameters their slashes back, and refuse those of the query that it doesn't take.

    A dependency of every route. Raises ProblemError.
    """
    path_params = request.scope.get("path_params", {})
    for name, value in path_params.items():
        if isinstance(value, str):
            path_params[name] = value.replace(_SLASH, "/")
    if not request.scope["query_string"]:
        return
    known = _query_names(request)
    if known is None:
        return
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name == "as_of" and name not in known:
            raise ProblemError(
                400,
                "invalid_as_of",
                "The route knows the present only.",
                "GET /v1/accounts/{account} and its /balances, /lots and /holds take as_of; /statement and /history "
                "have what was decided until a time.",
            )
        if name not in known and name.partition("[")[0] + "[]" not in known:
            raise ProblemError(
                400,
                "unknown_parameter",
                f"The route has no parameter {name[:60]!r}.",
                f"It takes {', '.join(sorted(known)) or 'none'}.",
            )
        if given.count(name) > 1:
            raise ProblemError(400, "ambiguous_request", f"The parameter {name} is there twice.", "Send it once.")


def _query_names(request: Request) -> set[str] | None:
    """The names of a route's query parameters; None where the document says nothing of the route.

    One whose style is deepObject is taken as `name[...]`, and stands here as `name[]`.
    """
    path, method = getattr(request.scope.get("route"), "path_format", ""), request.method.lower()
    found = cast(dict[str, Any], request.app.openapi()["paths"]).get(path, {}).get(method)
    if found is None:
        return None
    return {
        one["name"].partition("[")[0] + "[]" if one.get("style") == "deepObject" else one["name"]
        for one in found.get("parameters", ())
        if one["in"] == "query"
    }


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_other_pages(request: Request, origins: Collection[str]) -> None:
    """Raise ProblemError for a request without a key that a page of somebody else's has a browser send.

    Such a page reaches this machine's loopback: by its address, or by a name of its own that leads there.
    """
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    is_ours = origin is None or origin in origins or origin.partition("://")[2] == host
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if not is_ours or not is_loopback(name):
        raise ProblemError(
            403,
            "other_origin",
            "Without a key only this machine's own programs are served, and no page of another origin.",
            "Call 127.0.0.1 or localhost, or serve with keys and name the page in CREDITFOLD_API_CORS_ORIGINS.",
        )
