"""The fold over many accounts: idempotency first, then the decision. Pure like its room.

A `Book` is whatever part of the ledger the next commands can touch: all of it in a test, or the accounts
and known command ids of one chunk, loaded by the caller. What it decides doesn't depend on which.
"""

from collections.abc import Mapping
from enum import Enum
from hashlib import blake2b
from typing import NamedTuple, TypeAlias

from creditfold.ledger.commands import KINDS, Command
from creditfold.ledger.decisions import FIRST_RULES, RULESETS, Account, Outcome, evolve, make
from creditfold.ledger.limits import MAX_OCCURRED_AT


class Verdict(Enum):
    """What else than an outcome can become of a valid command."""

    DUPLICATE = "duplicate"  # Same id, same body: the first outcome stands, nothing happens.
    COMMAND_ID_REUSED = "command_id_reused"  # Same id, other body: a dead letter, the first outcome stands.
    RULES_NOT_NEWER = "rules_not_newer"  # An activation of older rules than those in force: a dead letter.


class UnknownRulesError(LookupError):
    """Rules that this release doesn't have. What they decide can't be told, so nothing may be folded on."""


class Body(NamedTuple):
    """What makes two commands of the same id the same: all their fields but the ids they are looked up by.

    `extra` is a digest of what the journal has no column for (today the metadata), empty when that is at its default:
    so a field that a newer schema adds doesn't change the body of a command that doesn't use it.
    """

    kind: str
    asset: str
    amount: int
    occurred_at: int
    source: str
    reason: str
    extra: bytes


class Entry(NamedTuple):
    """One line of the journal: the command, what was decided, and when by the log's clock."""

    command: Command
    outcome: Outcome
    clock_ms: int


CommandKey: TypeAlias = tuple[str, str]
#: Each command already decided, or its body, by (account, command id).
Known: TypeAlias = dict[CommandKey, Body | Command]


def body_of(command: Command) -> Body:
    """The body of a command."""
    _, _, asset, amount, occurred_at, source, reason, metadata = command
    extra = digest(metadata) if metadata else b""
    return Body(KINDS[type(command)], asset, amount, occurred_at, source, reason, extra)


def digest(metadata: Mapping[str, str]) -> bytes:
    """What the journal keeps of a command's metadata, if there is any."""
    # A valid command holds no NUL, which makes NUL a safe separator.
    text = "\0".join(["metadata", str(len(metadata)), *(part for entry in sorted(metadata.items()) for part in entry)])
    return blake2b(text.encode(), digest_size=16).digest()


def advanced(clock_ms: int, appended_at_ms: int) -> int:
    """The log's clock after a record: its append time, unless that lies in the past, or beyond any calendar."""
    return appended_at_ms if clock_ms < appended_at_ms <= MAX_OCCURRED_AT else clock_ms


class Book:
    """Accounts and known command ids, folded one command at a time.

    Args:
        accounts: state of each account that the commands can touch; an absent one was never used.
        known: each command already decided, or its body, by (account, command id).
        clock_ms: the log's clock, in milliseconds UTC; append times move it forward, never back.
        rules: version of the rules in force.
        forced: whether these rules decide everything, whatever the log activates: for trying them out.

    Raises UnknownRulesError.
    """

    def __init__(
        self,
        accounts: dict[str, Account] | None = None,
        known: Known | None = None,
        clock_ms: int = 0,
        rules: int = FIRST_RULES,
        *,
        forced: bool = False,
    ) -> None:
        self.accounts = accounts if accounts is not None else {}
        self.known = known if known is not None else {}
        self.clock_ms = clock_ms
        self._forced = forced
        self._enforce(rules)

    def _enforce(self, rules: int) -> None:
        if rules not in RULESETS:
            raise UnknownRulesError(rules)
        self.rules = rules
        self._decide = RULESETS[rules]

    def activate(self, rules: int) -> Verdict | None:
        """Bring a version of the rules into force; None when that changed them. Raises UnknownRulesError."""
        if self._forced or rules == self.rules:
            return Verdict.DUPLICATE
        if rules < self.rules:
            return Verdict.RULES_NOT_NEWER
        self._enforce(rules)
        return None

    def advance(self, appended_at_ms: int) -> None:
        """Move the log's clock to a record's append time, unless that lies in the past, or beyond any calendar."""
        self.clock_ms = advanced(self.clock_ms, appended_at_ms)

    def apply(self, command: Command) -> Entry | Verdict:
        """Fold one valid command."""
        account = command.account
        key = (account, command.command_id)
        # Of most commands nobody ever asks for the body.
        first = self.known.get(key)
        if first is not None:
            body = first if isinstance(first, Body) else body_of(first)
            return Verdict.DUPLICATE if body == body_of(command) else Verdict.COMMAND_ID_REUSED
        state = self.accounts.get(account, _NEW_ACCOUNT)
        outcome = self._decide(state, command)
        self.accounts[account] = evolve(state, outcome)
        self.known[key] = command
        return make(Entry, (command, outcome, self.clock_ms))


_NEW_ACCOUNT = Account()
