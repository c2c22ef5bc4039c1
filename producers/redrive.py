"""What is appended to mend a dead letter, or why nothing is. Pure: the same letter and corrections, the same bytes.

Owns that judgement and the headers of what is appended. Knows neither Kafka nor PostgreSQL, and not whether the letter
was redriven before: that is for whoever keeps the decisions. Source: docs/operating.md, "Dead letters".
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.ledger.commands import COMMANDS, KINDS, STEP_FIELDS
from creditfold.producers.models.commands import (
    MODELS,
    Command,
    Encoded,
    command_as_logged,
    encode_command,
    parse_command,
)
from creditfold.producers.models.errors import DoubtfulCommandError, InvalidCommandError, RecordTooLargeError
from creditfold.schemas.dead_letters import (
    REDRIVE_ATTEMPT,
    REDRIVE_BY,
    REDRIVE_OF,
    REDRIVE_WHY,
    DeadLetterReason,
)
from creditfold.schemas.wire import Decoded, DecodeError, decode

#: How the detail of a letter ends whose bytes weren't all kept.
CUT = "the log has the whole record"

_MAX_ATTEMPT = 10**9
_CORRECT = "Correct what is named: --set FIELD=VALUE, or a whole new command: --command JSON."
_WHOLE = "Say the whole command: --command JSON, or --type TYPE and each field by --set FIELD=VALUE."


class RedriveRefusedError(CreditfoldError):
    """A dead letter that can't be redriven, or not like this. Nothing was decided and nothing appended."""

    exit_code = 3


class Letter(NamedTuple):
    """A dead letter: where its record is, why it is one, its value, and its headers (name, value in base64)."""

    position: Position
    reason: str
    detail: str
    value: bytes | None
    headers: Sequence[Sequence[str | None]] = ()


class Corrections(NamedTuple):
    """What differs from the dead record: some fields, some metadata, the type; or the whole command.

    `confirmed` takes what is doubtful in the corrected command as meant.
    """

    fields: Mapping[str, Any] = {}
    metadata: Mapping[str, str] = {}
    type: str | None = None
    command: Mapping[str, Any] | None = None
    confirmed: bool = False

    @property
    def any(self) -> bool:
        """Whether anything differs."""
        return self._replace(confirmed=False) != Corrections()


class Mended(NamedTuple):
    """The command that mends a letter, and its record without headers."""

    command: Command
    record: Encoded


def mend(letter: Letter, corrections: Corrections, rules: int) -> Mended:
    """Judge what redriving a letter would append, so that it isn't a dead letter for the same reason again.

    Args:
        letter: the dead letter.
        corrections: what differs; nothing for the same command with the right key, partition and schema.
        rules: the version in force where it will be folded.

    Raises RedriveRefusedError, saying why and how to correct it.
    """
    was = _decoded(letter)
    _refuse_internal_record(letter, was)
    fields = _fields(letter, was, corrections)
    command = None if corrections.any else _as_it_was(was)
    if command is None:
        command = _checked(letter, fields, corrections.confirmed)
    if letter.reason == DeadLetterReason.COMMAND_ID_REUSED:
        _refuse_same_id(letter, was, command)
    try:
        record = encode_command(command)
    except RecordTooLargeError as error:
        raise RedriveRefusedError(f"{letter.position}: {error.message}", error.remedy) from None
    _refuse_later_schema(letter, record, rules)
    return Mended(command, record)


def redrive_headers(of: Position, by: str, why: str, attempt: int) -> tuple[tuple[str, bytes], ...]:
    """The headers by which the log itself shows what a record mends, who sent it, and why."""
    texts = ((REDRIVE_OF, str(of)), (REDRIVE_BY, by), (REDRIVE_WHY, why), (REDRIVE_ATTEMPT, str(attempt)))
    return tuple((name, text.encode()) for name, text in texts)


def next_attempt(letter: Letter) -> int:
    """1 for a letter that mends none, else one more than its own attempt."""
    attempt = 0
    for name, value in letter.headers:
        if name == REDRIVE_ATTEMPT:
            attempt = _number(value or "")
    return min(attempt, _MAX_ATTEMPT) + 1


def command_of(value: bytes | None) -> dict[str, Any] | None:
    """The command that bytes hold, by field name and with its `type`, valid or not; None where they hold none."""
    try:
        was = decode(value)
    except DecodeError:
        return None
    return _written(was) if was.record in COMMANDS else None


def command_begun(value: bytes | None) -> Command:
    """The command of a redrive that was decided, as it was decided. Raises DecodeError, InvalidCommandError."""
    return command_as_logged(decode(value))


def _number(text: str) -> int:
    # Anyone may write a header.
    try:
        digits = base64.b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return 0
    return int(digits) if digits.isdecimal() and len(digits) < 20 else 0


def _decoded(letter: Letter) -> Decoded | DecodeError:
    try:
        return decode(letter.value)
    except DecodeError as error:
        return error


