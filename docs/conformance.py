"""Writes schemas/conformance.json: what a producer in another language must agree with. For `make api`.

Owns which accounts and commands are in it. The partitions and the bytes are those of our own producer; nothing here
encodes anything. tests/schemas/test_conformance.py compares the file with what this makes.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from creditfold.ledger import limits
from creditfold.ledger.credit_validity import MAX_EVERY, MAX_NUMBER, MAX_STEPS
from creditfold.log.partitioner import partition_of
from creditfold.producers.models.commands import encode_command, parse_command
from creditfold.producers.models.steps import STEP_MODELS
from creditfold.schemas.registry import load_lock

FILE = Path(__file__).resolve().parents[1] / "schemas" / "conformance.json"
ACCOUNTS = 1_000
#: Numbers of partitions: with and without common factors, and more than a hash has bits of in a small table.
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 50, 64, 100, 1_000)

ABOUT = (
    "What a producer of commands in any language must agree with. partitions.accounts has account names, each with its "
    "partition for every number of partitions in partitions.counts: murmur2 of its UTF-8 bytes, as in Kafka's Java "
    "client. refused_accounts can't be names. commands has the fields of Avro records by name, those at their defaults "
    "left out, and the Kafka record that comes of them: key and value in hexadecimal, and headers, of which there are "
    "none. The entries of a map are written in the order given."
)

#: Each is an account that a careless implementation puts elsewhere, cuts, or takes for another one.
EDGES = (
    *("a", "~", "0", "-1", "null", "a b", "a  b", "Ada", "ADA", "ada", "ada@example.com", "urn:user:7", "user/7?x=1#y"),
    *('"', "'", "\\", "a\\u0041", "%41", "a,b;c", "{}", "[1]", "<a>", "$1", "`", "a+b", "=1+1", "@ada", "-ada", "+1"),
    *("true", "NaN", "1e3", "0x1F", "00", "١٢٣", "½", "²", "Ⅷ"),
    # One letter as one character and as two, which are two accounts; and what a change of case, or a look, confuses.
    *("é", "e\u0301", "Å", "A\u030a", "\u212b", "ñ", "n\u0303", "ﬁ", "fi", "ß", "ẞ", "ss", "İ", "i\u0307", "ı", "ς"),
    *("q\u0307\u0323", "q\u0323\u0307", "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d", "\u0301", "각", "\u1100\u1161"),
    # Ends of the ranges of UTF-8's lengths and of UTF-16's surrogates, and characters that are none.
    *("\u007e", "\u00a1", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff", "\ufffd"),
    *(
        "😀",
        "👍🏽",
        "👩\u200d👩\u200d👧\u200d👦",
        "🏳\ufe0f\u200d🌈",
        "🇩🇪",
        "1\ufe0f\u20e3",
        "❤\ufe0f",
        "❤",
        "a😀b",
        "😀😀",
    ),
    # Invisible characters, which our own producers take where they are confirmed, and the fold always.
    *("a\u200bb", "\u200b", "\ufeffada", "ada\u200e", "\u202eada", "a\u00adb", "a\u00a0b", "a\u3000b", "a\u2028b"),
    *("Müller", "Straße", "Ærøskøbing", "Łódź", "Дмитрий", "Ελένη", "日本語", "𠮷野家", "한국어"),
    *("שלום", "مرحبا", "हिन्दी", "ไทย", "𐍈", "𝒜𝒹𝒶"),
)
#: No names: too short, too long, with a control character, with a space at an end.
REFUSED = (
    *("", " ", "  ", " a", "a ", "\ta", "a\t", "a\nb", "a\r", "\x00", "a\x00b", "a\x1fb", "a\x7fb", "\x80", "a\x85b"),
    *("a\x9f", "\u00a0a", "a\u00a0", "\u1680a", "a\u2000", "a\u200a", "\u2028a", "a\u2029", "\u202fa", "a\u205f"),
    *("\u3000", "a" * 129, "ä" * 129, "😀" * 129, "a" * 128 + "\u0301"),
)
SYLLABLES = (
    *("an", "ber", "chi", "dör", "é", "fü", "gro", "hå", "ín", "jo", "kł", "lo", "mé", "ñu", "øs", "pa", "qui", "ré"),
    *("ße", "ti", "ü", "vä", "wo", "xe", "ya", "žo", "мо", "ни", "ξα", "λο", "日", "本", "語", "가", "나", "🎲", "🚀"),
)


def accounts() -> list[str]:
    """The names: the edges, each length in characters of each width, then made-up ones of several scripts."""
    found = dict.fromkeys((*EDGES, *_lengths()))
    made = (name for name in _made_up() if name not in found)
    return [*found, *islice(dict.fromkeys(made), ACCOUNTS - len(found))]


def _lengths() -> Iterator[str]:
    """Each length in ASCII, so that each number of bytes is left over at the hash's end; some in wider characters."""
    for length in range(2, limits.MAX_ACCOUNT + 1):
        yield "".join(chr(97 + (length + at) % 26) for at in range(length))
    for wide in ("ä", "€", "😀", "e\u0301"):
        for length in (2, 3, 4, 5, 31, 32, 33, 63, 64, 127, 128):
            yield (wide * length)[:length]


