"""Writes schemas/outcomes.schema.json: JSON Schemas of the records of the outcomes topic. For `make api`.

Made of the Avro schemas, so that it can't name other fields; owns what Avro can't say of them: bounds, and which texts
there are. tests/schemas/test_asyncapi.py compares the file with what this makes, and real outcomes with the file.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from creditfold.ledger import KINDS, FactKind, RejectionReason, limits
from creditfold.ledger.commands import LotClass
from creditfold.ledger.credit_validity import MAX_NUMBER, MAX_PRIORITY, MAX_STEPS
from creditfold.ledger.facts import Bucket
from creditfold.schemas.registry import OUTCOMES, RECORDS, load_current

JsonSchema: TypeAlias = dict[str, Any]

FILE = Path(__file__).resolve().parents[1] / "schemas" / "outcomes.schema.json"
ABOUT = (
    "The records of the topic creditfold.outcomes.v1. The topic holds them in Avro (schemas/lock.json); this is what a "
    "reader has of one when it is decoded: an object of its fields by name, longs as whole numbers, instants in "
    "milliseconds since 1970 UTC, details as the text that it is. Which record it is, its schema id says. A later "
    "release may add fields, kinds and reasons."
)


def _whole(least: int, most: int) -> JsonSchema:
    return {"minimum": least, "maximum": most}


def _text(longest: int, shortest: int = 0) -> JsonSchema:
    return {"minLength": shortest, "maxLength": longest}


def _one_of(values: Iterable[str]) -> JsonSchema:
    return {"enum": list(values)}


_INSTANT = _whole(0, limits.MAX_OCCURRED_AT)
_SUM = _whole(0, limits.MAX_BALANCE)
_ID = _text(limits.MAX_COMMAND_ID)
_PLACES = _one_of(Bucket)

#: What each field holds beyond its Avro type, by its name; by its record's too where that decides.
BOUNDS: Mapping[str, JsonSchema] = {
    "log_partition": {"minimum": 0},
    "log_offset": {"minimum": 0},
    "account": _text(limits.MAX_ACCOUNT, 1),
    "version": {"minimum": 1},
    "command_id": _ID,
    "kind": _one_of(sorted(KINDS.values())),
    "Fact.kind": _one_of(FactKind),
    "asset": _text(limits.MAX_ASSET),
    "amount": _whole(0, limits.MAX_AMOUNT),
    "Move.amount": {"minimum": 1},
    "rejection": _one_of(RejectionReason),
    # Below zero by debt, which a credit limit bounds.
    "balance": _whole(-limits.MAX_AMOUNT, limits.MAX_BALANCE),
    "pending": _SUM,
    "held": _SUM,
    "debt": _SUM,
    "change": _whole(-limits.MAX_BALANCE, limits.MAX_BALANCE),
    "rules": _whole(1, limits.MAX_RULES),
    "decided_at": _INSTANT,
    "occurred_at": _INSTANT,
    "source": _text(limits.MAX_SOURCE),
    "reason": _text(limits.MAX_REASON),
    "details": {},
    "step": _whole(-1, MAX_STEPS - 1),
    "facts": {},
    "at": _INSTANT,
    "ref": _ID,
    "detail": {},
    "moves": {},
    "lot": _ID,
    "number": _whole(0, MAX_NUMBER),
    "Move.source": _PLACES,
    "Move.target": _PLACES,
    "lot_class": _one_of(("", *LotClass)),
    "priority": _whole(0, MAX_PRIORITY),
    "effective_at": _INSTANT,
    "expires_at": _INSTANT,
    "scope": _ID,
}


def document() -> JsonSchema:
    """What the file has: a schema of each record, those within records too."""
    definitions: dict[str, JsonSchema] = {}
    records = [name for name, namespace in RECORDS.items() if namespace == OUTCOMES]
    for name in records:
        _define(load_current(name), definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "creditfold outcomes",
        "description": ABOUT,
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in records],
        "$defs": definitions,
    }


def _define(record: JsonSchema, definitions: dict[str, JsonSchema]) -> None:
    """Add the schema of a record, and of the records in it."""
    properties = {field["name"]: _property(record["name"], field, definitions) for field in record["fields"]}
    definitions[record["name"]] = {
        "description": record["doc"],
        "type": "object",
        "properties": properties,
        # A field that an older publisher's record lacks, an Avro reader fills in.
        "required": list(properties),
    }


def _property(record: str, field: JsonSchema, definitions: dict[str, JsonSchema]) -> JsonSchema:
    name = field["name"]
    bounds = BOUNDS[f"{record}.{name}" if f"{record}.{name}" in BOUNDS else name]
    return {"description": field["doc"], **_typed(field["type"], definitions), **bounds}


def _typed(kind: Any, definitions: dict[str, JsonSchema]) -> JsonSchema:
    if isinstance(kind, dict):
        _define(kind["items"], definitions)
        return {"type": "array", "items": {"$ref": f"#/$defs/{kind['items']['name']}"}}
    return {"type": {"long": "integer", "string": "string"}[kind]}


def as_text(found: JsonSchema) -> str:
    """The document as it is committed."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_text(document()), "utf-8")
