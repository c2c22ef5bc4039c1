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


def complete(app: FastAPI) -> None:
    """Have an application's document be complete."""
    made: Callable[[], Document] = app.openapi

    def openapi() -> Document:
        if app.openapi_schema is None:
            document = made()
            components = document.setdefault("components", {})
            components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            # Where an operation says nothing else.
            document["security"] = [{"key": []}]
            _drop_defaults(document)
            _add_examples(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


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


def _drop_defaults(document: Document) -> None:
    """Take out FastAPI's own form of a bad parameter: it is a problem here, with 400."""
    for _, _, operation in operations(document):
        if "HTTPValidationError" in json.dumps(operation["responses"].get("422", {})):
            del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
