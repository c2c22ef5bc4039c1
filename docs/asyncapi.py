"""Writes docs/asyncapi.json: the three topics, and each record that they hold, as AsyncAPI 3. For `make api`.

Made of the lock file, of the settings that new topics get, and of the headers that the publisher writes; owns only what
each topic is for. tests/schemas/test_asyncapi.py compares the file with what this makes, and with AsyncAPI's schema.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from creditfold.common.settings import Settings
from creditfold.ledger import limits
from creditfold.log.topics import derived_config, topic_config
from creditfold.processors.publisher import messages
from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.registry import COMMANDS, OUTCOMES, LockedSchema, latest, load_lock

Document: TypeAlias = dict[str, Any]

FILE = Path(__file__).with_name("asyncapi.json")
#: Whatever the environment says.
DEFAULTS = Settings.model_construct()
AVRO = "application/vnd.apache.avro+json;version=1.9.0"
BINDING = {"bindingVersion": "0.5.0"}
ABOUT = (
    "The topics of an event-sourced credits ledger. Whatever the ledger holds follows from the command topic; what was "
    "decided is in the outcomes topic, and what can't be folded in that of dead letters. docs/producing.md and "
    "docs/following.md are the guides, schemas/outcomes.schema.json has JSON Schemas of decoded outcomes, and "
    "schemas/conformance.json what a producer must agree with."
)
#: Records that workers and operators append, and no service.
OURS = ("ReceiveTransfer", "SettleTransfer", "Tick", "ActivateRules")

_ACCOUNT = {
    "type": "string",
    "minLength": 1,
    "maxLength": limits.MAX_ACCOUNT,
    "description": "The account in UTF-8; its partition is Java's default, murmur2 of these bytes.",
}
_NUMBER = {"type": "string", "pattern": "^[0-9]+$"}


def _headers(described: Mapping[str, Document], *required: str) -> Document:
    return {"type": "object", "properties": dict(described), "required": list(required)}


def _number(description: str) -> Document:
    return {**_NUMBER, "description": description}


_OUTCOME_HEADERS = _headers(
    {
        messages.POSITION_HEADER: {
            "type": "string",
            "pattern": "^[0-9]+:[0-9]+$",
            "description": "Position in the command topic, partition:offset, of the record that was decided.",
        },
        messages.TRUNCATED_MOVES_HEADER: _number("How many moves of facts were left out, for want of room."),
        messages.TRUNCATED_DETAILS_HEADER: _number("How many bytes of details were left out."),
        messages.TRUNCATED_FACTS_HEADER: _number("How many facts were left out."),
    },
    messages.POSITION_HEADER,
)
_LETTER_HEADERS = _headers(
    {
        messages.TOPIC_HEADER: {"type": "string", "description": "The command topic that holds the record."},
        messages.PARTITION_HEADER: _number("The record's partition there."),
        messages.OFFSET_HEADER: _number("The record's offset there."),
        messages.REASON_HEADER: {
            "type": "string",
            "enum": list(DeadLetterReason),
            "description": "Why it can't be folded.",
        },
        messages.DETAIL_HEADER: {"type": "string", "description": "More about it, for people."},
        messages.ATTEMPT_HEADER: _number("1, or how often it was mended and sent again."),
        messages.TRUNCATED_HEADER: _number("The value's bytes, where only the first of them are here."),
        messages.TRUNCATED_KEY_HEADER: _number("The key's bytes, where only the first of them are here."),
        messages.TRUNCATED_HEADERS_HEADER: _number("The bytes of the record's own headers, where they are left out."),
    },
    *(messages.TOPIC_HEADER, messages.PARTITION_HEADER, messages.OFFSET_HEADER),
    *(messages.REASON_HEADER, messages.DETAIL_HEADER, messages.ATTEMPT_HEADER),
)


def document(settings: Settings, lock: Sequence[LockedSchema]) -> Document:
    """The document, of topics as these settings have them and of the schemas of a lock file."""
    records = {COMMANDS: dict(_messages(lock, COMMANDS)), OUTCOMES: dict(_messages(lock, OUTCOMES))}
    made = {**records[COMMANDS], **records[OUTCOMES], "DeadLetter": _dead_letter()}
    channels = {
        "commands": _channel(
            *(settings, settings.commands_topic, topic_config(settings), records[COMMANDS]),
            "The log: commands in the order in which they are decided. Nothing is ever deleted from it.",
        ),
        "outcomes": _channel(
            *(settings, settings.outcomes_topic, _derived(settings), records[OUTCOMES]),
            "What was decided: each line of the journal once, in its command's partition, in order. Read with "
            "isolation.level=read_committed.",
        ),
        "deadLetters": _channel(
            *(settings, settings.dead_letters_topic, _derived(settings), ["DeadLetter"]),
            "Records of the log that can't be folded, unchanged, with headers that say why.",
        ),
    }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "creditfold", "version": "1", "description": ABOUT, "license": {"name": "Apache-2.0"}},
        "defaultContentType": "application/vnd.apache.avro",
        "servers": {"kafka": {"host": settings.kafka_bootstrap, "protocol": "kafka", "description": "Kafka 4."}},
        "channels": channels,
        "operations": {
            "receiveCommands": _operation("receive", "commands", "Folds commands in the order of each partition."),
            "sendOutcomes": _operation("send", "outcomes", "Publishes what was decided, after it is committed."),
            "sendDeadLetters": _operation("send", "deadLetters", "Publishes what can't be folded."),
        },
        "components": {"messages": made},
    }


def _derived(settings: Settings) -> dict[str, str]:
    return derived_config(settings, settings.max_message_bytes)


def _channel(
    settings: Settings, topic: str, config: Mapping[str, str], names: Sequence[str] | Mapping[str, Any], about: str
) -> Document:
    place = {"topic": topic, "partitions": settings.partitions, "replicas": settings.replication}
    return {
        "address": topic,
        "description": about,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {"kafka": {**place, "topicConfiguration": dict(_configured(config)), **BINDING}},
    }


def _configured(config: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """A topic's settings as the binding has them: a list of policies, and numbers."""
    for name, value in config.items():
        is_number = value.lstrip("-").isdigit()
        yield name, [value] if name == "cleanup.policy" else int(value) if is_number else value


