"""Folds a chunk of one partition, or small chunks of several, in one transaction of PostgreSQL.

Owns the steps: load all that the next commands can touch, fold them, write. Worker and rebuild fold by these. Knows
neither Kafka nor Faust.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from psycopg import AsyncConnection, Error
from psycopg.rows import TupleRow

from creditfold.common.trace_context import is_sampled, traceparent_of
from creditfold.ledger import Command, CreditBook, CreditEntry, Known, Tick
from creditfold.ledger.account import Account
from creditfold.log.bookmark import LastRecord, last_record
from creditfold.processors.fold import fast
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.chunk import Read, commands, controls, fold, held, keys, weight
from creditfold.processors.fold.draft import by_account, make_draft
from creditfold.projections.store.account_loader import TooManyLotsError
from creditfold.projections.store.claim import Claim
from creditfold.projections.store.results import ChunkResult, TraceContext
from creditfold.projections.store.send import Draft
from creditfold.projections.store.transaction import ChunkTransaction, Progress, Write, write_together

if TYPE_CHECKING:
    from creditfold.processors.fold import plain

#: Accounts that a tick settles at a time.
TICK_ACCOUNTS = 2_000

#: Lots of several accounts that are loaded at a time.
MOST_LOTS = 100_000

#: How much a transaction may make before it is committed and another one goes on, in facts and moves of lots. One
#: record can make tens of thousands, such as a schedule that begins decades ago, and a chunk has thousands of records.
MOST_MADE = 30_000


@asynccontextmanager
async def chunk_transaction(
    connection: AsyncConnection[TupleRow], partition: int, claim: Claim, cache: AccountCache
) -> AsyncIterator[ChunkTransaction]:
    """A transaction that has locked a partition; at its end the state is written that the cache has unsaved.

    Args:
        connection: in no transaction.
        partition: of the command topic.
        claim: of the partition.
        cache: what `fold_chunk` folds into meanwhile. Drop it if the block or the commit raises.

    Raises FencedError.
    """
    async with connection.transaction():
        transaction = ChunkTransaction(connection, partition, claim)
        await transaction.lock()
        yield transaction
        await _save_state(transaction, cache)


async def _save_state(transaction: ChunkTransaction, cache: AccountCache) -> None:
    await transaction.save_state(cache.take_state(transaction.partition))


# A chunk of one partition


class Part(NamedTuple):
    """Some of a chunk's reads, from one control record to the next. `end` is the offset behind them.

    A control record stands alone, a tick as `tick`. `is_cut` says that the rest is left for another transaction.
    """

    reads: list[Read]
    end: int
    tick: Tick | None = None
    is_cut: bool = False


class LoadRequest(NamedTuple):
    """Commands of a partition that go Python's way, and the plan for the others, with its transaction and cache."""

    transaction: ChunkTransaction
    coming: Sequence[Command]
    cache: AccountCache
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
    transaction: ChunkTransaction, reads: list[Read], end: int, cache: AccountCache, *, forced: int | None = None
) -> int:
    """Fold reads in a partition's `chunk_transaction`, and write what they come to but for the accounts' state.

    Args:
        transaction: of the partition.
        reads: all records from where it stands to before offset `end`.
        end: the next offset.
        cache: the partition's. Trim it once the transaction is committed.
        forced: version of the rules that decides everything, if not the log's own.

    Returns the offset up to which they are folded: before the end where they make, or need, more than one transaction
    may hold in memory, or where other rules come into force. Go on from there in another transaction.

    Raises UnknownRulesError, KnownCommandError, or what PostgreSQL raises.
    """
    rules = forced or transaction.progress.rules
    if rules != fast.RULES or forced:
        reads = fast.decoded(reads)
    made = 0
    for part in parts(reads, end):
        if part.tick is not None:
            await _settle_all(transaction, part, cache, forced)
            continue
        some, request, known = await _load(transaction, part, cache)
        draft = fold_part(some, request, known, MOST_MADE - made, forced)
        await transaction.write(draft)
        cache.drop_untouched(request.coming)
        made += draft.result.made
        is_cut = some.is_cut or draft.result.next_offset < some.end
        if made > MOST_MADE or is_cut or (transaction.progress.rules != rules and not forced):
            break
    cache.progress = transaction.progress
    return transaction.progress.next_offset


def _book(accounts: Mapping[str, Account], known: Known, progress: Progress, forced: int | None = None) -> CreditBook:
    """The book of accounts by which a partition goes on from where it stands."""
    rules = forced or progress.rules
    return CreditBook(accounts, known, progress.clock_ms, progress.minute, rules, forced=forced is not None)


