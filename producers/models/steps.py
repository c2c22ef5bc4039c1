"""What a batch's steps and the commands of their kinds have in common: their fields, and how a bad one is refused.

Knows neither Kafka nor the rules, and not how a command is written into the log.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from creditfold.producers.models import fields as f
from creditfold.producers.models.errors import DoubtfulCommandError, InvalidCommandError

#: The kind of an error of several fields at once: its context has what to say.
SAID = "said"


class Model(BaseModel):
    """Fields that are refused in plain words, each by its name and bound."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    #: Fields whose None, which is to leave them out, is a 0 in the log.
    unsaid: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="wrap")
    @classmethod
    def _speak_plainly(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            made = handler(data)
        except ValidationError as error:
            raise _refusal(error, cls) from None
        if problem := made.contradiction():
            raise InvalidCommandError((problem,))
        return made

    @classmethod
    def confirmed(cls, **fields: Any) -> Self:
        """Make one of fields by name, and take as meant what the constructor refuses with DoubtfulCommandError."""
        with f.confirming():
            return cls(**fields)

    def contradiction(self) -> str | None:
        """Say what is wrong between fields that are each good by themselves, naming one; None if nothing is.

        Raises:
            DoubtfulCommandError: it is most likely a mistake, and isn't confirmed.
        """
        return None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields by name as the log's schema has them: all of them, without `type`."""
        fields = dict(self.__dict__)
        fields.pop("type", None)
        for name in self.unsaid:
            if fields[name] is None:
                fields[name] = 0
        return fields

    def as_written(self) -> Mapping[str, Any]:
        """The fields to be written at once and not to be changed; `type`, which no schema has, may be among them."""
        return self.fields if self.unsaid else self.__dict__


def _refusal(error: ValidationError, model: type[Model]) -> InvalidCommandError:
    found: list[str] = []
    is_doubt = True
    for details in error.errors(include_input=False):
        context, kind = details.get("ctx", {}), details["type"]
        if kind == SAID:
            found += context["problems"]
            is_doubt = is_doubt and context["is_doubt"]
        else:
            found.append(_problem(details["loc"], kind, context, model))
            is_doubt = is_doubt and kind == f.DOUBT
    # A field that is wrong in two places (metadata) is one problem: its rule says it all.
    return (DoubtfulCommandError if is_doubt else InvalidCommandError)(tuple(dict.fromkeys(found)))


def _problem(where: tuple[int | str, ...], kind: str, context: Mapping[str, Any], model: type[Model]) -> str:
    own = model.model_fields.get(str(where[0])) if where else None
    name, type_ = str(where[0]) if where else "", model.model_fields["type"].default
    if not where:
        return f"a {type_} must be an object of fields by name"
    if own is None:
        # A stranger's field name may be anything: shown shortened, and with its control characters escaped.
        return f"{name[:40]!r} is not a field of a command of type {type_!r}"
    rule = context["rule"] if kind in (f.RULE, f.DOUBT) else own.description or f"must be {type_!r}"
    return f"{name} is missing: it {rule}" if kind == "missing" else f"{name} {rule}"


class Terms(Model):
    """The terms of a lot: class, priority, window and scope."""

    lot_class: f.LotClass = "paid"
    priority: f.Priority = 50
    effective_at: f.EffectiveAt = 0
    expires_at: f.ExpiresAt = 0
    scope: f.Use = ""

    def contradiction(self) -> str | None:
        """What its fields contradict; None where they agree."""
        if self.expires_at and self.expires_at <= self.effective_at:
            return "expires_at must be after effective_at, or 0 for never"
        return None


class Sum(Model):
    """An amount of an asset."""

    asset: f.Asset
    amount: f.Amount


class SpendTerms(Model):
    """How a spend chooses its lots."""

    use: f.Use = ""
    partial: f.Flag = False
    effective_at: f.EffectiveAt = 0


class HoldTerms(Model):
    """Until when, and for what, a hold sets aside."""

    deadline: f.Deadline
    use: f.Use = ""


class OfHold(Model):
    """A hold, and how much of it: None for all that it still has."""

    unsaid = ("amount",)

    hold: f.OtherId
    amount: f.AmountOrRest = None


class OfHoldForGood(OfHold):
    """A hold, how much of it, and whether the rest is released."""

    final: f.Flag = False


class OfSpend(Model):
    """A spend, how much of it is refunded, and into which lots; None for all that is left to refund."""

    unsaid = ("amount",)

    spend: f.OtherId
    amount: f.AmountOrRest = None
    reissue: f.Flag = False
    expires_at: f.ExpiresAt = 0

    def contradiction(self) -> str | None:
        """What its fields contradict; None where they agree."""
        return "expires_at is for a new lot: say reissue too" if self.expires_at and not self.reissue else None


class OfGrant(Model):
    """A command that made lots, and which of them: None for all."""

    unsaid = ("number",)

    grant: f.OtherId
    number: f.LotNumber = None


class _Step(Model):
    command_id: f.CommandId

    @property
    def fields(self) -> dict[str, Any]:
        """The fields by name as the log's schema has them, those of the step's kind."""
        return {"kind": self.__dict__["type"], **super().fields}


class GrantStep(Terms, Sum, _Step):
    """A Grant in a batch, which has the account and the sender's fields."""

    type: Literal["grant"] = "grant"


class SpendStep(SpendTerms, Sum, _Step):
    """A Spend in a batch."""

    type: Literal["spend"] = "spend"


class HoldStep(HoldTerms, Sum, _Step):
    """A Hold in a batch."""

    type: Literal["hold"] = "hold"


class CaptureStep(OfHoldForGood, _Step):
    """A Capture in a batch."""

    type: Literal["capture"] = "capture"


class ReleaseStep(OfHold, _Step):
    """A Release in a batch."""

    type: Literal["release"] = "release"


class RefundStep(OfSpend, _Step):
    """A Refund in a batch."""

    type: Literal["refund"] = "refund"


class VoidGrantStep(OfGrant, _Step):
    """A VoidGrant in a batch."""

    type: Literal["void_grant"] = "void_grant"


Step: TypeAlias = GrantStep | SpendStep | HoldStep | CaptureStep | ReleaseStep | RefundStep | VoidGrantStep

_ANY_STEP: TypeAdapter[Step] = TypeAdapter(Annotated[Step, Field(discriminator="type")])
#: A step's model by its type.
STEP_MODELS: Mapping[str, type[Step]] = {model.model_fields["type"].default: model for model in get_args(Step)}


def one_of(names: tuple[str, ...]) -> str:
    """The rule of a type: the names that there are."""
    return f"must be {', '.join(map(repr, names[:-1]))} or {names[-1]!r}"


def parse_steps(steps: Any, rule: str, most: int) -> tuple[Step, ...]:
    """Make a batch's steps of objects of fields by name. Raises PydanticCustomError with each problem of each step."""
    if not isinstance(steps, list | tuple) or not 1 <= len(steps) <= most:
        raise _said([f"steps {rule}"], is_doubt=False)
    made, problems, is_doubt = [], [], True
    for index, step in enumerate(steps):
        try:
            made.append(_parse_step(step))
        except InvalidCommandError as error:
            problems += [f"steps[{index}]{problem}" for problem in error.problems]
            is_doubt = is_doubt and isinstance(error, DoubtfulCommandError)
    if problems:
        raise _said(problems, is_doubt=is_doubt)
    return tuple(made)


def _parse_step(step: Any) -> Step:
    if not isinstance(step, dict | _Step):
        raise InvalidCommandError((" must be an object of fields by name",))
    try:
        return _ANY_STEP.validate_python(step)
    except ValidationError:
        raise InvalidCommandError((f".type {one_of(tuple(STEP_MODELS))}",)) from None
    except InvalidCommandError as error:
        # A field that no step has is quoted; the others are named.
        named = (f": {problem}" if problem.startswith(("'", '"')) else f".{problem}" for problem in error.problems)
        raise type(error)(tuple(named)) from None


def _said(problems: list[str], *, is_doubt: bool) -> PydanticCustomError:
    return PydanticCustomError(SAID, "see the context", {"problems": problems, "is_doubt": is_doubt})
