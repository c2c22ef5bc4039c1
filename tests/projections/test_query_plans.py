"""What readers ask about an account goes by the account's own index entries, however large the ledger is.

As readers ask, with nothing forbidden, on the statistics of a journal of ten million lines: on a small table one way is
as good as another, and which is taken is chance.
"""

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row

from creditfold.common.position import Log, Position
from creditfold.common.settings import Settings
from creditfold.projections import queries
from creditfold.projections.delivery.checkpoints import body_of, waiting
from creditfold.projections.delivery.deliveries import attempts, deliveries
from creditfold.projections.delivery.endpoints import signing_keys
from creditfold.projections.delivery.reading import notices_after, page_after
from creditfold.projections.delivery.rules import fired_states, notify_due
from creditfold.projections.queries.dead_letters import LetterFilter, selected
from creditfold.projections.queries.health import recent_dead_letters
from creditfold.projections.queries.windows import Place
from creditfold.projections.tables.scripts import script
from helpers.pages import DOCS, blocks

#: Tables that grow with the ledger.
LARGE = {"journal", "balances", "accounts", "lots", "holds", "spends", "transfers", "schedules", "metadata"}


def moment(at_ms: int) -> datetime:
    """An instant of the log's clock."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _any_grant(connection: Connection[Any], account: str) -> str:
    text = "SELECT command_id FROM ledger.lots WHERE account_id = %s AND spent > 0 ORDER BY made LIMIT 1"
    return str(connection.execute(text, (account,)).fetchall()[0][0])


def _any_spend(connection: Connection[Any], account: str) -> str:
    text = "SELECT command_id FROM ledger.journal WHERE account_id = %s AND kind = 'spend' AND accepted LIMIT 1"
    return str(connection.execute(text, (account,)).fetchall()[0][0])


def _outcome(connection: Connection[Any], account: str) -> Any:
    text = "SELECT log_offset, command_id FROM ledger.journal WHERE account_id = %s AND command_id <> '' LIMIT 1"
    ((offset, command_id),) = connection.execute(text, (account,)).fetchall()
    return queries.outcome_at(connection, Position(0, offset), account, command_id)


#: What can have any number of rows, of an account, and the place behind one in the order of the live lots.
EVERY = {
    "every lot": queries.EVERY_LOT,
    "every hold": queries.EVERY_HOLD,
    "every transfer": queries.EVERY_TRANSFER,
    "every schedule": queries.EVERY_SCHEDULE,
}
LOT = ("credits", 50, 1, 1, 1, 1, 1)


def _listed_behind(listing: queries.Listing, connection: Connection[Any], account: str) -> Any:
    return queries.listed(connection, account, listing, 5, ("", 0)[: len(listing.order)])


def _listed_as_of(listing: queries.Listing, connection: Connection[Any], account: str) -> Any:
    place = (0,) * len(listing.like) if listing is queries.OPEN_HOLDS else listing.like
    return queries.listed(connection, account, listing, 5, place, until_ms=30_000)


QUERIES: dict[str, Callable[[Connection[Any], str], Any]] = {
    "balances": queries.balances,
    "balances_as_of": lambda connection, account: queries.balances_as_of(connection, account, 0, until_ms=1),
    "balances_now": queries.balances_now,
    "standing_and_balances": lambda connection, account: queries.standing_and_balances(connection, [account, "eve"]),
    "usable_now": lambda connection, account: queries.usable_now(connection, account, "ads"),
    "history": lambda connection, account: queries.history(connection, account, 20, 7),
    "history, of a time": lambda connection, account: queries.history(
        connection, account, 20, since=moment(1), until=moment(30_000)
    ),
    "statement": lambda connection, account: queries.statement(
        connection, account, since=moment(1), until=moment(30_000)
    ),
    "first_decision": lambda connection, account: queries.first_decision(connection, account, "g"),
    "outcome_at": _outcome,
    "rejections": lambda connection, account: queries.rejections(connection, 20, account),
    "rejections, of a time": lambda connection, account: queries.rejections(
        connection, 20, account, since=moment(1), until=moment(30_000)
    ),
    "ended": lambda connection, account: queries.ended(connection, 20, account),
    "ended, of a time": lambda connection, account: queries.ended(
        connection, 20, account, since=moment(1), until=moment(30_000)
    ),
    "account_state": queries.account_state,
    "account_state_as_of": lambda connection, account: queries.account_state_as_of(connection, account, until=9),
    "next_ends": lambda connection, account: queries.next_ends(connection, account, 3, moment(10**13)),
    "last_changes": lambda connection, account: queries.last_changes(connection, account, "credits", 500),
    "expiring": lambda connection, account: queries.expiring(connection, account, 86_400_000),
    "listed_row": lambda connection, account: queries.listed_row(connection, account, queries.EVERY_LOT, "g", 1),
    "listed_row, a hold": lambda connection, account: queries.listed_row(connection, account, queries.EVERY_HOLD, "h"),
    "listed_row, sent": lambda connection, account: queries.listed_row(
        connection, account, queries.EVERY_TRANSFER, "t1"
    ),
    "listed_row, a schedule": lambda connection, account: queries.listed_row(
        connection, account, queries.EVERY_SCHEDULE, "m1"
    ),
    "listed, lots of an asset": lambda connection, account: queries.listed(
        connection, account, queries.LIVE_LOTS, 5, LOT, asset="credits"
    ),
    **{
        f"listed, {name} as of a time": partial(_listed_as_of, listing)
        for name, listing in [("live lots", queries.LIVE_LOTS), ("open holds", queries.OPEN_HOLDS), *EVERY.items()][:4]
    },
    "listed, lots": lambda connection, account: queries.listed(connection, account, queries.LIVE_LOTS, 5, LOT),
    "listed, holds": lambda connection, account: queries.listed(connection, account, queries.OPEN_HOLDS, 5, (1, 1)),
    "listed, sent": lambda connection, account: queries.listed(connection, account, queries.IN_TRANSIT, 5, ("t1",)),
    **{f"listed, {name}": partial(_listed_behind, listing) for name, listing in EVERY.items()},
    "trace": lambda connection, account: queries.trace(connection, account, _any_grant(connection, account)),
    "trace, of a spend": lambda connection, account: queries.trace(
        connection, account, _any_spend(connection, account)
    ),
    "trace, behind a place": lambda connection, account: queries.trace(
        connection, account, _any_grant(connection, account), limit=5, place=queries.TracePlace(7, 1, 1)
    ),
    "failed_batches": lambda connection, account: queries.failed_batches(connection, account, "g"),
    "balances_after": lambda connection, account: queries.balances_after(connection, account, 5),
}
#: What is asked without an account: by a partition or a position, or of all there is, which takes as long as there is.
WITHOUT_ACCOUNT = {
    *(
        "rejection_totals",
        "dead_letters",
        "dead_letter",
        "progress",
        "standing",
        "activations",
        "wait_for",
        "dead_letters_with",
    ),
    *("clock", "bookmarks", "await_outcome", "expiring_totals", "outcomes_at", "journal", "totals"),
    *("spent", "ended_totals", "transfers_in_transit"),
    *("search_accounts", "count_accounts", "searchable_metadata"),
}
#: What accounts are searched by: each is found by an index, and what is combined too.
SEARCHES = (
    queries.AccountFilter(prefix="user-7"),
    queries.AccountFilter(command_id="c7"),
    queries.AccountFilter(metadata={"order": "o7"}),
    queries.AccountFilter(state="frozen"),
    queries.AccountFilter(state="closed", prefix="user"),
    queries.AccountFilter(state="open", asset="credits"),
    queries.AccountFilter(asset="credits", least=100),
    queries.AccountFilter(asset="credits", most=5, metadata={"order": "o7"}),
    *(queries.AccountFilter(asset="credits", balance_of=name, least=1) for name in ("pending", "held", "debt")),
    queries.AccountFilter(ends_before=moment(5)),
    queries.AccountFilter(asset="credits", least=1, ends_before=moment(10**12)),
)
#: What people ask of a view with an account's name in hand, though no document says it so.
ASKED = [
    "SELECT * FROM ledger.moves WHERE account_id = 'bob' LIMIT 50",
    "SELECT * FROM ledger.moves WHERE account_id = 'bob'",
    "SELECT sum(amount) FROM ledger.moves WHERE account_id = 'bob' AND kind = 'spent'",
    "SELECT * FROM ledger.moves WHERE account_id = 'bob' ORDER BY at LIMIT 50",
    "SELECT * FROM ledger.balances_now WHERE account_id = 'bob'",
    "SELECT * FROM ledger.rejections WHERE account_id = 'bob'",
    "SELECT * FROM ledger.ended WHERE account_id = 'bob'",
]
#: The lines that a ledger is to have in the planner's eyes, and those that there are.
LINES, ROWS = 10_000_000, 40_000
#: One account that has a good part of the journal, and one like most.
BUSY, USUAL = "bob", "user-7"


class Explaining(psycopg.Cursor[Any]):
    """Has each query explained before it is done."""

    plans: ClassVar[list[dict[str, Any]]] = []

    def execute(self, query: Any, params: Any = None, **options: Any) -> "Explaining":
        text = query if isinstance(query, str) else query.as_string(self)
        if text.lstrip().upper().startswith(("SELECT", "WITH")):
            other = psycopg.Cursor(self.connection, row_factory=tuple_row)
            other.execute(f"EXPLAIN (FORMAT JSON) {text}".encode(), params)
            self.plans.append((other.fetchone() or ())[0][0]["Plan"])
        return super().execute(query, params, **options)


@contextmanager
def explaining(settings: Settings) -> Iterator[Connection[Any]]:
    """A connection that keeps the plans of what is asked."""
    Explaining.plans.clear()
    with psycopg.connect(settings.dsn, autocommit=True, cursor_factory=Explaining) as connection:
        yield connection


def scans(plan: dict[str, Any], relation: str = "", large: Collection[str] = LARGE) -> Iterator[tuple[str, str]]:
    """How a plan gets at the rows of large tables: the kind of scan, and the condition by which its index is asked."""
    # What is below a bitmap's scan of a table names its index only.
    relation = plan.get("Relation Name", relation)
    if relation in large and plan["Node Type"].endswith(("Seq Scan", "Index Scan", "Index Only Scan")):
        yield plan["Node Type"], plan.get("Index Cond", "")
    for below in plan.get("Plans", ()):
        yield from scans(below, relation, large)


def conditions(plan: dict[str, Any], table: str) -> list[str]:
    """The conditions by which the indexes of a table are asked."""
    own = [plan.get("Index Cond", "")] if plan.get("Relation Name") == table else []
    return [*own, *(one for below in plan.get("Plans", ()) for one in conditions(below, table))]


def assert_by_account(question: str) -> None:
    """All plans since the last look at large tables by an index that is asked for the account, or for one record."""
    found = [scan for plan in Explaining.plans for scan in scans(plan)]
    assert found, question
    others = [condition for _, condition in found if "account_id" not in condition]
    assert [one for one in others if "log_partition = " not in one or "log_offset = " not in one] == [], question


def test_every_query_is_looked_at() -> None:
    """A query that is added is either of an account, and its plan is tested, or is named as one of all accounts."""
    known = {name.partition(",")[0] for name in QUERIES} | WITHOUT_ACCOUNT
    public = {name for name in queries.__all__ if inspect.isfunction(getattr(queries, name))}
    assert known == public


def documented() -> list[str]:
    """The queries of all documents' SQL."""
    texts = [block.text for path in DOCS for block in blocks(path) if block.language == "sql"]
    statements = [statement.strip() for text in texts for statement in text.split(";")]
    return [text for text in statements if text.upper().startswith(("SELECT", "WITH"))]