def fold_part(part: Part, request: LoadRequest, known: Known, most: float, forced: int | None = None) -> Draft:
    """Fold what was loaded, and have the cache take the accounts. Nothing is written.

    Args:
        part: what to fold.
        request: what was loaded for it, in the transaction that knows where the partition stands.
        known: the ids that are known.
        most: stop behind the record with which what was made weighs more.
        forced: version of the rules that decides everything, if not the log's own.
    """
    transaction, cache, plan, lines = request.transaction, request.cache, request.plan, None
    partition, book = transaction.partition, _book(cache.accounts, known, transaction.progress, forced)
    if plan is None:
        result = fold(part.reads, book, part.end, most, transaction.searchable)
    else:
        reads = fast.decoded_by(plan, part.reads)
        fast_part = fast.FastPart(reads, partition, part.end, transaction.searchable)
        result, lines = fast.fold(plan, fast_part, book, most)
        plan.end()
    order = by_account(result)
    cache.take(result, order)
    end = result.next_offset
    result = result._replace(last=last_before(part.reads, end), traces=contexts_before(part.reads, end))
    before, sums = transaction.progress, cache.fast_totals()
    return make_draft(partition, before, result, order, fast_lines=lines, fast_totals=sums)


def last_before(reads: Sequence[Read], end: int) -> LastRecord | None:
    """The last record of reads before an offset, digested; None if there is none."""
    for record, _ in reversed(reads):
        if record.offset < end:
            return last_record(record.offset, record.timestamp, record.key, record.value)
    return None


def contexts_before(reads: Sequence[Read], end: int) -> list[TraceContext]:
    """The contexts of traces that records before an offset came with, of those traces whose spans are kept."""
    return [
        (record.offset, record.timestamp, context)
        for record, _ in reads
        # Few have any.
        if record.headers and record.offset < end
        if (context := traceparent_of(record.headers)) is not None and is_sampled(context)
    ]


