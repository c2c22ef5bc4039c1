"""schemas/conformance.json is what our own producer does, and covers what another one can get wrong."""

import io
import json
from typing import Any

import conformance
import fastavro
import pytest
from aiokafka.partitioner import murmur2

from creditfold.ledger.limits import MAX_ACCOUNT, is_id
from creditfold.producers import InvalidCommandError, parse_command
from creditfold.producers.models.commands import MODELS
from creditfold.schemas.registry import load_current, load_lock

FOUND = json.loads(conformance.FILE.read_text("ascii"))
ACCOUNTS: list[tuple[str, list[int]]] = FOUND["partitions"]["accounts"]
NAMES = [name for name, _ in ACCOUNTS]
COMMANDS: list[dict[str, Any]] = FOUND["commands"]
SCHEMAS = {row.id: row for row in load_lock()}
#: What every file of the installed package may weigh.
MOST_BYTES = 256 * 1024


def test_it_is_what_the_producer_does_today() -> None:
    """`make api` writes it."""
    text = conformance.as_text(conformance.document())
    assert conformance.FILE.read_text("ascii") == text, "run `make api`"
    assert len(text) < MOST_BYTES


def test_it_has_a_thousand_accounts_of_every_form() -> None:
    """Widths of characters, lengths, leftovers of the hash; each valid, and none that is refused."""
    assert (len(NAMES), len(set(NAMES))) == (1_000, 1_000)
    assert {len(name) for name in NAMES if name.isascii()} == set(range(1, MAX_ACCOUNT + 1))
    for width, letter in enumerate(("a", "ä", "€", "😀"), 1):
        longest = next(name for name in NAMES if len(name) == MAX_ACCOUNT and letter in name)
        assert len(longest.encode()) == width * MAX_ACCOUNT
    assert {len(name.encode()) % 4 for name in NAMES if not name.isascii()} == {0, 1, 2, 3}
    assert [name for name in NAMES if not is_id(name, MAX_ACCOUNT)] == []
    assert [name for name in FOUND["refused_accounts"] if is_id(name, MAX_ACCOUNT)] == []
    for name in FOUND["refused_accounts"]:
        with pytest.raises(InvalidCommandError, match="account"):
            parse_command({"type": "unfreeze", "command_id": "u", "account": name}, confirmed=True)


def test_its_partitions_are_those_of_another_implementation() -> None:
    """Of aiokafka's, which is written after Java's; and every partition of a small topic has accounts."""
    counts = FOUND["partitions"]["counts"]
    for name, partitions in ACCOUNTS:
        positive = murmur2(name.encode()) & 0x7FFFFFFF
        assert partitions == [positive % count for count in counts], name
    for at, count in enumerate(counts):
        if count <= 64:
            assert {partitions[at] for _, partitions in ACCOUNTS} == set(range(count))


@pytest.mark.parametrize("kind", MODELS)
def test_it_has_each_command_with_each_field(kind: str) -> None:
    """One that says the least, and each field somewhere with another value than its default."""
    rows = [row for row in COMMANDS if row["type"] == kind]
    schema = load_current(rows[0]["record"].rpartition(".")[2])
    required = {field["name"] for field in schema["fields"] if "default" not in field}
    assert set(rows[0]["fields"]) == required
    for fields, given in ((schema["fields"], rows), *steps_of(schema, rows)):
        defaults = {field["name"]: field.get("default") for field in fields}
        said = {name for row in given for name, value in row["fields"].items() if value != defaults[name]}
        assert said == set(defaults)


def steps_of(schema: dict[str, Any], rows: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    """The fields of a batch's steps, and the steps; nothing for another command."""
    steps = [{"fields": step} for row in rows for step in row["fields"].get("steps", ())]
    found = [field["type"]["items"]["fields"] for field in schema["fields"] if field["name"] == "steps"]
    return [(fields, steps) for fields in found]


def test_its_bytes_are_those_of_another_encoder() -> None:
    """Of fastavro's, behind a zero byte and the schema id; the key is the account."""
    for row in COMMANDS:
        out = io.BytesIO()
        locked = SCHEMAS[row["schema_id"]]
        fastavro.schemaless_writer(out, fastavro.parse_schema(locked.schema, _force=True), row["fields"])
        assert (row["record"], row["headers"]) == (locked.subject, {})
        assert row["value"] == (b"\0" + row["schema_id"].to_bytes(4, "big") + out.getvalue()).hex()
        assert bytes.fromhex(row["key"]).decode() == row["fields"]["account"]
