"""Recorded histories are folded to what they always were: by the rules in memory, and on the real stack.

A digest here may change with a new version of the rules only, and then by recording another history: what is recorded
under old rules is decided by them for ever. tests/helpers/golden.py says how.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from creditfold.common.settings import Settings
from creditfold.ledger import known_rules
from creditfold.log.archive.folder import Archive
from creditfold.log.archive.restore import restore_topic
from creditfold.projections.connections import connected
from creditfold.projections.proof.chain import chain_at
from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.registry import load_lock
from helpers.golden import FOLDER, digests
from helpers.support import fold_log, query

pytestmark = pytest.mark.both_cores

HISTORIES = sorted(path for path in FOLDER.iterdir() if path.is_dir())


def recorded(path: Path) -> dict[str, Any]:
    """What a history's fold came to when it was recorded."""
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text("utf-8"))
    return found


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.name)
def test_a_recorded_history_is_decided_as_ever(path: Path) -> None:
    """Chains at every hundredth offset, so that a difference is narrowed down; what the records came to."""
    assert digests(Archive(path)) == recorded(path)


def test_a_changed_decision_would_be_seen() -> None:
    """The digest of one history isn't that of another: with one amount changed, every chain behind it differs."""
    archive = Archive(HISTORIES[0])
    first = recorded(HISTORIES[0])["0"]["chains"]
    assert len(set(first.values())) == len(first) > 5
    assert archive.manifest.partitions == 4


def test_every_schema_version_and_rules_version_is_recorded() -> None:
    """A new one needs a history that has it: python tests/helpers/golden.py NUMBER."""
    ids: Counter[int] = Counter()
    for path in HISTORIES:
        archive = Archive(path)
        for index in archive.indexes():
            for record in archive.records(index):
                value = record.value or b""
                ids[int.from_bytes(value[1:5], "big") if value[:1] == b"\0" else -1] += 1
    missing = [row.id for row in load_lock() if row.rules and ids[row.id] < 3]
    assert missing == []
    assert sum(ids.values()) > 3_000
    in_force = {partition["rules"] for path in HISTORIES for partition in recorded(path).values()}
    assert in_force == set(known_rules())


def test_every_kind_of_dead_letter_is_recorded(ledger_settings: Settings) -> None:
    """And the restored topic is folded to the same chains on the real stack."""
    path = HISTORIES[-1]
    restore_topic(ledger_settings, path)
    fold_log(ledger_settings)
    reasons = {row[0] for row in query(ledger_settings, "SELECT DISTINCT reason FROM ledger.dead_letters")}
    # Rules are older than those in force only where there are two versions.
    assert reasons == set(DeadLetterReason) - {DeadLetterReason.RULES_NOT_NEWER}
    expected = recorded(path)
    stored = query(ledger_settings, "SELECT log_partition, next_offset, chain FROM ledger.progress")
    assert {str(row[0]): (row[1], row[2].hex()) for row in stored} == {
        number: (partition["next_offset"], partition["chain"]) for number, partition in expected.items()
    }
    with connected(ledger_settings.dsn) as connection:
        for number, partition in expected.items():
            for offset, chain in list(partition["chains"].items())[::4]:
                assert chain_at(connection, 1, int(number), int(offset) + 1).hex() == chain
