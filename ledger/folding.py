"""The fold over many accounts: idempotency first, then the decision. Pure like its room.

A `Book` is whatever part of the ledger the next commands can touch: all of it in a test, or the accounts
and known command ids of one chunk, loaded by the caller. What it decides doesn't depend on which.
"""

from enum import Enum
from hashlib import blake2b
from typing import NamedTuple, TypeAlias

from creditfold.ledger.commands import Command
from creditfold.ledger.decisions import Account, Outcome, decide, evolve


class Verdict(Enum):
    """What else than an outcome can become of a valid command."""

    DUPLICATE = "duplicate"  # Same id, same body: the first outcome stands, nothing happens.
    COMMAND_ID_REUSED = "command_id_reused"  # Same id, other body: a dead letter, the first outcome stands.


class Entry(NamedTuple):
    """One line of the journal: the command, its body's fingerprint, what was decided, and when by the log's clock."""

    command: Command
    body: bytes
    outcome: Outcome
    clock_ms: int


CommandKey: TypeAlias = tuple[str, str]


def fingerprint(command: Command) -> bytes:
    """Digest of a command's body, 16 bytes: its type and its fields by name, without those at their default.

    So a field that a newer schema adds doesn't change the body of a command that doesn't use it. The ids that a body
    is looked up by aren't part of it. A valid command holds no NUL, which makes NUL a safe separator.
    """
    text = f"{type(command).__name__}\0asset\0{command.asset}\0amount\0{command.amount}"
    if command.occurred_at:
        text += f"\0occurred_at\0{command.occurred_at}"
    if command.source:
        text += f"\0source\0{command.source}"
    if command.reason:
        text += f"\0reason\0{command.reason}"
    if command.metadata:
        entries = [part for entry in sorted(command.metadata.items()) for part in entry]
        text += "\0".join((f"\0metadata\0{len(command.metadata)}", *entries))
    return blake2b(text.encode(), digest_size=16).digest()


class Book:
    """Accounts and known command ids, folded one command at a time.

    Args:
        accounts: state of each account that the commands can touch; an absent one was never used.
        known: fingerprint of each command already decided, by (account, command id).
        clock_ms: the log's clock, in milliseconds UTC; append times move it forward, never back.
    """

    def __init__(
        self,
        accounts: dict[str, Account] | None = None,
        known: dict[CommandKey, bytes] | None = None,
        clock_ms: int = 0,
    ) -> None:
        self.accounts = accounts if accounts is not None else {}
        self.known = known if known is not None else {}
        self.clock_ms = clock_ms

    def advance(self, appended_at_ms: int) -> None:
        """Move the log's clock to a record's append time, unless that lies in the past."""
        self.clock_ms = max(self.clock_ms, appended_at_ms)

    def apply(self, command: Command) -> Entry | Verdict:
        """Fold one valid command."""
        key = (command.account, command.command_id)
        body = fingerprint(command)
        first = self.known.get(key)
        if first is not None:
            return Verdict.DUPLICATE if first == body else Verdict.COMMAND_ID_REUSED
        state = self.accounts.get(command.account, _NEW_ACCOUNT)
        outcome = decide(state, command)
        self.accounts[command.account] = evolve(state, outcome)
        self.known[key] = body
        return Entry(command, body, outcome, self.clock_ms)


_NEW_ACCOUNT = Account()
