"""The commands that explain: trace, why. Owns their words, no query."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from creditfold.cli.read.lots import print_lots
from creditfold.cli.shared.arguments import AccountArgument, ArgumentError, JsonOption, LimitOption, checked_account
from creditfold.cli.shared.output import NONE, print_json, print_table, say
from creditfold.cli.shared.projection import projection
from creditfold.common.documents import instant
from creditfold.common.position import Position
from creditfold.ledger.reasons import REJECTED
from creditfold.schemas.dead_letters import DEAD
from creditfold.schemas.outcome import OutcomeKind

if TYPE_CHECKING:
    from datetime import datetime

    from psycopg import Connection
    from psycopg.rows import TupleRow

    from creditfold.projections.queries.balances import Balance
    from creditfold.projections.queries.dead_letters import DeadLetterState
    from creditfold.projections.queries.journal import FailedBatch
    from creditfold.projections.queries.trace import Move, Trace, TracedLot, TracePlace
    from creditfold.schemas.outcome import Decision

CommandArgument = Annotated[str, typer.Argument(metavar="COMMAND_ID", help="Id of a command, or of a batch's step.")]


#: Moves of a page unless another number is asked for.
PAGE = 1_000


def trace(
    account: AccountArgument,
    command_id: CommandArgument,
    *,
    limit: LimitOption = PAGE,
    after: Annotated[
        str | None, typer.Option("--after", metavar="PLACE", help="Only the moves behind it: the next page.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show where a command's credits came from, and what became of them.

    Of a spend or a capture: the lots that it took from, what of it was refunded, and what is owed. Of what made lots
    (a grant, a refund that reissues, a transfer that arrived, a schedule): each lot, and all moves of its credits.
    Moves are shown by pages, in the order of the journal; what was spent, refunded and is owed is of all of them.

    \b
    Examples:
      creditfold trace alice order-1
      creditfold trace alice welcome --json
    """
    from creditfold.projections import queries
    from creditfold.projections.connections import snapshot

    checked_account(account)
    place = None if after is None else _place_of(after)
    with projection() as connection, snapshot(connection):
        found = queries.trace(connection, account, command_id, limit=limit, place=place)
        now = queries.clock(connection)
    if found is None:
        raise _unknown(account, command_id)
    if json:
        parts = {name: getattr(found, name) for name in ("decision", "moves", "took", "later", "made")}
        print_json({**parts, "spend": _spend(found), "next": _name_of(found.following)})
        return
    _print_trace(command_id, found, now, is_first=place is None)
    if found.following is not None:
        say("", f"More: --after {_name_of(found.following)}")


def _name_of(place: "TracePlace | None") -> str | None:
    return None if place is None else ":".join(map(str, place))


def _place_of(name: str) -> "TracePlace":
    """The place that `_name_of` made a name of. Raises ArgumentError."""
    from creditfold.projections.queries import TracePlace

    if re.fullmatch(r"[0-9]{1,18}:[0-9]{1,9}:[0-9]{1,9}", name, re.ASCII) is None:
        raise ArgumentError(f"{name[:60]!r} isn't a place in a trace.", "Name one as a page before shows it.")
    return TracePlace(*map(int, name.split(":")))


def _unknown(account: str, command_id: str) -> ArgumentError:
    return ArgumentError(
        f"{account} has no command {command_id}.",
        "See `creditfold history` for those that were decided; one that was just appended may not be folded yet.",
    )


def _spend(found: "Trace") -> dict[str, int] | None:
    if not found.spent or found.decision.kind not in ("spend", "capture"):
        return None
    return {
        "spent": found.spent,
        "refunded": found.refunded,
        "refundable": found.spent - found.refunded,
        "owed": found.owed,
    }


def _print_trace(command_id: str, found: "Trace", now: "datetime", *, is_first: bool) -> None:
    decision, is_whole = found.decision, is_first and found.following is None
    place = Position(decision.log_partition, decision.log_offset)
    amount = f" of {decision.amount:,} {decision.asset}" if decision.amount else ""
    outcome = decision.rejection or "accepted"
    say(f"{command_id}: {decision.kind}{amount}, {outcome} at {place}, {instant(decision.decided_at)}")
    spend = _spend(found)
    if spend is not None:
        say(", ".join(f"{name} {amount:,}" for name, amount in spend.items()))
    if found.moves and not found.made:
        _print_moves("Its moves", found.moves)
    if found.took:
        say("", "The lots that it moved credits of, as they are now")
        print_lots([traced.lot for traced in found.took], now)
        _print_makers(found.took)
    if found.later:
        _print_moves("What became of it since", found.later)
    for traced in found.made:
        say("", f"The lot {traced.lot.command_id}/{traced.lot.number} that it made")
        print_lots([traced.lot], now)
        _print_moves("All moves of its credits" if is_whole else "Moves of its credits", traced.moves)
    if not (found.moves or found.later or found.made):
        say("It moved no credits." if is_first else "There are no more moves.")


def _print_makers(traced: "Iterable[TracedLot]") -> None:
    makers = {one.lot.command_id: one.made_by for one in traced}
    say(*(f"{command_id} is a {made_by.replace('_', ' ')}" for command_id, made_by in makers.items() if made_by))


def _print_moves(title: str, moves: "Sequence[Move]") -> None:
    say("", title)
    print_table(
        ("at", "what", "amount", "from", "to", "lot", "by", "position"),
        [
            (
                move.at,
                move.kind,
                move.amount,
                move.source.replace("_", " "),
                move.target.replace("_", " "),
                f"{move.lot_command}/{move.lot_number}" if move.lot_command else NONE,
                move.command_id or NONE,
                Position(move.log_partition, move.log_offset),
            )
            for move in moves
        ],
    )


