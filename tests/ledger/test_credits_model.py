"""The rules of credits against a model that moves single coins: the same commands, the same end of each of them.

Days are the only instants, so that windows, deadlines and schedules often meet. CREDITFOLD_EXAMPLES asks for more.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from creditfold.ledger import account as credit_account
from creditfold.ledger.book import CreditBook
from creditfold.ledger.commands import (
    Batch,
    CancelSchedule,
    Capture,
    Close,
    Command,
    CreateSchedule,
    Freeze,
    FreezeScope,
    Grant,
    Hold,
    LotClass,
    Period,
    ReceiveTransfer,
    Refund,
    Release,
    SetCreditLimit,
    SettleTransfer,
    Spend,
    Step,
    Terms,
    Transfer,
    Unfreeze,
    VoidGrant,
)
from creditfold.ledger.decide import Refused, decide
from creditfold.ledger.facts import Accepted, Bucket, CreditEntry, CreditOutcome, Fact, FactKind, Rejected
from creditfold.ledger.facts_json import facts_as_json
from creditfold.ledger.folding import Verdict
from helpers.credits_model import DAY_MS, PLACES, Answer, Model, Owner, Said
from helpers.journal_replay import Line, contents, order_of_spending, replay, rows
from helpers.transfers import following_command

pytestmark = pytest.mark.both_cores


@pytest.fixture(autouse=True)
def what_accounts_share_is_empty() -> Iterator[None]:
    """Accounts that have nothing of a kind share one empty mapping: written to, it would be everybody's."""
    yield
    assert (credit_account._NONE, credit_account._NO_DUES) == ({}, [])


EXAMPLES = int(os.environ.get("CREDITFOLD_EXAMPLES", "60"))
ACCOUNTS = ("ann", "bob", "cyd")
ASSETS = ("gold", "mana")
USES = ("", "ads", "proposals")
# A leap year's January, one day before a schedule can begin on the 31st.
START_MS = 1_706_572_800_000
NOBODY = "never-used"

# Most commands meet in one account and one asset, or they would hardly ever meet.
SOME_ACCOUNT = ("ann", "ann", "ann", "ann", "bob", "bob", "cyd")
SOME_ASSET = ("gold", "gold", "gold", "gold", "gold", "mana")
SOME_USE = ("", "", "ads", "ads", "proposals")
SOME_SCOPE = ("", "", "", "ads", "proposals")
SELDOM = (False, False, False, True)
EITHER = (False, True)
# A part of a hold or a spend, or the rest of it.
PART = (0, 0, 1, 1, 2, 3, 6)
dice = st.randoms(use_true_random=True)


