"""The pages of a command: why it was decided so, and where its credits came from and went."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import Path, Request
from fastapi.responses import Response
from psycopg import Connection

from creditfold.api import trace as traces
from creditfold.api.at_least import reading
from creditfold.api.parameters import Account, Cursor
from creditfold.api.problems import ProblemError
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.console import words
from creditfold.console.account import lines_of
from creditfold.console.helping import Help, helps_for
from creditfold.console.pages import Page, link, render
from creditfold.console.visits import Visit, needs
from creditfold.producers.redrive import command_of
from creditfold.projections import queries
from creditfold.projections.queries import Balance, DeadLetterState, FailedBatch
from creditfold.schemas.dead_letters import DEAD, DeadLetterReason
from creditfold.schemas.outcome import Decision

router = Routes(route_class=Page, include_in_schema=False)

#: Moves of a page.
MOST_MOVES = 50
#: Lines of an account that a page of a trace looks through for them at most.
MOST_LINES = 20_000
#: Dead letters of an account that are looked through for the command.
MOST_LETTERS = 100

CommandId = Annotated[str, Path(min_length=1, max_length=128)]
Reader = Annotated[Visit, needs("read:statement")]


class Why(NamedTuple):
    """What is known of a command's id: its decision, what the account had then, and where else the id was used."""

    decision: Decision | None
    balances: Sequence[Balance]
    batches: Sequence[FailedBatch]
    letters: Sequence[DeadLetterState]

    @property
    def is_known(self) -> bool:
        """Whether anything is."""
        return bool(self.decision or self.batches or self.letters)


@router.get("/console/accounts/{account}/commands/{command_id}")
async def show_why(request: Request, account: Account, command_id: CommandId, visit: Reader) -> Response:
    """What became of a command, in words, and what to do about it."""
    read = await reading(service_of(request), visit.caller, account, None, _why, command_id)
    found: Why = read.found
    if not found.is_known:
        raise _unknown(account, command_id)
    return render(
        request,
        "why.html",
        account=account,
        command_id=command_id,
        found=found,
        line=None if found.decision is None else lines_of([found.decision], visit)[0],
        reason=None if found.decision is None else words.reason_words(found.decision.rejection),
        remedy=None if found.decision is None else words.remedy_words(found.decision.rejection),
        batches=[(one, words.reason_words(one.batch.rejection)) for one in found.batches],
        letters=[(one, _DEAD.get(one.reason, one.reason)) for one in found.letters],
        helps=_helps(visit, account, found.decision),
        position=read.position,
    )


def _helps(visit: Visit, account: str, decision: Decision | None) -> list[tuple[Help, str]]:
    """How somebody can be helped with a command that took effect, each with the path of its form."""
    if decision is None or not decision.accepted or decision.command_id is None:
        return []
    named = {"refund": {"spend": decision.command_id}, "void_grant": {"grant": decision.command_id}}
    about = {"spend": "refund", "capture": "refund", "grant": "void_grant", "create_schedule": "void_grant"}
    wanted = about.get(decision.kind)
    found = [one for one in helps_for(visit) if one.kind == wanted]
    return [(one, link("accounts", account, one.path, **named[one.kind])) for one in found]


_DEAD: Mapping[str, str] = DEAD


def _why(connection: Connection[Any], account: str, command_id: str) -> Why:
    decision = queries.first_decision(connection, account, command_id)
    balances: Sequence[Balance] = ()
    if decision is not None:
        after = queries.balances_after(connection, account, decision.version)
        balances = [row for row in after if decision.asset in (row.asset, "")]
    reused = DeadLetterReason.COMMAND_ID_REUSED
    letters = queries.dead_letters(connection, MOST_LETTERS, reused, account=account)
    return Why(
        decision,
        balances,
        queries.failed_batches(connection, account, command_id) if decision is None else (),
        [letter for letter in letters if _is_about(letter, command_id)],
    )


def _is_about(letter: DeadLetterState, command_id: str) -> bool:
    return (command_of(letter.value) or {}).get("command_id") == command_id


@router.get("/console/accounts/{account}/commands/{command_id}/trace")
async def show_trace(
    request: Request, account: Account, command_id: CommandId, visit: Reader, cursor: Cursor = None
) -> Response:
    """Where a command's credits came from, and where they went."""
    _, place = traces.place_at(cursor)
    bounds = {"limit": MOST_MOVES, "place": place, "lines": MOST_LINES}
    read = await reading(service_of(request), visit.caller, account, None, queries.trace, command_id, **bounds)
    if read.found is None:
        raise _unknown(account, command_id)
    answer = traces.trace_of(read.found, account, command_id, read.generation, is_personal=visit.has("read:personal"))
    line = lines_of([read.found.decision], visit)[0]
    shown = {"found": answer, "line": line, "looked_through": MOST_LINES if read.found.is_cut else None}
    shown["is_behind"] = place is not None
    return render(request, "trace.html", account=account, command_id=command_id, **shown)


@router.get("/console/accounts/{account}/lines/{version}")
async def show_line(
    request: Request, account: Account, version: Annotated[int, Path(ge=1, le=2**62)], visit: Reader
) -> Response:
    """A line of the account's journal by its number: what time did has no command of its own."""
    read = await reading(service_of(request), visit.caller, account, None, queries.history, 1, version + 1)
    if not read.found or read.found[0].version != version:
        raise ProblemError(404, "line_unknown", f"The account {account} has no line {version}.", "See its statement.")
    return render(request, "line.html", account=account, line=lines_of(read.found, visit)[0])


def _unknown(account: str, command_id: str) -> ProblemError:
    return ProblemError(
        404,
        "command_unknown",
        f"The account {account} has no command {command_id} as far as it is folded.",
        "If it was sent just now, look again; the search finds the accounts that have a command of this id.",
    )
