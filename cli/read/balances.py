"""The commands that read the projection: balance, history, rejections, dead-letters. Owns their words, no query.

Those about lots and where credits go are in credits.py and trace.py.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditfold.cli.terms.arguments import AccountArgument, ArgumentError, JsonOption, LimitOption, checked_account
from creditfold.cli.terms.output import NONE, instant, print_json, print_table, say
from creditfold.cli.terms.projection import projection
from creditfold.common.position import Position
from creditfold.ledger.limits import MAX_COMMAND_ID, is_id
from creditfold.schemas.dead_letters import DeadLetterReason

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from creditfold.projections.queries.balances import Balance
    from creditfold.projections.queries.balances_now import BalanceNow, UsableBalance
    from creditfold.projections.queries.dead_letters import TreatedLetter
    from creditfold.schemas.outcome import Decision

HEX_COLUMNS = 16
# PostgreSQL's bigint.
MAX_VERSION = 2**63 - 1


def balance(
    account: AccountArgument,
    as_of: Annotated[
        str | None, typer.Option(metavar="TIME|POSITION", help="What it was then: a time (ISO 8601, UTC), a position.")
    ] = None,
    use: Annotated[str | None, typer.Option(help="Also what is available for this use, by the lots' scopes.")] = None,
    json: JsonOption = False,
) -> None:
    """Show an account's balances, now or as of a time or a position of the log, both inclusive.

    Now is by the database server's clock: credits whose time is over don't count, whether a worker has settled the
    account or not. Where that makes a difference, what is stored is shown too. As of a time or a position shows what
    was decided by then.
    What is pending, held or owed is shown where there is any.

    \b
    Examples:
      creditfold balance alice
      creditfold balance alice --use ads
      creditfold balance alice --json
      creditfold balance alice --as-of 2026-06-30T23:59:59.999Z
      creditfold balance alice --as-of 3:1042
    """
    from creditfold.projections import queries
    from creditfold.projections.proof.rows import snapshot

    checked_account(account)
    if use is not None and (as_of is not None or not is_id(use, MAX_COMMAND_ID)):
        raise ArgumentError(
            "--use tells what is available now, for a use that is named.", "Leave out --as-of, and name the use."
        )
    rows: Sequence[Balance | BalanceNow | UsableBalance]
    with projection() as connection, snapshot(connection):
        state = queries.account_state(connection, account) if as_of is None else None
        if use is not None:
            rows = queries.usable_now(connection, account, use)
        elif as_of is not None:
            rows = _balances_as_of(connection, account, as_of)
        else:
            rows = queries.balances_now(connection, account)
    if json:
        print_json(rows)
        return
    if not rows:
        never_used = as_of is None and state is None
        said = "was never used" if never_used else "had no decisions then" if as_of is not None else "has no credits"
        say(f"{account} {said}. Its balance is 0.")
    else:
        print_balances(rows)
    if state is not None and (state.is_closed or state.frozen):
        say(f"{account} is {'closed' if state.is_closed else f'frozen: {_FROZEN[state.frozen or str()]}'}.")


_FROZEN = {"spending": "it can't spend, hold or send credits", "all": "nearly nothing is let through"}


def print_balances(rows: "Sequence[Balance | BalanceNow | UsableBalance]") -> None:
    """Print balances as a table.

    What is pending, held or owed has columns only if there is any, and what is stored only where it is something else.
    """
    names = ["account_id", "asset", "available"]
    if "available_for_use" in rows[0]._fields:
        names.append("available_for_use")
    if any(getattr(row, "stored_available", row.available) != row.available for row in rows):
        names.append("stored_available")
    more = ["pending", "held", "debt", "credit_limit"]
    if any(getattr(row, name) for row in rows for name in more):
        names += more
    names.append("version")
    print_table(
        [*(_TITLES.get(name) or name for name in names), "position"],
        [[*(getattr(row, name) for name in names), Position(row.log_partition, row.log_offset)] for row in rows],
    )


_TITLES = {
    "account_id": "account",
    "credit_limit": "limit",
    "available_for_use": "for the use",
    "stored_available": "stored",
}


def _balances_as_of(connection: "Connection[TupleRow]", account: str, as_of: str) -> "Sequence[Balance]":
    from creditfold.cli.terms.arguments import milliseconds
    from creditfold.processors.fold.chunk import partition_of
    from creditfold.projections import queries

    partition = partition_of(account.encode(), len(queries.progress(connection)))
    if re.fullmatch(r"[0-9]+:[0-9]+", as_of) is None:
        return queries.balances_as_of(connection, account, partition, until_ms=milliseconds(as_of))
    position = Position.parse(as_of)
    if position.partition != partition:
        raise ArgumentError(
            f"{account} lives in partition {partition}; {position} says nothing about it.",
            f"Name a position of partition {partition}, or a time.",
        )
    return queries.balances_as_of(connection, account, partition, until=position.offset)


def history(
    account: AccountArgument,
    *,
    limit: LimitOption = 20,
    before: Annotated[
        int | None, typer.Option(min=1, max=MAX_VERSION, help="Only decisions before this version: the next page.")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="With what was pending, held and owed after each line.")] = False,
    facts: Annotated[bool, typer.Option("--facts", help="With what happened: each move of credits.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what was decided about an account, newest first, rejections included.

    A line without a command is of what time did (`settled`), or of a further asset that a command touched.

    \b
    Examples:
      creditfold history alice
      creditfold history alice --wide --facts
      creditfold history alice --limit 100 --before 250
    """
    from creditfold.projections import queries

    checked_account(account)
    with projection() as connection:
        rows = queries.history(connection, account, limit, before)
    if json:
        print_json(rows)
    elif not rows:
        say(f"{account} has no decisions{' before that' if before else ' yet'}.")
    else:
        print_decisions(rows, wide=wide, facts=facts)
        if len(rows) == limit and rows[-1].version > 1:
            say(f"Older ones: --before {rows[-1].version}")


