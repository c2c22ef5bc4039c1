"""The golden topics: recorded histories whose folds must never change, kept as archives in tests/golden/.

    python tests/golden.py 2     records tests/golden/2 on servers of its own; never overwrites one

A release that adds a schema or a version of the rules records another one; those that are there stay as they are.
`digests` is what tests/test_golden.py compares: the chain of every partition at its end and at places in between, and
what the records came to.
"""

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from credit_topics import OUTCOME, append_all, topic
from stack_under_test import embedded_settings
from support import Raw, append, record

from creditfold.common.settings import Settings
from creditfold.ledger import Book, CreditEntry
from creditfold.log.archive.folder import Archive
from creditfold.log.archive.writer import archive_topic
from creditfold.processors.fold.chunk import fold, read_records
from creditfold.projections.store.chain import (
    START,
    activation_line,
    credit_line,
    dead_letter_line,
    extend,
    journal_line,
)
from creditfold.schemas.wire import encode
from creditfold.stack.embedded import down, up

FOLDER = Path(__file__).parent / "golden"
#: Offsets at which the chain is compared besides each partition's end: a difference is narrowed down to these.
EVERY = 100


def digests(archive: Archive) -> dict[str, Any]:
    """Fold an archive in memory, partition by partition."""
    found: dict[str, Any] = {}
    partitions = archive.manifest.partitions
    for partition in range(partitions):
        reads = read_records(archive.records(archive.index(partition)), partition, partitions)
        result = fold(reads, Book(), reads[-1][0].offset + 1)
        lines = [
            (offset, (credit_line if isinstance(entry, CreditEntry) else journal_line)(partition, offset, entry))
            for offset, entry in result.journal
        ]
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
            "chains": chains,
            **({"ticks": result.ticks} if result.ticks else {}),
        }
    return found


def history(count: int) -> Iterator[Raw]:
    """Commands of every kind, odd texts, duplicates, reused ids, every kind of dead letter, and a control record."""
    chance = random.Random(20261122)
    for partition in range(4):
        yield Raw(encode("ActivateRules", {"command_id": "rules-1", "rules": 1, "reason": "golden"}), None, partition)
    accounts = [f"user-{n}" for n in range(70)] + ["é", "back\\slash", "\N{SNOWMAN} man", "x" * 128]
    texts = ["", "", "", "welcome bonus", "tab\there\nline\\", "\N{GRINNING FACE}"]
    for number in range(count):
        account, kind = chance.choice(accounts), "Grant" if chance.random() < 0.35 else "Spend"
        amount = chance.choice([1, 2, 5, 10, 50, 2**53 - 1] if kind == "Grant" else [1, 2, 5, 10, 50, 10**15])
        more = {"asset": chance.choice(["credits", "credits", "boosts"]), "reason": chance.choice(texts)}
        more |= {"metadata": {"k": str(number)}} if chance.random() < 0.1 else {}
        more |= {"occurred_at": 1_700_000_000_000 + number, "source": "shop"} if chance.random() < 0.5 else {}
        sent = record(kind, f"c{number}", account, amount, **more)
        yield sent
        if chance.random() < 0.05:
            yield sent
        if chance.random() < 0.05:
            yield record(kind, f"c{number}", account, chance.randint(1, 99), **more)
        if chance.random() < 0.1:
            yield chance.choice(bad(number, sent))


def bad(number: int, good: Raw) -> list[Raw]:
    """Records that are no valid commands, one of each kind."""
    value = good.value or b""
    return [
        Raw(None, b"k"),
        Raw(b"", None),
        Raw(b"x" * 70_000, b"k"),
        Raw(b"not avro", b"k", headers=(("trace", b"\xff\0"), ("redrive-of", b"0:1"))),
        Raw(b"\0\0\0\0\1" + value[5:], good.key),
        Raw(encode("GrantAccepted", OUTCOME), b"ann"),
        Raw(value[:-1], good.key),
        record("Spend", "", "ann", 5),
        record("Grant", f"bad-{number}", "ann", 0),
        Raw(value, b"somebody else"),
        Raw(value, good.key, partition=number % 4),
        Raw(encode("ActivateRules", {"command_id": "old", "rules": 0}), None, number % 4),
        Raw(encode("ActivateRules", {"command_id": "keyed", "rules": 1}), b"key"),
    ]


def _plain(settings: Settings) -> None:
    append(settings, history(3_000))


def _credits(settings: Settings) -> None:
    # Spread over days, or nothing would expire.
    append_all(settings, topic(20261122, 3_000))


#: What fills the topic of each history.
FILL: Mapping[str, Callable[[Settings], None]] = {"1": _plain, "2": _credits}


def make(name: str) -> None:
    """Record a history on an embedded stack of its own."""
    target = FOLDER / name
    if target.exists():
        raise SystemExit(f"{target} is there already, and must not change.")
    folder = Path(tempfile.mkdtemp(prefix="cf-"))
    folder.chmod(0o755)
    settings = embedded_settings(folder).model_copy(update={"partitions": 4, "commands_topic": "creditfold.golden"})
    try:
        up(settings)
        FILL[name](settings)
        archive_topic(settings, target)
    finally:
        down(settings)
        shutil.rmtree(folder, ignore_errors=True)
    (target.with_suffix(".json")).write_text(json.dumps(digests(Archive(target)), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    make(sys.argv[1])