class Pen:
    """Writes commands of one account: with fresh ids, and most often about something that there is.

    One seed decides about a whole command: with each choice drawn by itself, the runs stay shallow.
    """

    def __init__(self, dice: Random, account: str, owner: Owner, now: int, number: int) -> None:
        self.dice = dice
        self.any = dice.choice
        self.account = account
        self.owner = owner
        self.now = now
        self.number = number
        self.steps: list[Step] = []

    def id(self) -> str:
        """An id that nobody used."""
        self.number += 1
        return f"c{self.number}"

    def name(self, names: Iterable[str], *kinds: type) -> str:
        """One of some names, or what an earlier step of some kinds is called; now and then another, or nobody's."""
        names = [*names, *(step.command_id for step in self.steps if isinstance(step, kinds))]
        others = [
            command.command_id for command in self.owner.lots[-1:] + self.owner.holds[-1:] + self.owner.spends[-1:]
        ]
        return self.any((*names[::-1] * 6, *others, NOBODY))

    def day(self, first: int, last: int) -> int:
        """An instant, so many days from now."""
        return self.now + self.dice.randint(first, last) * DAY_MS

    def day_or_none(self, first: int, last: int) -> int:
        """The same, or 0."""
        return self.any((0, self.day(first, last)))

    def terms(self) -> Terms:
        """Terms of a lot, its window not empty."""
        begins = self.any(SELDOM) and self.day(-4, 3)
        length = self.any((0, 0, 1, 2, 3, 5, 9))
        # Without a beginning the end may even lie in the past.
        ends = length and (begins or self.now - self.any(SELDOM) * 4 * DAY_MS) + length * DAY_MS
        lot_class, priority = self.any(list(LotClass)), self.any((50, 50, 10))
        return Terms(lot_class, priority, int(begins), ends, self.any(SOME_SCOPE))

    def grant(self) -> Step:
        """Give."""
        return Grant(self.id(), self.account, self.any(SOME_ASSET), self.dice.randint(2, 12), **self.terms()._asdict())

    def spend(self) -> Step:
        """Take."""
        at = int(self.any(SELDOM) and self.day(-4, 1))
        partial = self.any(SELDOM)
        return Spend(
            self.id(),
            self.account,
            self.any(SOME_ASSET),
            self.dice.randint(1, 6),
            use=self.any(SOME_USE),
            partial=partial,
            effective_at=at,
        )

    def hold(self) -> Step:
        """Set aside."""
        deadline = self.day(1, 6) - self.any(SELDOM) * DAY_MS
        return Hold(
            self.id(), self.account, self.any(SOME_ASSET), self.dice.randint(1, 6), deadline, self.any(SOME_USE)
        )

    def open_hold(self) -> str:
        """A hold, most often one that has something left."""
        every = [hold.command_id for hold in self.owner.holds]
        return self.name([hold.command_id for hold in self.owner.holds if hold.coins] * 4 + every, Hold)

    def capture(self) -> Step:
        """Spend what was set aside."""
        return Capture(self.id(), self.account, self.open_hold(), self.any(PART), self.any(EITHER))

    def release(self) -> Step:
        """Let go of it."""
        return Release(self.id(), self.account, self.open_hold(), self.any(PART))

    def refund(self) -> Step:
        """Give back."""
        ends = self.day_or_none(-1, 5)
        reissue = self.any(EITHER)
        # An end without a new lot that has it means nothing.
        every = [spend.command_id for spend in self.owner.spends]
        left = [spend.command_id for spend in self.owner.spends if spend.coins or spend.debt]
        spend = self.name(left * 4 + every, Spend, Capture)
        return Refund(self.id(), self.account, spend, self.any(PART), reissue, ends if reissue else 0)

    def void(self) -> Step:
        """Take back what was given."""
        grant = self.name([lot.command_id for lot in self.owner.lots], Grant, Refund)
        return VoidGrant(self.id(), self.account, grant, self.any((0, 0, 1, 2)))

    def step(self) -> Step:
        """Any of these; later ones may name it."""
        kinds = (self.grant, self.spend, self.hold, self.capture, self.release, self.refund, self.void)
        step: Step = self.any(kinds)()
        self.steps.append(step)
        return step

    def batch(self) -> Command:
        """Up to five of these at once."""
        command_id = self.id()
        return Batch(command_id, self.account, tuple(self.step() for _ in range(self.dice.randint(1, 5))))

    def transfer(self) -> Command:
        """Send."""
        to = self.any([name for name in ACCOUNTS if name != self.account])
        return Transfer(self.id(), self.account, self.any(SOME_ASSET), self.dice.randint(1, 6), to, self.any(SOME_USE))

    def limit(self) -> Command:
        """Allow debt."""
        return SetCreditLimit(self.id(), self.account, self.any(SOME_ASSET), self.any((9, 4, 0)))

    def schedule(self) -> Command:
        """Give again and again."""
        period, every = self.any(((Period.DAYS, 1), (Period.DAYS, 2), (Period.MONTHS, 1)))
        first_at = self.day(-3, 3)
        until = self.any((0, 1, 4, 40))
        return CreateSchedule(
            self.id(),
            self.account,
            self.any(SOME_ASSET),
            self.dice.randint(1, 4),
            period,
            first_at,
            every,
            until and first_at + until * DAY_MS,
            self.any((0, 3, 6)),
            self.any(list(LotClass)),
            self.any((50, 10)),
            self.any((1, 2, 5)) * DAY_MS,
            self.any(SOME_USE),
        )

    def cancel(self) -> Command:
        """No longer give."""
        return CancelSchedule(self.id(), self.account, self.name(plan.command.command_id for plan in self.owner.plans))

    def freeze(self) -> Command:
        """Freeze."""
        return Freeze(self.id(), self.account, self.any(list(FreezeScope)))

    def unfreeze(self) -> Command:
        """End a freeze."""
        return Unfreeze(self.id(), self.account)

    def close(self) -> Command:
        """Close for ever."""
        return Close(self.id(), self.account, self.any(EITHER))

    def command(self) -> Command:
        """Any of these. What is frozen is soon thawed, and little is closed, or nothing else would happen."""
        kinds = (self.grant, self.spend, self.hold) * 4 + (self.void, self.batch, self.transfer, self.transfer)
        kinds += (self.limit, self.schedule, self.unfreeze if self.owner.frozen else self.freeze)
        # What needs something to name comes without it only now and then.
        kinds += (self.capture, self.release) * (4 if any(hold.coins for hold in self.owner.holds) else 0)
        kinds += (self.refund,) * (4 if self.owner.spends else 0) + (self.cancel,) * bool(self.owner.plans)
        if self.dice.random() < 0.05:
            kinds = (self.capture, self.release, self.refund, self.cancel, self.unfreeze)
        kinds += (self.unfreeze,) * 8 * bool(self.owner.frozen)
        closing = self.dice.randint(0, 99) == 57
        write: Callable[[], Command] = self.close if closing else self.any(kinds)
        return write()


