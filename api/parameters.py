"""What several routes take in their path or query: the account, instants, pages, cursors, the form of the answer.

Owns how these are written and read. A cursor is opaque: it says where the next page begins, and for which route.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Header, Path, Query
from pydantic import BeforeValidator

from creditfold.api.problems import ProblemError
from creditfold.common.instants import moment_of
from creditfold.common.position import Position

Account = Annotated[str, Path(description="The account.", min_length=1, max_length=128)]

#: Rows of a page, unless asked otherwise, and at most.
PAGE, MOST_PAGE = 100, 1_000
#: Characters of a cursor at most: one of the journal has an offset of each partition. Two fit into a request.
MOST_CURSOR = 12_288


def _moment_of_body(value: object) -> object:
    """An instant of a body: a text, which JSON has no other form for. Raises ValueError."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("must be a time of RFC 3339, as text")
    return moment_of(value)


#: An instant as people and services write it: in a query, and in a body.
Instant = Annotated[datetime, BeforeValidator(moment_of)]
BodyInstant = Annotated[datetime | None, BeforeValidator(_moment_of_body)]
From = Annotated[Instant | None, Query(alias="from", description="The first instant that counts (RFC 3339).")]
Since = Annotated[Instant | None, Query(description="The first instant that counts (RFC 3339).")]
Until = Annotated[Instant | None, Query(description="The first instant that doesn't count any more (RFC 3339).")]
Limit = Annotated[int, Query(description="Rows of a page.", ge=1, le=MOST_PAGE)]
Cursor = Annotated[
    str | None,
    Query(description="`next` of the page before: this page begins where that one ended.", max_length=MOST_CURSOR),
]
Asset = Annotated[str | None, Query(description="Only this asset.", min_length=1, max_length=128)]

#: What a cursor may name: versions and offsets, and accounts.
_LARGEST = 2**63 - 1


def cursor_of(route: str, place: Sequence[Any]) -> str:
    """The cursor of a place, which is made of whole numbers, texts and lists of these."""
    text = json.dumps([route, *place], separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def place_of(route: str, cursor: str, like: Sequence[Any]) -> list[Any]:
    """The place that a cursor of a route names.

    Args:
        route: its name.
        cursor: from a request.
        like: a place of the same form; of a list, one element stands for any number of them.

    Raises:
        ProblemError: it is none, or another route's.
    """
    try:
        name, *place = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if name == route and len(place) == len(like) and all(map(_is_like, place, like)):
            found: list[Any] = place
            return found
    except (ValueError, TypeError, RecursionError):
        pass
    raise ProblemError(
        400, "invalid_cursor", "The cursor isn't one of this route.", "Take it from `next` of an answer, as it is."
    )


def _is_like(value: Any, like: Any) -> bool:
    if isinstance(like, list):
        return isinstance(value, list) and all(_is_row(one, like[0]) for one in value)
    if isinstance(like, str):
        # A name may have characters that nobody sees.
        return isinstance(value, str) and "\0" not in value and _is_utf8(value)
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_row(value: Any, like: Sequence[Any]) -> bool:
    return isinstance(value, list) and len(value) == len(like) and all(map(_is_like, value, like))


def as_utf8(text: str) -> str:
    """The text of a header that is sent in UTF-8. Raises ValueError."""
    # Headers are bytes; the server reads them as Latin-1, in which each byte is a character.
    try:
        return text.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise ValueError("must be UTF-8") from None


def positions_of(text: str | None) -> list[Position]:
    """Read positions by comma. Raises InvalidPositionError."""
    return [] if text is None else [Position.parse(part.strip()) for part in text.split(",")]


def refuse_empty_time(since: datetime | None, until: datetime | None, begin: str = "since") -> None:
    """Raise ProblemError where a time ends before it begins, in the parameter of that name."""
    if since is not None and until is not None and until < since:
        raise ProblemError(400, "invalid_request", f"until is before {begin}.", f"Name the earlier instant in {begin}.")


Accept = Annotated[str, Header(description="The form of the answer, where `format` says none.")]
TableForm = Annotated[Literal["json", "csv"] | None, Query(description="In place of the header Accept.")]

#: Media types by the name of a form.
MEDIA_TYPES = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv"}
_FORMS = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "text/csv": "csv",
    "application/*": "json",
    "*/*": "json",
}


def form_of(accept: str, asked: str | None) -> str:
    """The form of an answer: the one that is asked for by `format`, else the best of the header Accept.

    Raises:
        ProblemError: Accept has none of them.
    """
    if asked is not None:
        return asked
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if name in _FORMS:
            weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
            weights.setdefault(_FORMS[name], _weight(weight))
    best = max(weights, key=lambda form: weights[form], default=None if accept.strip() else "json")
    if best is None or weights.get(best, 1.0) <= 0:
        raise ProblemError(
            406, "not_acceptable", "The answer can't be had in that form.", f"Accept {', '.join(MEDIA_TYPES.values())}."
        )
    return best


def table_form_of(accept: str, asked: str | None) -> str:
    """As `form_of`, of an answer that is had as `json` or as `csv`."""
    form = form_of(accept, asked)
    if form == "ndjson":
        raise ProblemError(
            406, "not_acceptable", "The answer can't be had in that form.", "Accept application/json or text/csv."
        )
    return form


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
