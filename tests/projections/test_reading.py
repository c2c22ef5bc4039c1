"""Reading credits on a real PostgreSQL: views and queries say what a fold in memory says, and the commands print it."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from psycopg import Connection

from creditfold.cli.shared.output import OLDER
from creditfold.common.instants import EPOCH, milliseconds_of
from creditfold.common.settings import Settings
from creditfold.ledger import RejectionReason, settle
from creditfold.ledger.reasons import REJECTED
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.fast import new_filter
from creditfold.projections import queries
from creditfold.projections.connections import snapshot
from creditfold.projections.generations.catalog import generation
from creditfold.projections.queries import StatementBalance
from creditfold.projections.tables.comments import RELATIONS, SCHEMA_TEXT, Relation
from creditfold.projections.tables.views import VIEWS
from creditfold.schemas.dead_letters import DEAD, DeadLetterReason
from creditfold.schemas.wire import encode
from helpers.command_line import use
from helpers.credit_folds import fold_in_pieces, in_memory
from helpers.credit_histories import HOUR_MS, START_MS, history
from helpers.databases import planned_once
from helpers.records import FakeRecord
from helpers.support import ROOT, Cli, query

pytestmark = pytest.mark.both_cores


PARTS = ("remaining", "held", "spent", "expired", "voided", "forfeited", "reissued", "transferred")


def moment(at_ms: int | None) -> datetime | None:
    return EPOCH + timedelta(milliseconds=at_ms) if at_ms else None


@pytest.mark.parametrize("seed", [1, 2])
async def test_what_is_read_is_what_was_folded(prepared: Settings, seed: int) -> None:
    """Lots in the order of spending, uses, holds, schedules, transfers, accounts, and what is left of each spend."""
    records = history(seed, 400)
    whole = in_memory(records)
    await fold_in_pieces(prepared, records, random.Random(seed), AccountCache(3, is_fresh=True, ids=new_filter(2**16)))
    accounts: dict[str, Any] = dict(whole.accounts)
    with planned_once(prepared) as connection, snapshot(connection):
        (progress,) = queries.progress(connection)
        assert (progress.records, progress.ticks) == (len(records), whole.ticks)
        assert generation(connection, 1).records == len(records)
        for name, account in accounts.items():
            listed = partial(queries.listed, connection, name, limit=10_000)
            found = listed(queries.EVERY_LOT)
            assert {(lot.command_id, lot.number) for lot in found} == set(account.lots)
            for asset, holding in account.holdings.items():
                order = [lot.id for some in (holding.unscoped, *holding.scoped.values()) for lot in some]
                order.sort(key=lambda lot_id: account.lots[lot_id].order)
                live = listed(queries.LIVE_LOTS, asset=asset)
                active = [lot for lot in live if lot.state == "active" and lot.remaining]
                assert [(lot.command_id, lot.number) for lot in active] == order
            assert {hold.command_id: (hold.held, hold.deadline) for hold in listed(queries.OPEN_HOLDS)} == {
                hold.id: (hold.amount, moment(hold.deadline)) for hold in account.holds.values() if hold.is_open
            }
            assert {row.command_id: row.next_at for row in listed(queries.EVERY_SCHEDULE)} == {
                scheduled.id: moment(scheduled.next_at) for scheduled in account.schedules.values()
            }
            assert {row.command_id: row.state for row in listed(queries.EVERY_TRANSFER)} == {
                sent.id: "in_transit" if sent.is_open else "settled" for sent in account.transfers.values()
            }
            state = queries.account_state(connection, name)
            assert (state is not None and state.is_closed, state and state.frozen) == (
                account.is_closed,
                account.frozen if state else None,
            )
            for spend in account.spends.values():
                traced = queries.trace(connection, name, spend.id)
                assert traced is not None
                assert (traced.owed, traced.spent - traced.refunded) == (spend.debt, spend.refundable)
    assert moved(prepared) == {
        (name, *lot.id): {part: getattr(lot, part) for part in PARTS if getattr(lot, part)}
        for name, account in accounts.items()
        for lot in account.lots.values()
    }
    for offset in (10, 100, 250, 399):
        then: dict[str, Any] = dict(in_memory(records[: offset + 1]).accounts)
        with planned_once(prepared) as connection:
            for name in accounts:
                for row in queries.balances_as_of(connection, name, 0, until=offset):
                    holding = then[name].holding(row.asset)
                    expected = (holding.available, holding.pending, holding.held, holding.debt, holding.limit)
                    assert (row.available, row.pending, row.held, row.debt, row.credit_limit) == expected


async def test_lots_and_holds_as_of_each_position_are_what_the_ledger_had(prepared: Settings) -> None:
    """Those of the accounts that a record changed, at each record of a random history, as the rules alone say."""
    records = history(2, 300)
    await fold_in_pieces(prepared, records, random.Random(2), AccountCache(3, is_fresh=True, ids=new_filter(2**16)))
    before, seen = dict[str, int](), Counter[str]()
    with planned_once(prepared) as connection, snapshot(connection):
        for offset in range(len(records)):
            accounts: dict[str, Any] = dict(in_memory(records[: offset + 1]).accounts)
            changed = [name for name, account in accounts.items() if account.version != before.get(name)]
            before = {name: account.version for name, account in accounts.items()}
            for name in changed:
                then = partial(queries.listed, connection, name, limit=10_000, until=offset)
                lots = accounts[name].lots.values()
                found = {(lot.command_id, lot.number): lot for lot in then(queries.EVERY_LOT)}
                assert {key: parts_of(lot) for key, lot in found.items()} == {lot.id: parts_of(lot) for lot in lots}
                states = {lot.id: state_of(lot) for lot in lots}
                assert {key: lot.state for key, lot in found.items()} == states, (offset, name)
                live = sorted((lot for lot in lots if lot.is_live), key=lambda lot: (lot.asset, lot.order))
                assert [(lot.command_id, lot.number) for lot in then(queries.LIVE_LOTS)] == [lot.id for lot in live]
                holds = {hold.id: hold for hold in accounts[name].holds.values()}
                assert {hold.command_id: hold_of(hold) for hold in then(queries.EVERY_HOLD)} == {
                    hold.id: (hold.amount, [[*lot, amount] for lot, amount in hold.slices], state_of_hold(hold))
                    for hold in holds.values()
                }
                waiting = sorted(
                    (hold for hold in holds.values() if hold.is_open), key=lambda hold: (hold.deadline, hold.made)
                )
                assert [hold.command_id for hold in then(queries.OPEN_HOLDS)] == [hold.id for hold in waiting]
                seen.update(states.values())
                seen.update("voided while held" for lot in lots if lot.is_void and not lot.voided)
                seen.update(state_of_hold(hold) for hold in holds.values())
    states_of_lots = {"voided", "voided while held", "empty", "expired", "pending", "active"}
    assert set(seen) == {*states_of_lots, "open", "lapsed", "closed"}


async def test_the_last_changes_of_an_asset_are_those_of_a_statement(prepared: Settings) -> None:
    """Of as many lines as are looked at."""
    records = history(3, 300)
    await fold_in_pieces(prepared, records, random.Random(3), AccountCache(3, is_fresh=True, ids=new_filter(2**16)))
    with planned_once(prepared) as connection, snapshot(connection):
        for name, account in in_memory(records).accounts.items():
            for asset in [*account.holdings, "none"]:
                lines = queries.statement(connection, name, asset=asset).lines
                for most in (1, 5, 10_000):
                    found = queries.last_changes(connection, name, asset, most)
                    assert found == [line for line in lines if line.version > account.version - most]


def parts_of(lot: Any) -> tuple[int, ...]:
    """Where a lot's credits are."""
    return tuple(getattr(lot, part) for part in ("amount", *PARTS))