def said(outcome: CreditOutcome | Verdict) -> Answer:
    """What became of a command, without the facts."""
    if isinstance(outcome, Rejected):
        return Said(outcome.reason, outcome.step)
    return Said() if isinstance(outcome, Accepted) else outcome


def settled(book: CreditBook, position: int = 0) -> list[CreditEntry]:
    """Let time pass for everybody; gives the journal's lines of what it did."""
    entries = book.tick(book.minute + 1, position)
    assert not isinstance(entries, Verdict)
    return entries


def by_asset(facts: dict[str, list[Fact]]) -> dict[tuple[str, str], list[Fact]]:
    """Facts in order, by account and asset: assets don't mix, and the journal has a line for each."""
    found: dict[tuple[str, str], list[Fact]] = {}
    for account, own in facts.items():
        for fact in own:
            found.setdefault((account, fact.asset), []).append(fact)
    return found


def buckets(book: CreditBook, account: str) -> dict[tuple[str, int], dict[str, int]]:
    """How much of each lot is where, by the engine."""
    if account not in book.accounts:
        return {}
    lots = book.accounts[account].lots
    return {tuple(key): {name: getattr(lot, name) for name in ("amount", *PLACES)} for key, lot in lots.items()}


def picture(book: CreditBook) -> dict[str, Any]:
    """All that can be seen of a book."""
    return {
        account: (
            buckets(book, account),
            {key: (lot.terms, lot.is_pending) for key, lot in book.accounts[account].lots.items()}
            if account in book.accounts
            else {},
            [book.balance(account, asset) for asset in ASSETS],
            [book.available(account, asset, use) for asset in ASSETS for use in USES],
        )
        for account in ACCOUNTS
    }


