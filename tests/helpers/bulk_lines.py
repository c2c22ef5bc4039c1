"""Compares each line that many commands are answered with, with what the OpenAPI document says of it."""

from functools import cache
from typing import Any

from openapi_schema_validator import OAS31Validator

from creditfold.api import create_app
from creditfold.common.settings import Settings

#: Members of a line that are none of its answer's own.
_OF_THE_LINE = {"line", "status", "generation"}
#: Codes of dead letters, which are outcomes that a generation has.
_DEAD = {"idempotency_key_reused", "dead_letter"}


@cache
def _document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


@cache
def _validator() -> OAS31Validator:
    content = _document()["paths"]["/v1/commands"]["post"]["responses"]["200"]["content"]
    schema = content["application/x-ndjson"]["schema"]["contentSchema"]
    return OAS31Validator({**schema, "components": _document()["components"]})


def schema_of(line: dict[str, Any]) -> str:
    """The name of the schema that a line is of."""
    if "code" in line:
        return "Problem"
    return "AcceptedAnswer" if line["status"] == 202 else "OutcomeAnswer"


def see_documented(line: dict[str, Any]) -> None:
    """See that a line is as the document has it, with no member that it says nothing of, and each that it has."""
    errors = [error.message[:300] for error in _validator().iter_errors(line)]
    assert errors == [], line
    name = schema_of(line)
    known = _document()["components"]["schemas"][name]["properties"].keys()
    own = line.keys() - _OF_THE_LINE
    assert own <= known, (line, own - known)
    # Of a problem, some members are there for some kinds only.
    assert name == "Problem" or own == known, (line, known - own)
    assert ("generation" in line) == (name == "OutcomeAnswer" or line.get("code") in _DEAD)
