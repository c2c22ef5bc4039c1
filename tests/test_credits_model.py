"""The rules of credits against a model that moves single coins: the same commands, the same end of each of them.

Days are the only instants, so that windows, deadlines and schedules often meet. CREDITFOLD_EXAMPLES asks for more.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from credits_model import DAY_MS, PLACES, Answer, Model, Said
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from creditfold.ledger.credit_commands import (
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
from creditfold.ledger.credit_facts import Accepted, Bucket, Fact, FactKind, Outcome, Rejected
from creditfold.ledger.credits import Book, derived
from creditfold.ledger.folding import Verdict

EXAMPLES = int(os.environ.get("CREDITFOLD_EXAMPLES", "60"))
ACCOUNTS = ("ann", "bob", "cyd")
ASSETS = ("gold", "mana")
USES = ("", "ads", "proposals")
# A leap year's January, one day before a schedule can begin on the 31st.
START_MS = 1_706_572_800_000
NOBODY = "never-used"

T = TypeVar("T")
accounts = st.sampled_from(ACCOUNTS)
# Most commands meet in one asset, or they would hardly ever meet.
assets = st.sampled_from((*ASSETS[:1] * 3, *ASSETS))
uses = st.sampled_from(USES)
amounts = st.integers(1, 8)
parts = st.integers(0, 4)
jumps = st.sampled_from((0, 1, 1, 1, 2, 3, 30))


class Pen:
    """Writes commands of one account: fresh ids, and names of what was asked for before, or of nothing."""

    def __init__(self, data: st.DataObject, account: str, now: int, asked: Sequence[Command], number: int) -> None:
        self.draw: Callable[[st.SearchStrategy[Any]], Any] = data.draw
        self.account = account
        self.now = now
        self.asked = list(asked)
        self.number = number

    def id(self) -> str:
        """An id that nobody used."""
        self.number += 1
        return f"c{self.number}"

    def name(self, *kinds: type) -> str:
        """What an earlier command of some kinds is called; now and then that of another kind, or of none."""
        names = [command.command_id for command in self.asked if isinstance(command, kinds)]
        others = [command.command_id for command in self.asked[-2:]]
        return self.draw(st.sampled_from((*names[::-1] * 4, *others, NOBODY)))

    def day(self, first: int, last: int) -> int:
        """An instant, so many days from now."""
        return self.now + self.draw(st.integers(first, last)) * DAY_MS

    def day_or_none(self, first: int, last: int) -> int:
        """The same, or 0."""
        return self.draw(st.sampled_from((0, 1))) and self.day(first, last)

    def terms(self) -> Terms:
        """Terms of a lot, its window not empty."""
        begins = self.day_or_none(-4, 3)
        length = self.draw(st.integers(0, 6))
        # Without a beginning the end may even lie in the past.
        ends = length and (begins or self.now - 2 * DAY_MS) + length * DAY_MS
        return Terms(
            self.draw(st.sampled_from(LotClass)),
            self.draw(st.sampled_from((50, 50, 10))),
            begins,
            ends,
            self.draw(uses),
        )

    def grant(self) -> Step:
        """Give."""
        return Grant(self.id(), self.account, self.draw(assets), self.draw(amounts), self.terms())

    def spend(self) -> Step:
        """Take."""
        at = self.draw(st.sampled_from((0, 0, 1))) and self.day(-4, 1)
        partial = self.draw(st.booleans())
        return Spend(self.id(), self.account, self.draw(assets), self.draw(amounts), self.draw(uses), partial, at)

    def hold(self) -> Step:
        """Set aside."""
        deadline = self.day(0, 5)
        return Hold(self.id(), self.account, self.draw(assets), self.draw(amounts), deadline, self.draw(uses))

    def capture(self) -> Step:
        """Spend what was set aside."""
        return Capture(self.id(), self.account, self.name(Hold), self.draw(parts), self.draw(st.booleans()))

    def release(self) -> Step:
        """Let go of it."""
        return Release(self.id(), self.account, self.name(Hold), self.draw(parts))

    def refund(self) -> Step:
        """Give back."""
        ends = self.day_or_none(-1, 5)
        reissue = self.draw(st.booleans())
        # An end without a new lot that has it means nothing.
        spend = self.name(Spend, Capture)
        return Refund(self.id(), self.account, spend, self.draw(parts), reissue, ends if reissue else 0)

    def void(self) -> Step:
        """Take back what was given."""
        grant = self.name(Grant, Refund, CreateSchedule, ReceiveTransfer)
        return VoidGrant(self.id(), self.account, grant, self.draw(st.sampled_from((0, 0, 1, 2))))

    def step(self) -> Step:
        """Any of these; later ones may name it."""
        kinds = (self.grant, self.spend, self.hold, self.capture, self.release, self.refund, self.void)
        step: Step = self.draw(st.sampled_from(kinds))()
        self.asked.append(step)
        return step

    def batch(self) -> Command:
        """Up to five of these at once."""
        command_id = self.id()
        return Batch(command_id, self.account, tuple(self.step() for _ in range(self.draw(st.integers(1, 5)))))

    def transfer(self) -> Command:
        """Send."""
        to = self.draw(st.sampled_from([name for name in ACCOUNTS if name != self.account]))
        return Transfer(self.id(), self.account, self.draw(assets), self.draw(amounts), to, self.draw(uses))

    def limit(self) -> Command:
        """Allow debt."""
        return SetCreditLimit(self.id(), self.account, self.draw(assets), self.draw(st.sampled_from((9, 4, 0))))

    def schedule(self) -> Command:
        """Give again and again."""
        period, every = self.draw(st.sampled_from(((Period.DAYS, 1), (Period.DAYS, 2), (Period.MONTHS, 1))))
        first_at = self.day(-3, 3)
        until = self.draw(st.sampled_from((0, 1, 4, 40)))
        return CreateSchedule(
            self.id(),
            self.account,
            self.draw(assets),
            self.draw(st.integers(1, 4)),
            period,
            first_at,
            every,
            until and first_at + until * DAY_MS,
            self.draw(st.sampled_from((0, 3, 6))),
            self.draw(st.sampled_from(LotClass)),
            self.draw(st.sampled_from((50, 10))),
            self.draw(st.sampled_from((1, 2, 5))) * DAY_MS,
            self.draw(uses),
        )

    def cancel(self) -> Command:
        """No longer give."""
        return CancelSchedule(self.id(), self.account, self.name(CreateSchedule))

    def freeze(self) -> Command:
        """Freeze."""
        return Freeze(self.id(), self.account, self.draw(st.sampled_from(FreezeScope)))

    def unfreeze(self) -> Command:
        """End a freeze."""
        return Unfreeze(self.id(), self.account)

    def close(self) -> Command:
        """Close for ever."""
        return Close(self.id(), self.account, self.draw(st.booleans()))


def said(outcome: Outcome | Verdict) -> Answer:
    """What became of a command, without the facts."""
    if isinstance(outcome, Rejected):
        return Said(outcome.reason, outcome.step)
    return Said() if isinstance(outcome, Accepted) else outcome


def buckets(book: Book, account: str) -> dict[tuple[str, int], dict[str, int]]:
    """How much of each lot is where, by the engine."""
    if account not in book.accounts:
        return {}
    lots = book.accounts[account].lots
    return {tuple(key): {name: getattr(lot, name) for name in ("amount", *PLACES)} for key, lot in lots.items()}


def picture(book: Book) -> dict[str, Any]:
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
        self.book, self.model = Book(), Model()
        self.number = 0
        # What the log holds: clocks and commands, in order; for the same fold with more ticks.
        self.log: list[int | Command] = []
        self.asked: dict[str, list[Command]] = {account: [] for account in ACCOUNTS}
        self.on_the_way: list[Command] = []
        self.facts: dict[str, list[Fact]] = {account: [] for account in ACCOUNTS}
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
        outcome, answer = self.book.apply(command), self.model.apply(command)
        self.log.append(command)
        assert said(outcome) == answer, (command, said(outcome), answer)
        if isinstance(outcome, Verdict):
            assert picture(self.book) == before, command
            return
        self.asked[account] += [command, *(command.steps if isinstance(command, Batch) else ())]
        self.facts[account] += (*outcome.settled, *(outcome.facts if isinstance(outcome, Accepted) else ()))
        follow = derived(command, outcome)
        assert follow == derived(command, outcome)
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

    def pen(self, data: st.DataObject, account: str) -> Pen:
        """Who writes commands of an account. Ids are fresh by counting on from a hundred more."""
        self.number += 100
        return Pen(data, account, self.book.clock_ms, self.asked[account], self.number)

    # What may happen.

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Something to spend for everybody, most often."""
        for account in ACCOUNTS:
            self.do(self.pen(data, account).grant())

    @rule(days=jumps)
    def wait(self, days: int) -> None:
        """Time goes on, and nobody looks."""
        self.advance(self.book.clock_ms + days * DAY_MS)

    @rule(days=jumps)
    def tick(self, days: int) -> None:
        """Time goes on, and a tick settles everybody."""
        self.advance(self.book.clock_ms + days * DAY_MS)
        for account, facts in self.book.tick().items():
            self.facts[account] += facts
        self.model.tick()

    @rule(data=st.data(), account=accounts)
    def grant(self, data: st.DataObject, account: str) -> None:
        """A grant."""
        self.do(self.pen(data, account).grant())

    @rule(data=st.data(), account=accounts)
    def spend(self, data: st.DataObject, account: str) -> None:
        """A spend."""
        self.do(self.pen(data, account).spend())

    @rule(data=st.data(), account=accounts)
    def spend_again(self, data: st.DataObject, account: str) -> None:
        """Another spend: much hangs on these."""
        self.do(self.pen(data, account).spend())

    @rule(data=st.data(), account=accounts)
    def hold(self, data: st.DataObject, account: str) -> None:
        """A hold."""
        self.do(self.pen(data, account).hold())

    @rule(data=st.data(), account=accounts)
    def capture(self, data: st.DataObject, account: str) -> None:
        """A capture."""
        self.do(self.pen(data, account).capture())

    @rule(data=st.data(), account=accounts)
    def release(self, data: st.DataObject, account: str) -> None:
        """A release."""
        self.do(self.pen(data, account).release())

    @rule(data=st.data(), account=accounts)
    def refund(self, data: st.DataObject, account: str) -> None:
        """A refund."""
        self.do(self.pen(data, account).refund())

    @rule(data=st.data(), account=accounts)
    def void(self, data: st.DataObject, account: str) -> None:
        """A void."""
        self.do(self.pen(data, account).void())

    @rule(data=st.data(), account=accounts)
    def batch(self, data: st.DataObject, account: str) -> None:
        """A batch."""
        self.do(self.pen(data, account).batch())

    @rule(data=st.data(), account=accounts)
    def transfer(self, data: st.DataObject, account: str) -> None:
        """A transfer leaves."""
        self.do(self.pen(data, account).transfer())

    @precondition(lambda self: self.on_the_way)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """One of the commands that others led to comes in, some time later, in any order."""
        self.do(self.on_the_way.pop(data.draw(st.integers(0, len(self.on_the_way) - 1))))

    @rule(data=st.data(), account=accounts)
    def limit(self, data: st.DataObject, account: str) -> None:
        """A credit limit."""
        self.do(self.pen(data, account).limit())

    @rule(data=st.data(), account=accounts)
    def schedule(self, data: st.DataObject, account: str) -> None:
        """A schedule."""
        self.do(self.pen(data, account).schedule())

    @rule(data=st.data(), account=accounts)
    def govern(self, data: st.DataObject, account: str) -> None:
        """What is seldom asked for. Freezes end sooner than they come, or nothing else would happen."""
        pen = self.pen(data, account)
        self.do(data.draw(st.sampled_from((pen.unfreeze, pen.freeze, pen.unfreeze, pen.cancel, pen.close)))())

    @rule(data=st.data(), account=accounts)
    def repeat(self, data: st.DataObject, account: str) -> None:
        """A command that came before comes again: itself, or another one under its id."""
        if not self.asked[account]:
            return
        earlier = data.draw(st.sampled_from(self.asked[account]))
        if data.draw(st.booleans()):
            self.do(earlier)
        else:
            self.do(self.pen(data, account).spend()._replace(command_id=earlier.command_id))

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
    def facts_tell_the_balances(self) -> None:
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
    def spends_nothing_out_of_its_window(self) -> None:
        """A coin that was spent, set aside or sent was in a lot that was active and hadn't expired."""
        for account in ACCOUNTS:
            book = self.book.accounts.get(account)
            # Captures are left out: a hold may outlive its lots.
            kinds = (FactKind.SPENT, FactKind.HELD, FactKind.SENT)
            for fact in self.facts[account]:
                for move in fact.moves if fact.kind in kinds else ():
                    if book is None or move.lot is None:
                        continue
                    terms = book.lots[move.lot].terms
                    assert terms.effective_at <= fact.at_ms, fact
                    assert not terms.expires_at or fact.at_ms < terms.expires_at, fact

    # In the end.

    def teardown(self) -> None:
        """The same log with a tick on each day comes to the same; then all that was spent is given back."""
        for account, facts in self.book.tick().items():
            self.facts[account] += facts
        self.model.tick()
        self.agrees_with_the_model()
        self.fold_again_with_more_ticks()
        self.give_everything_back()

    def fold_again_with_more_ticks(self) -> None:
        """Ticks only let things become visible sooner."""
        book = Book()
        facts: dict[str, list[Fact]] = {account: [] for account in ACCOUNTS}

        def tick() -> None:
            for account, more in book.tick().items():
                facts[account] += more

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
        assert facts == self.facts

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
        self.facts_tell_the_balances()


TestCredits = Credits.TestCase
TestCredits.settings = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=EXAMPLES,
    stateful_step_count=40,
    # Commands that name earlier ones draw much.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