def _made_up() -> Iterator[str]:
    for number in range(ACCOUNTS):
        seed = hashlib.sha256(b"%d" % number).digest()
        parts = [SYLLABLES[byte % len(SYLLABLES)] for byte in seed[: 1 + seed[31] % 9]]
        word = "".join(parts)
        yield (
            f"user-{number}",
            f"cus_{seed.hex()[:14]}",
            word,
            f"{word}-{number}",
            unicodedata.normalize("NFD", word) + f".{number}",
        )[number % 5]


TOP = limits.MAX_AMOUNT
LAST_MS = limits.MAX_OCCURRED_AT
AT_MS = 4_102_444_800_000
ID = "ç" * limits.MAX_COMMAND_ID
EMOJI = "🎁" * limits.MAX_COMMAND_ID
SUM = {"asset": "credits", "amount": 100}
ORIGIN = {
    "occurred_at": AT_MS - 1,
    "source": "shop",
    "reason": "Kauf über 3 € 🎉\n\tzweite Zeile",
    "metadata": {"order": "A-7", "größe": "XL", "empty": ""},
}
#: The longest that each text may be.
FULL_ORIGIN = {
    "occurred_at": LAST_MS,
    "source": "ü" * limits.MAX_SOURCE,
    "reason": "r" * limits.MAX_REASON,
    "metadata": {
        **{f"key-{number}": str(number) for number in range(limits.MAX_METADATA_ENTRIES - 1)},
        "k" * limits.MAX_METADATA_KEY: "v" * limits.MAX_METADATA_VALUE,
    },
}
TERMS = {"lot_class": "promo", "priority": 0, "effective_at": AT_MS, "expires_at": AT_MS + 1, "scope": "boosts"}
TURNS = {"period": "days", "first_at": AT_MS, "every": 2, "until": AT_MS + 1, "cap": 300}

#: For each kind: what it needs, all fields, and values at their bounds.
KINDS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "grant": (SUM, {**SUM, **TERMS}, {"asset": EMOJI, "amount": TOP, "priority": 100, "expires_at": LAST_MS}),
    "spend": (
        SUM,
        {**SUM, "use": "boosts", "partial": True, "effective_at": AT_MS},
        {"asset": "c", "amount": 1, "use": EMOJI},
    ),
    "hold": (
        {**SUM, "deadline": AT_MS},
        {**SUM, "deadline": AT_MS, "use": "boosts"},
        {"asset": EMOJI, "amount": TOP, "deadline": LAST_MS},
    ),
    "capture": ({"hold": "h-1"}, {"hold": "h-1", "amount": 63, "final": True}, {"hold": ID, "amount": TOP}),
    "release": ({"hold": "h-1"}, {"hold": "h-1", "amount": 64}, {"hold": ID, "amount": TOP}),
    "refund": (
        {"spend": "s-1"},
        {"spend": "s-1", "amount": 8_191, "reissue": True, "expires_at": AT_MS},
        {"spend": "~derived", "amount": TOP},
    ),
    "void_grant": ({"grant": "g-1"}, {"grant": "g-1", "number": 1}, {"grant": ID, "number": MAX_NUMBER}),
    "transfer": ({**SUM, "to": "bob"}, {**SUM, "to": "bob", "use": "boosts"}, {**SUM, "to": "ñ" * limits.MAX_ACCOUNT}),
    "freeze": ({}, {"scope": "all"}),
    "unfreeze": ({}, {}),
    "close": ({}, {"forfeit": True}),
    "set_credit_limit": (
        {"asset": "credits", "limit": 0},
        {"asset": "credits", "limit": 8_192},
        {"asset": ID, "limit": TOP},
    ),
    "create_schedule": (
        {**SUM, "period": "months", "first_at": AT_MS},
        {**SUM, **TURNS, "lot_class": "promo", "priority": 0, "expires_after_ms": 86_400_000, "scope": "boosts"},
        {**SUM, "period": "days", "first_at": LAST_MS, "every": MAX_EVERY, "cap": TOP, "expires_after_ms": LAST_MS},
    ),
    "cancel_schedule": ({"schedule": "p-1"}, {"schedule": ID}),
}