def _written(was: Decoded) -> dict[str, Any]:
    """A command's fields as people write them: a step's type isn't its kind, and it has none but its own fields."""
    kind = KINDS[COMMANDS[was.record]]
    # In the log 0 is all that is left; people leave the field out for that.
    unsaid = MODELS[kind].unsaid if kind in MODELS else ()
    own = {name: value for name, value in was.fields.items() if not (name in unsaid and value == 0)}
    fields = {"type": kind, **own}
    if "steps" in fields:
        fields["steps"] = [
            {"type": step["kind"]}
            | {name: value for name, value in step.items() if name != "kind" and value != STEP_FIELDS[name]}
            for step in fields["steps"]
        ]
    return fields


def _retyped(fields: Mapping[str, Any], type: str) -> dict[str, Any]:
    """The fields as those of another command. One that it doesn't have is left out if it has its default."""
    old, new = MODELS.get(fields.get("type", "")), MODELS.get(type)
    kept = {
        name: value
        for name, value in fields.items()
        if not (old and new) or name in new.model_fields or not _is_default(old, name, value)
    }
    return {**kept, "type": type}


def _is_default(model: type[Command], name: str, value: object) -> bool:
    field = model.model_fields.get(name)
    return field is not None and bool(value == field.get_default(call_default_factory=True))


_INTERNAL_RECORDS = {
    "ActivateRules": (
        "no command but an activation of rules",
        "Activate them anew, if they are wanted: creditfold rules activate.",
    ),
    "Tick": ("no command but a tick", "The next tick does what it would have done."),
    "ReceiveTransfer": ("a command that only workers write", "Report it: it should have been folded."),
    "SettleTransfer": ("a command that only workers write", "Report it: it should have been folded."),
}


def _refuse_internal_record(letter: Letter, was: Decoded | DecodeError) -> None:
    if isinstance(was, Decoded) and was.record in _INTERNAL_RECORDS:
        what, remedy = _INTERNAL_RECORDS[was.record]
        raise RedriveRefusedError(f"{letter.position} is {what}.", remedy)


def _fields(letter: Letter, was: Decoded | DecodeError, corrections: Corrections) -> Mapping[str, Any]:
    """The fields of the new command, as far as they are known."""
    if corrections.command is not None:
        return corrections.command
    if letter.detail.endswith(CUT):
        raise RedriveRefusedError(
            f"{letter.position} is kept in part only: its record is too large.",
            "Say the whole command: --command JSON.",
        )
    base: dict[str, Any] = {}
    if isinstance(was, Decoded) and was.record in COMMANDS:
        base = _written(was)
    elif corrections.type is None:
        fault = f"its bytes are no record ({was})" if isinstance(was, DecodeError) else f"it is a {was.record}"
        raise RedriveRefusedError(f"{letter.position} holds no command: {fault}.", _WHOLE)
    if letter.reason == DeadLetterReason.OVERSIZE and not corrections.any:
        raise RedriveRefusedError(f"{letter.position} is too large: {letter.detail}.", _CORRECT)
    if corrections.type is not None:
        base = _retyped(base, corrections.type)
    if corrections.metadata:
        base["metadata"] = {**base.get("metadata", {}), **corrections.metadata}
    return {**base, **corrections.fields}


def _as_it_was(was: Decoded | DecodeError) -> Command | None:
    """The command of a record that the fold would take, also where producers refuse it by now."""
    if isinstance(was, DecodeError) or was.record not in COMMANDS:
        return None
    try:
        return command_as_logged(was)
    except InvalidCommandError:
        return None


def _checked(letter: Letter, fields: Mapping[str, Any], confirmed: bool) -> Command:
    try:
        return parse_command(fields, confirmed=confirmed)
    except DoubtfulCommandError as error:
        raise RedriveRefusedError(
            f"{letter.position} would be a doubtful command: {'; '.join(error.problems)}.",
            "Correct what is named; if it is meant as it is, add --yes.",
        ) from None
    except InvalidCommandError as error:
        raise RedriveRefusedError(
            f"{letter.position} would be an invalid command: {'; '.join(error.problems)}.", _CORRECT
        ) from None


def _refuse_same_id(letter: Letter, was: Decoded | DecodeError, command: Command) -> None:
    # Its id is used in its account, without expiry; in another account it is another id.
    if isinstance(was, Decoded) and (was.fields["account"], was.fields["command_id"]) == (
        command.account,
        command.command_id,
    ):
        raise RedriveRefusedError(
            f"{letter.position} has the id of another command, that was decided before: {command.command_id!r} of"
            f" {command.account!r}.",
            "If it was meant as a command of its own, give it an id of its own: --set command_id=NEW-ID",
        )


def _refuse_later_schema(letter: Letter, record: Encoded, rules: int) -> None:
    needed = decode(record.value).rules
    if needed > rules:
        raise RedriveRefusedError(
            f"{letter.position} would be unknown again: its schema comes with rules {needed}; in force are {rules}.",
            f"Activate them first: creditfold rules activate {needed}",
        )