def state_of(lot: Any) -> str:
    """The state of a lot in memory."""
    if lot.is_void or not lot.is_live:
        return "voided" if lot.is_void else "empty"
    return "expired" if lot.is_lapsed else "pending" if lot.is_pending else "active"


def hold_of(hold: queries.Hold) -> tuple[int, list[list[Any]], str]:
    """What a hold has, of which lots, and its state."""
    return hold.held, hold.slices, hold.state


def state_of_hold(hold: Any) -> str:
    """The state of a hold in memory."""
    return "open" if hold.is_open else "lapsed" if hold.is_lapsed else "closed"


async def test_what_will_end_is_what_the_lots_say(prepared: Settings) -> None:
    """An account's lots lose what they have left when they end; as of the log's clock, since the history is old."""
    records = history(7, 400)
    now = records[-1].timestamp
    await fold_in_pieces(prepared, records, random.Random(7), AccountCache(3, is_fresh=True, ids=new_filter(2**16)))
    ending = 0
    for name, account in in_memory(records).accounts.items():
        with planned_once(prepared) as connection, snapshot(connection):
            found = queries.expiring(connection, name, 10_000 * 24 * HOUR_MS, now)
            sums = Counter[tuple[int, str]]()
            for lot in account.lots.values():
                if lot.is_live and not (lot.is_void or lot.is_lapsed) and lot.terms.expires_at > now:
                    sums[lot.terms.expires_at, lot.asset] += lot.remaining
            first = [(at, asset, amount) for (at, asset), amount in sorted(sums.items()) if amount]
            for until_ms in (now + 10**12, first[-1][0] if first else now):
                until = EPOCH + timedelta(milliseconds=until_ms)
                ends = queries.next_ends(connection, name, 3, until, now)
                assert [(milliseconds_of(one.expires_at), one.asset, one.remaining) for one in ends] == [
                    end for end in first if end[0] < until_ms
                ][:3]
            settle(account, now)
            assert {(lot.command_id, lot.number): (lot.remaining, lot.held) for lot in found.lots} == {
                lot.id: (lot.remaining, lot.held)
                for lot in account.lots.values()
                if lot.terms.expires_at > now and lot.remaining + lot.held and not lot.is_void
            }
            ending += len(found.lots)
            assert found.lots == sorted(found.lots, key=lambda lot: lot.expires_at)
            assert sum(day.remaining + day.held for day in found.days) == sum(
                lot.remaining + lot.held for lot in found.lots
            )
    assert ending > 1


