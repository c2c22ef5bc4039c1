"""What the topics of outcomes and dead letters must hold, by the projection and by code that is not the publisher's."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaException, TopicPartition
from jsonschema import Draft202012Validator
from psycopg.rows import dict_row

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.processors.publisher.group import outcomes_group
from creditfold.projections.connections import connected
from helpers.support import HANG_S, ROOT, Raw, Seen, all_progress, append, fold_log, query, read_topic, record

SCHEMAS = {
    row["id"]: (row["schema"]["name"], fastavro.parse_schema(row["schema"]))
    for row in json.loads((ROOT / "schemas" / "lock.json").read_text("utf-8"))["schemas"]
}
#: JSON Schemas of the outcomes, which nothing goes beyond.
OUTCOME_SCHEMAS = json.loads((ROOT / "schemas" / "outcomes.schema.json").read_text("utf-8"))
for definition in OUTCOME_SCHEMAS["$defs"].values():
    definition["additionalProperties"] = False


def assert_described(outcomes: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Outcomes are as schemas/outcomes.schema.json describes them: one of each form, since checking takes long."""
    forms = {
        (
            name,
            fields.get("kind"),
            fields.get("rejection"),
            *sorted({fact["kind"] for fact in fields.get("facts", ())}),
        ): (
            name,
            fields,
        )
        for name, fields in outcomes
    }
    for name, fields in forms.values():
        Draft202012Validator({**OUTCOME_SCHEMAS, "anyOf": [{"$ref": f"#/$defs/{name}"}]}).validate(fields)


def decoded(value: bytes | None) -> tuple[str, dict[str, Any]]:
    """An Avro record by a reader that isn't ours."""
    import io

    assert value is not None
    assert value[0] == 0
    name, schema = SCHEMAS[int.from_bytes(value[1:5], "big")]
    stream = io.BytesIO(value[5:])
    fields: Any = fastavro.schemaless_reader(stream, schema, None)
    assert stream.read() == b""
    return name, fields