async def _load(transaction: ChunkTransaction, part: Part, cache: AccountCache) -> tuple[Part, LoadRequest, Known]:
    """Load what a part needs, or its beginning, if its accounts have too many lots for all of it.

    Returns what is loaded of it, the request by which it was, and the known ids.
    """
    while True:
        if cache.at_once is not None and cache.at_once < len(part.reads):
            behind = part.reads[cache.at_once][0].offset
            part = Part(part.reads[: cache.at_once], behind, is_cut=True)
        request = load_request(transaction, part.reads, cache)
        try:
            known = await load_accounts([request])
        except TooManyLotsError:
            if request.plan is not None:
                request.plan.end()
            # One account alone is loaded whatever it has.
            cache.at_once = max(1, len(part.reads) // 2)
            continue
        if cache.at_once is not None:
            cache.at_once = cache.at_once * 5 // 4 + 1 if part.is_cut else None
        return part, request, known


# A tick


async def _settle_all(transaction: ChunkTransaction, part: Part, cache: AccountCache, forced: int | None) -> None:
    """Fold a tick: settle every account of the partition that has something due, some at a time."""
    # What is due is looked for in the tables.
    await _save_state(transaction, cache)
    partition, record, before = transaction.partition, part.reads[0][0], transaction.progress
    book = _book({}, {}, before, forced)
    result = fold(part.reads, book, part.end)
    if result.ticks:
        async for names in transaction.accounts.due(partition, book.clock_ms, TICK_ACCOUNTS):
            async for accounts in _pages(transaction, names, cache):
                page = _book(accounts, {}, before._replace(clock_ms=book.clock_ms), forced)
                for entries in _settled(page, accounts, record.offset):
                    lines = [(record.offset, entry) for entry in entries]
                    settled = ChunkResult(record.offset, book.clock_ms, book.rules, lines, [], [], [], 0)
                    settled = settled._replace(minute=before.minute, accounts=accounts, made=weight(entries))
                    cache.mark_unsaved(settled, range(len(lines)))
                    await transaction.write(make_draft(partition, transaction.progress, settled, range(len(lines))))
                # Not all of them are cached: the next commands may load them.
                await _save_state(transaction, cache)
    result = result._replace(last=last_before(part.reads, part.end))
    await transaction.write(make_draft(partition, transaction.progress, result, ()))


async def _pages(
    transaction: ChunkTransaction, names: Sequence[str], cache: AccountCache
) -> AsyncIterator[dict[str, Account]]:
    """Load accounts, as many at a time as haven't too many lots. Each page is in the order of the names."""
    at, size = 0, len(names)
    while at < len(names):
        some = names[at : at + size]
        cache.to_python(some)
        found = {name: cache.accounts[name] for name in some if name in cache.accounts}
        try:
            await transaction.accounts.load([transaction.partition], found, some, [], MOST_LOTS)
        except TooManyLotsError:
            size = len(some) // 2
            continue
        yield {name: found[name] for name in some}
        at += size


def _settled(page: CreditBook, names: Iterable[str], offset: int) -> Iterator[list[CreditEntry]]:
    """Settle accounts one after the other; yields the lines whenever there are many, and at the end."""
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


# Small chunks of several partitions


class Share(NamedTuple):
    """What is folded of one of several partitions together: reads to before offset `end`, without control records.

    The transaction must know where the partition stands, which is before the reads. The cache is that of the fold up to
    there.
    """

    transaction: ChunkTransaction
    reads: list[Read]
    end: int
    cache: AccountCache


async def fold_together(connection: AsyncConnection[TupleRow], shares: Sequence[Share]) -> list[int]:
    """Fold small chunks of several partitions in one transaction, with as few waits for PostgreSQL as can be.

    What is loaded is read before the transaction, and still is what it was in it: nobody writes it but who has claimed
    the partition, and the transaction fails if that isn't this worker any more.

    Args:
        connection: in no transaction, and in autocommit.
        shares: at least one, of different partitions of one generation.

    Returns the offset up to which each is folded: before the end where it makes very much.

    Raises DisplacedError, TooManyLotsError, UnknownRulesError, KnownCommandError, or what PostgreSQL raises; then
    nothing is written of any: drop the caches.
    """
    try:
        return await _fold_together(shares)
    except BaseException:
        with suppress(Error):
            await connection.rollback()
            # psycopg believes in statements that the server was to prepare behind what failed. It forgets them all with
            # a transaction that is rolled back, which there needn't have been.
            async with connection.transaction(force_rollback=True):
                pass
        raise


async def _fold_together(shares: Sequence[Share]) -> list[int]:
    requests = [load_request(share.transaction, share.reads, share.cache) for share in shares]
    known = await load_accounts(requests)
    writes: list[Write] = []
    made = 0
    for share, request in zip(shares, requests, strict=True):
        draft = fold_part(Part(share.reads, share.end), request, known, MOST_MADE - made)
        made += draft.result.made
        writes.append(Write(share.transaction, draft, share.cache.take_state(share.transaction.partition)))
    await write_together(writes)
    for request in requests:
        request.cache.drop_untouched(request.coming)
        request.cache.progress = request.transaction.progress
    return [request.transaction.progress.next_offset for request in requests]


# Loading


def load_request(transaction: ChunkTransaction, reads: list[Read], cache: AccountCache) -> LoadRequest:
    """What must be loaded before reads are folded."""
    return LoadRequest(transaction, list(commands(reads)), cache, cache.plan(reads, transaction.progress.clock_ms))


async def load_accounts(requests: Sequence[LoadRequest]) -> Known:
    """Load every account that folding commands of several partitions can touch, into their caches.

    What an account has in its past is asked for even where every account is cached.

    Args:
        requests: at least one, of different partitions, on one connection.

    Returns the known ids.

    Raises TooManyLotsError.
    """
    wanted = [keys(one.coming) for one in requests]
    accounts: dict[str, Account] = {}
    names: list[str] = []
    fast_names: list[str] = []
    for one, own in zip(requests, wanted, strict=True):
        accounts |= one.cache.cached(own)
        names += one.cache.missing(name for name, _ in own)
        if one.plan is not None:
            fast_names += one.cache.missing(one.plan.missing)
    first = requests[0].transaction
    came, balances = await first.accounts.load(
        [one.transaction.partition for one in requests],
        accounts,
        names,
        [command for one in requests for command in one.coming],
        MOST_LOTS,
        plain_names=fast_names,
    )
    doubtful: list[tuple[str, str]] = []
    for one, own in zip(requests, wanted, strict=True):
        one.cache.add_loaded(accounts, came, own)
        doubtful += one.cache.ids_to_look_up(one.coming, own, one.plan, accounts, balances)
    known = await first.load_known(doubtful)
    for one in requests:
        if one.plan is not None:
            one.cache.settle(one.plan, accounts, known, balances)
    return known
