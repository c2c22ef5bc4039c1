"""The pages that help somebody: a grant, a refund or a void, previewed in words and appended with a reason.

A preview makes the command's id, and its form has it: sent twice, it counts once. What may be appended is api/access's
to say, and the audit has it as any command by hand (api/manual.py).
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, NamedTuple

from fastapi import Request
from fastapi.responses import Response
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from creditfold.api import problems
from creditfold.api.append import append, preference_of
from creditfold.api.commands import command_of
from creditfold.api.manual import append_by_hand
from creditfold.api.parameters import Account
from creditfold.api.problems import ProblemError, only_reads
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.common.instants import EPOCH
from creditfold.console import words
from creditfold.console.pages import Page, render
from creditfold.console.visits import Visit, form_of, needs
from creditfold.ledger import Verdict
from creditfold.ledger.account import Account as LedgerAccount
from creditfold.ledger.facts import Accepted, Rejected
from creditfold.processors.fold.preview import Preview, preview
from creditfold.producers import DoubtfulCommandError, InvalidCommandError, encode_command
from creditfold.producers.models.commands import Command

router = Routes(route_class=Page, include_in_schema=False)

#: How long the outcome of a command is waited for.
WAIT = "wait=10"
#: Characters of a whole number at most.
MOST_DIGITS = 16


class Field(NamedTuple):
    """A field of a form.

    `kind` is text, number, date or choice; `of` are the choices.
    """

    name: str
    label: str
    kind: str = "text"
    is_required: bool = True
    hint: str = ""
    of: Sequence[str] = ()


class Help(NamedTuple):
    """A way to help somebody: the kind of its command, its title and its fields."""

    kind: str
    title: str
    fields: Sequence[Field]

    @property
    def path(self) -> str:
        """The last part of its path."""
        return self.kind.replace("_", "-")


HELPS = (
    Help(
        "grant",
        "Grant credits",
        (
            Field("asset", "Asset"),
            Field("amount", "Amount", "number"),
            Field("lot_class", "Class", "choice", of=("promo", "paid")),
            Field("expires_at", "Ends on", "date", is_required=False, hint="At the beginning of that day in UTC."),
        ),
    ),
    Help(
        "refund",
        "Refund a spend",
        (
            Field("spend", "Command id of the spend"),
            Field("amount", "Amount", "number", is_required=False, hint="Left out: all that isn't refunded yet."),
        ),
    ),
    Help("void_grant", "Take back a grant", (Field("grant", "Command id of the grant"),)),
)


class Seen(NamedTuple):
    """What a preview shows: in words what would be, and whether it would be done."""

    is_accepted: bool
    said: str
    remedy: str = ""


def fields_of(wanted: Help, form: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a command that a form says. Raises ProblemError for what isn't of its field's kind."""
    found: dict[str, Any] = {}
    for field in wanted.fields:
        text = form.get(field.name, "").strip()
        if not text:
            if field.is_required:
                raise _bad(field, "is missing")
            continue
        if field.kind == "number":
            if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
                raise _bad(field, "must be a whole number")
            found[field.name] = int(text)
        elif field.kind == "date":
            found[field.name] = f"{_date(field, text)}T00:00:00Z"
        else:
            found[field.name] = text
    reason = form.get("reason", "").strip()
    if not reason:
        raise ProblemError(400, "reason_missing", "The reason is missing.", "Say why: it is kept with the command.")
    return {**found, "reason": reason}


def _date(field: Field, text: str) -> str:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date().isoformat()
    except ValueError:
        raise _bad(field, "must be a day, such as 2026-05-31") from None


def _bad(field: Field, what: str) -> ProblemError:
    return ProblemError(400, "invalid_request", f"{field.label} {what}.", "Correct the form.")


async def previewed(request: Request, command: Command) -> Seen:
    """What a command would come to, in words."""
    record = encode_command(command)

    async def decided(connection: AsyncConnection[TupleRow]) -> Seen:
        return seen_of(await preview(connection, command.account, record.value), command)

    service = service_of(request)
    async with service.in_time():
        return await service.previewers.run(decided)


