"""Compares each line that many commands are answered with, with what the OpenAPI document says of it."""

import json
from functools import cache
from typing import Any

from openapi_schema_validator import OAS31Validator

from helpers.support import ROOT

#: Members of a line that are none of its answer's own.
_OF_THE_LINE = {"line", "status", "generation"}
#: Codes of dead letters, which are outcomes that a generation has.
_DEAD = {"idempotency_key_reused", "dead_letter"}


@cache
def openapi() -> dict[str, Any]:
    """The document of the door as it is committed; tests/api/test_openapi.py sees that it is the one that is served."""
    found: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text("utf-8"))
    return found


@cache
def _validator() -> OAS31Validator:
    content = openapi()["paths"]["/v1/commands"]["post"]["responses"]["200"]["content"]
    schema = content["application/x-ndjson"]["schema"]["contentSchema"]
    return OAS31Validator({**schema, "components": openapi()["components"]})


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
    known = openapi()["components"]["schemas"][name]["properties"].keys()
    own = line.keys() - _OF_THE_LINE
    assert own <= known, (line, own - known)
    # Of a problem, some members are there for some kinds only.
    assert name == "Problem" or own == known, (line, known - own)
    assert ("generation" in line) == (name == "OutcomeAnswer" or line.get("code") in _DEAD)
