"""The pages that mend: a dead letter is redriven or discarded, a generation verified or activated.

Each first shows what would be done, and needs a reason. What is done and audited is the door's own
(api/dead_letters.py, api/generations.py).
"""

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from creditfold.api.dead_letters import LettersBody, RedriveBody, discard_letters, redrive_letters
from creditfold.api.generations import (
    ActivationBody,
    Number,
    VerifyBody,
    all_generations,
    begin_activation,
    begin_verification,
)
from creditfold.api.problems import ProblemError, only_reads
from creditfold.api.service import service_of
from creditfold.console.operation import rows_of
from creditfold.console.pages import ROOT, Page, moved, render
from creditfold.console.visits import Visit, form_of, needs
from creditfold.ledger.limits import MAX_REASON

router = APIRouter(route_class=Page, include_in_schema=False)

LetterOperator = Annotated[Visit, needs("operate:dead-letters", everywhere=True)]
Operator = Annotated[Visit, needs("operate:generations", everywhere=True)]


@router.post("/console/dead-letters/{position}/{what}")
async def mend_letter(
    request: Request,
    position: Annotated[str, Path(max_length=60)],
    what: Literal["redrive", "discard"],
    visit: LetterOperator,
) -> Response:
    """Show what would become of a dead letter, or do it."""
    form = await form_of(request)
    is_preview = form.get("action") != "confirm"
    if is_preview:
        only_reads(request)
    why, command_id = _why(form.get("why", "")), form.get("command_id", "").strip()
    named: dict[str, Any] = {"why": why, "positions": [position]}
    if what == "discard":
        answer = await discard_letters(request, visit.caller, LettersBody(**named), preview=is_preview)
    else:
        fields = {"command_id": command_id} if command_id else {}
        answer = await redrive_letters(request, visit.caller, RedriveBody(**named, fields=fields), preview=is_preview)
    (result,) = json.loads(bytes(answer.body))["results"]
    shown = {"position": position, "what": what, "why": why, "command_id": command_id, "is_preview": is_preview}
    return render(request, "mend.html", **shown, result=result, command=rows_of(result["command"]))


@router.get("/console/generations/{number}")
async def show_generation(request: Request, number: Number, visit: Operator) -> Response:
    """A generation, and the forms that have it verified or activated."""
    found = await service_of(request).query(all_generations)
    one = next((row for row in found if row.number == number), None)
    if one is None:
        raise ProblemError(404, "generation_unknown", f"There is no generation {number}.", "See the operation page.")
    live = next((row for row in found if row.state == "live"), None)
    return render(request, "generation.html", one=one, live=live)


@router.post("/console/generations/{number}/{what}")
async def act_on_generation(
    request: Request, number: Number, what: Literal["verify", "activate"], visit: Operator
) -> Response:
    """Begin what was confirmed; the operation page shows how far it is."""
    form = await form_of(request)
    why = _why(form.get("why", ""))
    if what == "verify":
        await begin_verification(request, visit.caller, number, VerifyBody(why=why))
    elif form.get("sure") != "yes":
        raise ProblemError(400, "not_confirmed", "The activation wasn't confirmed.", "Tick the box of the form.")
    else:
        await begin_activation(request, visit.caller, number, ActivationBody(why=why))
    return moved(f"{ROOT}/operation#generations")


def _why(text: str) -> str:
    """The reason of an action. Raises ProblemError where there is none."""
    if not text.strip() or len(text) > MAX_REASON:
        raise ProblemError(
            400, "reason_missing", "The action has no reason.", f"Say why in 1 to {MAX_REASON:,} characters."
        )
    return text.strip()
