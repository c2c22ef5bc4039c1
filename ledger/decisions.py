"""`decide` and `evolve`: one account, one command, one outcome. Source of every rule: docs/rules.md."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from creditfold.ledger.commands import Grant, Spend
from creditfold.ledger.limits import MAX_BALANCE
from creditfold.ledger.reasons import RejectionReason

#: Version of the rules that `decide` is. Each outcome carries the version that decided it.
RULES = 1


class Account(NamedTuple):
    """State of one account: how many decisions it has seen, and its available credits by asset."""

    version: int = 0
    available: Mapping[str, int] = {}


class Accepted(NamedTuple):
    """A command that took effect. `change` is signed; `balance` and `version` are those after it."""

    asset: str
    change: int
    balance: int
    version: int
    rules: int = RULES

    @property
    def rejection(self) -> None:
        """Why it was rejected: it wasn't."""


class Rejected(NamedTuple):
    """A command without effect, for ever. `balance` and `version` are those after the decision."""

    asset: str
    rejection: RejectionReason
    balance: int
    version: int
    rules: int = RULES

    @property
    def change(self) -> int:
        """What it changed: nothing."""
        return 0


Outcome: TypeAlias = Accepted | Rejected

# A named tuple's own constructor takes twice as long, and is called several times a command.
make = tuple.__new__


def decide(state: Account, command: Grant | Spend) -> Outcome:
    """Decide a valid command that is no duplicate. Raises TypeError for a command that it doesn't know."""
    asset, version = command.asset, state.version + 1
    balance = state.available.get(asset, 0)
    if isinstance(command, Grant):
        if balance + command.amount > MAX_BALANCE:
            return make(Rejected, (asset, RejectionReason.BALANCE_LIMIT_EXCEEDED, balance, version, RULES))
        return make(Accepted, (asset, command.amount, balance + command.amount, version, RULES))
    if isinstance(command, Spend):
        if command.amount > balance:
            return make(Rejected, (asset, RejectionReason.INSUFFICIENT_CREDITS, balance, version, RULES))
        return make(Accepted, (asset, -command.amount, balance - command.amount, version, RULES))
    raise TypeError(f"no rule for {type(command).__name__}")


#: Every version of the rules there ever was: a replay decides each record by the version that was in force.
#: A log starts under the first, and an ActivateRules record in it brings the next.
RULESETS: dict[int, Callable[[Account, Grant | Spend], Outcome]] = {RULES: decide}
FIRST_RULES = 1


def evolve(state: Account, outcome: Outcome) -> Account:
    """Apply what was decided; chooses nothing. Raises ValueError for an outcome of another state."""
    version, available = state
    asset, balance = outcome.asset, outcome.balance
    if outcome.version != version + 1 or available.get(asset, 0) + outcome.change != balance or balance < 0:
        raise ValueError(f"{outcome} doesn't follow from {state}")
    return make(Account, (outcome.version, {**available, asset: balance}))
