"""Schemas by id and by record: reads the committed lock file. Decides nothing about compatibility.

The subject of a schema is its full name (RecordNameStrategy of Confluent's clients).
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from fastavro.schema import to_parsing_canonical_form

from creditfold.common.resources import read_resource

__all__ = ["LockedSchema", "fingerprint", "latest", "load_current", "load_lock", "versions"]

JsonSchema: TypeAlias = dict[str, Any]

COMMANDS = "creditfold.commands"
OUTCOMES = "creditfold.outcomes"
#: Namespace of each record, by its short name, which no two records share.
RECORDS: Mapping[str, str] = {
    **dict.fromkeys(("Grant", "Spend", "Hold", "Capture", "Release", "Refund", "VoidGrant"), COMMANDS),
    **dict.fromkeys(("Transfer", "ReceiveTransfer", "SettleTransfer", "Freeze", "Unfreeze", "Close"), COMMANDS),
    **dict.fromkeys(("SetCreditLimit", "CreateSchedule", "CancelSchedule", "Batch"), COMMANDS),
    **dict.fromkeys(("ActivateRules", "Tick"), COMMANDS),
    **dict.fromkeys(("CommandAccepted", "Rejected", "Settled"), OUTCOMES),
}
LOCK_FILE = "lock.json"


class LockedSchema(NamedTuple):
    """One version of one record's schema, as it was when its id was given out.

    `rules` is the version of the rules from which on the command log may hold records of it, so that a replay doesn't
    depend on the age of the code. It is 0 for a record that isn't a command.
    """

    id: int
    rules: int
    subject: str
    version: int
    fingerprint: str
    schema: JsonSchema

    @property
    def record(self) -> str:
        """The record's short name, for example `Grant`."""
        return self.subject.rpartition(".")[2]


def avsc_name(record: str) -> str:
    """Path of the file that holds a record's current schema, from this room."""
    folder = RECORDS[record].rpartition(".")[2]
    return f"{folder}/{re.sub('(?<!^)(?=[A-Z])', '_', record).lower()}.avsc"


def load_current(record: str) -> JsonSchema:
    """Read a record's current schema from its `.avsc`.

    Example:
        >>> [field["name"] for field in load_current("Unfreeze")["fields"]][:2]
        ['command_id', 'account']
    """
    schema: JsonSchema = json.loads(read_resource(__package__, avsc_name(record)))
    return schema


@lru_cache(maxsize=1)
def load_lock() -> Sequence[LockedSchema]:
    """Read every schema version from the lock file, in the order of their ids.

    Example:
        >>> load_lock()[0].id, load_lock()[0].record
        (10101, 'Grant')
    """
    rows = json.loads(read_resource(__package__, LOCK_FILE))["schemas"]
    return [LockedSchema(**row) for row in rows]


def fingerprint(schema: JsonSchema) -> str:
    """SHA-256 of a schema's Parsing Canonical Form (Avro 1.12 specification, section of that name), in hex.

    Example:
        >>> newest = latest(load_lock())["Grant"]
        >>> newest.fingerprint == fingerprint(newest.schema)
        True
    """
    return hashlib.sha256(to_parsing_canonical_form(schema).encode()).hexdigest()


def latest(lock: Sequence[LockedSchema]) -> Mapping[str, LockedSchema]:
    """Pick the newest version of each record, by its short name.

    Example:
        >>> latest(load_lock())["Grant"].subject
        'creditfold.commands.Grant'
    """
    return {record: rows[-1] for record, rows in versions(lock).items()}


def versions(lock: Sequence[LockedSchema]) -> Mapping[str, Sequence[LockedSchema]]:
    """All versions of each record, by its short name, the oldest first.

    Example:
        >>> versions(load_lock())["Grant"][0].version
        1
    """
    found: dict[str, list[LockedSchema]] = {}
    for row in sorted(lock, key=lambda row: row.version):
        found.setdefault(row.record, []).append(row)
    return found
