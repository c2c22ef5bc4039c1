"""What is kept of the ledger between two transactions, and what one transaction folds. Knows neither Kafka nor Faust.

Everything that the next commands can touch is loaded before they are folded; a fold that remembers accounts from one
transaction to the next loads less. It may, as long as nobody else writes the partition, which the claim sees to.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import AsyncConnection, Error
from psycopg.rows import TupleRow

from creditfold.ledger import Batch, Command, CreditBook, CreditEntry, Known, Tick
from creditfold.ledger.account import Account
from creditfold.ledger.rows import references
from creditfold.log.bookmark import LastRecord, last_record
from creditfold.processors.fold import fast as quick
from creditfold.processors.fold.chunk import Read, commands, controls, fold, held, keys, weight
from creditfold.projections.results import ChunkResult
from creditfold.projections.store.load import TooManyLotsError, account_with
from creditfold.projections.store.transaction import ChunkTransaction, Progress, write_together

if TYPE_CHECKING:
    from creditfold.processors.fold import plain

#: Lots kept in memory between two transactions.
KEPT_LOTS = 500_000

#: Accounts that a tick settles at a time.
TICK_ACCOUNTS = 2_000

#: Lots of several accounts that are loaded at a time.
MOST_LOTS = 100_000

#: How much a transaction may make before it is committed and another one goes on, in facts and moves of lots. One
#: record can make tens of thousands, such as a schedule that begins decades ago, and a chunk has thousands of records.
MOST_MADE = 30_000


#: So many light accounts take as much memory as another one.
LIGHT_ONES = 3


class Seen:
    """Which command ids were seen, in a byte for each: it may take a new one for seen, not a seen one for new.

    Args:
        size: its bytes.
        most: how many ids before the last are not forgotten, which are at most twice as many; None to forget none.
    """

    def __init__(self, size: int, most: int | None = None) -> None:
        #: What the compiled core notes them in.
        self.filter = quick.new_filter(size, most)
        # Each byte tells in which age its id was seen last, so that what is old needn't be wiped out.
        self._ages = bytearray(size if self.filter is None else 0)
        self._age = self._before = 1
        self._most = most
        self._noted = 0

    def note(self, account: str, command_id: str) -> bool:
        """Note an id as seen; tell whether it may have been seen before."""
        if self.filter is not None:
            return self.filter.note(account, command_id)
        slot = hash((account, command_id)) % len(self._ages)
        found = self._ages[slot] in (self._age, self._before)
        self._ages[slot] = self._age
        if self._most is not None:
            self._noted += 1
            if self._noted >= self._most:
                self._before, self._age, self._noted = self._age, self._age % 255 + 1, 0
        return found


class Memory:
    """What a fold of one partition remembers: accounts, and which command ids it may have seen. Of bounded size.

    Args:
        most: accounts to keep from one transaction to the next.
        coming: records of the next one, each of which may bring another account.
        lots: to keep, since a few accounts can have many.
        is_fresh: whether nothing of the partition was folded before, so that what isn't remembered isn't there.
        seen: command ids that were seen. Others aren't looked up; one that was decided nevertheless makes writing raise
            KnownCommandError. None to look up all.
    """

    def __init__(
        self, most: int = 0, coming: int = 0, lots: int = KEPT_LOTS, *, is_fresh: bool = False, seen: Seen | None = None
    ) -> None:
        #: The fold changes them here; after one that fails, the memory is worth nothing.
        self.credited: dict[str, Account] = {}
        #: Others, which have nothing but lots that can be spent, where the core is compiled. None is in both.
        self.light = quick.new_store()
        #: Whether ids that weren't seen are taken for new.
        self.trusts = seen is not None
        #: Where the partition stands behind what was folded last; None if nothing was.
        self.progress: Progress | None = None
        self._seen = seen
        self._most = most - coming
        self._most_lots = lots
        self._knows_all = is_fresh
        # How many lots are remembered, at most: counting them takes longer than a small chunk does.
        self._lots = 0
        #: Records whose accounts are loaded at a time, None for all there are.
        self.at_once: int | None = None

    def keep(self, most: int, lots: int) -> None:
        """Keep so many accounts and lots from now on."""
        self._most, self._most_lots = most, lots

    def remembered(self, wanted: Iterable[tuple[str, str]]) -> dict[str, Account]:
        """The accounts of these (account, command id) keys that are remembered."""
        credited = self.credited
        return {account: credited[account] for account, _ in wanted if account in credited}

    def remembers(self, name: str) -> bool:
        """Whether an account is remembered, and not only met for the first time."""
        return name in self.credited or (self.light is not None and self.light.has(name))

    def missing(self, wanted: Iterable[tuple[str, str]]) -> list[str]:
        """The accounts of these keys that may be stored and aren't remembered."""
        credited = self.credited
        return [] if self._knows_all else [account for account, _ in wanted if account not in credited]

    def hold(self, loaded: Mapping[str, Account], came: Mapping[str, int], wanted: Iterable[tuple[str, str]]) -> None:
        """Remember those of loaded accounts that are of these keys; `came` tells how many lots came in with each."""
        for account in {account for account, _ in wanted}:
            if account in loaded:
                self.credited[account] = loaded[account]
                self._lots += came.get(account, 0)

    def plan(self, transaction: ChunkTransaction, reads: list[Read], clock_ms: int) -> "plain.Plan | None":
        """How reads are to be folded the quick way, None if they all go Python's.

        It must be ended, whatever becomes of it.
        """
        if self.light is None:
            return None
        seen = None if self._seen is None else self._seen.filter
        plan = quick.new_plan(self.light, reads, seen, clock_ms, trusts=self.trusts)
        self._take_out(transaction, plan.leaving)
        return plan

    def wanted_by(self, plan: "plain.Plan") -> list[str]:
        """The accounts that a plan needs, may be stored and aren't remembered."""
        credited = self.credited
        return [] if self._knows_all else [name for name in plan.missing if name not in credited]

    def settle(
        self,
        transaction: ChunkTransaction,
        plan: "plain.Plan",
        loaded: Mapping[str, Account],
        known: Known,
        balances: dict[str, tuple[Any, ...]],
    ) -> None:
        """Have a plan take over what was loaded for it; what can't go the quick way is remembered as it is."""
        credited = self.credited
        # Those that turn out to be light are taken out again.
        for name in plan.missing:
            if name in loaded and name not in credited:
                credited[name] = loaded[name]
                self._lots += len(loaded[name].lots)

        def parts(
            name: str, account: Account, asset: str, clock_ms: int
        ) -> tuple[int, int, list[tuple[Any, ...]]] | None:
            found = None if transaction.has_unsaved(name) else quick.parts_of(account, asset, clock_ms)
            if found is not None:
                del credited[name]
                self._lots -= len(account.lots)
            return found

        def to_python(name: str) -> None:
            credited[name] = account_with(balances[name])
            self._lots += len(credited[name].lots)

        there = {name: credited[name] for name in plan.missing if name in credited}
        self._take_out(transaction, plan.settle(there, known, parts, balances, to_python))

    def to_python(self, transaction: ChunkTransaction, names: Iterable[str]) -> None:
        """Have accounts go Python's way, those of these that are light."""
        if self.light is not None:
            found = [self.light.find(name) for name in names]
            self._take_out(transaction, [light for light in found if light is not None])

    def _take_out(self, transaction: ChunkTransaction, lights: "Iterable[plain.Light]") -> None:
        for light in lights:
            if self.light is None:
                raise RuntimeError("there are no light accounts without a store")
            moved = quick.account_of(self.light, light)
            self.credited[moved.name] = moved.account
            self._lots += len(moved.account.lots)
            if moved.place is not None:
                transaction.adopt(moved.name, moved.account, moved.place, quick.last_line(moved))

    def doubtful(self, coming: Sequence[Command], wanted: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The keys to look up: those that may have been decided before."""
        if self._seen is None:
            return wanted
        note = self._seen.note
        found = [key for key in wanted if note(*key)]
        if not self.trusts:
            return wanted
        # One that is refused leaves no lines of its steps, and so nothing that writing would trip over.
        return found + list(keys(command for command in coming if command.__class__ is Batch))

    def trim(self) -> None:
        """Forget the accounts in excess, those that were met first."""
        excess = len(self.credited) - self._most
        if self.light is not None:
            # Each kind has half of the room, and what the other doesn't need.
            half = self._most // 2
            room = max(self._most - len(self.credited), half) * LIGHT_ONES
            excess = len(self.credited) - max(self._most - -(-len(self.light) // LIGHT_ONES), half)
            if self.light.trim(room, self._most_lots * LIGHT_ONES):
                self._knows_all = False
        if self._lots > self._most_lots:
            # It was too much at most; how much is it?
            self._lots = sum([len(account.lots) for account in self.credited.values()])
        # Somewhat more than must be, or the next chunk would have them counted again.
        enough = self._most_lots if self._lots <= self._most_lots else self._most_lots * 9 // 10
        gone: list[str] = []
        for name, account in self.credited.items():
            if len(gone) >= excess and self._lots <= enough:
                break
            self._lots -= len(account.lots)
            gone.append(name)
        if gone:
            self._knows_all = False
        for name in gone:
            del self.credited[name]

    def fold(self, loaded: "Loaded", book: CreditBook, partition: int, most: float) -> ChunkResult:
        """Fold what was loaded into a book of these accounts, and remember what became of them."""
        part, plan = loaded.part, loaded.plan
        if plan is None:
            result = fold(part.reads, book, part.end, most)
        else:
            reads = quick.without_slow(plan, part.reads)
            result = quick.fold_quickly(plan, reads, book, partition=partition, end=part.end, most=most)
            result = result._replace(light=self.light)
            plan.end()
        self.take(result)
        return result._replace(last=last_before(part.reads, result.next_offset))

    def take(self, result: ChunkResult) -> None:
        """Remember the accounts of a chunk."""
        self.credited |= result.accounts
        self.grow(result.made)

    def grow(self, made: int) -> None:
        """Note that remembered accounts may have as many lots more as was made, in facts and moves."""
        self._lots += made

    def tidy(self, done: Sequence[Command]) -> None:
        """Forget what was loaded for commands that came to nothing, such as duplicates."""
        named = {name for pairs in references(done) for name, _ in pairs}
        for name in named:
            account = self.credited.get(name)
            if account is not None and not account.changed:
                account.forget()


def last_before(reads: Sequence[Read], end: int) -> LastRecord | None:
    """The last record of reads before an offset, digested; None if there is none."""
    for record, _ in reversed(reads):
        if record.offset < end:
            return last_record(record.offset, record.timestamp, record.key, record.value)
    return None


class Wanted(NamedTuple):
    """Commands of a partition that go Python's way, and the plan for the others, with its transaction and memory."""

    transaction: ChunkTransaction
    coming: Sequence[Command]
    memory: Memory
    plan: "plain.Plan | None"


async def load_together(wants: Sequence[Wanted]) -> Known:
    """Load every account that folding commands of several partitions can touch, into their memories.

    What an account has in its past is asked for even where every account is remembered.

    Args:
        wants: of different partitions, on one connection. There must be some.

    Returns:
        The known ids.

    Raises TooManyLotsError.
    """
    wanted = [list(keys(want.coming)) for want in wants]
    accounts: dict[str, Account] = {}
    names: list[str] = []
    plain_names: list[str] = []
    for want, those in zip(wants, wanted, strict=True):
        accounts |= want.memory.remembered(those)
        names += want.memory.missing(those)
        if want.plan is not None:
            plain_names += want.memory.wanted_by(want.plan)
    first = wants[0].transaction
    came, balances = await first.credits.load(
        [want.transaction.partition for want in wants],
        accounts,
        names,
        [command for want in wants for command in want.coming],
        MOST_LOTS,
        plain_names=plain_names,
    )
    doubtful: list[tuple[str, str]] = []
    for want, those in zip(wants, wanted, strict=True):
        want.memory.hold(accounts, came, those)
        # An account that was never decided about knows no ids.
        doubtful += [key for key in want.memory.doubtful(want.coming, those) if key[0] in accounts]
        if want.plan is not None:
            doubtful += [
                key
                for key in want.plan.doubtful
                if key[0] in accounts or key[0] in balances or want.memory.remembers(key[0])
            ]
    known = await first.load_known(doubtful)
    for want in wants:
        if want.plan is not None:
            want.memory.settle(want.transaction, want.plan, accounts, known, balances)
    return known


class Share(NamedTuple):
    """What is folded of one of several partitions together: reads to before offset `end`, without control records.

    The transaction must know where the partition stands, which is before the reads. The memory is that of the fold up
    to there.
    """

    transaction: ChunkTransaction
    reads: list[Read]
    end: int
    memory: Memory


async def fold_together(connection: AsyncConnection[TupleRow], shares: Sequence[Share]) -> list[int]:
    """Fold little of several partitions in one transaction, with as few waits for PostgreSQL as can be.

    Gives the offset up to which each is folded: before the end where it makes very much.

    What is loaded is read before the transaction, and still is what it was in it: nobody writes it but who has claimed
    the partition, and the transaction fails if that isn't this worker any more.

    Args:
        connection: in no transaction, and in autocommit.
        shares: of different partitions of one generation. There must be some.

    Raises DisplacedError, TooManyLotsError, UnknownRulesError, KnownCommandError, or what PostgreSQL raises; then
    nothing is written of any, and the memories are worth nothing.
    """
    try:
        return await _fold_together(connection, shares)
    except BaseException:
        with suppress(Error):
            await connection.rollback()
            # psycopg believes in statements that the server was to prepare behind what failed. It forgets them all with
            # a transaction that is rolled back, which there needn't have been.
            async with connection.transaction(force_rollback=True):
                pass
        raise


async def _fold_together(connection: AsyncConnection[TupleRow], shares: Sequence[Share]) -> list[int]:
    wants = [
        Wanted(
            share.transaction,
            list(commands(share.reads)),
            share.memory,
            share.memory.plan(share.transaction, share.reads, share.transaction.progress.clock_ms),
        )
        for share in shares
    ]
    known = await load_together(wants)
    results: list[tuple[ChunkTransaction, ChunkResult]] = []
    made = 0
    for share, want in zip(shares, wants, strict=True):
        transaction, memory = share.transaction, share.memory
        book = _book(memory.credited, known, transaction.progress)
        loaded = Loaded(Part(share.reads, share.end), want.coming, known, want.plan)
        result = memory.fold(loaded, book, transaction.partition, MOST_MADE - made)
        made += result.made
        results.append((transaction, result))
    await write_together(results)
    for want in wants:
        want.memory.tidy(want.coming)
        want.memory.progress = want.transaction.progress
    return [result.next_offset for _, result in results]


class Part(NamedTuple):
    """Some of a chunk's reads, from one control record to the next. `end` is the offset behind them.

    A control record stands alone, a tick as `tick`. `is_cut` says that the rest is left for another transaction.
    """

    reads: list[Read]
    end: int
    tick: Tick | None = None
    is_cut: bool = False


class Loaded(NamedTuple):
    """A part with what the ledger knows for it: its commands that go Python's way, and the plan for the others."""

    part: Part
    coming: Sequence[Command]
    known: Known
    plan: "plain.Plan | None"


def parts(reads: list[Read], end: int) -> Iterator[Part]:
    """Cut a chunk before and behind each control record."""
    at = 0
    for number in controls(reads):
        read = reads[number]
        if number > at:
            yield Part(reads[at:number], read[0].offset)
        control = held(read)
        yield Part([read], read[0].offset + 1, control if isinstance(control, Tick) else None)
        at = number + 1
    if at < len(reads) or not reads or end > reads[-1][0].offset + 1:
        yield Part(reads[at:] if at else reads, end)


async def fold_chunk(
    transaction: ChunkTransaction,
    progress: Progress,
    reads: list[Read],
    end: int,
    memory: Memory,
    *,
    forced: int | None = None,
    save_state: bool = True,
) -> int:
    """Fold reads in a transaction that has locked the partition, and write what they come to.

    Gives the offset up to which they are folded: before the end where they make, or need, more than one transaction may
    hold in memory, or where other rules come into force. Commit, have the memory trimmed, and go on from there in
    another one.

    Args:
        transaction: of the partition.
        progress: where the partition stands.
        reads: everything from there to before offset `end`.
        end: the next offset.
        memory: what is remembered, and will be.
        forced: version of the rules that decides everything, if not the log's own.
        save_state: whether to write the accounts' state, and not leave it to the caller, who must do so before the
            transaction ends.

    Raises UnknownRulesError, or what PostgreSQL raises.
    """
    rules = forced or progress.rules
    if rules != quick.RULES or forced:
        reads = quick.slowly(reads)
    made = 0
    for part in parts(reads, end):
        if part.tick is not None:
            # What is due is looked for in the tables.
            await transaction.save_state()
            progress = await _settle_all(transaction, progress, part, memory, forced)
            continue
        loaded = await _load(transaction, part, memory, progress.clock_ms)
        book = _book(memory.credited, loaded.known, progress, forced)
        result = memory.fold(loaded, book, transaction.partition, MOST_MADE - made)
        progress = await transaction.write(result, save_state=save_state)
        memory.tidy(loaded.coming)
        made += result.made
        is_cut = loaded.part.is_cut or result.next_offset < loaded.part.end
        if made > MOST_MADE or is_cut or (progress.rules != rules and not forced):
            break
    memory.progress = progress
    return progress.next_offset


def _book(accounts: Mapping[str, Account], known: Known, progress: Progress, forced: int | None = None) -> CreditBook:
    """The book of accounts by which a partition goes on from where it stands."""
    rules = forced or progress.rules
    return CreditBook(accounts, known, progress.clock_ms, progress.minute, rules, forced=forced is not None)


async def _load(transaction: ChunkTransaction, part: Part, memory: Memory, clock_ms: int) -> Loaded:
    """Load what a part needs, or its beginning, if its accounts have too many lots for all of it."""
    while True:
        if memory.at_once is not None and memory.at_once < len(part.reads):
            behind = part.reads[memory.at_once][0].offset
            part = Part(part.reads[: memory.at_once], behind, is_cut=True)
        coming = list(commands(part.reads))
        plan = memory.plan(transaction, part.reads, clock_ms)
        try:
            known = await load_together([Wanted(transaction, coming, memory, plan)])
        except TooManyLotsError:
            if plan is not None:
                plan.end()
            # One account alone is loaded whatever it has.
            memory.at_once = max(1, len(part.reads) // 2)
            continue
        if memory.at_once is not None:
            memory.at_once = memory.at_once * 5 // 4 + 1 if part.is_cut else None
        return Loaded(part, coming, known, plan)


async def _settle_all(
    transaction: ChunkTransaction, progress: Progress, part: Part, memory: Memory, forced: int | None
) -> Progress:
    """Fold a tick: settle every account of the partition that has something due, some at a time."""
    record = part.reads[0][0]
    book = _book({}, {}, progress, forced)
    at_once = fold(part.reads, book, part.end)
    if at_once.ticks:
        async for names in transaction.credits.due(transaction.partition, book.clock_ms, TICK_ACCOUNTS):
            async for loaded in _pages(transaction, names, memory):
                page = _book(loaded, {}, progress._replace(clock_ms=book.clock_ms), forced)
                for entries in _lines(page, loaded, record.offset):
                    memory.grow(weight(entries))
                    lines = [(record.offset, entry) for entry in entries]
                    result = ChunkResult(record.offset, book.clock_ms, book.rules, lines, [], [], [], 0)
                    progress = await transaction.write(result._replace(minute=progress.minute, accounts=loaded))
    return await transaction.write(at_once._replace(last=last_before(part.reads, part.end)))


async def _pages(
    transaction: ChunkTransaction, names: Sequence[str], memory: Memory
) -> AsyncIterator[dict[str, Account]]:
    """Load accounts, so many at a time as haven't too many lots. Each page is in the order of the names."""
    at, size = 0, len(names)
    while at < len(names):
        some = names[at : at + size]
        memory.to_python(transaction, some)
        found = {name: memory.credited[name] for name in some if name in memory.credited}
        try:
            await transaction.credits.load([transaction.partition], found, some, [], MOST_LOTS)
        except TooManyLotsError:
            size = len(some) // 2
            continue
        yield {name: found[name] for name in some}
        at += size


def _lines(page: CreditBook, names: Iterable[str], offset: int) -> Iterator[list[CreditEntry]]:
    """Settle accounts one after the other; gives the lines whenever there are many, and at the end."""
    lines: list[CreditEntry] = []
    made = 0
    for name in names:
        settled = page.settle([name], offset)
        lines += settled
        made += weight(settled)
        if made > MOST_MADE:
            yield lines
            lines, made = [], 0
    yield lines