def print_decisions(lines: "Sequence[Decision]", *, wide: bool = False, facts: bool = False) -> None:
    """Print journal lines as a table."""
    print_table(
        [
            *("version", "decided at", "kind", "amount", "change", "balance"),
            *(("pending", "held", "debt") if wide else ()),
            *("asset", "outcome", "position", "command"),
            *(("facts",) if facts else ()),
        ],
        [
            [
                *(line.version, line.decided_at, line.kind, line.amount, line.change, line.balance),
                *((line.pending, line.held, line.debt) if wide else ()),
                line.asset or NONE,
                _outcome(line.command_id, line.rejection, line.step),
                Position(line.log_partition, line.log_offset),
                line.command_id or NONE,
                *((_told(line.facts),) if facts else ()),
            ]
            for line in lines
        ],
    )


def _outcome(command_id: str | None, rejection: str | None, step: int | None) -> str:
    if command_id is None:
        return NONE
    return (rejection or "accepted") + (f" at step {step}" if step is not None else "")


def _told(facts: "Sequence[dict[str, Any]]") -> str:
    """Facts in a line: what happened, about what, and how credits moved."""
    return "; ".join(_fact(fact) for fact in facts)


def _fact(fact: dict[str, Any]) -> str:
    moves = ", ".join(
        f"{amount:,} {source} to {target}{f' of {lot}/{number}' if lot else ''}"
        for lot, number, source, target, amount in fact.get("moves", ())
    )
    return " ".join(filter(None, (fact["kind"], fact["ref"], fact.get("detail"), f"({moves})" if moves else "")))


def rejections(
    account: Annotated[str | None, typer.Option("--account", "-a", help="Only this account's.")] = None,
    limit: LimitOption = 20,
    totals: Annotated[bool, typer.Option("--totals", help="Count all of them by reason instead.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the commands that were rejected, newest first, and why.

    \b
    Examples:
      creditfold rejections --account alice
      creditfold rejections --totals
    """
    from creditfold.projections import queries

    if totals:
        if account is not None:
            raise ArgumentError("--totals counts all accounts.", "Leave out --account, or --totals.")
        with projection() as connection:
            counts = queries.rejection_totals(connection)
        print_json(counts) if json else print_table(("reason", "commands"), list(counts.items()))
        return
    with projection() as connection:
        rows = queries.rejections(connection, limit, checked_account(account) if account is not None else None)
    if json:
        print_json(rows)
    elif not rows:
        say("Nothing was rejected.")
    else:
        print_table(
            ("decided at", "account", "kind", "amount", "balance", "asset", "reason", "position", "command"),
            [
                (
                    row.decided_at,
                    row.account_id,
                    row.kind,
                    row.amount,
                    row.balance,
                    row.asset,
                    _outcome(row.command_id, row.rejection, row.step),
                    Position(row.log_partition, row.log_offset),
                    row.command_id,
                )
                for row in rows
            ],
        )


def dead_letters(
    reason: Annotated[DeadLetterReason | None, typer.Option(help="Only those of this reason.")] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those about which nothing was decided yet.")] = False,
    limit: LimitOption = 20,
    json: JsonOption = False,
) -> None:
    """List the records of the log that can't be folded, newest first, why, and what was decided about them.

    \b
    Examples:
      creditfold dead-letters list
      creditfold dead-letters list --open --reason not_framed
    """
    from creditfold.projections import queries

    with projection() as connection:
        rows = queries.dead_letters(connection, limit, reason, only_open=only_open)
    if json:
        print_json([_as_row(row) for row in rows])
    elif not rows:
        say(f"There are no {'open ' if only_open else ''}dead letters.")
    else:
        print_table(
            ("appended at", "position", "reason", "state", "detail"),
            [(row.appended_at, row.position, row.reason, _state(row), row.detail) for row in rows],
        )


def _state(row: "TreatedLetter") -> str:
    return f"{row.state} to {row.to}" if row.state == "redriven" else row.state


def _as_row(row: "TreatedLetter") -> dict[str, Any]:
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
        mends = decisions.mends(connection, place)
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


def _print_bytes(row: "TreatedLetter") -> None:
    for name, value in row.headers:
        say(f"header       {name} = {value} (base64)")
    for title, data in (("key", row.key), ("value", row.value)):
        say(f"{title}, {len(data)} bytes" if data is not None else f"{title}: none")
        say(*(_hex_line(data or b"", at) for at in range(0, len(data or b""), HEX_COLUMNS)))


def _hex_line(data: bytes, at: int) -> str:
    """One line of a dump as `hexdump -C` prints it."""
    piece = data[at : at + HEX_COLUMNS]
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
    return f"  {at:08x}  {piece.hex(' '):<{3 * HEX_COLUMNS}} {text}"
