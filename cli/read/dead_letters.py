"""The commands that show dead letters: list, show. Owns their words, no query."""

from base64 import b64decode
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditfold.cli.shared.arguments import ArgumentError, JsonOption, LimitOption, period_of
from creditfold.cli.shared.output import OLDER, print_json, print_rows, print_table, say
from creditfold.cli.shared.projection import projection
from creditfold.common.documents import instant
from creditfold.common.position import Position
from creditfold.schemas.dead_letters import DeadLetterReason

if TYPE_CHECKING:
    from creditfold.projections.queries.dead_letters import DeadLetterState, LetterFilter

HEX_COLUMNS = 16


def dead_letters(
    reason: Annotated[DeadLetterReason | None, typer.Option(help="Only those of this reason.")] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those about which nothing was decided yet.")] = False,
    *,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Appended from this time on (ISO 8601, UTC).")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Appended before this time (ISO 8601, UTC).")
    ] = None,
    totals: Annotated[
        bool, typer.Option("--totals", help="How many there are, by reason and state, in place of each.")
    ] = False,
    limit: LimitOption = 20,
    json: JsonOption = False,
) -> None:
    """List the records of the log that can't be folded, newest first, why, and what was decided about them.

    \b
    Examples:
      creditfold dead-letters list
      creditfold dead-letters list --open --reason not_framed
      creditfold dead-letters list --open --totals
      creditfold dead-letters list --since 2026-06-01 --until 2026-07-01
    """
    from creditfold.projections import queries
    from creditfold.projections.queries.dead_letters import LetterFilter

    begin, end = period_of(since, until)
    nothing = f"There are no {'open ' if only_open else ''}dead letters."
    if totals:
        _print_totals(LetterFilter(reason, since=begin, until=end), nothing, only_open=only_open, json=json)
        return
    with projection() as connection:
        # One more than is wanted shows whether there are more.
        found = queries.dead_letters(connection, limit + 1, reason, only_open=only_open, since=begin, until=end)
    rows = found[:limit]
    if json:
        print_json([_as_row(row) for row in rows])
    elif not rows:
        say(nothing)
    else:
        print_table(
            ("appended at", "position", "reason", "state", "detail"),
            [(row.appended_at, row.position, row.reason, _state(row), row.detail) for row in rows],
        )
        if len(found) > limit:
            say(OLDER)


def _print_totals(wanted: "LetterFilter", nothing: str, *, only_open: bool, json: bool) -> None:
    from creditfold.projections.queries.dead_letters import letter_totals

    with projection() as connection:
        rows = letter_totals(connection, wanted, only_open=only_open)
    columns = ("reason", "state", "dead letters", "keys", "first appended", "last appended")
    print_rows(rows, json, nothing, columns, tuple)


def _state(row: "DeadLetterState") -> str:
    return f"{row.state} to {row.to}" if row.state == "redriven" else row.state


def _as_row(row: "DeadLetterState") -> dict[str, Any]:
    """A letter as JSON has it: with `to`, the position of the record that mends it."""
    fields = row._asdict()
    position, to = row.position, row.to
    for name in ("log_partition", "log_offset", "to_partition", "to_offset"):
        del fields[name]
    return {"position": position, **fields, "to": to}


def dead_letter(
    position: Annotated[str, typer.Argument(metavar="POSITION", help="Of the record, as `list` shows it.")],
    json: JsonOption = False,
) -> None:
    """Show one record that can't be folded: the command that it holds if any, what was decided about it, its bytes.

    \b
    Example:
      creditfold dead-letters show 3:1042
    """
    from creditfold.producers.redrive import command_of
    from creditfold.projections import queries
    from creditfold.projections.queries import decisions

    place = Position.parse(position)
    with projection() as connection:
        row = queries.dead_letter(connection, place)
        mends = decisions.letter_mended_by(connection, place)
        became = None if row is None or row.to is None else queries.dead_letter(connection, row.to)
    if row is None:
        raise ArgumentError(
            f"There is no dead letter at {place}.", "See `creditfold dead-letters list` for those there are."
        )
    if json:
        print_json({**_as_row(row), "mends": mends.of if mends else None, "command": command_of(row.value)})
        return
    say(
        f"position     {row.position}",
        f"reason       {row.reason}",
        f"detail       {row.detail}",
        f"appended at  {instant(row.appended_at)}",
        f"state        {_state(row)}",
    )
    if row.decided_by is not None:
        say(f"decided      {instant(row.decided_at)} by {row.decided_by}: {row.note}")
    if became is not None:
        say(f"             and {became.position} is a dead letter again: {became.reason}")
    if mends is not None:
        say(f"mends        {mends.of}, by {mends.decided_by}: {mends.note}")
    for name, value in (command_of(row.value) or {}).items():
        say(f"command      {name} = {value}")
    _print_bytes(row)


def _print_bytes(row: "DeadLetterState") -> None:
    for name, value in row.headers:
        say(f"header       {name} = {_header_text(value)}")
    for title, data in (("key", row.key), ("value", row.value)):
        say(f"{title}, {len(data)} bytes" if data is not None else f"{title}: none")
        say(*(_hex_line(data or b"", at) for at in range(0, len(data or b""), HEX_COLUMNS)))


def _header_text(value: str | None) -> str:
    """A header's value as it was written where that is text, else in base64: whoever sent it may have said so there."""
    if value is None:
        return "none"
    try:
        text = b64decode(value).decode()
    except ValueError:
        return f"{value} (base64)"
    return text if text.isprintable() else f"{value} (base64)"


def _hex_line(data: bytes, at: int) -> str:
    """One line of a dump as `hexdump -C` prints it."""
    piece = data[at : at + HEX_COLUMNS]
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
    return f"  {at:08x}  {piece.hex(' '):<{3 * HEX_COLUMNS}} {text}"
