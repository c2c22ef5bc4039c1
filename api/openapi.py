"""The OpenAPI document: FastAPI's own, with the form of problems, how a request is authenticated, and examples.

The examples are answers that tests recorded (`examples.json`); `docs/openapi.json` is the document as it is committed.
"""

import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any, cast

from fastapi import FastAPI

from creditfold.api.problems import Problem

Document = dict[str, Any]

#: What each group of routes is for.
TAGS = {
    "commands": "Append commands, one or many; what became of each, and what it would become.",
    "accounts": "What an account has, and what it is about to lose.",
    "statements": "What was decided, of one account and of all, and the books.",
    "outcomes": "Follow what is decided.",
    "graphql": "Read several things at once.",
    "access": "Keys, and who used them.",
    "webhooks": "Who is called when something is decided, and what is watched for them.",
    "operation": "Whether the door and its servers are there, and how far the log is folded.",
}
_HEADERS = {
    "X-Request-ID": {
        "description": "The request's id, its sender's if that is a plain one.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}},
    "Creditfold-Position": {
        "description": "Of a read, the last record of the account's partition that the answer reflects; of a write, "
        "the command's own record. `partition:offset`, as `at_least` takes it; of several accounts' partitions the "
        "last of each, by comma.",
        "schema": {"type": "string"},
    },
    "Creditfold-Generation": {
        "description": "The generation that the answer was read from; not there where none was.",
        "schema": {"type": "integer"},
    },
    "Creditfold-Complete-To": {
        "description": "Of a read and of a preview: all that was appended before this instant is in the answer "
        "(RFC 3339). It stands still while Kafka is away or the fold lags; not there where it isn't known.",
        "schema": {"type": "string", "format": "date-time"},
    },
}
#: The answers that say when to try again.
_AGAIN = ("202", "429", "503")
#: The answers that say which state they reflect: of these groups of routes, and of some others.
_STATE = ("Creditfold-Generation", "Creditfold-Position")
_OF_STATE = frozenset({"commands", "accounts", "statements", "graphql"})
_OF_STATE_TOO = frozenset({"dead_letters", "dead_letter", "redrive", "discard", "progress"})
#: Those of one command that are read from a state without being of a success.
_REFUSED = ("404", "409", "422")
#: Those of a preview: what the command would come to, or that it would be a dead letter.
_PREVIEWED = ("200", "409")


#: Filled by the first application that is asked for it: making it takes a second, and all of a process have the same
#: routes.
_DOCUMENT: Document = {}


def complete(app: FastAPI) -> None:
    """Have an application's document be complete."""
    made: Callable[[], Document] = app.openapi

    def openapi() -> Document:
        if not _DOCUMENT:
            _DOCUMENT.update(_completed(made()))
        return _DOCUMENT

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: Document) -> Document:
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    # Where an operation says nothing else.
    document["security"] = [{"key": []}]
    _drop_defaults(document)
    _add_headers(document)
    _add_examples(document)
    return document


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Each operation of a document with its path and its method."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def as_text(document: Document) -> str:
    """The document as it is committed."""
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def examples() -> dict[str, Document]:
    """What was recorded of each operation: the body of a request, and by status that of an answer."""
    return cast(dict[str, Document], json.loads(files("creditfold.api").joinpath("examples.json").read_text("utf-8")))


def _add_examples(document: Document) -> None:
    recorded = examples()
    for _, _, operation in operations(document):
        found = recorded.get(operation.get("operationId", ""), {})
        if "body" in found:
            for content in operation["requestBody"]["content"].values():
                content["example"] = found["body"]
        for status, bodies in found.get("answers", {}).items():
            contents = operation["responses"].get(status, {}).get("content", {})
            for media in contents.keys() & bodies.keys():
                contents[media]["example"] = bodies[media]


def _add_headers(document: Document) -> None:
    document["components"]["headers"] = _HEADERS
    for _, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            names = ["X-Request-ID", *(["Retry-After"] if status in _AGAIN else ())]
            if _reflects_state(operation, status):
                names += _STATE
                names += ["Creditfold-Complete-To"] if _may_read(operation, method, status) else []
            own = answer.get("headers", {})
            answer["headers"] = {**own, **{name: {"$ref": f"#/components/headers/{name}"} for name in names}}


def _may_read(operation: Document, method: str, status: str) -> bool:
    is_read = method in ("get", "head") or operation["operationId"] == "graphql"
    has_preview = any(one["name"] == "preview" for one in operation.get("parameters", ()))
    return is_read or (has_preview and status in _PREVIEWED)


def _reflects_state(operation: Document, status: str) -> bool:
    name = operation["operationId"]
    # Of many commands each line says it for itself.
    if name == "append_many" or not (_OF_STATE.intersection(operation["tags"]) or name in _OF_STATE_TOO):
        return False
    is_of_one = name == "command" or name.startswith("append_")
    return status.startswith("2") or status == "304" or (is_of_one and status in _REFUSED)


def _drop_defaults(document: Document) -> None:
    """Take out FastAPI's own form of a bad parameter: it is a problem here, with 400."""
    for _, _, operation in operations(document):
        if "HTTPValidationError" in json.dumps(operation["responses"].get("422", {})):
            del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
