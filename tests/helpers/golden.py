"""The golden topics: recorded histories whose folds must never change, kept as archives in tests/golden/.

    python tests/helpers/golden.py 1     records tests/golden/1 on servers of its own; never overwrites one

A release that adds a schema or a version of the rules records another one; those that are there stay as they are.
`digests` is what tests/whole/test_golden.py compares: the chain of every partition at its end and at places in between,
and what the records came to.
"""

import json
import shutil
import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from creditfold.ledger import CreditBook
from creditfold.log.archive.folder import Archive
from creditfold.log.archive.writer import archive_topic
from creditfold.processors.fold.chunk import fold, read_records
from creditfold.projections.store.chain import START, activation_line, dead_letter_line, extend, journal_line
from creditfold.stack.embedded import down, up
from helpers.credit_topics import append_all, topic
from helpers.stack_under_test import embedded_settings, server_folder

FOLDER = Path(__file__).parents[1] / "golden"
#: Offsets at which the chain is compared besides each partition's end: a difference is narrowed down to these.
EVERY = 100


def digests(archive: Archive) -> dict[str, Any]:
    """Fold an archive in memory, partition by partition."""
    found: dict[str, Any] = {}
    partitions = archive.manifest.partitions
    for partition in range(partitions):
        reads = read_records(archive.records(archive.index(partition)), partition, partitions)
        result = fold(reads, CreditBook(), reads[-1][0].offset + 1)
        lines = [(offset, journal_line(partition, offset, entry)) for offset, entry in result.journal]
        lines += [(letter.log_offset, dead_letter_line(partition, letter)) for letter in result.dead_letters]
        lines += [(row.log_offset, activation_line(partition, row)) for row in result.activations]
        chains, chain = {}, START
        for offset, line in sorted(lines, key=itemgetter(0)):
            chain, _ = extend(chain, offset, offset, [(offset, line)])
            if offset % EVERY == 0:
                chains[str(offset)] = chain.hex()
        found[str(partition)] = {
            "next_offset": result.next_offset,
            "chain": chain.hex(),
            "accepted": result.accepted,
            "rejected": result.rejected,
            "duplicates": result.duplicates,
            "dead_letters": len(result.dead_letters),
            "activations": len(result.activations),
            "rules": result.rules,
            "ticks": result.ticks,
            "chains": chains,
        }
    return found


def make(name: str) -> None:
    """Record a history on an embedded stack of its own."""
    target = FOLDER / name
    if target.exists():
        raise SystemExit(f"{target} is there already, and must not change.")
    folder = server_folder()
    settings = embedded_settings(folder).model_copy(update={"partitions": 4, "commands_topic": "creditfold.golden"})
    try:
        up(settings)
        # Spread over days, or nothing would expire.
        append_all(settings, topic(20261122, 4_000))
        archive_topic(settings, target)
    finally:
        down(settings)
        shutil.rmtree(folder, ignore_errors=True)
    (target.with_suffix(".json")).write_text(json.dumps(digests(Archive(target)), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    make(sys.argv[1])