def milliseconds(moment: datetime | None) -> int:
    """Whole milliseconds since 1970, without a float in between."""
    if moment is None:
        return 0
    since = moment - datetime.fromtimestamp(0, moment.tzinfo)
    return (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000


def difference(expected: Sequence[Any], found: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """What is missing from what was found, and what is too much in it."""
    missing, more = Counter(expected), Counter(found)
    return sorted((missing - more).elements()), sorted((more - missing).elements())


def rows_of_the_journal(settings: Settings) -> list[dict[str, Any]]:
    """Every row, by partition and offset, and there by the bytes of the account and by version."""
    with connected(settings.dsn) as connection, connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute("SELECT * FROM ledger.journal").fetchall()

    def place(row: dict[str, Any]) -> tuple[int, int, bytes, int]:
        return row["log_partition"], row["log_offset"], row["account_id"].encode(), row["version"]

    return sorted(rows, key=place)


def expected(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The record of a row with all its fields, made of the row alone."""
    same = ("log_partition", "log_offset", "version", "asset", "balance", "rules", "pending", "held", "debt")
    fields = {name: row[name] for name in same}
    fields |= {"account": row["account_id"], "decided_at": milliseconds(row["decided_at"])}
    facts = [
        {
            "detail": "",
            **dict.fromkeys(("lot_class", "scope"), ""),
            **dict.fromkeys(("priority", "effective_at", "expires_at"), 0),
            # What else the journal keeps of a fact isn't published.
            **{name: fact[name] for name in ("kind", "at", "ref", "detail") if name in fact},
            **fact.get("terms", {}),
            "moves": [
                {"lot": lot, "number": number, "source": source, "target": target, "amount": amount}
                for lot, number, source, target, amount in fact.get("moves", [])
            ],
        }
        for fact in row["facts"]
    ]
    if row["kind"] == "settled":
        return "Settled", {**fields, "change": row["change"], "facts": facts}
    fields |= {name: row[name] for name in ("kind", "amount", "source", "details")}
    fields |= {"command_id": row["command_id"] or "", "occurred_at": milliseconds(row["occurred_at"])}
    fields |= {"reason": row["note"]}
    if row["rejection"]:
        return "Rejected", {**fields, "rejection": row["rejection"], "step": -1 if row["step"] is None else row["step"]}
    return "CommandAccepted", {**fields, "change": row["change"], "facts": facts}


def assert_published(settings: Settings) -> tuple[int, int]:
    """Both topics hold exactly what the projection holds, field by field and in order. Returns how many of each."""
    return len(assert_outcomes_published(settings)), assert_dead_letters_published(settings)


def assert_outcomes_published(settings: Settings) -> list[dict[str, Any]]:
    """The outcomes topic holds exactly the journal's rows, field by field and in order. Returns the rows."""
    seen, rows = read_topic(settings, settings.outcomes_topic), rows_of_the_journal(settings)
    places = [message.header("creditfold-position") for message in seen]
    expected_places = [b"%d:%d" % (row["log_partition"], row["log_offset"]) for row in rows]
    # A list of thousands would hide what is wrong with it.
    assert difference(expected_places, places) == ([], [])
    assert places == expected_places
    outcomes = [decoded(message.value) for message in seen]
    assert_described(outcomes)
    for message, (name, fields), row in zip(seen, outcomes, rows, strict=True):
        if "details" in fields:
            fields["details"] = json.loads(fields["details"] or "null")
        assert (message.partition, message.key) == (row["log_partition"], row["account_id"].encode())
        assert (name, fields) == expected(row)
    return rows


def assert_dead_letters_published(settings: Settings) -> int:
    dead = read_topic(settings, settings.dead_letters_topic)
    rows = query(
        settings,
        "SELECT log_partition, log_offset, reason, detail FROM ledger.dead_letters ORDER BY 1, 2",
    )
    log = {seen[:2]: seen for seen in read_topic(settings, settings.commands_topic)}
    about = [(message.partition, int(message.header("creditfold-offset") or b"")) for message in dead]
    assert about == [row[:2] for row in rows]
    for message, row in zip(dead, rows, strict=True):
        original = log[row[0], row[1]]
        assert (message.key, message.value) == (original.key, original.value)
        originals = original.headers
        assert message.headers[: len(originals)] == originals
        assert message.headers[len(originals) :] == [
            ("creditfold-topic", settings.commands_topic.encode()),
            ("creditfold-partition", b"%d" % row[0]),
            ("creditfold-offset", b"%d" % row[1]),
            ("creditfold-reason", row[2].encode()),
            ("creditfold-detail", row[3].encode()),
            ("creditfold-attempt", dict(originals).get("redrive-attempt", b"1")),
        ]
    return len(rows)


def published_to(settings: Settings) -> dict[int, int]:
    """What the publishers' group has sent with its transactions, by partition; empty where Kafka doesn't answer."""
    places = [TopicPartition(settings.commands_topic, partition) for partition in range(settings.partitions)]
    consumer = Consumer({**settings.kafka_client, "group.id": outcomes_group(settings), "log_level": 0})
    try:
        return {place.partition: max(place.offset, 0) for place in consumer.committed(places, HANG_S)}
    except KafkaException:
        return {}
    finally:
        consumer.close()


def hidden(settings: Settings) -> dict[str, list[tuple[int, int]]]:
    """The positions in the projection that readers of the topics don't see, by topic."""
    found = {}
    for topic, table in ((settings.outcomes_topic, "journal"), (settings.dead_letters_topic, "dead_letters")):
        folded = query(settings, f"SELECT log_partition, log_offset FROM ledger.{table}")
        seen = [(message.partition, position_of(message)) for message in read_topic(settings, topic)]
        found[topic] = difference(folded, seen)[0]
    return found


def wait_until_published(settings: Settings, bound_s: float = HANG_S) -> None:
    """Wait until everything folded is published, and those who read what is committed can read it.

    The group hears of a transaction before its records can be read. A broker that ends there, or a marker that hides a
    window, has the publisher send it again, later.
    """

    def announced() -> bool:
        rows = all_progress(settings)
        return bool(rows) and published_to(settings) == {row.log_partition: row.next_offset for row in rows}

    def readable() -> bool:
        outcomes, letters = query(
            settings, "SELECT (SELECT count(*) FROM ledger.journal), (SELECT count(*) FROM ledger.dead_letters)"
        )[0]
        return (
            len(read_topic(settings, settings.outcomes_topic)) >= outcomes
            and len(read_topic(settings, settings.dead_letters_topic)) >= letters
        )

    assert wait_until(announced, bound_s, 0.2), f"{published_to(settings)} of {all_progress(settings)}"
    assert wait_until(readable, bound_s, 1.0), hidden(settings)


def mixed(count: int, seed: int = 1) -> Iterator[Raw]:
    """Grants, spends, rejections, and on top of them duplicates, reused ids and poison with headers of all kinds."""
    chance = random.Random(seed)
    for number in range(count):
        kind = "Grant" if chance.random() < 0.4 else "Spend"
        account = f"user-{chance.randrange(200)}"
        fields = {"source": "shop", "reason": "Gruß\n\U0001f600", "occurred_at": chance.randrange(1, 2**41)}
        body = (kind, f"c{seed}-{number}", account, chance.randint(1, 40))
        yield record(*body, **(fields if number % 3 else {}))
        if number % 20 == 0:
            yield record(*body, **(fields if number % 3 else {}))
        if number % 50 == 0:
            yield record(kind, f"c{seed}-{number}", account, 41)
        if number % 40 == 0:
            yield Raw(chance.randbytes(chance.randrange(1, 50)), chance.randbytes(3), headers=ODD_HEADERS)
            yield Raw(None, None, partition=number // 40 % 4)
            yield Raw(b"", b"", partition=number // 40 % 4, headers=(("redrive-attempt", b"7"),))


ODD_HEADERS = (("trace", b"\x00\xff"), ("trace", None), ("Größe\n", b""), ("creditfold-offset", b"999999999"))


def fold(settings: Settings, records: Iterator[Raw] | Sequence[Raw]) -> None:
    """Append records and have them folded."""
    append(settings, records)
    fold_log(settings)


def next_offsets(settings: Settings) -> dict[int, int]:
    """How far each partition is folded."""
    return {row.log_partition: row.next_offset for row in all_progress(settings)}


def published(settings: Settings) -> list[list[tuple[int, int]]]:
    """The positions that outcomes and dead letters are about, as they stand in their topics."""
    topics = settings.outcomes_topic, settings.dead_letters_topic
    return [[(seen.partition, position_of(seen)) for seen in read_topic(settings, topic)] for topic in topics]


def decided(settings: Settings) -> list[list[tuple[int, int]]]:
    """The positions of all outcomes and dead letters in the projection."""
    tables = "journal", "dead_letters"
    return [query(settings, f"SELECT log_partition, log_offset FROM ledger.{name} ORDER BY 1, 2") for name in tables]


def position_of(seen: Seen) -> int:
    """The offset in the log that one of our messages is about."""
    position = seen.header("creditfold-position")
    return int(position.split(b":")[1] if position else seen.header("creditfold-offset") or b"")
