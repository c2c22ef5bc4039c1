"""The types of events, and what the data of each has: models, of which the JSON Schemas are made. Builds no event."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

#: The dialect of the schemas.
DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: The event that a test sends, to one endpoint and whatever it asks for.
TEST = "endpoint.test"

Amount = Annotated[int, Field(ge=0)]
Position = Annotated[str, Field(pattern="^[0-9]+:[0-9]+$", description="Of the record in the log, `partition:offset`.")]


class Data(BaseModel):
    """What an event says."""

    model_config = ConfigDict(extra="forbid")


class AccountData(Data):
    """What every event says that is made of a line of an account's journal."""

    account: str
    version: int = Field(ge=1, description="Number of the account's journal line, from 1 without gaps: its order.")
    position: Position


class CommandData(AccountData):
    """A command was decided."""

    command_id: str
    kind: str
    asset: str
    amount: Amount
    change: int = Field(description="Of the available credits, signed.")
    available: int = Field(description="After the decision, in the asset's smallest unit, as all amounts.")
    pending: Amount
    held: Amount
    debt: Amount
    occurred_at: datetime | None


class CommandAccepted(CommandData):
    """A command took effect."""


class CommandRejected(CommandData):
    """A command was refused; nothing changed."""

    reason: str
    step: int | None = Field(description="Of a batch: the index of the step that was refused, from 0.")


class LotData(AccountData):
    """Something happened to a lot."""

    asset: str
    lot: str = Field(description="The command that made the lot.")
    lot_number: int = Field(ge=1)
    amount: Amount


class LotGranted(LotData):
    """A lot was made."""

    how: Literal["granted", "arrived", "reissued", "scheduled"]
    lot_class: str
    priority: int
    effective_at: datetime | None
    expires_at: datetime | None
    scope: str | None


class LotExpired(LotData):
    """A lot's window closed; `amount` was left and is lost."""


class LotVoided(LotData):
    """A lot was taken back; `amount` was left and is lost."""


class HoldData(AccountData):
    """Something happened to a hold; `amount` is what it took, spent or gave back now."""

    asset: str
    hold: str
    amount: Amount


class HoldOpened(HoldData):
    """Credits were set aside."""

    deadline: datetime | None


class HoldCaptured(HoldData):
    """Credits that were set aside were spent."""

    capture: str


class HoldReleased(HoldData):
    """Credits that were set aside were given back."""


class HoldLapsed(HoldData):
    """A hold met its deadline, and what it had was given back."""


class TransferData(AccountData):
    """Something happened to a transfer, at its sender."""

    asset: str
    transfer: str


class TransferSent(TransferData):
    """Credits are on their way to another account."""

    amount: Amount
    to: str


class TransferCompleted(TransferData):
    """Credits arrived at the other account."""


class TransferReturned(TransferData):
    """Credits came back."""

    amount: Amount
    reason: str


class ScheduleGranted(AccountData):
    """A schedule's turn granted credits; a `lot.granted` says which."""

    asset: str
    schedule: str
    occurrence: int = Field(ge=1)
    amount: Amount


class AccountFrozen(AccountData):
    """An account was frozen."""

    scope: str = Field(description="`spending`, or `all`.")


class AccountClosed(AccountData):
    """An account was closed."""


class BalanceData(AccountData):
    """An alert's rule found that an account's available credits passed a bound."""

    rule: str
    asset: str
    available: int
    below: int = Field(description="The bound of the rule.")


class BalanceDropped(BalanceData):
    """An account has less than the bound of a rule."""


class BalanceDepleted(BalanceData):
    """An account has nothing left."""


class BalanceRecovered(BalanceData):
    """An account that dropped has enough again."""


class CreditsExpiringSoon(Data):
    """Credits of a lot end soon, and something of it is left."""

    rule: str
    account: str
    asset: str
    lot: str
    lot_number: int = Field(ge=1)
    remaining: Amount
    expires_at: datetime


class DeadLetterCreated(Data):
    """A record of the log can't be folded."""

    position: Position
    reason: str
    key: str | None = Field(description="Of the record, the account as its sender wrote it; None where it is no text.")


class EndpointDisabled(Data):
    """Another endpoint of the same owner is called no more."""

    endpoint: str
    url: str
    reason: str


class EndpointTest(Data):
    """Somebody tries whether an endpoint is reached."""

    endpoint: str


#: The types that an endpoint can ask for, each with what its data is.
TYPES: dict[str, type[Data]] = {
    "command.accepted": CommandAccepted,
    "command.rejected": CommandRejected,
    "lot.granted": LotGranted,
    "lot.expired": LotExpired,
    "lot.voided": LotVoided,
    "hold.opened": HoldOpened,
    "hold.captured": HoldCaptured,
    "hold.released": HoldReleased,
    "hold.lapsed": HoldLapsed,
    "transfer.sent": TransferSent,
    "transfer.completed": TransferCompleted,
    "transfer.returned": TransferReturned,
    "schedule.granted": ScheduleGranted,
    "account.frozen": AccountFrozen,
    "account.closed": AccountClosed,
    "balance.dropped": BalanceDropped,
    "balance.depleted": BalanceDepleted,
    "balance.recovered": BalanceRecovered,
    "credits.expiring_soon": CreditsExpiringSoon,
    "dead_letter.created": DeadLetterCreated,
    "endpoint.disabled": EndpointDisabled,
}


def schema_document() -> dict[str, Any]:
    """The JSON Schemas of all events, as `delivery/webhooks.schema.json` has them: one for each type, by its name."""
    kinds: dict[str, type[Data]] = {**TYPES, TEST: EndpointTest}
    return {
        "$schema": DIALECT,
        "title": "creditfold webhooks",
        "description": "The body of a request, by the event's type. A later release may add types, and fields of data: "
        "readers ignore what they don't know.",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in kinds],
        "$defs": {name: _schema(name, kind) for name, kind in kinds.items()},
    }


def _schema(name: str, kind: type[Data]) -> dict[str, Any]:
    return {
        "description": kind.__doc__,
        "type": "object",
        "properties": {
            "type": {"const": name},
            "timestamp": {"type": "string", "format": "date-time", "description": "When it happened."},
            "data": kind.model_json_schema(),
        },
        "required": ["type", "timestamp", "data"],
        "additionalProperties": False,
    }
