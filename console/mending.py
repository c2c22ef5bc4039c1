"""The pages that mend: a dead letter is redriven or discarded, a generation verified or activated.

Each first shows what would be done, and needs a reason. What is done and audited is the door's own
(api/dead_letters.py, api/generations.py).
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Path, Request
from fastapi.responses import Response

from creditfold.api.body import parse_object
from creditfold.api.dead_letters import LettersBody, RedriveBody, discard_letters, redrive_letters
from creditfold.api.generations import (
    ActivationBody,
    Number,
    VerifyBody,
    all_generations,
    begin_activation,
    begin_verification,
)
from creditfold.api.problems import ProblemError, of_error, only_reads
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.console.long_operations import moved_to_begun
from creditfold.console.operation import CORRECTIONS, letter_page, rows_of
from creditfold.console.pages import Page, render
from creditfold.console.visits import Visit, form_of, needs, why_of
from creditfold.producers.import_commands import CorrectionError, corrected

router = Routes(route_class=Page, include_in_schema=False)

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
    try:
        why = why_of(form)
        named: dict[str, Any] = {"why": why, "positions": [position]}
        if what == "discard":
            answer = await discard_letters(request, visit.caller, LettersBody(**named), preview=is_preview)
        else:
            body = RedriveBody(**named, **corrections_of(form))
            answer = await redrive_letters(request, visit.caller, body, preview=is_preview)
    except (ProblemError, CorrectionError) as error:
        problem = of_error(error)
        if problem is None or problem.status not in (400, 409):
            raise
        return await letter_page(request, visit, position, problem, form)
    (result,) = json.loads(bytes(answer.body))["results"]
    kept = {name: form.get(name, "") for name in CORRECTIONS}
    shown = {"position": position, "what": what, "why": why, "kept": kept, "is_preview": is_preview}
    return render(request, "mend.html", **shown, result=result, command=rows_of(result["command"]))


def corrections_of(form: Mapping[str, str]) -> dict[str, Any]:
    """What a form says differs from a dead letter's command, as members of a RedriveBody.

    Raises:
        ProblemError: the whole command is no JSON object, or is given with a part of it.
        CorrectionError: a line is no field of a command with its value.
    """
    fields, metadata = corrected(line.strip() for line in form.get("fields", "").splitlines() if line.strip())
    if form.get("command_id", "").strip():
        fields["command_id"] = form["command_id"].strip()
    found: dict[str, Any] = {"fields": fields, "metadata": metadata, "confirmed": form.get("confirmed") == "yes"}
    if form.get("type"):
        found["type"] = form["type"]
    text = form.get("command", "").strip()
    if text:
        if fields or metadata or "type" in found:
            raise ProblemError(
                400,
                "invalid_request",
                "The whole command stands for itself.",
                "Leave out the other corrections, or it.",
            )
        found["command"] = parse_object(text.encode(), "The whole command is")
    return found


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
    """Begin what was confirmed, and show how far it is."""
    form = await form_of(request)
    why = why_of(form)
    if what == "verify":
        answer = await begin_verification(request, visit.caller, number, VerifyBody(why=why))
    elif form.get("sure") != "yes":
        raise ProblemError(400, "not_confirmed", "The activation wasn't confirmed.", "Tick the box of the form.")
    else:
        answer = await begin_activation(request, visit.caller, number, ActivationBody(why=why))
    return moved_to_begun(answer)