def test_plans_hold_at_ten_million_lines(prepared: Settings) -> None:
    """Of each query of an account, and of all SQL in the docs, for an account like most and for a busy one."""
    with psycopg.connect(prepared.dsn, autocommit=True) as connection:
        connection.execute(script("tables/searching.sql", schema="ledger_0001"))
        connection.execute(FILL.encode(), binary=False)
        connection.execute(SCALE, (LINES // ROWS,))
    texts = [*documented(), *ASKED]
    of_accounts = [text for text in texts if "account_id" in text]
    assert len(of_accounts) > 8
    for account in (USUAL, BUSY):
        for name, ask in QUERIES.items():
            with explaining(prepared) as connection:
                ask(connection, account)
            assert_by_account(f"{name} of {account}")
        for text in texts:
            with explaining(prepared) as connection:
                connection.execute(text.replace("'bob'", f"'{account}'"))  # type: ignore[arg-type]
            if text in of_accounts:
                assert_by_account(text)
            else:
                assert [scan for plan in Explaining.plans for scan in scans(plan)] == [], text
    for name, listing in EVERY.items():
        with explaining(prepared) as connection:
            _listed_behind(listing, connection, BUSY)
        # From that place on, and not all rows of the account for each page.
        table = name.removeprefix("every ") + "s"
        found = conditions(Explaining.plans[-1], table)
        assert found, name
        assert [condition for condition in found if "command_id" not in condition] == [], name
    for wanted in SEARCHES:
        with explaining(prepared) as connection:
            queries.search_accounts(connection, wanted)
        kinds = [kind for plan in Explaining.plans for kind, _ in scans(plan)]
        assert kinds, wanted
        assert [kind for kind in kinds if kind.endswith("Seq Scan")] == [], wanted


def test_transfers_in_transit_are_found_by_their_index(prepared: Settings) -> None:
    """However many have arrived, and however many haven't; of the journal a line for each that is shown is read."""
    for most in (0, 5, 5_000):
        with psycopg.connect(prepared.dsn, autocommit=True) as connection:
            if not most:
                connection.execute(FILL.encode(), binary=False)
            connection.execute(SENT.format(most=most).encode(), binary=False)
            connection.execute("ANALYZE ledger_0001.transfers")
            connection.execute(SCALE, (LINES // ROWS,))
        for after in (None, Position(0, 4)):
            with explaining(prepared) as connection:
                found = queries.transfers_in_transit(connection, 20, after)
            assert [one.log_offset for one in found] == list(range(1 if after is None else 5, most + 1))[:20]
            (plan,) = Explaining.plans
            kinds = [kind for kind, _ in scans(plan)]
            assert kinds, (most, plan)
            assert [kind for kind in kinds if kind.endswith("Seq Scan")] == [], (most, plan)


# The first lines of the journal are of transfers that are on their way, with a parcel of 5 each.
SENT = """
    UPDATE ledger_0001.journal SET command_id = 't' || log_offset WHERE log_offset <= {most};
    UPDATE ledger_0001.transfers SET is_open = true, parcels = '[["l",1,5,[]]]' WHERE log_offset <= {most};
"""


#: What dead letters are listed by, and what those are selected by that are redriven or discarded.
LISTED: dict[str, dict[str, Any]] = {
    "all": {},
    "behind another": {"before": (moment(9_000_000), Position(0, 9_000))},
    "of a reason that most have": {"reason": "not_framed"},
    "of a reason that few have": {"reason": "oversize"},
    "of a reason that none has": {"reason": "not_avro"},
    "of a key that many have": {"account": BUSY},
    "of a key that one has": {"account": "user-77"},
    "of a key that none has": {"account": "nobody"},
    "since": {"since": moment(39_990_000)},
    "until": {"until": moment(90_000)},
    "between": {"since": moment(20_000_000), "until": moment(20_090_000)},
    "of a partition": {"partition": 0},
    "of a partition that few have": {"partition": 3},
    "of a reason behind another": {"reason": "not_framed", "before": (moment(9_000_000), Position(0, 9_000))},
}


def test_dead_letters_are_found_by_an_index(prepared: Settings) -> None:
    """However many there are, a page is read in its order, by what it is filtered by, and nothing else is sorted."""
    with psycopg.connect(prepared.dsn, autocommit=True) as connection:
        connection.execute(LETTERS.encode(), binary=False)
        connection.execute(SCALE, (LINES // ROWS,))
    for name, options in LISTED.items():
        with explaining(prepared) as connection:
            found = queries.dead_letters(connection, 20, **options)
        assert (len(found) > 0) == ("none" not in name), name
        assert_in_order(name)
        key = options.get("account")
        wanted = LetterFilter(
            options.get("reason"),
            key and key.encode(),
            options.get("since"),
            options.get("until"),
            options.get("partition"),
        )
        with explaining(prepared) as connection:
            chosen = selected(connection, wanted, ("open",), 20)
        assert (len(chosen) > 0) == ("none" not in name), name
        assert_in_order(f"{name}, to redrive")


def test_what_was_decided_about_dead_letters_is_looked_up_by_an_index(prepared: Settings) -> None:
    """The open ones are found in their order though nearly all are decided about: a look-up for each that is passed."""
    with psycopg.connect(prepared.dsn, autocommit=True) as connection:
        connection.execute(LETTERS.encode(), binary=False)
        connection.execute(DECISIONS.encode(), binary=False)
    for name, options in LISTED.items():
        with explaining(prepared) as connection:
            queries.dead_letters(connection, 20, only_open=True, **options)
        assert_in_order(name)
        (plan,) = Explaining.plans
        _assert_looked_up(plan, name)
    with explaining(prepared) as connection:
        assert recent_dead_letters(connection) == []
    (plan,) = Explaining.plans
    _assert_looked_up(plan, "the recent ones")
    assert "Seq Scan" not in {kind for kind, _ in scans(plan, large={"dead_letters"})}, plan


def _assert_looked_up(plan: dict[str, Any], question: str) -> None:
    """What was decided is read by indexes alone."""
    for table in ("dead_letter_decisions", "redrives"):
        found = list(scans(plan, large={table}))
        assert [kind for kind, _ in found if kind.startswith("Index")], (question, table, plan)
        assert [kind for kind, _ in found if kind.endswith("Seq Scan")] == [], (question, table, plan)


#: What is asked of the tables of webhooks again and again: of an endpoint, an account, a place, an instant.
DELIVERY: dict[str, Callable[[Connection[Any]], Any]] = {
    "deliveries": lambda connection: deliveries(connection, "ep_7", after=9_000, limit=20),
    "waiting": lambda connection: waiting(connection, "ep_7", 9_000, 20),
    "body_of": lambda connection: body_of(connection, "ep_7", "m7"),
    "attempts": lambda connection: attempts(connection, "ep_7", before=9_000, limit=20),
    "signing_keys": lambda connection: signing_keys(connection, "ep_7"),
    "fired_states": lambda connection: fired_states(connection, ["al_1"], ["user-7", "user-8"]),
    "notify_due": lambda connection: notify_due(connection, 0, {0: 500, 1: 700}),
    "page_after": lambda connection: page_after(
        connection, Log("creditfold.commands.v1", "an-id", 1), 0, Place(7), 9_000, with_alerts=True
    ),
    "notices_after": lambda connection: notices_after(connection, 39_000),
}
DELIVERED = {"deliveries", "attempts", "alert_states", "alert_lots", "alerts", "notices"}


def test_what_delivery_asks_goes_by_an_index(prepared: Settings) -> None:
    """However much waits, was tried, is watched or was said."""
    with psycopg.connect(prepared.dsn, autocommit=True) as connection:
        connection.execute(DELIVERY_ROWS.encode(), binary=False)
    for name, ask in DELIVERY.items():
        with explaining(prepared) as connection, connection.transaction():
            ask(connection)
        kinds = [kind for plan in Explaining.plans for kind, _ in scans(plan, large=DELIVERED)]
        assert [kind for kind in kinds if kind.endswith("Seq Scan")] == [], (name, Explaining.plans)


DELIVERY_ROWS = f"""
INSERT INTO ledger_delivery.endpoints (id, url, description, owner, types, account_prefixes)
    SELECT 'ep_' || n, '', '', '', '{{}}', '{{}}' FROM generate_series(0, 99) n;
INSERT INTO ledger_delivery.deliveries
    SELECT 'ep_' || n % 100, 'm' || n, n, 'a', 't', 'a', '', '', '{{}}', 'pending', 0, now(), '', now()
    FROM generate_series(1, {ROWS}) n;
INSERT INTO ledger_delivery.attempts (endpoint_id, webhook_id, type, account_id, at, try, latency_ms, error, answer)
    SELECT 'ep_' || n % 100, 'm' || n, 't', 'a', now(), 1, 1, '', '' FROM generate_series(1, {ROWS}) n;
INSERT INTO ledger_delivery.alert_rules SELECT 'al_1', 'expiring', '', '', '', 0, 0, 1, '{{}}', now();
INSERT INTO ledger_delivery.alert_states SELECT 'al_1', 'user-' || n, 'credits' FROM generate_series(1, {ROWS}) n;
INSERT INTO ledger_delivery.alert_lots
    SELECT 'al_1', 'user-' || n, 'g', 1, n % 2, 'credits', 5, n * 1000, n * 1000 FROM generate_series(1, {ROWS}) n;
INSERT INTO ledger_delivery.alerts SELECT 0, n, 'a', n, 'al_1', 't', '{{}}', now() FROM generate_series(1, {ROWS}) n;
INSERT INTO ledger_delivery.notices (type, account_id, owner, identity, at_ms, data)
    SELECT 't', '', '', '', 0, '{{}}' FROM generate_series(1, {ROWS}) n;
UPDATE ledger_0001.progress SET next_offset = 9000;
ANALYZE ledger_delivery.deliveries, ledger_delivery.attempts, ledger_delivery.alert_states, ledger_delivery.alert_lots,
    ledger_delivery.alerts, ledger_delivery.notices;
"""


def assert_in_order(question: str) -> None:
    """The plan reads dead letters by an index, in the order of the answer, and sorts few of them at most."""
    (plan,) = Explaining.plans
    found = list(scans(plan, large={"dead_letters"}))
    assert found, question
    assert [kind for kind, _ in found if kind.endswith("Seq Scan")] == [], (question, plan)
    assert [rows for rows in sorted_rows(plan, "dead_letters") if rows > LINES / 1_000] == [], (question, plan)


def sorted_rows(plan: dict[str, Any], relation: str) -> Iterator[int]:
    """How many rows of a table, or joined to them, a plan sorts."""
    if "Sort" in plan["Node Type"] and next(scans(plan, large={relation}), None) is not None:
        yield plan["Plan Rows"]
    for below in plan.get("Plans", ()):
        yield from sorted_rows(below, relation)


# All but the first few are decided about: two of three discarded, the others redriven by another database.
DECISIONS = f"""
INSERT INTO ledger.dead_letter_decisions (topic_id, log_partition, log_offset, decision, decided_by, note)
    SELECT topic_id, CASE WHEN n % 4000 = 0 THEN 3 ELSE 0 END, n, 'discard', 'me', ''
    FROM ledger_0001.source, generate_series(6, {ROWS}) n WHERE n % 3 > 0;
INSERT INTO ledger_0001.redrives
    SELECT 0, {ROWS} + n, CASE WHEN n % 4000 = 0 THEN 3 ELSE 0 END, n, 'me', ''
    FROM generate_series(6, {ROWS}) n WHERE n % 3 = 0;
ANALYZE ledger.dead_letter_decisions, ledger_0001.redrives;
"""

# Nearly all of one reason, in one partition.
LETTERS = f"""
INSERT INTO ledger_0001.dead_letters
    SELECT CASE WHEN n % 4000 = 0 THEN 3 ELSE 0 END, n,
           CASE WHEN n % 2000 = 0 THEN 'oversize' ELSE 'not_framed' END, '',
           CASE WHEN n % 50 = 0 THEN -1 ELSE n * 1000 END,
           CASE WHEN n % 40 = 0 THEN '{BUSY}' ELSE 'user-' || n END::bytea, 'x', '[]'
    FROM generate_series(1, {ROWS}) n;
ALTER TABLE ledger_0001.dead_letters SET (autovacuum_enabled = off);
ANALYZE ledger_0001.dead_letters;
"""
# Accounts with ten lines each, and one with a four-hundredth of all; of the other tables something for each of them.
FILL = f"""
CREATE TEMP TABLE names AS
    SELECT n, CASE WHEN n % 400 = 0 THEN '{BUSY}' ELSE 'user-' || n / 10 END AS account, row_number() OVER () AS at
    FROM generate_series(1, {ROWS}) n;
INSERT INTO ledger_0001.journal
    SELECT n, row_number() OVER (PARTITION BY account ORDER BY n), 5, CASE WHEN n % 9 = 0 THEN 0 ELSE -5 END, 100, n,
           0, 0, 0, 0, 0, 1, CASE WHEN n % 90 = 0 THEN 0 END, account, 'c' || n,
           CASE WHEN n % 90 = 0 THEN 'batch' ELSE 'spend' END,
           'credits', CASE WHEN n % 9 = 0 THEN 'insufficient_credits' END, 'shop', '', '',
           CASE WHEN n % 90 = 0 THEN '{{"steps": [{{"command_id": "s"}}]}}' ELSE '' END,
           '[{{"kind":"spent","at":1,"ref":"c' || n || '","moves":[["l' || n || '",1,"remaining","spent",5]]}}]'
    FROM names;
INSERT INTO ledger_0001.lots
    SELECT 1, CASE WHEN n % 3 = 0 THEN 2 ELSE 0 END, n, 10, 5, 0, 5, 0, 0, 0, 0, 0, NULL, n, 1, 0, 50, false,
           n % 5 <> 0 AND n % 3 = 0, false, n % 5 = 0, account, 'l' || n, 'credits', 'paid', '', 'issued' FROM names;
INSERT INTO ledger_0001.balances (available, version, log_offset, log_partition, account_id, asset)
    SELECT 5 * count(*) FILTER (WHERE n % 5 = 0), 1, 1, 0, account, 'credits' FROM names GROUP BY account;
INSERT INTO ledger_0001.holds SELECT account, 'h' || n, 'credits', 1, n, 5, '[]', false, false, NULL, 0, n FROM names;
INSERT INTO ledger_0001.spends SELECT account, 'c' || n, 'credits', n, 0, '[]', 0, n FROM names;
INSERT INTO ledger_0001.transfers SELECT account, 't' || n, 'credits', 'x', '[]', false, 0, n FROM names;
INSERT INTO ledger_0001.schedules
    SELECT account, 'r' || n, 'credits', 5, 'days', 1, 1, 0, 0, 'paid', 50, 0, '', n, 2, false, NULL, 0, n FROM names;
INSERT INTO ledger_0001.accounts SELECT account, 1, false, 'spending', 0, 1 FROM names GROUP BY account;
INSERT INTO ledger_0001.metadata SELECT n, 0, account, 'order', 'o' || n FROM names;
UPDATE ledger_0001.source SET searchable = '{{order}}';
UPDATE ledger_0001.progress SET next_offset = {ROWS + 1};
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'ledger_0001'::regnamespace AND relkind = 'r'
                AND relname = ANY (ARRAY{sorted(LARGE)}) LOOP
        EXECUTE format('ALTER TABLE ledger_0001.%I SET (autovacuum_enabled = off)', name);
        -- There are as many more accounts as there are more rows.
        IF name NOT IN ('balances', 'accounts') THEN
            EXECUTE format('ALTER TABLE ledger_0001.%I ALTER account_id SET (n_distinct = -0.1)', name);
        END IF;
        EXECUTE format('ANALYZE ledger_0001.%I', name);
    END LOOP;
END $$;
"""
# The planner takes a table's rows from what it remembers of a page's, and the pages that there are.
SCALE = """UPDATE pg_class SET reltuples = reltuples * %s
           WHERE relnamespace = 'ledger_0001'::regnamespace AND relkind IN ('r', 'i') AND reltuples > 0"""