def _operation(action: str, channel: str, summary: str) -> Document:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}


def _messages(lock: Sequence[LockedSchema], namespace: str) -> Iterator[tuple[str, Document]]:
    """A message for each version of each record of a namespace; the newest has the record's own name."""
    newest = latest(lock)
    for row in lock:
        if row.subject.rpartition(".")[0] == namespace:
            is_newest = row == newest[row.record]
            yield row.record if is_newest else f"{row.record}-v{row.version}", _message(row, namespace)


def _message(row: LockedSchema, namespace: str) -> Document:
    by = {"x-written-by": "workers and operators"} if row.record in OURS else {}
    headers = {"headers": _OUTCOME_HEADERS} if namespace == OUTCOMES else {}
    # Control records are of a partition, and of no account.
    has_key = any(field["name"] == "account" for field in row.schema["fields"])
    key = {"key": _ACCOUNT} if has_key else {}
    framing = {"schemaIdLocation": "payload", "schemaIdPayloadEncoding": "confluent", **BINDING}
    return {
        "name": row.subject,
        "title": row.record,
        "summary": row.schema["doc"],
        **headers,
        "payload": {"schemaFormat": AVRO, "schema": row.schema},
        "bindings": {"kafka": {**key, **framing}},
        "x-schema-id": row.id,
        "x-schema-version": row.version,
        "x-rules": row.rules,
        **by,
    }


def _dead_letter() -> Document:
    return {
        "name": "DeadLetter",
        "title": "Dead letter",
        "summary": "A record of the log that can't be folded: key, value and headers unchanged, then headers about it.",
        "contentType": "application/octet-stream",
        "headers": _LETTER_HEADERS,
        "payload": {"description": "Any bytes, or none."},
        "bindings": {"kafka": {"key": {"description": "Any bytes, or none."}, **BINDING}},
    }


def as_text(found: Document) -> str:
    """The document as it is committed."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_text(document(DEFAULTS, load_lock())), "utf-8")
