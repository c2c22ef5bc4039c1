"""The accounts of one partition that a fold keeps from one transaction to the next. Sends nothing, decides nothing.

The invariant, which holds as long as nobody else writes the partition (the claim sees to that):

- an account is in `accounts` or in the fast path's store, never in both;
- one that is in neither stands in the tables as it is, or isn't there at all;
- state that isn't written yet is kept until `take_state` hands it out, and nothing is trimmed before.

After a transaction that failed, what a cache holds isn't what is stored: drop it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from creditfold.ledger import Batch, Command, Known
from creditfold.ledger.account import Account
from creditfold.ledger.rows import references
from creditfold.processors.fold import fast
from creditfold.processors.fold.chunk import Read, keys
from creditfold.projections.store.account_loader import account_with
from creditfold.projections.store.results import ChunkResult
from creditfold.projections.store.rows import LastLines, Rows, note_last_lines, state_rows
from creditfold.projections.store.transaction import Progress

if TYPE_CHECKING:
    from creditfold.processors.fold import plain
    from creditfold.processors.fold.id_filter import IdFilter

#: Lots kept between two transactions.
KEPT_LOTS = 500_000

#: How many accounts of the fast path take as much memory as one of Python's.
FAST_PER_ACCOUNT = 3


class AccountCache:
    """The cached accounts of one partition, and which command ids it may have seen. Of bounded size.

    Args:
        most: accounts to keep from one transaction to the next.
        coming: records of the next one, each of which may bring another account.
        lots: to keep, since a few accounts can have many.
        is_fresh: whether nothing of the partition was folded before, so that what isn't cached isn't stored.
        ids: command ids that were seen. Others aren't looked up; one that was decided nevertheless makes writing raise
            KnownCommandError. None to look up all.
    """

    def __init__(
        self,
        most: int = 0,
        coming: int = 0,
        lots: int = KEPT_LOTS,
        *,
        is_fresh: bool = False,
        ids: "plain.Filter | IdFilter | None" = None,
    ) -> None:
        #: Accounts on Python's path. The fold changes them here.
        self.accounts: dict[str, Account] = {}
        #: Accounts on the fast path, which have nothing but lots that can be spent; None where the core is Python's.
        self.store = fast.new_store()
        #: Whether ids that weren't seen are taken for new.
        self.trusts = ids is not None
        #: Where the partition stands behind what was folded last; None if nothing was.
        self.progress: Progress | None = None
        self._ids = ids
        self._most = most - coming
        self._most_lots = lots
        self._knows_all = is_fresh
        # How many lots are cached, at most: counting them takes longer than a small chunk does.
        self._lots = 0
        # State that isn't written yet: the last line about each (account, asset), and the accounts.
        self._last: LastLines = {}
        self._touched: dict[str, Account] = {}
        #: Records whose accounts are loaded at a time, None for all there are.
        self.at_once: int | None = None

    # Loading

    def cached(self, wanted: Iterable[tuple[str, str]]) -> dict[str, Account]:
        """The accounts of these (account, command id) keys that are on Python's path."""
        accounts = self.accounts
        return {name: accounts[name] for name, _ in wanted if name in accounts}

    def missing(self, names: Iterable[str]) -> list[str]:
        """The accounts among these that may be stored and aren't on Python's path."""
        accounts = self.accounts
        return [] if self._knows_all else [name for name in names if name not in accounts]

    def plan(self, reads: list[Read], clock_ms: int) -> "plain.Plan | None":
        """How reads are to be folded on the fast path, None if all go Python's.

        It must be ended, whatever becomes of it.
        """
        if self.store is None:
            return None
        plan = fast.new_plan(self.store, reads, self._ids, clock_ms, trusts=self.trusts)
        self._take_out(plan.leaving)
        return plan

    def add_loaded(
        self, loaded: Mapping[str, Account], came: Mapping[str, int], wanted: Iterable[tuple[str, str]]
    ) -> None:
        """Cache those of loaded accounts that are of these keys; `came` has how many lots were loaded with each."""
        for name in {name for name, _ in wanted}:
            if name in loaded:
                self.accounts[name] = loaded[name]
                self._lots += came.get(name, 0)

    def ids_to_look_up(
        self,
        coming: Sequence[Command],
        wanted: list[tuple[str, str]],
        plan: "plain.Plan | None",
        accounts: Mapping[str, Account],
        balances: Mapping[str, tuple[Any, ...]],
    ) -> list[tuple[str, str]]:
        """The keys of commands that may have been decided before.

        Args:
            coming: the commands that go Python's way.
            wanted: their keys.
            plan: for the others.
            accounts: by name, those that were loaded or are cached on Python's path. One that is nowhere was never
                decided about, and knows no ids.
            balances: by name, what was loaded for the fast path.
        """
        found = [key for key in self.doubtful(coming, wanted) if key[0] in accounts]
        if plan is not None:
            found += [
                key for key in plan.doubtful if key[0] in accounts or key[0] in balances or self._is_cached(key[0])
            ]
        return found

    def doubtful(self, coming: Sequence[Command], wanted: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Add the keys of commands to the filter; returns those that it may have seen before."""
        if self._ids is None:
            return wanted
        add = self._ids.add
        found = [key for key in wanted if add(*key)]
        if not self.trusts:
            return wanted
        # A batch that is refused leaves no lines of its steps, and so nothing that writing would trip over.
        return found + keys(command for command in coming if type(command) is Batch)

    def _is_cached(self, name: str) -> bool:
        """Whether an account is cached, and not only met for the first time."""
        return name in self.accounts or (self.store is not None and self.store.has(name))

    def settle(
        self,
        plan: "plain.Plan",
        loaded: Mapping[str, Account],
        known: Known,
        balances: dict[str, tuple[Any, ...]],
    ) -> None:
        """Have a plan take over what was loaded for it; an account that can't go the fast path stays on Python's."""
        accounts = self.accounts
        # Those that turn out to fit the fast path are taken out again.
        for name in plan.missing:
            if name in loaded and name not in accounts:
                accounts[name] = loaded[name]
                self._lots += len(loaded[name].lots)

        def parts(
            name: str, account: Account, asset: str, clock_ms: int
        ) -> tuple[int, int, list[tuple[Any, ...]]] | None:
            found = None if name in self._touched else fast.parts_of(account, asset, clock_ms)
            if found is not None:
                del accounts[name]
                self._lots -= len(account.lots)
            return found

        def to_python(name: str) -> None:
            accounts[name] = account_with(balances[name])
            self._lots += len(accounts[name].lots)

        there = {name: accounts[name] for name in plan.missing if name in accounts}
        self._take_out(plan.settle(there, known, parts, balances, to_python))

    def to_python(self, names: Iterable[str]) -> None:
        """Have accounts go Python's way, those of these that are on the fast path."""
        if self.store is not None:
            found = [self.store.find(name) for name in names]
            self._take_out([light for light in found if light is not None])

    def _take_out(self, lights: "Iterable[plain.Light]") -> None:
        for light in lights:
            if self.store is None:
                raise RuntimeError("there are no accounts on the fast path without a store")
            moved = fast.account_of(self.store, light)
            name, account = moved.name, moved.account
            self.accounts[name] = account
            self._lots += len(account.lots)
            if moved.place is not None:
                self._last[name, moved.asset] = moved.place, account.version, account.balance(moved.asset)
                self._touched[name] = account

    # Folding

    def take(self, result: ChunkResult, order: Iterable[int]) -> None:
        """Cache the accounts of a chunk, as it left them; `order` as of `mark_unsaved`."""
        self.accounts |= result.accounts
        self.mark_unsaved(result, order)

    def mark_unsaved(self, result: ChunkResult, order: Iterable[int]) -> None:
        """Take over the state that a chunk left of its accounts, cached or not, as not written yet.

        Args:
            result: what the chunk came to.
            order: where its journal's lines stand, in the order in which their accounts' rows are to be sent.
        """
        note_last_lines(result, order, self._last, self._touched)
        # Time may have changed what no line shows, such as the end of a lot that is wholly held.
        self._touched |= result.accounts
        # Each fact or move that was made may be a lot more.
        self._lots += result.made

    def fast_totals(self) -> Mapping[str, tuple[int, int]]:
        """By asset what the fast path issued and spent since this was asked last."""
        found: Mapping[str, tuple[int, int]] = {} if self.store is None else self.store.totals()
        return found

    def drop_untouched(self, done: Sequence[Command]) -> None:
        """Forget the past of accounts that was loaded for commands that came to nothing, such as duplicates."""
        for name in {name for pairs in references(done) for name, _ in pairs}:
            account = self.accounts.get(name)
            if account is not None and not account.changed:
                account.forget()

    # Writing

    @property
    def unsaved(self) -> int:
        """Of how many accounts the state is left to be written."""
        return len(self._touched) + (0 if self.store is None else int(self.store.unsaved))

    def take_state(self, partition: int) -> Rows:
        """The rows of the state that is left to be written; it counts as written from here on."""
        cells = self.store.rows(partition) if self.store is not None and self.store.unsaved else ()
        last, touched = self._last, self._touched
        self._last, self._touched = {}, {}
        return state_rows(last, touched, cells, partition)

    # Size

    def resize(self, most: int, lots: int) -> None:
        """Keep at most `most` accounts and `lots` lots from the next `trim` on."""
        self._most, self._most_lots = most, lots

    def trim(self) -> None:
        """Drop the accounts in excess, those that were met first. Only between transactions: all must be written."""
        excess = len(self.accounts) - self._most
        if self.store is not None:
            # Each kind has half of the room, and what the other doesn't need.
            half = self._most // 2
            room = max(self._most - len(self.accounts), half) * FAST_PER_ACCOUNT
            excess = len(self.accounts) - max(self._most - -(-len(self.store) // FAST_PER_ACCOUNT), half)
            if self.store.trim(room, self._most_lots * FAST_PER_ACCOUNT):
                self._knows_all = False
        if self._lots > self._most_lots:
            # The upper bound is too high; this is the number.
            self._lots = sum([len(account.lots) for account in self.accounts.values()])
        # Somewhat more than must be, or the next chunk would have them counted again.
        enough = self._most_lots if self._lots <= self._most_lots else self._most_lots * 9 // 10
        gone: list[str] = []
        for name, account in self.accounts.items():
            if len(gone) >= excess and self._lots <= enough:
                break
            self._lots -= len(account.lots)
            gone.append(name)
        if gone:
            self._knows_all = False
        for name in gone:
            del self.accounts[name]