def why(
    account: AccountArgument,
    command_id: CommandArgument,
    at: Annotated[
        str | None, typer.Option(metavar="POSITION", help="The record at this position only, as an append returned it.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Explain what was decided about a command: why it was rejected, or why it couldn't be folded at all.

    An id that was used more than once has one decision, the first, and a dead letter for each other body. With --at it
    is the outcome of one record; it exits with 4 when the fold hasn't got there.

    \b
    Examples:
      creditfold why alice order-2
      creditfold why alice order-2 --at 3:1042
      creditfold why alice order-2 --json
    """
    from creditfold.projections import queries
    from creditfold.projections.connections import snapshot

    checked_account(account)
    position = None if at is None else Position.parse(at)
    with projection() as connection, snapshot(connection):
        if position is None:
            found = _of_id(connection, account, command_id)
        else:
            found = _of_record(connection, position, account, command_id)
        balances = []
        if found.decision is not None:
            balances = [
                row
                for row in queries.balances_after(connection, account, found.decision.version)
                if found.decision.asset in (row.asset, "")
            ]
    if found.decision is None and not found.batches and not found.letters:
        raise _unknown(account, command_id)
    if json:
        print_json(_explained(found, balances))
        return
    if found.kind == OutcomeKind.DUPLICATE:
        say(f"duplicate    the record at {at} repeats the command below, whose outcome stands")
    if found.decision is not None:
        _say_decision(found.decision, balances)
    for batch, step in found.batches:
        say(
            f"step {step} of the batch {batch.command_id} at {Position(batch.log_partition, batch.log_offset)},"
            f" which was rejected for its step {batch.step}: {_sentence(REJECTED, batch.rejection)}"
        )
    for letter in found.letters:
        say(
            f"dead letter  {Position(letter.log_partition, letter.log_offset)}, {letter.state}",
            f"reason       {_sentence(DEAD, letter.reason)}",
            f"detail       {letter.detail}",
        )


class _Found(NamedTuple):
    """What was found about an id, or about one record, whose outcome is of a `kind`."""

    kind: OutcomeKind | None
    decision: "Decision | None"
    batches: "Sequence[FailedBatch]"
    letters: "Sequence[DeadLetterState]"


def _of_id(connection: "Connection[TupleRow]", account: str, command_id: str) -> _Found:
    from creditfold.projections import queries

    return _Found(
        None,
        queries.first_decision(connection, account, command_id),
        queries.failed_batches(connection, account, command_id),
        _letters_of(queries.dead_letters_with(connection, command_id), account, command_id),
    )


def _of_record(connection: "Connection[TupleRow]", position: Position, account: str, command_id: str) -> _Found:
    from creditfold.projections import queries
    from creditfold.projections.queries.outcomes import outcome_at

    outcome = outcome_at(connection, position, account, command_id)
    letter = queries.dead_letter(connection, position) if outcome.decision is None else None
    return _Found(outcome.kind, outcome.decision, (), [] if letter is None else [letter])


def _letters_of(letters: "Iterable[DeadLetterState]", account: str, command_id: str) -> "list[DeadLetterState]":
    """The letters that hold a command of this id and account, or a batch with a step of it."""
    from creditfold.producers.redrive import command_of

    found = []
    for letter in letters:
        command = command_of(letter.value) or {}
        ids = [command.get("command_id"), *(step.get("command_id") for step in command.get("steps", ()))]
        if command.get("account") == account and command_id in ids:
            found.append(letter)
    return found


def _sentence(sentences: Any, reason: str | None) -> str:
    # A generation that a newer release folded may know more.
    return f"{reason}: {sentences[reason]}" if reason in sentences else str(reason)


def _say_decision(decision: "Decision", balances: "Sequence[Balance]") -> None:
    place = Position(decision.log_partition, decision.log_offset)
    say(
        f"command      {decision.kind}{f' of {decision.amount:,} {decision.asset}' if decision.amount else ''}",
        f"outcome      {'accepted' if decision.accepted else 'rejected'}",
        f"position     {place}",
        f"decided at   {instant(decision.decided_at)}",
    )
    if decision.rejection is not None:
        say(f"reason       {_sentence(REJECTED, decision.rejection)}")
    if decision.step is not None:
        steps = (decision.details or {}).get("steps", [])
        step = steps[decision.step] if decision.step < len(steps) else {}
        say(f"step         {decision.step}: {step.get('kind', NONE)} {step.get('command_id', NONE)}")
    for row in balances:
        also = [("pending", row.pending), ("held", row.held), ("debt", row.debt)]
        more = "".join(f", {amount:,} {name}" for name, amount in also if amount)
        say(f"balance      {row.available:,} {row.asset} available{more}, after it")


def _explained(found: _Found, balances: "Sequence[Balance]") -> dict[str, Any]:
    rejection = None if found.decision is None else found.decision.rejection
    return {
        "outcome": found.kind,
        "decision": found.decision,
        "why": None if rejection is None else REJECTED.get(rejection),
        # The credit limit of that time isn't read.
        "balances": [{name: getattr(row, name) for name in _BALANCE} for row in balances],
        "batches": [{"asked": step, "batch": batch} for batch, step in found.batches],
        "dead_letters": [_letter(letter) for letter in found.letters],
    }


_BALANCE = ("asset", "available", "pending", "held", "debt")


def _letter(letter: "DeadLetterState") -> dict[str, Any]:
    place = Position(letter.log_partition, letter.log_offset)
    return {
        "position": place,
        "reason": letter.reason,
        "why": DEAD.get(letter.reason),
        "detail": letter.detail,
        "state": letter.state,
    }
