"""What an upstream service may ask for, as immutable tuples with the fields of the Avro records."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias


class Grant(NamedTuple):
    """Give an account credits. `amount` is in the asset's smallest unit, `occurred_at` in milliseconds UTC."""

    command_id: str
    account: str
    asset: str
    amount: int
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class Spend(NamedTuple):
    """Take credits from an account. `amount` is in the asset's smallest unit, `occurred_at` in milliseconds UTC."""

    command_id: str
    account: str
    asset: str
    amount: int
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class ActivateRules(NamedTuple):
    """From here on the partition is decided by another version of the rules. Concerns no account.

    `occurred_at` is in milliseconds UTC.
    """

    command_id: str
    rules: int
    occurred_at: int = 0
    source: str = ""
    reason: str = ""


Command: TypeAlias = Grant | Spend

#: A command's name for readers, by its type.
KINDS: Mapping[type[Command], str] = {Grant: "grant", Spend: "spend"}

#: Command type by the name of its Avro record.
COMMANDS: Mapping[str, type[Grant] | type[Spend]] = {"Grant": Grant, "Spend": Spend}
