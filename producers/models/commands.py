"""The commands as people write them: their fields, their bounds, and their bytes in the log.

Owns the refusal of what is wrong without looking at state, with messages for people. Knows neither Kafka nor
the rules: whether an account has the credits is the fold's to say. Source: docs/rules.md.

Two commands of the ledger are missing here, ReceiveTransfer and SettleTransfer: workers alone write them.
"""

import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

from pydantic import Field, TypeAdapter, ValidationError, WrapValidator

from creditfold.ledger import commands as ledger_commands
from creditfold.ledger import limits
from creditfold.ledger.credit_validity import DERIVED, MAX_STEPS
from creditfold.ledger.validity import check
from creditfold.producers.models import fields as f
from creditfold.producers.models.errors import DoubtfulCommandError, InvalidCommandError, RecordTooLargeError
from creditfold.producers.models.past_effects import in_turns, past_turns
from creditfold.producers.models.steps import (
    STEP_MODELS,
    HoldTerms,
    Model,
    OfGrant,
    OfHold,
    OfHoldForGood,
    OfSpend,
    SpendTerms,
    Step,
    Sum,
    Terms,
    one_of,
    parse_steps,
)
from creditfold.schemas.wire import Decoded, encode

#: Turns of a new schedule that may lie in the past, and are taken at once, without the caller confirming it: a year of
#: months.
MAX_PAST_TURNS = 12


class _Command(Model):
    #: The name of its record in the log.
    record_name: ClassVar[str]

    command_id: f.CommandId
    account: f.Account

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.record_name = cls.__name__


class _Origin(Model):
    occurred_at: f.OccurredAt = 0
    source: f.Source = ""
    reason: f.Reason = ""
    metadata: f.Metadata = Field(default_factory=dict)


class Grant(_Origin, Terms, Sum, _Command):
    """Give an account credits of an asset: makes a lot.

    The fields that other commands share with this one mean the same there, from `command_id` to `account`, and from
    `occurred_at` to `metadata`.

    Args:
        command_id: unique within the account, 1 to 64 characters, not beginning with ~; counts once.
        account: who receives, 1 to 128 characters.
        asset: kind of credit, 1 to 64 characters.
        amount: in the asset's smallest unit, 1 to 2^53-1.
        occurred_at: when it happened at the source, in milliseconds since 1970 UTC; decides nothing.
        source: service that sends it; at most 128 characters.
        reason: why, for people; at most 1,024 characters.
        metadata: the source's own notes; at most 32 entries, keys of 1 to 64 characters, values of at most 1,024.
        lot_class: whether the credits were bought or given: paid or promo.
        priority: 0 to 100; lots with a lower one are spent first.
        effective_at: start of the time in which they can be spent, in milliseconds since 1970 UTC; 0 for at once.
        expires_at: end of that time, after effective_at; 0 for never.
        scope: the one use that they are for, 1 to 64 characters; empty for any.

    Raises:
        InvalidCommandError: names each bad field and its bound.
        DoubtfulCommandError: it is valid and most likely a mistake.

    Example:
        >>> Grant(command_id="g-1", account="ada", asset="credits", amount=100, lot_class="promo").priority
        50
    """

    type: Literal["grant"] = "grant"


class Spend(_Origin, SpendTerms, Sum, _Command):
    """Take credits of an asset from an account.

    Args:
        use: what they are spent on, 1 to 64 characters: takes lots of this scope too.
        partial: whether less is taken where there is less.
        effective_at: the instant that it is dated back to, in milliseconds since 1970 UTC; 0 for now.
    """

    type: Literal["spend"] = "spend"


class Hold(_Origin, HoldTerms, Sum, _Command):
    """Set credits aside until a deadline, at which the hold lapses.

    Args:
        deadline: in milliseconds since 1970 UTC, at least 1; a capture at this instant comes too late.
        use: what they will be spent on, 1 to 64 characters: takes lots of this scope too.
    """

    type: Literal["hold"] = "hold"


class Capture(_Origin, OfHoldForGood, _Command):
    """Spend what a hold set aside.

    Args:
        hold: the hold's command id.
        amount: 1 to 2^53-1; None, or left out, for all that the hold still has.
        final: whether what is left then is released.
    """

    type: Literal["capture"] = "capture"


class Release(_Origin, OfHold, _Command):
    """Give back what a hold set aside.

    Args:
        hold: the hold's command id.
        amount: 1 to 2^53-1; None, or left out, for all that the hold still has.
    """

    type: Literal["release"] = "release"


class Refund(_Origin, OfSpend, _Command):
    """Give back what a spend or a capture took.

    Args:
        spend: command id of the spend or the capture.
        amount: 1 to 2^53-1; None, or left out, for all that is left to refund.
        reissue: whether what would go back into an expired lot goes into a new one.
        expires_at: when such a new lot ends, in milliseconds since 1970 UTC; 0 for never, and without reissue.
    """

    type: Literal["refund"] = "refund"


