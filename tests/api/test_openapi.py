"""The OpenAPI document: valid, as committed, with examples that fit, and nothing taken from those who rely on it."""

import copy
import json
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from creditfold.api.app import create_app
from creditfold.api.openapi import as_text, examples, operations
from creditfold.common.settings import Settings
from helpers.contract import breaking_changes
from helpers.node import npm_installed
from helpers.support import ROOT, ran

FILE = ROOT / "docs" / "openapi.json"
#: Operations of which no example is recorded: a stream has no end, counts are never the same, a HEAD has no body.
TO_BE_RECORDED = {"outcomes", "metrics", "count_accounts"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The document as the door serves it."""
    return create_app(Settings()).openapi()


def test_the_committed_document_is_the_one_that_is_served(document: dict[str, Any]) -> None:
    """`make api` writes it."""
    assert FILE.read_text("utf-8") == as_text(document), "run `make api`"


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """By OpenAPI 3.1, as another library reads it."""
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1.")
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))


def test_the_linter_finds_nothing(tmp_path: Path) -> None:
    """By the rules of tests/npm/redocly.yaml, which Redocly's linter knows; it is installed by the lock beside them."""
    source = npm_installed(tmp_path)
    linter = source / "node_modules" / ".bin" / "redocly"
    # It neither reports nor asks anything.
    env = os.environ | {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    done = ran(linter, "lint", "--config", source / "redocly.yaml", "--max-problems", "50", FILE, env=env)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_operation_has_an_example(document: dict[str, Any]) -> None:
    """Recorded by tests/api/test_examples.py, and of nothing that there isn't."""
    missing = {operation["operationId"] for _, _, operation in operations(document)} - examples().keys()
    assert missing <= TO_BE_RECORDED
    assert len(examples()) + len(missing) == sum(1 for _ in operations(document))


def exemplified(document: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Each example in JSON with what it is of, and its schema."""
    for _, _, operation in operations(document):
        parts = {"the body": operation.get("requestBody", {}), **operation["responses"]}
        for name, part in parts.items():
            for media, content in part.get("content", {}).items():
                if "example" in content and media.endswith("json") and "ndjson" not in media:
                    yield f"{operation['operationId']} {name}", content["example"], content.get("schema", {})


def test_the_examples_fit_their_schemas(document: dict[str, Any]) -> None:
    """So what the document says of an answer is what the door answered."""
    found = list(exemplified(document))
    assert len(found) > len(document["paths"])
    for name, example, schema in found:
        whole = {**schema, "components": document["components"]}
        errors = [
            f"{'.'.join(map(str, e.path))}: {e.message[:200]}" for e in OAS31Validator(whole).iter_errors(example)
        ]
        assert errors == [], name


def _grants(document: dict[str, Any]) -> Any:
    return document["paths"]["/v1/accounts/{account}/grants"]["post"]


def _require(document: dict[str, Any]) -> None:
    _grants(document)["parameters"].append({"in": "query", "name": "colour", "required": True})


#: A change of the document, and what is said of it.
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a route": (lambda d: d["paths"].pop("/v1/accounts/{account}/grants"), "is gone"),
    "a method": (lambda d: d["paths"]["/v1/accounts/{account}/holds"].pop("get"), "GET"),
    "a parameter": (_require, "colour is required"),
    "one that is gone": (lambda d: _grants(d)["parameters"].pop(1), "preview is gone"),
    "a status": (lambda d: _grants(d)["responses"].pop("202"), "202 is gone"),
    "a property": (lambda d: d["components"]["schemas"]["OutcomeAnswer"]["properties"].pop("position"), "no position"),
    "one within": (lambda d: d["components"]["schemas"]["DecisionAnswer"]["properties"].pop("held"), "decision.held"),
    "a field": (
        lambda d: _grants(d)["requestBody"]["content"]["application/json"]["schema"]["properties"].pop("reason"),
        "no reason",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_breaking_change_is_found(document: dict[str, Any], name: str) -> None:
    """And none where there is none, nor where something is added."""
    change, said = CHANGES[name]
    changed = copy.deepcopy(document)
    change(changed)
    assert any(said in one for one in breaking_changes(document, changed))
    if name != "a parameter":
        assert breaking_changes(changed, document) == []


def committed(revision: str) -> dict[str, Any] | None:
    """The document of a revision; None where it had none."""
    shown = subprocess.run(
        ["git", "show", f"{revision}:docs/openapi.json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return json.loads(shown.stdout) if shown.returncode == 0 else None


def test_nothing_that_was_released_is_taken_away(document: dict[str, Any]) -> None:
    """Compared with the last released version; before the first, what differs from the last commit is shown only."""
    tag = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    released = committed(tag or "HEAD")
    found = [] if released is None else breaking_changes(released, document)
    if tag:
        assert found == []
    elif found:
        warnings.warn("\n".join(["not released, and different from the last commit:", *found]), stacklevel=1)
