"""What readers ask about an account goes by the account's own index entries, however large the ledger is.

On small tables, with sequential scans forbidden where there is another way: what is scanned all the same has no index.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import psycopg
import pytest
from credit_histories import history
from psycopg import Connection
from psycopg.rows import tuple_row
from test_credit_store import folded
from test_store import prepared

from creditfold.projections import credit_queries, outcomes, queries
from creditfold.schemas.position import Position
from creditfold.stack.settings import Settings

__all__ = ["prepared"]

#: Tables that grow with the ledger.
LARGE = {"journal", "balances", "accounts", "lots", "holds", "spends", "transfers", "schedules"}
ACCOUNT = "ann"
QUERIES: dict[str, Callable[[Connection[Any]], Any]] = {
    "balances": lambda connection: queries.balances(connection, ACCOUNT),
    "as-of": lambda connection: queries.balances_as_of(connection, ACCOUNT, 0, until_ms=1),
    "for-a-use": lambda connection: credit_queries.usable_balances(connection, ACCOUNT, "ads"),
    "history": lambda connection: queries.history(connection, ACCOUNT, 20, 7),
    "first-decision": lambda connection: queries.first_decision(connection, ACCOUNT, "g"),
    "outcome": lambda connection: outcomes.outcome_at(connection, *_any_command(connection)),
    "account": lambda connection: credit_queries.account_state(connection, ACCOUNT),
    "lots": lambda connection: credit_queries.lots(connection, ACCOUNT, "credits"),
    "all-lots": lambda connection: credit_queries.lots(connection, ACCOUNT, every=True),
    "holds": lambda connection: credit_queries.holds(connection, ACCOUNT, every=True),
    "transfers": lambda connection: credit_queries.transfers(connection, ACCOUNT, every=True),
    "schedules": lambda connection: credit_queries.schedules(connection, ACCOUNT),
    "trace": lambda connection: credit_queries.trace(connection, ACCOUNT, _any_grant(connection)),
    "why": lambda connection: credit_queries.failed_batches(connection, ACCOUNT, "g"),
    "balances-after": lambda connection: credit_queries.balances_after(connection, ACCOUNT, 5),
}


def _any_grant(connection: Connection[Any]) -> str:
    text = "SELECT command_id FROM ledger.lots WHERE account_id = %s AND spent > 0 ORDER BY made LIMIT 1"
    return str(connection.execute(text, (ACCOUNT,)).fetchall()[0][0])


def _any_command(connection: Connection[Any]) -> tuple[Position, str, str]:
    text = "SELECT log_offset, command_id FROM ledger.journal WHERE account_id = %s AND command_id <> '' LIMIT 1"
    ((offset, command_id),) = connection.execute(text, (ACCOUNT,)).fetchall()
    return Position(0, offset), ACCOUNT, command_id


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


def scans(plan: dict[str, Any], of: str = "") -> Iterator[tuple[str, str]]:
    """How a plan gets at the rows of large tables: the kind of scan, and the condition by which its index is asked.

    The index of a bitmap heap scan stands below it, and doesn't name the table.
    """
    kind, of = plan["Node Type"], plan.get("Relation Name", of)
    if of in LARGE and (kind == "Bitmap Index Scan" or ("Relation Name" in plan and kind != "Bitmap Heap Scan")):
        yield kind, plan.get("Index Cond", "")
    for below in plan.get("Plans", ()):
        yield from scans(below, of)


@pytest.mark.parametrize("name", QUERIES)
async def test_an_account_s_answer_reads_the_account_s_rows(prepared: Settings, name: str) -> None:
    """By an index that is asked for the account."""
    await folded(prepared, history(3, 300, rules_from=5), random.Random(1), None)
    Explaining.plans.clear()
    with psycopg.connect(prepared.dsn, autocommit=True, cursor_factory=Explaining) as connection:
        connection.execute("SET enable_seqscan = off")
        QUERIES[name](connection)
    found = [scan for plan in Explaining.plans for scan in scans(plan)]
    assert found
    assert [scan for scan in found if scan[0] == "Seq Scan" or "account_id" not in scan[1]] == []
