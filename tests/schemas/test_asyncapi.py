"""docs/asyncapi.json and schemas/outcomes.schema.json are made of the lock file, valid, and as committed.

AsyncAPI's own JSON Schema is asyncapi-3.0.0.json.gz, as in the npm package @asyncapi/specs 6.11.1 (Apache-2.0). That
real outcomes are as the schemas describe them, helpers/published.py checks where outcomes are published.
"""

import copy
import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import asyncapi
import outcome_schemas
import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from creditfold.schemas.registry import load_lock

PACKED = Path(__file__).with_name("asyncapi-3.0.0.json.gz")
SHA256 = "d4571a420e6ffb7fcc7066c95a6db1202f299a3c51daa103d0706bf30f95e626"
DOCUMENT: dict[str, Any] = json.loads(asyncapi.FILE.read_text("utf-8"))


@cache
def validator() -> Draft7Validator:
    """Of AsyncAPI 3.0.0's own JSON Schema."""
    text = gzip.decompress(PACKED.read_bytes())
    assert hashlib.sha256(text).hexdigest() == SHA256
    return Draft7Validator(json.loads(text))


def test_what_is_committed_is_what_is_made() -> None:
    """`make api` writes both."""
    made = asyncapi.document(asyncapi.DEFAULTS, load_lock())
    assert asyncapi.FILE.read_text("utf-8") == asyncapi.as_text(made), "run `make api`"
    assert outcome_schemas.FILE.read_text("utf-8") == outcome_schemas.as_text(outcome_schemas.document())


def test_the_document_is_valid() -> None:
    """By AsyncAPI's own schema; and every reference in it leads somewhere."""
    assert [error.message for error in validator().iter_errors(DOCUMENT)] == []
    found = list(references(DOCUMENT))
    assert len(found) > len(load_lock())
    for reference in found:
        target: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def references(part: Any) -> Iterator[str]:
    """Every `$ref` within."""
    if isinstance(part, dict):
        yield from (value for name, value in part.items() if name == "$ref")
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from references(value)


def misname_action(document: dict[str, Any]) -> None:
    document["operations"]["sendOutcomes"]["action"] = "publish"


def misplace_schema_id(document: dict[str, Any]) -> None:
    document["components"]["messages"]["Grant"]["bindings"]["kafka"]["schemaIdLocation"] = "key"


def take_a_name(document: dict[str, Any]) -> None:
    del document["components"]["messages"]["Grant"]["payload"]["schema"]["fields"][0]["name"]


@pytest.mark.parametrize("spoil", [misname_action, misplace_schema_id, take_a_name])
def test_a_document_that_is_wrong_is_found(spoil: Callable[[dict[str, Any]], None]) -> None:
    """In an operation, in Kafka's bindings, in an Avro schema: the schema reaches all of them."""
    spoiled = copy.deepcopy(DOCUMENT)
    spoil(spoiled)
    assert not validator().is_valid(spoiled)


def test_every_schema_of_the_lock_is_a_message_of_its_topic() -> None:
    """With its id, as it is in the lock file; the newest of a record by the record's name."""
    messages = DOCUMENT["components"]["messages"]
    by_id = {message["x-schema-id"]: (name, message) for name, message in messages.items() if "x-schema-id" in message}
    assert by_id.keys() == {row.id for row in load_lock()}
    for row in load_lock():
        name, message = by_id[row.id]
        assert (message["payload"]["schema"], message["x-rules"]) == (row.schema, row.rules)
        channel = "commands" if ".commands." in row.subject else "outcomes"
        assert name in DOCUMENT["channels"][channel]["messages"]


def test_an_older_version_of_a_record_is_a_message_of_its_own() -> None:
    """The log holds both."""
    lock = load_lock()
    grant = next(row for row in lock if row.record == "Grant")
    newer = grant._replace(id=99_999, version=2, rules=2)
    made = asyncapi.document(asyncapi.DEFAULTS, [*lock, newer])
    messages = made["components"]["messages"]
    assert (messages["Grant"]["x-schema-id"], messages["Grant-v1"]["x-schema-id"]) == (99_999, grant.id)
    assert "Grant-v1" in made["channels"]["commands"]["messages"]


def test_the_schemas_of_outcomes_are_valid() -> None:
    """Each describes the fields of its record, and says more than their types."""
    made = json.loads(outcome_schemas.FILE.read_text("utf-8"))
    Draft202012Validator.check_schema(made)
    assert made["$defs"].keys() == {"CommandAccepted", "Rejected", "Settled", "Fact", "Move"}
    names = {f"{record}.{name}" for record, own in made["$defs"].items() for name in own["properties"]}
    unused = {
        key for key in outcome_schemas.BOUNDS if not any(name.endswith(f".{key}") or name == key for name in names)
    }
    assert unused == set()