class Credits(RuleBasedStateMachine):
    """Every command goes to the engine and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.book, self.model = CreditBook(), Model()
        self.number = 0
        # What the log holds: clocks and commands, in order; for the same fold with more ticks.
        self.log: list[int | Command] = []
        self.asked: dict[str, list[Command]] = {account: [] for account in ACCOUNTS}
        self.on_the_way: list[Command] = []
        self.facts: dict[str, list[Fact]] = {account: [] for account in ACCOUNTS}
        self.journal: list[Line] = []
        self.advance(START_MS)

    # The two sides of the comparison.

    def advance(self, clock_ms: int) -> None:
        """The clock goes on."""
        self.log.append(clock_ms)
        self.book.advance(clock_ms)
        self.model.advance(clock_ms)

    def do(self, command: Command) -> None:
        """Apply a command to both."""
        account = command.account
        before = picture(self.book)
        debts = {asset: self.book.balance(account, asset).debt for asset in ASSETS}
        parcels = command.parcels if isinstance(command, ReceiveTransfer) else ()
        back = self.model.returned(account)
        foreseen = self.foresee(command)
        outcome, answer = self.book.apply(command, len(self.log)), self.model.apply(command)
        self.write(() if isinstance(outcome, Verdict) else outcome.entries)
        self.log.append(command)
        assert said(outcome) == answer, (command, said(outcome), answer)
        if isinstance(outcome, Verdict):
            assert picture(self.book) == before, command
            return
        if foreseen is not None:
            came = Refused(outcome.reason, outcome.step) if isinstance(outcome, Rejected) else [*outcome.facts]
            assert (foreseen, outcome.settled) == (came, ()), command
        self.asked[account] += [command, *(command.steps if isinstance(command, Batch) else ())]
        self.facts[account] += (*outcome.settled, *(outcome.facts if isinstance(outcome, Accepted) else ()))
        follow = following_command(command, outcome)
        assert follow == following_command(command, outcome)
        if follow is not None:
            self.on_the_way.append(follow)
        if isinstance(command, Transfer) and isinstance(outcome, Accepted):
            assert isinstance(follow, ReceiveTransfer)
            carried = [(parcel.amount, parcel.terms) for parcel in follow.parcels]
            assert carried == self.model.parcels(account, command.command_id), command
        if isinstance(command, ReceiveTransfer):
            assert isinstance(follow, SettleTransfer)
            assert follow.returned == back, command
            assert parcels
        for asset in ASSETS:
            debt = self.book.balance(account, asset).debt
            assert debt <= max(debts[asset], self.model.owners[account].limits.get(asset, 0)), command

    def foresee(self, command: Command) -> list[Fact] | Refused | None:
        """What is decided about a command, where time has nothing to do first. Deciding changes nothing."""
        account = self.book.accounts.get(command.account)
        if account is None or account.next_due <= self.book.clock_ms:
            return None
        before = contents(account)
        answer = decide(account, command, self.book.clock_ms)
        assert contents(account) == before, command
        return answer

    def write(self, entries: Iterable[CreditEntry]) -> None:
        """Lines of the journal, of the log's last record."""
        for entry in entries:
            facts = facts_as_json(entry.facts, entry.asset)
            self.journal.append(Line(len(self.log), entry.account, entry.version, entry.asset, facts))

    def settle(self) -> None:
        """Let time pass for everybody, on both sides."""
        entries = settled(self.book, len(self.log))
        self.write(entries)
        for entry in entries:
            self.facts[entry.account] += entry.facts
        self.model.tick()

    def pen(self, dice: Random, account: str) -> Pen:
        """Who writes commands of an account. A hundred ids are enough for each command."""
        self.number += 100
        owner = self.model.owners.get(account) or Owner()
        return Pen(dice, account, owner, self.book.clock_ms, self.number)

    # What may happen.

    @initialize(limit=st.sampled_from((0, 3, 6)))
    def begin(self, limit: int) -> None:
        """Something to spend, and some room below it."""
        for account in ACCOUNTS:
            self.do(SetCreditLimit("limit", account, "gold", limit))
            for name, terms in (("any", Terms()), ("ads", Terms(scope="ads", expires_at=START_MS + 5 * DAY_MS))):
                self.do(Grant(name, account, "gold", 6, **terms._asdict()))

    @rule(days=st.sampled_from((0, 1, 1, 2, 3, 30)))
    def wait(self, days: int) -> None:
        """Time goes on, and nobody looks."""
        self.advance(self.book.clock_ms + days * DAY_MS)

    @rule()
    def tick(self) -> None:
        """A day goes by, and a tick settles everybody."""
        self.advance(self.book.clock_ms + DAY_MS)
        self.settle()

    @rule(dice=dice, count=st.integers(1, 8))
    def work(self, dice: Random, count: int) -> None:
        """Some commands come in."""
        for _ in range(count):
            self.do(self.pen(dice, dice.choice(SOME_ACCOUNT)).command())

    @rule(dice=dice, account=st.sampled_from(ACCOUNTS), count=st.integers(1, 8))
    def work_on_one(self, dice: Random, account: str, count: int) -> None:
        """Some commands come in for one account."""
        for _ in range(count):
            self.do(self.pen(dice, account).command())

    @rule(dice=dice)
    def deliver(self, dice: Random) -> None:
        """One of the commands that others led to comes in, some time later, in any order."""
        if self.on_the_way:
            self.do(self.on_the_way.pop(dice.randrange(len(self.on_the_way))))

    @rule(dice=dice)
    def repeat(self, dice: Random) -> None:
        """A command that came before comes again: itself, or another one under its id."""
        account = dice.choice(SOME_ACCOUNT)
        if not self.asked[account]:
            return
        earlier = dice.choice(self.asked[account])
        again = (earlier, self.pen(dice, account).spend()._replace(command_id=earlier.command_id))
        self.do(dice.choice(again))

    # What always holds.

    @invariant()
    def agrees_with_the_model(self) -> None:
        """The same balances, the same coins in each lot, in the same terms."""
        for account in ACCOUNTS:
            for asset in ASSETS:
                assert self.book.balance(account, asset) == self.model.balance(account, asset), (account, asset)
                for use in USES:
                    available = self.book.available(account, asset, use)
                    assert available == self.model.available(account, asset, use), (account, asset, use)
            expected = {key: lot.counts() for key, lot in self.model.lots(account).items()}
            assert buckets(self.book, account) == expected, account
            for key, lot in self.model.lots(account).items():
                mine = self.book.accounts[account].lots[key]
                assert (mine.asset, mine.terms) == (lot.asset, lot.terms), (account, key)

    @invariant()
    def conserves_each_lot(self) -> None:
        """What came in is somewhere."""
        for account in ACCOUNTS:
            for key, lot in buckets(self.book, account).items():
                assert lot["amount"] == sum(lot[place] for place in PLACES), (account, key)
                assert min(lot.values()) >= 0, (account, key)

    @invariant()
    def facts_report_the_balances(self) -> None:
        """Every move takes something from one place to another, and all of them make up what is there."""
        whole: Counter[tuple[str, Bucket]] = Counter()
        for account in ACCOUNTS:
            placed: Counter[Any] = Counter()
            for fact in self.facts[account]:
                for move in fact.moves:
                    assert move.amount > 0, fact
                    assert move.source is not move.target, fact
                    placed[move.lot, move.source] -= move.amount
                    placed[move.lot, move.target] += move.amount
                    whole[fact.asset, move.source] -= move.amount
                    whole[fact.asset, move.target] += move.amount
            for key, lot in buckets(self.book, account).items():
                for bucket in (Bucket.REMAINING, Bucket.HELD, Bucket.EXPIRED, Bucket.VOIDED, Bucket.FORFEITED):
                    assert placed[key, bucket] == lot[bucket.value], (account, key, bucket)
        for asset in ASSETS:
            assert sum(amount for (name, _), amount in whole.items() if name == asset) == 0
            debts = sum(self.book.balance(account, asset).debt for account in ACCOUNTS)
            assert whole[asset, Bucket.DEBT] == -debts
            lots = [lot for name in ACCOUNTS for lot in self.model.lots(name).values() if lot.asset == asset]
            spent = sum(len(lot.lying("spent")) for lot in lots)
            assert whole[asset, Bucket.SPENT] == spent + debts
            # What was reissued came into other lots, so that this account of the system comes to nothing.
            assert whole[asset, Bucket.REISSUED] == 0

    @invariant()
    def pays_debt_before_all(self) -> None:
        """No debt stands beside credits that could pay it."""
        for account in ACCOUNTS:
            for asset in ASSETS:
                assert not self.book.balance(account, asset).debt or not self.book.available(account, asset), account

    @invariant()
    def spends_nothing_out_of_its_window(self) -> None:
        """What was spent, set aside, sent or paid for debt was in a lot that was active and hadn't expired."""
        for account in ACCOUNTS:
            book = self.book.accounts.get(account)
            # Captures are left out: a hold may outlive its lots.
            kinds = (FactKind.SPENT, FactKind.HELD, FactKind.SENT, FactKind.REPAID)
            for fact in self.facts[account]:
                for move in fact.moves if fact.kind in kinds else ():
                    if book is None or move.lot is None:
                        continue
                    terms = book.lots[move.lot].terms
                    assert terms.effective_at <= fact.at_ms, fact
                    assert not terms.expires_at or fact.at_ms < terms.expires_at, fact

    # In the end.

    def teardown(self) -> None:
        """The same log with a tick on each day comes to the same; then all that was spent is given back.

        And all of it is in the journal.
        """
        self.settle()
        self.agrees_with_the_model()
        self.fold_again_with_more_ticks()
        self.give_everything_back()
        self.replay_the_journal()

    def fold_again_with_more_ticks(self) -> None:
        """Ticks only let things become visible sooner."""
        book = CreditBook()
        facts: dict[str, list[Fact]] = {account: [] for account in ACCOUNTS}

        def tick() -> None:
            for entry in settled(book):
                facts[entry.account] += entry.facts

        for entry in self.log:
            if isinstance(entry, int):
                for day in range(book.clock_ms or entry, entry + 1, DAY_MS):
                    book.advance(day)
                    tick()
                continue
            outcome = book.apply(entry)
            if not isinstance(outcome, Verdict):
                more = outcome.facts if isinstance(outcome, Accepted) else ()
                facts[entry.account] += (*outcome.settled, *more)
        tick()
        assert picture(book) == picture(self.book)
        assert by_asset(facts) == by_asset(self.facts)

    def replay_the_journal(self) -> None:
        """The facts alone make the accounts, lot by lot, and what could come of them next."""
        replayed = replay(self.journal)
        # Of an account about which there is no line there is nothing.
        accounts = {name: account for name, account in self.book.accounts.items() if account.version}
        assert rows(replayed) == rows(accounts)
        assert order_of_spending(replayed) == order_of_spending(accounts)

    def give_everything_back(self) -> None:
        """With every spend refunded, no debt is left and every lot that nothing ended is as if none had been."""
        for account in ACCOUNTS:
            owner = self.model.owners.get(account)
            if owner is None or owner.closed:
                continue
            self.do(Unfreeze("thaw", account))
            for spend in [spend.command_id for spend in owner.spends if spend.coins or spend.debt]:
                self.do(Refund(f"back-{spend}", account, spend))
            self.agrees_with_the_model()
            for asset in ASSETS:
                assert self.book.balance(account, asset).debt == 0
            for key, lot in buckets(self.book, account).items():
                assert lot["spent"] == 0, (account, key)
                if not lot["expired"] and not lot["voided"]:
                    assert lot["remaining"] + lot["held"] + lot["transferred"] + lot["reissued"] == lot["amount"]
        self.facts_report_the_balances()


TestCredits = Credits.TestCase
TestCredits.settings = settings(
    derandomize=True,
    database=None,
    max_examples=EXAMPLES,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