class VoidGrant(_Origin, OfGrant, _Command):
    """Take back what is left of the lots that a command made.

    Args:
        grant: command id of the grant, the refund with reissue, the arrival or the schedule.
        number: of one of its lots, from 1 to 2^31-1; None, or left out, for all.
    """

    type: Literal["void_grant"] = "void_grant"


class _Receiver(Model):
    to: f.Account
    use: f.Use = ""


class Transfer(_Origin, _Receiver, Sum, _Command):
    """Send credits to another account. They keep their class, priority, window and scope.

    Args:
        to: the receiver's id, 1 to 128 characters.
        use: what they could be spent on, 1 to 64 characters: takes lots of this scope too.
    """

    type: Literal["transfer"] = "transfer"

    def contradiction(self) -> str | None:
        """What its fields contradict; None where they agree."""
        return "to must be another account" if self.to == self.account else None


class _FreezeScope(Model):
    scope: f.FreezeScope = "spending"


class Freeze(_Origin, _FreezeScope, _Command):
    """Stop an account from spending. Replaces an earlier freeze.

    Args:
        scope: `spending` for spends, holds and transfers, `all` for nearly everything.
    """

    type: Literal["freeze"] = "freeze"


class Unfreeze(_Origin, _Command):
    """End a freeze."""

    type: Literal["unfreeze"] = "unfreeze"


class _Forfeit(Model):
    forfeit: f.Flag = False


class Close(_Origin, _Forfeit, _Command):
    """Close an account permanently.

    Args:
        forfeit: whether it gives up what it has left; else it can be closed with nothing left only.
    """

    type: Literal["close"] = "close"


class _Limit(Model):
    asset: f.Asset
    limit: f.Limit


class SetCreditLimit(_Origin, _Limit, _Command):
    """Set how far below zero an account's spends may go.

    Args:
        asset: of which credits.
        limit: in the asset's smallest unit, 0 to 2^53-1.
    """

    type: Literal["set_credit_limit"] = "set_credit_limit"


class _Turns(Model):
    unsaid = ("cap", "expires_after_ms")

    period: f.Period
    first_at: f.Deadline
    every: f.Every = 1
    until: f.ExpiresAt = 0
    cap: f.Cap = None
    lot_class: f.LotClass = "paid"
    priority: f.Priority = 50
    expires_after_ms: f.LastsMs = None
    scope: f.Use = ""


class CreateSchedule(_Origin, _Turns, Sum, _Command):
    """Grant an amount periodically, by the calendar in UTC.

    Args:
        period: what `every` counts: months or days. The 31st falls on a shorter month's last day.
        first_at: the first turn, in milliseconds since 1970 UTC, at least 1.
        every: how many periods lie between two turns, 1 to 10,000.
        until: the first instant without a turn, after first_at; 0 for no end.
        cap: a turn grants no more than keeps what is left of the schedule's lots under it, 1 to 2^53-1; None for no
            cap.
        expires_after_ms: how long each lot lasts, in milliseconds, from 1; None for unlimited.

    Raises:
        DoubtfulCommandError: more than 12 turns lie in the past, which would be taken at once.
    """

    type: Literal["create_schedule"] = "create_schedule"

    def contradiction(self) -> str | None:
        """What its fields contradict; None where they agree."""
        if 0 < self.until <= self.first_at:
            return "until must be after first_at, or 0 for no end"
        now_ms = time.time_ns() // 1_000_000
        schedule = ledger_commands.CreateSchedule(**self.fields)
        turns = past_turns(schedule, now_ms)
        if len(turns) > MAX_PAST_TURNS and not f.is_confirmed():
            most = f"first_at must leave at most {MAX_PAST_TURNS} turns in the past"
            raise DoubtfulCommandError((f"{most}; {in_turns(schedule, turns, now_ms)}",))
        return None


class _Schedule(Model):
    schedule: f.OtherId


class CancelSchedule(_Origin, _Schedule, _Command):
    """End a schedule. What it granted stays.

    Args:
        schedule: command id of the schedule.
    """

    type: Literal["cancel_schedule"] = "cancel_schedule"


_STEPS_RULE = f"must be a list of 1 to {MAX_STEPS} objects, each with a type and a command_id of its own"


class _Steps(Model):
    steps: Annotated[
        tuple[Step, ...],
        Field(min_length=1, max_length=MAX_STEPS, description=_STEPS_RULE),
        # In place of pydantic's own: each step reports its problems itself, and all of them are reported.
        WrapValidator(lambda steps, _: parse_steps(steps, _STEPS_RULE, MAX_STEPS)),
    ]


