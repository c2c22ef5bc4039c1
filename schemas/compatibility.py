"""The schema lock and its guard: what may change in a schema, and how a new version gets its id.

A replay reads every version ever written, and old readers meet new records while an upgrade rolls out, so each
version must read and be read by every other one of its record (FULL_TRANSITIVE in Confluent's terms). The check
itself is the Avro project's own; it is needed by developers only. `make schema-lock` runs this module.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse

from creditfold.common.errors import CreditfoldError
from creditfold.schemas.registry import (
    COMMANDS,
    LOCK_FILE,
    RECORDS,
    JsonSchema,
    LockedSchema,
    avsc_name,
    fingerprint,
)

FIRST_ID = 10_101  # Clear of the small ids that a registry in use has given out already.


class SchemaLockError(CreditfoldError):
    """The schemas and the lock file disagree, or a change would break a reader."""


def read_avsc(folder: Path) -> dict[str, JsonSchema]:
    """Read each record's current schema from a folder of `.avsc` files."""
    return {record: json.loads((folder / avsc_name(record)).read_text("utf-8")) for record in RECORDS}


def read_lock(folder: Path) -> list[LockedSchema]:
    """Read a folder's lock file; an absent one is empty."""
    path = folder / LOCK_FILE
    return [LockedSchema(**row) for row in json.loads(path.read_text("utf-8"))["schemas"]] if path.exists() else []


def problems(current: Mapping[str, JsonSchema], lock: Sequence[LockedSchema]) -> list[str]:
    """List where the current schemas and the lock disagree, one sentence each; empty where they agree."""
    found = [*_lock_problems(lock)]
    for record, schema in current.items():
        if f"{schema.get('namespace')}.{schema.get('name')}" != subject_of(record):
            found.append(f"{avsc_name(record)} must define {subject_of(record)}.")
        versions = [row for row in lock if row.record == record]
        if not versions or _without_docs(versions[-1].schema) != _without_docs(schema):
            found.append(f"{avsc_name(record)} was changed but not locked: run `make schema-lock RULES=N`.")
        found += [
            f"{avsc_name(record)} {problem} version {row.version}."
            for row in versions
            for problem in _clashes(schema, row)
        ]
    return found


def lock_new_versions(
    current: Mapping[str, JsonSchema], lock: Sequence[LockedSchema], rules: int
) -> list[LockedSchema]:
    """Give each changed schema a version and an id. Raises SchemaLockError where that would break a reader.

    Args:
        current: schemas by record.
        lock: what was locked before.
        rules: version of the rules from which on the command log may hold the new versions.
    """
    rows = list(lock)
    for record, schema in current.items():
        versions = [row for row in rows if row.record == record]
        clashes = [
            f"{avsc_name(record)} {text} version {row.version}" for row in versions for text in _clashes(schema, row)
        ]
        if clashes:
            raise SchemaLockError(
                "; ".join(clashes) + ".",
                "Add fields with defaults only, or define a new record; history must stay readable.",
            )
        if versions and _without_docs(versions[-1].schema) == _without_docs(schema):
            continue
        next_id = max((row.id for row in rows), default=FIRST_ID - 1) + 1
        since = rules if RECORDS[record] == COMMANDS else 0
        rows.append(LockedSchema(next_id, since, subject_of(record), len(versions) + 1, fingerprint(schema), schema))
    return rows


def write_lock(folder: Path, lock: Sequence[LockedSchema]) -> None:
    """Write the lock file: a line for each field of a record, as the `.avsc` files have them."""
    rows = ",\n".join(map(_locked, lock))
    (folder / LOCK_FILE).write_text(f'{{"schemas": [\n{rows}\n]}}\n', "utf-8")


def _locked(row: LockedSchema) -> str:
    head = _text({**row._asdict(), "schema": {key: value for key, value in row.schema.items() if key != "fields"}})
    fields = ",\n  ".join(map(_text, row.schema["fields"]))
    return f'{head.removesuffix("}}")}, "fields": [\n  {fields}\n]}}}}'


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def subject_of(record: str) -> str:
    """Full name of a record."""
    return f"{RECORDS[record]}.{record}"


def _lock_problems(lock: Sequence[LockedSchema]) -> list[str]:
    found = [
        f"Schema {row.id} ({row.subject} version {row.version}) was changed in place: its fingerprint differs."
        for row in lock
        if fingerprint(row.schema) != row.fingerprint
    ]
    if [row.id for row in lock] != list(range(FIRST_ID, FIRST_ID + len(lock))):
        found.append(f"Schema ids must run from {FIRST_ID} without gap or repetition.")
    for subject in {row.subject for row in lock}:
        versions = [row.version for row in lock if row.subject == subject]
        if versions != list(range(1, len(versions) + 1)):
            found.append(f"Versions of {subject} must run from 1.")
    return found


def _clashes(schema: JsonSchema, other: LockedSchema) -> list[str]:
    found = []
    if not _can_read(reader=schema, writer=other.schema):
        found.append("can't read")
    if not _can_read(reader=other.schema, writer=schema):
        found.append("can't be read by")
    return found


def _can_read(*, reader: JsonSchema, writer: JsonSchema) -> bool:
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # avro is typed in part.
    result = checker.get_compatibility(parse(json.dumps(reader)), parse(json.dumps(writer)))
    return bool(result.compatibility == SchemaCompatibilityType.compatible)


def _without_docs(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_docs(value) for key, value in schema.items() if key != "doc"}
    return [_without_docs(item) for item in schema] if isinstance(schema, list) else schema


def main() -> None:
    """Lock the current schemas in place."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rules", type=int, required=True, help="version of the rules that the new schemas come with")
    options = parser.parse_args()
    folder = Path(__file__).parent
    before = read_lock(folder)
    after = lock_new_versions(read_avsc(folder), before, options.rules)
    write_lock(folder, after)
    print(f"{len(after) - len(before)} new schema versions, {len(after)} in all.")


if __name__ == "__main__":
    main()