@pytest.mark.parametrize("only_rejected", [False, True])
async def test_the_journal_is_read_in_pages(prepared: Settings, only_rejected: bool) -> None:
    """Each line once and in order, of any size of a page, also in the middle of a record's lines."""
    records = history(5, 300)
    await fold_in_pieces(prepared, records, random.Random(5), AccountCache(3, is_fresh=True, ids=new_filter(2**16)))
    condition = "WHERE rejection IS NOT NULL" if only_rejected else ""
    whole = query(
        prepared,
        f"SELECT log_offset, account_id, version FROM ledger_0001.journal {condition} ORDER BY log_offset, account_id,"
        " version",
    )
    assert len(whole) > 10
    for limit in (1, 7, 1_000):
        read, places, has_more = [], (), True
        with planned_once(prepared) as connection, snapshot(connection):
            while has_more:
                page = queries.journal(connection, places, limit, only_rejected=only_rejected)
                read += [(line.log_offset, line.account_id, line.version) for line in page.lines]
                assert len(page.lines) <= limit
                places, has_more = tuple(page.places), page.has_more
            assert queries.journal(connection, places, limit).lines == []
        assert read == whole


async def test_statements_divide_the_journal_by_time(prepared: Settings) -> None:
    """Each opens with what was had then, adds up to what it closes with, and is followed by the next without a gap."""
    records = history(4, 400)
    await fold_in_pieces(prepared, records, random.Random(4), AccountCache(3, is_fresh=True, ids=new_filter(2**16)))
    with planned_once(prepared) as connection, snapshot(connection):
        for account in in_memory(records).accounts:
            whole = queries.history(connection, account, 1_000)[::-1]
            times = sorted({line.decided_at for line in whole})
            cuts = [None, *times[:: max(1, len(times) // 5)], times[-1] + timedelta(milliseconds=1), None]
            read: list[int] = []
            for since, until in pairwise(cuts):
                found = queries.statement(connection, account, since=since, until=until)
                read += [line.version for line in found.lines]
                assert had(found.opening) == as_of(connection, account, since)
                assert had(found.closing) == as_of(connection, account, until, whole=until is None)
                for opening, closing in zip(found.opening, found.closing, strict=True):
                    changes = [line.change for line in found.lines if line.asset == opening.asset]
                    assert opening.available + sum(changes) == closing.available
                later = queries.history(connection, account, 1_000, since=since, until=until)
                assert [line.version for line in later if line.accepted and line.asset] == [
                    line.version for line in found.lines[::-1]
                ]
            assert read == [line.version for line in whole if line.accepted and line.asset]


def had(balances: Sequence[StatementBalance]) -> dict[str, tuple[int, ...]]:
    """What there is of each asset of which there is something."""
    return {row.asset: row[1:] for row in balances if any(row[1:])}


def as_of(
    connection: Connection[Any], account: str, before: datetime | None, *, whole: bool = False
) -> dict[str, tuple[int, ...]]:
    """What an account had before an instant, of each asset of which it had something."""
    if before is None and not whole:
        return {}
    until_ms = None if before is None else (before - EPOCH) // timedelta(milliseconds=1) - 1
    rows = queries.balances_as_of(connection, account, 0, until_ms=until_ms)
    found = {row.asset: (row.available, row.pending, row.held, row.debt) for row in rows}
    return {asset: amounts for asset, amounts in found.items() if any(amounts)}


def moved(settings: Settings) -> dict[tuple[str, str, int], dict[str, int]]:
    """What the moves came to, by lot; what came into a lot was issued, reissued or arrived first."""
    found: dict[tuple[str, str, int], Counter[str]] = defaultdict(Counter)
    rows = query(
        settings,
        """SELECT account_id, lot_command, lot_number, source, target, amount FROM ledger.moves
           WHERE lot_command IS NOT NULL ORDER BY account_id, version, fact, move""",
    )
    names = {"in_transit": "transferred", "debt": "spent"}
    for *lot, source, target, amount in rows:
        places = found[lot[0], lot[1], lot[2]]
        if places:
            places[names.get(source, source)] -= amount
        places[names.get(target, target)] += amount
    return {lot: {name: amount for name, amount in places.items() if amount} for lot, places in found.items()}


def record(offset: int, hours: int, name: str, **fields: Any) -> FakeRecord:
    return FakeRecord(offset, START_MS + hours * HOUR_MS, b"ann", encode(name, {"account": "ann", **fields}))


def a_day() -> list[FakeRecord]:
    """Ann is given 30 that end and 50 for ads; spends, owes, holds, is refunded and rejected."""
    asset, ends = {"asset": "credits"}, START_MS + 5 * HOUR_MS
    step = {"kind": "spend", "command_id": "s1", "asset": "credits", "amount": 1_000_000}
    minute = START_MS // 60_000
    return [
        FakeRecord(0, START_MS, None, encode("Tick", {"command_id": f"tick-0-{minute}", "minute": minute})),
        record(1, 0, "Grant", command_id="g1", amount=30, expires_at=ends, **asset),
        record(2, 0, "Grant", command_id="g2", amount=50, scope="ads", **asset),
        record(3, 0, "SetCreditLimit", command_id="l1", limit=100, **asset),
        record(4, 1, "Spend", command_id="o1", amount=10, **asset),
        record(5, 1, "Hold", command_id="h1", amount=15, deadline=ends + HOUR_MS, **asset),
        record(6, 2, "Capture", command_id="c1", hold="h1", amount=5),
        record(7, 2, "Spend", command_id="o2", amount=25, **asset),
        record(8, 3, "Refund", command_id="r1", spend="o1", amount=4),
        record(9, 3, "Capture", command_id="c2", hold="nobody"),
        record(10, 3, "Batch", command_id="b1", steps=[step]),
        record(11, 4, "Spend", command_id="o1", amount=11, **asset),
        record(12, 7, "Transfer", command_id="t1", amount=7, to="bob", use="ads", **asset),
        record(13, 7, "CreateSchedule", command_id="m1", amount=3, period="months", first_at=START_MS * 2, **asset),
        record(14, 7, "Freeze", command_id="f1"),
    ]


@pytest.fixture
async def said(prepared: Settings, bare: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command where a day is folded; returns what it prints, with single spaces."""
    await fold_in_pieces(prepared, a_day(), random.Random(1), None)
    use(prepared, monkeypatch)

    def run(*arguments: str, code: int = 0) -> str:
        done = bare(*arguments)
        assert done.code == code, done
        return re.sub(r" +", " ", done.out + done.err)

    return run


#: What each command lists, in what order, and what it says where there is nothing.
LISTS = {
    ("lots",): (["g3/1", "g2/1", "g1/1"], "no live lots"),
    ("lots", "--asset", "credits"): (["g3/1", "g2/1", "g1/1"], "no live lots of credits"),
    ("lots", "--asset", "credits", "--all"): (["g1/1", "g2/1", "g3/1"], "no lots of credits"),
    ("holds",): (["h3", "h2", "h1"], "no open holds"),
    ("holds", "--all"): (["h1", "h2", "h3"], "no holds"),
    ("transfers",): (["t1", "t2", "t3"], "nothing in transit"),
    ("transfers", "--all"): (["t1", "t2", "t3"], "sent nothing"),
    ("schedules",): (["m1", "m2", "m3"], "no schedules"),
}


async def test_lists_go_on_where_a_page_ended(prepared: Settings, bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each names its last row where there are more; behind that the next page begins, as a table and as JSON."""
    asset, far, records = {"asset": "credits"}, START_MS * 2, list[FakeRecord]()
    for n in (1, 2, 3):
        for name, fields in (
            ("Grant", {"command_id": f"g{n}", "amount": 90, "expires_at": far - n}),
            ("Hold", {"command_id": f"h{n}", "amount": 5, "deadline": far - 9 - n}),
            ("Transfer", {"command_id": f"t{n}", "amount": 7, "to": "bob"}),
            ("CreateSchedule", {"command_id": f"m{n}", "amount": 3, "period": "months", "first_at": far - n}),
        ):
            records.append(record(len(records), n, name, **asset, **fields))
    await fold_in_pieces(prepared, records, random.Random(1), None)
    use(prepared, monkeypatch)
    for (name, *options), (expected, nothing) in LISTS.items():
        seen = []
        for after in ([], *(["--after", last] for last in expected)):
            asked = (name, "ann", *options, "--limit", "1", *after)
            page, shown = bare(*asked, "--json").json, bare(*asked).out.splitlines()
            seen += [
                f"{row['command_id']}/{row['number']}" if name == "lots" else row["command_id"] for row in page[name]
            ]
            assert page["next"] == (seen[-1] if len(seen) < 3 else None), asked
            more = [] if page["next"] is None else [f"More: --after {page['next']}"]
            assert shown[2:] == more, (asked, shown)
        assert seen == expected
        assert shown == [f"ann has {nothing} there."]
        refused = bare(name, "ann", *options, "--after", "g1/x")
        assert (refused.code, "ann has no 'g1/x' here" in refused.err) == (2, True), refused


def test_what_the_commands_about_an_account_print(said: Callable[..., str], bare: Cli) -> None:
    """Each command's table, its JSON, and what it says of nothing."""
    assert said("balance", "ann") == (
        "account asset available pending held debt limit version position\n"
        "ann credits 43 0 0 16 100 13 0:13\n"
        "ann is frozen: it can't spend, hold or send credits.\n"
    )
    assert "ann credits 43 43 0 0 16 100 13 0:13\n" in said("balance", "ann", "--use", "ads")
    (row,) = bare("balance", "ann", "--use", "mail", "--json").json
    assert (row["available_for_use"], row["available"], row["position"]) == (0, 43, "0:13")
    assert "--as-of" in said("balance", "ann", "--use", "ads", "--as-of", "2024-01-30", code=2)
    assert said("lots", "ann").splitlines()[1:] == [
        "g2/1 credits 50 43 7 active paid 50 ads 2024-01-30T00:00:00.000Z never"
    ]
    assert len(bare("lots", "ann", "--all", "--json").json["lots"]) == 2
    assert said("lots", "ann", "--asset", "gold") == "ann has no live lots of gold.\n"
    assert said("lots", "ann", "--as-of", "0:3").splitlines()[1:] == [
        "g2/1 credits 50 50 active paid 50 ads 2024-01-30T00:00:00.000Z never",
        "g1/1 credits 30 30 active paid 50 - 2024-01-30T00:00:00.000Z 2024-01-30T05:00:00.000Z",
    ]
    assert said("lots", "ann", "--as-of", "2020-01-01") == "ann had no live lots.\n"
    assert "h1 credits 15 10 open 2024-01-30T06:00:00.000Z 10 of g1/1\n" in said("holds", "ann", "--as-of", "0:8")
    assert said("holds", "ann", "--as-of", "2020-01-01") == "ann had no open holds.\n"
    assert "has not reached 0:99 yet" in said("holds", "ann", "--as-of", "0:99", code=4)
    assert said("holds", "ann") == "ann has no open holds.\n"
    assert "h1 credits 15 0 lapsed 2024-01-30T06:00:00.000Z -" in said("holds", "ann", "--all")
    assert "t1 credits 7 bob in transit 0:12" in said("transfers", "ann")
    assert "m1 credits 3 1 month active 1 2078-02-27T00:00:00.000Z no end -" in said("schedules", "ann")
    assert [said(name, "bob") for name in ("holds", "transfers", "schedules")] == [
        "bob has no open holds.\n",
        "bob has nothing in transit.\n",
        "bob has no schedules.\n",
    ]
    for name in ("rejections", "ended"):
        assert [OLDER in said(name, "--limit", str(limit)) for limit in (1, 2)] == [True, False]
    past = said("history", "ann", "--wide", "--facts")
    assert "10 2024-01-30T03:00:00.000Z batch 0 0 0 0 0 0 - insufficient_credits at step 0 0:10 b1\n" in past
    assert "settled 0 0 50 0 0 16 credits - 0:12 - lapsed h1 (10 held to remaining of g1/1); expired g1 (10 re" in past
    assert "spend 25 -5 50 0 10 20 credits accepted 0:7 o2 spent o2 (5 remaining to spent of g1/1, 20 debt" in past
    assert bare("history", "ann", "--json").json[-4]["facts"][0]["kind"] == "spent"


def test_what_the_commands_about_a_command_print(said: Callable[..., str], bare: Cli) -> None:
    """What it came to, what of it came later, and each record that has its id."""
    spent = said("trace", "ann", "o1")
    assert "o1: spend of 10 credits, accepted at 0:4, 2024-01-30T01:00:00.000Z\n" in spent
    assert "spent 10, refunded 4, refundable 6, owed 0\n" in spent
    assert "2024-01-30T03:00:00.000Z refunded 4 spent remaining g1/1 r1 0:8\n" in spent
    assert "g1 is a grant\n" in spent
    assert "spent 25, refunded 0, refundable 25, owed 16\n" in said("trace", "ann", "o2")
    given = said("trace", "ann", "g1")
    assert "2024-01-30T06:00:00.000Z expired 10 remaining expired g1/1 - 0:12\n" in given
    first = said("trace", "ann", "g1", "--limit", "2")
    assert "Moves of its credits\n" in first
    (more,) = re.findall("More: (--after .*)", first)
    assert "expired 10" not in first
    rest = said("trace", "ann", "g1", *more.split())
    assert "2024-01-30T06:00:00.000Z expired 10 remaining expired g1/1 - 0:12\n" in rest
    assert "More" not in rest
    page = bare("trace", "ann", "g1", "--limit", "2", "--json").json
    assert (f"--after {page['next']}", len(page["made"][0]["moves"])) == (more, 2)
    assert "There are no more moves." in said("trace", "ann", "g1", "--after", "99:1:1")
    assert "'1' isn't a place in a trace" in said("trace", "ann", "g1", "--after", "1", code=2)
    assert bare("trace", "ann", "h1", "--json").json["later"][0]["command_id"] == "c1"
    assert "ann has no command o9." in said("trace", "ann", "o9", code=2)
    assert "reason hold_not_found: no hold has this id\nbalance 50 credits available" in said("why", "ann", "c2")
    assert "step 0: spend s1\n" in said("why", "ann", "b1")
    assert "step 0 of the batch b1 at 0:10, which was rejected for its step 0: insuff" in said("why", "ann", "s1")
    both = said("why", "ann", "o1")
    assert "outcome accepted\n" in both
    assert "dead letter 0:11, open\nreason command_id_reused: the id was decided before with another body\n" in both
    assert bare("why", "ann", "o1", "--json").json["dead_letters"][0]["position"] == "0:11"
    assert "ann has no command o9." in said("why", "ann", "o9", code=2)
    # By the position it is one record's outcome: the first, the one that isn't it, and what isn't folded.
    first = said("why", "ann", "o1", "--at", "0:4")
    assert "outcome accepted\n" in first
    assert "dead letter" not in first
    assert said("why", "ann", "o1", "--at", "0:11") == both[both.index("dead letter") :]
    assert bare("why", "ann", "o1", "--at", "0:11", "--json").json["outcome"] == "dead_letter"
    assert "not reached 0:99 yet" in said("why", "ann", "o1", "--at", "0:99", code=4)
    assert "shows nothing of command o9" in said("why", "ann", "o9", "--at", "0:4", code=1)


def test_what_the_trial_balance_prints(said: Callable[..., str], bare: Cli, prepared: Settings) -> None:
    """Now and then, and where a balance isn't what the journal says."""
    drawn_up = said("trial-balance").splitlines()
    assert [drawn_up[0], drawn_up[4], drawn_up[-1]] == [" credits", "credits 43", "Balances, where the fold stands."]
    assert "Balances, up to there." in said("trial-balance", "--at", "0:5")
    assert bare("trial-balance", "--at-time", "2024-01-30T02:00", "--json").json["assets"][0]["held"] == 10
    said("trial-balance", "--at", "0:99", code=4)
    query(prepared, "UPDATE ledger_0001.balances SET debt = 0 RETURNING 1")
    assert "Doesn't balance: credits of ann: the balance isn't what the journal" in said("trial-balance", code=5)


def test_every_view_and_column_says_what_it_is(prepared: Settings) -> None:
    """Each relation of the schema `ledger` has a comment and so has each column, no other; in the columns' order."""
    rows = query(
        prepared,
        """SELECT c.relname, c.relkind = 'r', obj_description(c.oid, 'pg_class'),
                  array_agg(a.attname::text ORDER BY a.attnum),
                  array_agg(col_description(c.oid, a.attnum) ORDER BY a.attnum)
           FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p', 'f') GROUP BY c.oid""",
    )
    found = {
        name: Relation(text, dict(zip(columns, texts, strict=True)), is_table)
        for name, is_table, text, columns, texts in rows
    }
    assert found == dict(RELATIONS)
    assert {name: list(relation.columns) for name, relation in found.items()} == {
        name: list(relation.columns) for name, relation in RELATIONS.items()
    }
    assert [name for name, relation in RELATIONS.items() if not relation.is_table or name in VIEWS] == [
        name for name in RELATIONS if name in VIEWS
    ]
    assert query(prepared, "SELECT obj_description('ledger'::regnamespace, 'pg_namespace')") == [(SCHEMA_TEXT,)]


def test_the_docs_have_the_columns_of_each_view() -> None:
    """docs/reading.md has a section of each view, in order, with the table that is made of the view's comments."""
    text = (ROOT / "docs" / "reading.md").read_text("utf-8")
    sections = re.findall(r"^### ledger\.(\w+)\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in sections] == [name for name in RELATIONS if name in VIEWS]
    for name, section in sections:
        rows = [f"| `{column}` | {text} |\n" for column, text in RELATIONS[name].columns.items()]
        assert "".join(["| column | meaning |\n|---|---|\n", *rows]) in section, name


def test_every_reason_is_explained_as_in_the_docs() -> None:
    """A sentence for each reason, in the enums' order; `nor one ...` of the docs' table is written out."""
    assert [*REJECTED] == [*RejectionReason]
    assert [*DEAD] == [*DeadLetterReason]
    text = (ROOT / "docs" / "rules.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.*) \|$", text, re.MULTILINE))
    for reason, sentence in (REJECTED | DEAD).items():
        assert rows[reason] == sentence or rows[reason].startswith("nor one "), reason
