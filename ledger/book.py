"""The fold by the rules of credits: duplicates first, then time, then the decision; gives the journal's lines.

Whatever is decided is a set of facts, and `apply` makes them true, the same way in which a replay does.
A `CreditBook` is whatever part of the ledger the next commands can touch: all of it in a test, or the accounts and
known command ids of one chunk, loaded by the caller. What it decides doesn't depend on which. Pure like its room.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from creditfold.ledger.account import Account
from creditfold.ledger.apply import apply
from creditfold.ledger.commands import KINDS, Batch, Command, Grant, Spend, Step
from creditfold.ledger.decide import Refused, decide_steps
from creditfold.ledger.facts import NOTHING, Accepted, Balance, CreditEntry, CreditOutcome, Fact, Rejected
from creditfold.ledger.folding import Known, Verdict, advanced, columns_of, repeated
from creditfold.ledger.reasons import RejectionReason
from creditfold.ledger.time import settle
from creditfold.ledger.versions import RULES, ruleset

DAY_MINUTES: Final = 1_440

#: The kind of a journal line of what time did.
SETTLED: Final = "settled"


class CreditBook:
    """Accounts and known command ids, folded one command at a time.

    Args:
        accounts: state of each account that the commands can touch; an absent one was never used.
        known: each command already decided, or its body, by (account, command id).
        clock_ms: the log's clock, in milliseconds UTC.
        minute: that of the partition's last tick.
        rules: version of the rules in force.
        forced: whether these rules decide everything, whatever the log activates: for trying them out.

    Raises:
        UnknownRulesError: this release doesn't have that version of the rules.

    Example:
        >>> book = CreditBook()
        >>> _ = book.apply(Grant("g-1", "ada", "credits", 100))
        >>> _ = book.apply(Spend("s-1", "ada", "credits", 30))
        >>> book.balance("ada", "credits").available
        70
    """

    def __init__(
        self,
        accounts: Mapping[str, Account] | None = None,
        known: Known | None = None,
        clock_ms: int = 0,
        minute: int = 0,
        rules: int = RULES,
        *,
        forced: bool = False,
    ) -> None:
        self.accounts: dict[str, Account] = {}
        self.known = known if known is not None else {}
        self.clock_ms = clock_ms
        self.minute = minute
        self.rules = rules
        self.forced = forced
        self._decide = ruleset(rules)
        self._left: Mapping[str, Account] = accounts if accounts is not None else {}

    def advance(self, appended_at_ms: int) -> None:
        """Move the log's clock to a record's append time, unless that lies in the past, or beyond any calendar."""
        self.clock_ms = advanced(self.clock_ms, appended_at_ms)

    def activate(self, rules: int) -> Verdict | None:
        """Bring a version of the rules into force; gives None when that changed them. Raises UnknownRulesError."""
        if self.forced or rules == self.rules:
            return Verdict.DUPLICATE
        if rules < self.rules:
            return Verdict.RULES_NOT_NEWER
        self._decide = ruleset(rules)
        self.rules = rules
        return None

    def apply(self, command: Command, position: int = 0) -> CreditOutcome | Verdict:
        """Decide one valid command, after settling its account. `position` is its place in the log, from 0."""
        steps = command.steps if isinstance(command, Batch) else ()
        name, command_id = command.account, command.command_id
        first = self.known.get((name, command_id))
        if first is not None:
            return repeated(first, command)
        for step in steps:
            if (name, step.command_id) in self.known:
                return Verdict.COMMAND_ID_REUSED
        account = self.account(name)
        account.begin(position)
        is_settled = account.next_due > self.clock_ms
        if is_settled and (type(command) is Grant or type(command) is Spend):
            self.known[name, command_id] = command
            return self._apply_plain(account, command)
        lines = _Lines(name, account, self.clock_ms, self.rules)
        settled: tuple[Fact, ...] = ()
        if not is_settled:
            settled = tuple(settle(account, self.clock_ms))
            lines.add_settled(settled)
        self.known[name, command_id] = command
        if isinstance(command, Batch):
            return self._apply_batch(account, command, settled, lines)
        answer, at = self._decide(account, command, self.clock_ms), len(lines.entries)
        if not isinstance(answer, list):
            return Rejected(settled, lines.finish(command, (), Refused(answer), at), answer)
        apply(account, answer)
        facts = tuple(answer)
        return Accepted(settled, facts, lines.finish(command, facts, None, at))

    def _apply_batch(self, account: Account, batch: Batch, settled: tuple[Fact, ...], lines: "_Lines") -> CreditOutcome:
        at = len(lines.entries)
        answer = decide_steps(account, batch, self.clock_ms, self._decide)
        if isinstance(answer, Refused):
            return Rejected(settled, lines.finish(batch, (), answer, at), answer.reason, answer.step)
        facts: list[Fact] = []
        for step, own in zip(batch.steps, answer, strict=True):
            apply(account, own)
            lines.add_step(step, own)
            facts += own
            self.known[batch.account, step.command_id] = step
        # The steps' facts are in the steps' lines.
        return Accepted(settled, tuple(facts), lines.finish(batch, (), None, at))

    def _apply_plain(self, account: Account, command: Any) -> CreditOutcome:
        """Decide a grant or a spend, which nearly all commands are, in a settled account: it comes to one line."""
        name, asset, kind = command.account, command.asset, KINDS[type(command)]
        before = after = account.balance(asset)
        answer = self._decide(account, command, self.clock_ms)
        facts: tuple[Fact, ...] = ()
        reason: RejectionReason | None = None
        if isinstance(answer, list):
            apply(account, answer)
            # Whatever else happens, such as that a debt is paid, is of the same asset.
            facts, after = tuple(answer), account.balance(asset)
        else:
            reason = answer
        account.version += 1
        _, _, amount, occurred_at, source, note, extra, details = columns_of(command)
        entry = CreditEntry(
            name,
            account.version,
            command.command_id,
            kind,
            asset,
            amount,
            before,
            after,
            reason,
            None,
            self.rules,
            self.clock_ms,
            occurred_at,
            source,
            note,
            extra,
            details,
            facts,
        )
        return Accepted((), facts, (entry,)) if reason is None else Rejected((), (entry,), reason)

    def account(self, name: str) -> Account:
        """An account's state, made if it was never used."""
        found = self.accounts.get(name)
        if found is None:
            left = self._left.get(name)
            found = self.accounts[name] = Account() if left is None else left
        return found

    def tick(self, minute: int, position: int = 0) -> list[CreditEntry] | Verdict:
        """Settle every account of the book that has something due, in the order of their names."""
        if minute <= self.minute:
            return Verdict.DUPLICATE
        if minute > max(self.minute + 1, self.clock_ms // 60_000 + DAY_MINUTES):
            return Verdict.TICK_AHEAD
        self.minute = minute
        names = [*self.accounts, *(name for name in self._left if name not in self.accounts)]
        return self.settle(sorted(names), position)

    def settle(self, names: Iterable[str], position: int = 0) -> list[CreditEntry]:
        """Settle these accounts, so far as they have something due."""
        entries: list[CreditEntry] = []
        for name in names:
            if name not in self.accounts and name not in self._left:
                continue
            account = self.account(name)
            if account.next_due <= self.clock_ms:
                account.begin(position)
                lines = _Lines(name, account, self.clock_ms, self.rules)
                lines.add_settled(settle(account, self.clock_ms))
                account.version += len(lines.entries)
                entries += lines.entries
        return entries

    def balance(self, account: str, asset: str) -> Balance:
        """What an account has of an asset, as of its last settling."""
        return self.accounts[account].balance(asset) if account in self.accounts else Balance()

    def available(self, account: str, asset: str, use: str = "") -> int:
        """What a spend could take, as of the account's last settling.

        Args:
            account: its id.
            asset: of which credits.
            use: what they would be spent on; empty for unscoped credits only.

        Returns:
            An amount in the asset's smallest unit.
        """
        return self.accounts[account].available(asset, use) if account in self.accounts else 0


class _Lines:
    """The journal's lines of one record about one account, as they come."""

    def __init__(self, name: str, account: Account, clock_ms: int, rules: int) -> None:
        self.entries: list[CreditEntry] = []
        self._name = name
        self._account = account
        self._clock_ms = clock_ms
        self._rules = rules
        self._last = {asset: account.balance(asset) for asset in account.holdings}

    def add_settled(self, facts: Sequence[Fact]) -> None:
        """Add a line for each asset that time changed something of."""
        for asset, own in _by_asset(facts).items():
            self._add(SETTLED, asset, own)

    def add_step(self, step: Step, facts: Sequence[Fact]) -> None:
        """Add a batch's step."""
        # The batch's own line comes before those of its steps.
        number = len(self.entries) + 2
        self.entries.append(self._entry(step, KINDS[type(step)], facts[0].asset, facts, number=number))

    def finish(
        self, command: Command, facts: Sequence[Fact], refused: Refused | None, at: int
    ) -> tuple[CreditEntry, ...]:
        """Add the command's own line, before its steps, and those of further assets; number all lines."""
        account, kind = self._account, KINDS[type(command)]
        asset: str = getattr(command, "asset", "")
        if len(facts) == 1 and facts[0].asset == (asset or facts[0].asset):
            # As it nearly always is.
            asset = facts[0].asset
            own = self._entry(command, kind, asset, facts, refused=refused, number=at + 1)
            self.entries.insert(at, own)
        else:
            groups = _by_asset(facts)
            asset = asset or (facts[0].asset if len(groups) == 1 else "")
            own = self._entry(command, kind, asset, groups.pop(asset, ()), refused=refused, number=at + 1)
            self.entries.insert(at, own)
            for other, more in groups.items():
                self._add(kind, other, more)
        account.version += len(self.entries)
        return tuple(self.entries)

    def _add(self, kind: str, asset: str, facts: Sequence[Fact]) -> None:
        """Add a line that is no command's own."""
        self.entries.append(self._entry(None, kind, asset, facts, number=len(self.entries) + 1))

    def _entry(
        self,
        command: Command | None,
        kind: str,
        asset: str,
        facts: Sequence[Fact],
        *,
        number: int,
        refused: Refused | None = None,
    ) -> CreditEntry:
        """The line of this number among those of the record: of a command, or without one of what else changed."""
        before = self._last.get(asset, NOTHING)
        balance = before
        if facts:
            balance = self._last[asset] = self._account.balance(asset)
        reason, step = (None, None) if refused is None else refused
        command_id: str | None = None
        amount, occurred_at, source, note, extra, details = 0, 0, "", "", b"", ""
        if command is not None:
            command_id = command.command_id
            _, _, amount, occurred_at, source, note, extra, details = columns_of(command)
        return CreditEntry(
            self._name,
            self._account.version + number,
            command_id,
            kind,
            asset,
            amount,
            before,
            balance,
            reason,
            step,
            self._rules,
            self._clock_ms,
            occurred_at,
            source,
            note,
            extra,
            details,
            tuple(facts),
        )


def _by_asset(facts: Sequence[Fact]) -> dict[str, Sequence[Fact]]:
    found: dict[str, list[Fact]] = {}
    for fact in facts:
        found.setdefault(fact.asset, []).append(fact)
    return dict(found)
