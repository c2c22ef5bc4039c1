"""The arguments and options that several commands share, and the refusal of bad ones.

Bounds of a command's fields aren't here: the producers' own models refuse what is out of them.
"""

import os
import re
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from creditfold.common import instants
from creditfold.common.errors import CreditfoldError
from creditfold.common.instants import milliseconds_of
from creditfold.ledger.limits import MAX_ACCOUNT, MAX_REASON, MAX_SOURCE, is_id, is_note

# More digits than the largest amount has: the command's model refuses such a number and says why.
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,40}").fullmatch

MAX_ROWS = 10_000
_WRITE_TIMES = "Write it as 2026-06-30T23:59:59.999Z, as 2026-06-30, or in milliseconds since 1970."

AccountArgument = Annotated[str, typer.Argument(help="Account id. Write -- before one that begins with a dash.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV for a spreadsheet.")]
FoldTimeoutOption = Annotated[float, typer.Option(min=0.1, max=600, help="Seconds to wait for Kafka, then the fold.")]
AssetFilterOption = Annotated[str | None, typer.Option("--asset", help="Only of this asset.")]
ByOption = Annotated[str | None, typer.Option(metavar="NAME", help="Who decides. Default: your user name here.")]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=MAX_ROWS, help="Most rows to show.")]
SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="From this time on (ISO 8601, UTC), by the log's clock.")
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Before this time (ISO 8601, UTC), by the log's clock.")
]

AsOfOption = Annotated[
    str | None,
    typer.Option("--as-of", metavar="TIME|POSITION", help="What it was then: a time (ISO 8601, UTC), a position."),
]


class ArgumentError(CreditfoldError):
    """An argument that is wrong by itself."""

    exit_code = 2


def checked_account(account: str) -> str:
    """Return an account id that can exist. Raises ArgumentError for another text."""
    if not is_id(account, MAX_ACCOUNT):
        raise ArgumentError(
            f"{account[:60]!r} is no account id.",
            f"An account id has 1 to {MAX_ACCOUNT} characters, no control characters, no spaces at its ends.",
        )
    return account


def moment_of(text: str) -> datetime:
    """Read a time to look at: ISO 8601, in UTC unless it says otherwise, or milliseconds since 1970 UTC.

    Raises ArgumentError.
    """
    try:
        return instants.moment_of(text)
    except instants.InstantError as error:
        raise ArgumentError(f"{error}.", _WRITE_TIMES) from None


def period_of(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Read the two ends of a time, the second of which doesn't count any more. Raises ArgumentError."""
    begin, end = (None if text is None else moment_of(text) for text in (since, until))
    if begin is not None and end is not None and end < begin:
        raise ArgumentError("--until is before --since.", "Name the earlier time in --since.")
    return begin, end


def refuse_both(*, json: bool, csv: bool) -> None:
    """Raise ArgumentError where an output of two forms is wanted."""
    if json and csv:
        raise ArgumentError("The output is either JSON or CSV.", "Leave out --json, or --csv.")


def instant_of(text: str) -> int:
    """Read a time for a command's field, as moment_of does; in milliseconds since 1970 UTC. 0 is none.

    Raises ArgumentError.
    """
    try:
        return 0 if text == "0" else instants.instant_of(text)
    except instants.InstantError as error:
        raise ArgumentError(f"{error}.", _WRITE_TIMES) from None


def milliseconds(text: str) -> int:
    """Read a time in ISO 8601, in UTC unless it says otherwise; in milliseconds since 1970. Raises ArgumentError."""
    moment = moment_of(text)
    if moment > datetime.now(UTC):
        raise ArgumentError(f"{text} lies in the future.", "Name a time that has passed.")
    return milliseconds_of(moment)


def duration_of(text: str) -> int:
    """Read a length of time, a whole number with its unit, as 15m; in milliseconds. Raises ArgumentError."""
    try:
        return instants.duration_of(text)
    except instants.InstantError as error:
        raise ArgumentError(f"{error}.", "Write it as 90s, 15m, 2h or 7d.") from None


def instant_or_from_now(text: str, now: datetime) -> int:
    """Read a time as instant_of does, or a length of time that begins now. Raises ArgumentError."""
    try:
        return milliseconds_of(now) + instants.duration_of(text)
    except instants.InstantError:
        return instant_of(text)


def whole_number(text: str) -> int | str:
    """Read a whole number; any other text is returned as it is, for the command's model to refuse."""
    return int(text) if _WHOLE_NUMBER(text) else text


def author_of(by: str | None) -> str:
    """Who decides: who is named, else the user here. Raises ArgumentError where that is no name."""
    from getpass import getuser

    try:
        name = by if by is not None else os.environ.get("USER") or getuser()
    except (OSError, KeyError):
        name = ""
    if not is_id(name, MAX_SOURCE):
        raise ArgumentError(
            f"{name[:60]!r} is no name.", f"Say who decides: --by NAME, at most {MAX_SOURCE} characters in one line."
        )
    return name


def reason_of(text: str, option: str) -> str:
    """The reason that an option gives. Raises ArgumentError where it is none, or can't be kept."""
    if not text.strip() or not is_note(text, MAX_REASON):
        raise ArgumentError(f"{option} has no text that can be kept.", f"Say why in 1 to {MAX_REASON:,} characters.")
    return text


def file_text(name: str, most_bytes: int, what: str) -> str:
    """Read a small file of UTF-8; - is the input.

    Args:
        name: of the file.
        most_bytes: what it may have.
        what: is to be named, for the remedy.

    Raises:
        ArgumentError: it can't be read, or is larger.
        UnicodeDecodeError: it isn't UTF-8.
    """
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as file:
            data = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:
        fault = error.strerror if isinstance(error, OSError) else error
        raise ArgumentError(f"Can't read {name[:200]}: {fault}.", f"Name {what}.") from None
    if len(data) > most_bytes:
        raise ArgumentError(f"{name[:200]} has more than {most_bytes:,} bytes.", f"Name {what}, in several pieces.")
    return data.decode("utf-8-sig")


def metadata_of(pairs: list[str]) -> dict[str, str]:
    """Read `name=value` texts. Raises ArgumentError for a text without `=` or a name given twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name in found:
            fault = "is given twice" if equals else "has no value"
            raise ArgumentError(f"The metadata {name[:60]!r} {fault}.", "Write --metadata name=value, each name once.")
        found[name] = value
    return found
