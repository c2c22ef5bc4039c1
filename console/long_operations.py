"""The pages of long operations: a rebuild and a diff of rules are begun, any is looked at, and cancelled.

Owns what the forms say, and how a result is shown. What is done and audited is the door's own (api/operations.py,
api/generations.py, api/rules.py); that it goes on without the browser too.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from creditfold.api.generations import MOST_NUMBER, GenerationAnswer, RebuildBody, all_generations, begin_rebuild
from creditfold.api.operations import SCOPES, ActionBody, Number, answer_of, begin_cancel, operation_for
from creditfold.api.problems import ProblemError, only_reads
from creditfold.api.routes import Routes
from creditfold.api.rules import DiffBody, begin_diff, rules_in_force
from creditfold.api.service import service_of
from creditfold.console import words
from creditfold.console.operation import MOST_ROWS, rows_of
from creditfold.console.pages import Page, link, moved, render
from creditfold.console.visits import Visit, form_of, needs, why_of
from creditfold.processors.operations import ACTIVATE

router = Routes(route_class=Page, include_in_schema=False)

#: Characters of a result as it is kept.
MOST_RESULT = 15_000
#: The fields of the form of a rebuild, and those of them that are whole numbers.
REBUILD_FIELDS = ("until", "until_positions", "rate", "processes", "note", "resume")
_NUMBERS = ("rate", "processes", "resume")
#: Accounts of a result that are shown as examples.
MOST_EXAMPLES = 50

Operator = Annotated[Visit, needs("operate:*", everywhere=True)]
GenerationOperator = Annotated[Visit, needs("operate:generations", everywhere=True)]
RulesOperator = Annotated[Visit, needs("operate:rules", everywhere=True)]


class Example(NamedTuple):
    """An account on which two folds differ: where in the log first, and what each made of that record."""

    account: str
    command_id: str
    position: str
    left: str
    right: str


@router.get("/console/operations/{number}")
async def show_long_operation(request: Request, number: Number, visit: Operator) -> Response:
    """A long operation: how far it is, and what came of it, such as the accounts on which versions of rules differ."""
    found = answer_of(await service_of(request).query(operation_for, visit.caller, number))
    result = None
    if found.result is not None:
        text = words.short(json.dumps(found.result, indent=2, ensure_ascii=False, default=str), MOST_RESULT)
        result = "\n".join(map(words.shown, text.split("\n")))
    examples = examples_of(found.result or {})
    return render(
        request,
        "long_operation.html",
        one=found,
        parameters=rows_of(found.parameters),
        counts=rows_of({name: value for name, value in (found.result or {}).items() if isinstance(value, int | str)}),
        examples=examples[:MOST_EXAMPLES],
        number_of_examples=len(examples),
        result=result,
        may_cancel=found.ended_at is None and found.kind != ACTIVATE and visit.has(SCOPES[found.kind]),
    )


def examples_of(result: Mapping[str, Any]) -> list[Example]:
    """The accounts that a comparison or a diff names, in the order of the log."""
    # A diff counts its accounts, a comparison names them.
    accounts = result.get("accounts")
    firsts = [one["first"] for one in accounts] if isinstance(accounts, list) else []
    differences = [*result.get("changes", ()), *firsts]
    return [_example(one) for one in differences]


def _example(one: Mapping[str, Any]) -> Example:
    left, right = one["left"] or {}, one["right"] or {}

    def said(name: str) -> str:
        return str(left.get(name) or right.get(name) or "")

    return Example(said("account"), said("command_id"), str(one["position"]), _came_to(left), _came_to(right))


def _came_to(outcome: Mapping[str, Any]) -> str:
    """What a record came to, in words."""
    if not outcome:
        return "nothing"
    parts = [f"{words.plain(outcome['kind'])} {outcome['what']}".strip()]
    if outcome.get("reason"):
        parts.append(words.reason_words(outcome["reason"]))
    parts += [
        f"{name} {words.number(outcome[name])}" for name in ("change", "balance") if outcome.get(name) is not None
    ]
    return ", ".join(parts)


@router.post("/console/operations/{number}/cancel")
async def cancel_operation(request: Request, number: Number, visit: Operator) -> Response:
    """Have an operation end early, behind a box that has to be ticked."""
    form = await form_of(request)
    body = ActionBody(why=why_of(form))
    if form.get("sure") != "yes":
        raise ProblemError(400, "not_confirmed", "The end of it wasn't confirmed.", "Tick the box of the form.")
    await begin_cancel(request, visit.caller, number, body)
    return _moved_to(number)


# Rebuild


@router.get("/console/rebuild")
async def show_rebuild(
    request: Request,
    visit: GenerationOperator,
    resume: Annotated[int | None, Query(ge=1, le=MOST_NUMBER)] = None,
) -> Response:
    """The form that has the log folded anew, or goes on with a generation whose rebuild was interrupted."""
    return _rebuild_form(request, {"resume": "" if resume is None else str(resume)})


@router.post("/console/rebuild")
async def rebuild(request: Request, visit: GenerationOperator) -> Response:
    """Show what a rebuild would do, or begin it."""
    form = await form_of(request)
    is_confirmed = form.get("action") == "confirm"
    if not is_confirmed:
        only_reads(request)
    try:
        wanted = rebuild_of(form)
    except ProblemError as problem:
        return _rebuild_form(request, form, problem)
    if is_confirmed:
        return moved_to_begun(await begin_rebuild(request, visit.caller, wanted))
    found = await service_of(request).query(all_generations)
    if wanted.resume is not None and all(one.number != wanted.resume for one in found):
        raise ProblemError(404, "generation_unknown", f"There is no generation {wanted.resume}.", "See its page.")
    live: GenerationAnswer | None = next((one for one in found if one.state == "live"), None)
    return render(request, "rebuild_preview.html", wanted=wanted, form=form, live=live)


def _rebuild_form(request: Request, values: Mapping[str, str], error: ProblemError | None = None) -> Response:
    said = {name: values.get(name, "") for name in (*REBUILD_FIELDS, "why")}
    return render(request, "rebuild.html", 200 if error is None else 400, values=said, error=error)


def rebuild_of(form: Mapping[str, str]) -> RebuildBody:
    """What a form says about a rebuild. Raises ProblemError for what isn't of its field's kind."""
    said: dict[str, Any] = {name: form[name].strip() for name in REBUILD_FIELDS if form.get(name, "").strip()}
    for name in _NUMBERS:
        if name in said:
            said[name] = _number(name, said[name])
    if "until_positions" in said:
        said["until_positions"] = said["until_positions"].split()
    wanted: RebuildBody = _body(RebuildBody, {**said, "why": why_of(form)})
    return wanted


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise ProblemError(400, "invalid_request", f"{name} must be a whole number.", "Correct the form.")
    return int(text)


def _body(kind: type[Any], said: Mapping[str, Any]) -> Any:
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
        raise ProblemError(400, "invalid_request", f"{wrong[:500]}.", "Correct the form.") from None


# Rules


@router.get("/console/rules")
async def show_rules(request: Request, visit: RulesOperator) -> Response:
    """Which versions of the rules there are, which are in force, and the form that tries others on history."""
    found = await service_of(request).query(rules_in_force, visit.caller)
    in_force = Counter(found.in_force.values())
    activations: Sequence[Any] = found.activations[-MOST_ROWS:]
    return render(request, "rules.html", found=found, in_force=sorted(in_force.items()), activations=activations)


@router.post("/console/rules")
async def diff_rules(request: Request, visit: RulesOperator) -> Response:
    """Begin to decide history by other rules. Changes nothing, so that it has no preview."""
    form = await form_of(request)
    said: dict[str, Any] = {"why": why_of(form), "limit": MOST_EXAMPLES}
    if form.get("rules", "").strip():
        said["rules"] = _number("rules", form["rules"].strip())
    return moved_to_begun(await begin_diff(request, visit.caller, _body(DiffBody, said)))


def moved_to_begun(answer: Response) -> Response:
    """A redirect to the page of what the door's answer says was begun."""
    return _moved_to(json.loads(bytes(answer.body))["operation"])


def _moved_to(number: int) -> Response:
    return moved(link("operations", str(number)))