def commands() -> Iterator[dict[str, Any]]:
    """The commands by name, as `creditfold import` reads them."""
    for kind, variants in KINDS.items():
        for number, fields in enumerate(variants):
            yield _command(kind, number, fields)
    step = {"type": "grant", "command_id": "s-0", **SUM}
    each = [
        {"type": kind, "command_id": f"{kind}-{number}", **fields}
        for kind in STEP_MODELS
        for number, fields in enumerate(KINDS[kind][:2])
    ]
    most = [{**step, "command_id": f"s-{number}", "amount": 1 << number // 2} for number in range(MAX_STEPS)]
    for number, steps in enumerate(([step], each, most)):
        yield _command("batch", number, {"steps": steps})


def _command(kind: str, number: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The first of a kind says the least, the second uses every field, the third has values at their bounds."""
    account, origin = (("ada", {}), ("größe-😀", ORIGIN), ("é" * limits.MAX_ACCOUNT, FULL_ORIGIN))[number]
    # The longest notes are the same in each kind, and most of the file's bytes.
    rest = origin if number < 2 or kind == "grant" else {"occurred_at": LAST_MS}
    return {"type": kind, "command_id": (f"{kind}-1", f"{kind}-ü", EMOJI)[number], "account": account, **fields, **rest}


def document() -> dict[str, Any]:
    """What the file has."""
    return {
        "about": ABOUT,
        "partitions": {"counts": COUNTS, "accounts": [_partitions(name) for name in accounts()]},
        "refused_accounts": REFUSED,
        "commands": [_encoded(command) for command in commands()],
    }


def _partitions(account: str) -> tuple[str, list[int]]:
    return account, [partition_of(account.encode(), count) for count in COUNTS]


def _encoded(command: Mapping[str, Any]) -> dict[str, Any]:
    record = encode_command(parse_command(command, confirmed=True))
    row = next(row for row in load_lock() if row.id == int.from_bytes(record.value[1:5], "big"))
    return {
        "type": command["type"],
        "schema_id": row.id,
        "record": row.subject,
        "fields": _named(command),
        "key": command["account"].encode().hex(),
        "value": record.value.hex(),
        "headers": dict(record.headers),
    }


def _named(command: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by the names that the Avro record has."""
    fields = {name: value for name, value in command.items() if name not in ("type", "steps")}
    if "steps" in command:
        fields["steps"] = [{"kind": step["type"], **_named(step)} for step in command["steps"]]
    return fields


def as_text(found: Mapping[str, Any]) -> str:
    """The document as it is committed: in ASCII, so that no editor changes a name; one account and command a line."""
    partitions = found["partitions"]
    return (
        "{\n"
        f' "about": {json.dumps(found["about"])},\n'
        f' "partitions": {{\n  "counts": {json.dumps(partitions["counts"])},\n'
        f'  "accounts": [\n{_lines(partitions["accounts"])}\n  ]\n }},\n'
        f' "refused_accounts": {json.dumps(found["refused_accounts"])},\n'
        f' "commands": [\n{_lines(found["commands"])}\n ]\n'
        "}\n"
    )


def _lines(rows: Sequence[Any]) -> str:
    return ",\n".join("   " + json.dumps(row) for row in rows)


if __name__ == "__main__":
    FILE.write_text(as_text(document()), "utf-8")