class Batch(_Origin, _Steps, _Command):
    """Steps of one account, in order: all of them, or none.

    Args:
        steps: 1 to 100 of GrantStep, SpendStep, HoldStep, CaptureStep, ReleaseStep, RefundStep and VoidGrantStep, or
            objects of fields by name. Each has a command id that nothing else in the batch has.
    """

    type: Literal["batch"] = "batch"

    def contradiction(self) -> str | None:
        """What its fields contradict; None where they agree."""
        ids = {self.command_id}
        for index, step in enumerate(self.steps):
            if step.command_id in ids:
                return f"steps[{index}].command_id must be one that nothing else in the batch has"
            ids.add(step.command_id)
        return None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields by name, those of each step too."""
        return {**super().fields, "steps": [step.fields for step in self.steps]}

    def as_written(self) -> Mapping[str, Any]:
        """The fields as the log has them."""
        return self.fields


Command: TypeAlias = (
    Grant
    | Spend
    | Hold
    | Capture
    | Release
    | Refund
    | VoidGrant
    | Transfer
    | Freeze
    | Unfreeze
    | Close
    | SetCreditLimit
    | CreateSchedule
    | CancelSchedule
    | Batch
)

#: What a service may ask for, by the `type` that says it.
MODELS: Mapping[str, type[Command]] = {model.model_fields["type"].default: model for model in get_args(Command)}

_ANY_COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])


def parse_command(mapping: Mapping[str, Any], *, confirmed: bool = False) -> Command:
    """Make a command from fields by name; `type` says which, such as `grant`.

    Args:
        mapping: the fields by name, with values as in JSON or of Python's own types.
        confirmed: whether what DoubtfulCommandError refuses is meant. It is no part of the command.

    Returns:
        The command.

    Raises:
        InvalidCommandError: names each bad field and its bound.
        DoubtfulCommandError: it is valid and most likely a mistake.

    Example:
        >>> fields = {"type": "spend", "command_id": "s-1", "account": "ada", "asset": "credits", "amount": 5}
        >>> parse_command(fields).amount
        5
    """
    if not isinstance(mapping, Mapping):
        raise InvalidCommandError(("a command must be an object of fields by name",))
    if confirmed:
        with f.confirming():
            return parse_command(mapping)
    try:
        return _ANY_COMMAND.validate_python(dict(mapping))
    except ValidationError:
        # The model of a known type has reported what is wrong with it.
        missing = "" if "type" in mapping else "is missing: it "
        raise InvalidCommandError((f"type {missing}{one_of(tuple(MODELS))}",)) from None


def command_as_logged(record: Decoded) -> Command:
    """Make a command of one that the log holds, also of what producers refuse and the fold takes.

    So that a record can be sent again as it was. Raises InvalidCommandError for what the fold doesn't take either.
    """
    problem = check(record.record, record.values)
    if problem is None and record.fields["command_id"].startswith(DERIVED):
        problem = f"command_id must not begin with {DERIVED}"
    if problem is not None:
        raise InvalidCommandError((problem,))
    command: Command = _constructed(_BY_RECORD[record.record], record.fields)
    return command


_BY_RECORD: Mapping[str, type[Command]] = {model.record_name: model for model in MODELS.values()}


def _constructed(model: type[Any], fields: Mapping[str, Any]) -> Any:
    """A command or a step whose fields aren't checked."""
    own = {name: fields[name] for name in model.model_fields if name in fields}
    own |= {name: None for name in model.unsaid if own.get(name) == 0}
    if "steps" in own:
        own["steps"] = tuple(_constructed(STEP_MODELS[step["kind"]], step) for step in own["steps"])
    return model.model_construct(**own)


class Encoded(NamedTuple):
    """A command as the log keeps it: the account in UTF-8 as key, the framed Avro record as value.

    `partition` -1 is the one that the key belongs into; a record without a key names its own.
    """

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int = -1


def encode_activation(rules: int, partition: int, *, source: str = "", reason: str = "") -> Encoded:
    """Make the control record that brings a version of the rules into force in one partition.

    The same version has the same command id, so that a second one is a duplicate. Raises InvalidCommandError.
    """
    fields = {"command_id": f"rules-{rules}", "rules": rules, "source": source, "reason": reason}
    problem = check("ActivateRules", (fields["command_id"], rules, 0, source, reason))
    if problem is not None:
        raise InvalidCommandError((problem,))
    return Encoded(None, encode("ActivateRules", fields), partition=partition)


def encode_command(command: Command) -> Encoded:
    """Make a command's record.

    Raises:
        RecordTooLargeError: its value has more than 65,536 bytes.

    Example:
        >>> record = encode_command(Unfreeze(command_id="u-1", account="ada"))
        >>> record.value[:5].hex()
        '0000002782'
    """
    value = encode(command.record_name, command.as_written())
    if len(value) > limits.MAX_RECORD_BYTES:
        raise RecordTooLargeError(
            f"The command's record has {len(value):,} bytes, and the log takes {limits.MAX_RECORD_BYTES:,}.",
            "Shorten its metadata or reason, or make several batches of its steps.",
        )
    # As Encoded(...), which takes twice as long.
    return tuple.__new__(Encoded, (command.account.encode(), value, (), -1))