def seen_of(found: Preview, command: Command) -> Seen:
    """What a preview found, in words."""
    outcome = found.outcome
    if isinstance(outcome, Rejected):
        said = f"It would be refused: {words.reason_words(outcome.reason)}."
        return Seen(False, said, words.REMEDIES.get(outcome.reason, ""))
    if isinstance(outcome, Accepted):
        # A line without an id is what time did before.
        assets = {entry.asset for entry in outcome.entries if entry.command_id is not None and entry.asset}
        balances = {asset: found.account.balance(asset)._asdict() for asset in sorted(assets)}
        return Seen(True, words.preview_words(command.account, balances, ends_of(found.account, assets)))
    why = outcome.value.replace("_", " ") if isinstance(outcome, Verdict) else outcome.detail
    return Seen(False, f"It can't be done: {why}.")


def ends_of(account: LedgerAccount, assets: set[str]) -> list[tuple[int, datetime]]:
    """What remains in an account's lots that end, and when."""
    sums: dict[int, int] = {}
    for lot in account.lots.values():
        if lot.asset in assets and lot.remaining and lot.terms.expires_at:
            sums[lot.terms.expires_at] = sums.get(lot.terms.expires_at, 0) + lot.remaining
    return [(amount, EPOCH + timedelta(milliseconds=at_ms)) for at_ms, amount in sums.items()]


def _add_pages(wanted: Help) -> None:
    scopes = (f"manual:{wanted.kind}", f"append:{wanted.kind}")
    path = f"/console/accounts/{{account}}/{wanted.path}"

    async def show_form(request: Request, account: Account, visit: Annotated[Visit, needs(*scopes)]) -> Response:
        visit.caller.refuse_account(account)
        known = {field.name: request.query_params.get(field.name, "")[:200] for field in wanted.fields}
        return render(request, "help.html", help=wanted, account=account, values=known, error=None, doubtful=False)

    async def help_account(request: Request, account: Account, visit: Annotated[Visit, needs(*scopes)]) -> Response:
        visit.caller.refuse_account(account)
        return await _help(request, wanted, account, visit)

    router.add_api_route(path, show_form, methods=["GET"])
    router.add_api_route(path, help_account, methods=["POST"])


async def _help(request: Request, wanted: Help, account: str, visit: Visit) -> Response:
    form = await form_of(request)
    is_confirmed = form.get("action") == "confirm"
    if not is_confirmed:
        only_reads(request)
    command_id = form.get("command_id", "") if is_confirmed else f"by-hand-{uuid.uuid4().hex}"
    try:
        fields = {**fields_of(wanted, form), "confirmed": form.get("confirmed") == "yes"}
        command = command_of(wanted.kind, account, command_id, visit.caller, fields)
    except (ProblemError, InvalidCommandError) as error:
        return _corrected(request, wanted, account, form, error)
    visit.caller.refuse_command(command, by_hand=True)
    if is_confirmed:
        return await _appended(request, visit, command, form["reason"].strip())
    shown = {"help": wanted, "account": account, "values": form, "command_id": command_id}
    return render(request, "preview.html", **shown, seen=await previewed(request, command))


def _corrected(
    request: Request, wanted: Help, account: str, form: Mapping[str, str], error: ProblemError | InvalidCommandError
) -> Response:
    """The form again, as it was filled in, with what is wrong with it."""
    problem = problems.of_error(error)
    values = {field.name: form.get(field.name, "") for field in wanted.fields} | {"reason": form.get("reason", "")}
    doubtful = isinstance(error, DoubtfulCommandError)
    shown = {"help": wanted, "account": account, "values": values, "error": problem, "doubtful": doubtful}
    return render(request, "help.html", 400, **shown)


async def _appended(request: Request, visit: Visit, command: Command, why: str) -> Response:
    service = service_of(request)
    answer = await append_by_hand(
        request, visit.caller, command, why, lambda: append(service, command, preference_of(WAIT))
    )
    outcome = json.loads(bytes(answer.body))
    return render(
        request,
        "done.html",
        account=command.account,
        outcome=outcome,
        decision=outcome.get("decision"),
        said=words.reason_words(outcome.get("reason")),
    )


for _one in HELPS:
    _add_pages(_one)


def helps_for(visit: Visit) -> list[Help]:
    """The ways to help that a visitor's scopes open."""
    return [one for one in HELPS if visit.has(f"manual:{one.kind}") or visit.has(f"append:{one.kind}")]
