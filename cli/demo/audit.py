"""Proves what the demo's fold came to, by another way: own arithmetic and plain SQL over the readers' views.

It shares no code with `ledger/` on purpose, and so repeats the two rules in force: a grant adds, and a spend
larger than the balance is rejected.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from psycopg import Connection

#: What became of a command: its id, whether it was accepted, the account's balance after it.
Line = tuple[str, bool, int]


class Check(NamedTuple):
    """One thing that must be so: what it is, whether it is, and the figures."""

    claim: str
    holds: bool
    figures: str


class AccountLine(NamedTuple):
    """One account in figures. Amounts in the asset's smallest unit, `rejected` in commands."""

    account: str
    granted: int
    spent: int
    rejected: int
    balance: int


def expected_lines(commands: Path) -> Mapping[str, list[Line]]:
    """Work out from a command file what must have become of each command, by account, in the file's order."""
    balances: dict[str, int] = defaultdict(int)
    lines: dict[str, list[Line]] = defaultdict(list)
    with commands.open(encoding="utf-8") as file:
        for text in file:
            command = json.loads(text)
            account, amount = command["account"], command["amount"]
            change = amount if command["type"] == "grant" else -amount
            accepted = balances[account] + change >= 0
            balances[account] += change if accepted else 0
            lines[account].append((command["command_id"], accepted, balances[account]))
    return lines


def journal_lines(connection: Connection[Any], source: str) -> Iterator[tuple[str, list[Line]]]:
    """Read what the journal says of the commands of one source, by account, in the order of the decisions."""
    query = """SELECT account_id, command_id, accepted, balance FROM ledger.journal
               WHERE source = %s ORDER BY account_id COLLATE "C", version"""
    for account, rows in groupby(connection.execute(query, (source,), binary=True), key=itemgetter(0)):
        yield account, [row[1:] for row in rows]


def check_outcomes(connection: Connection[Any], commands: Path, source: str) -> Check:
    """Each command of the file has the outcome and the balance after it that were worked out."""
    expected = expected_lines(commands)
    seen = wrong = count = 0
    for account, lines in journal_lines(connection, source):
        seen += 1
        count += len(lines)
        wrong += lines != expected.get(account)
    missing = len(expected) - seen
    return Check(
        "each command's outcome and balance equal those worked out from the file",
        wrong == 0 and missing == 0,
        f"{count:,} commands of {seen:,} accounts compared, {wrong + max(missing, 0):,} accounts differ",
    )


def check_nothing_lost(connection: Connection[Any], records_in_log: int) -> Check:
    """Each record of the log has exactly one outcome, and the outcomes that are kept are there."""
    row = connection.execute(
        """SELECT sum(accepted)::bigint, sum(rejected)::bigint, sum(duplicates)::bigint, sum(dead_letters)::bigint,
                  sum(activations + ticks)::bigint,
                  -- A batch has a line for each step, and what time did has none of a command.
                  (SELECT count(*) FROM (
                      SELECT DISTINCT log_partition, log_offset FROM ledger.journal WHERE command_id IS NOT NULL) d),
                  (SELECT count(*) FROM ledger.dead_letters)
           FROM ledger.progress"""
    ).fetchone()
    accepted, rejected, duplicates, dead, control, journal, letters = row or (0, 0, 0, 0, 0, 0, 0)
    holds = (
        accepted + rejected + duplicates + dead + control == records_in_log
        and accepted + rejected == journal
        and dead == letters
    )
    return Check(
        "each record of the log has exactly one outcome",
        holds,
        f"{records_in_log:,} records = {accepted:,} accepted + {rejected:,} rejected + {duplicates:,} duplicates"
        f" + {dead:,} dead letters + {control:,} control records",
    )


def check_balances(connection: Connection[Any]) -> Check:
    """Each balance is the sum of its journal's changes, and none is below zero."""
    row = connection.execute(
        """SELECT count(*), count(*) FILTER (WHERE b.available IS DISTINCT FROM j.total OR b.available < 0)
           FROM ledger.balances b FULL JOIN
                (SELECT account_id, asset, sum(change) AS total FROM ledger.journal WHERE asset <> '' GROUP BY 1, 2) j
                USING (account_id, asset)"""
    ).fetchone()
    accounts, wrong = row or (0, 0)
    return Check(
        "each balance is the sum of its accepted changes, and none is below zero",
        wrong == 0,
        f"{accounts:,} balances compared, {wrong:,} differ",
    )


def account_lines(connection: Connection[Any], source: str, count: int) -> list[AccountLine]:
    """The accounts with the most decisions of a source, in figures."""
    rows = connection.execute(
        """SELECT account_id, coalesce(sum(change) FILTER (WHERE change > 0), 0)::bigint,
                  -coalesce(sum(change) FILTER (WHERE change < 0), 0)::bigint, count(*) FILTER (WHERE NOT accepted),
                  (SELECT available FROM ledger.balances b WHERE b.account_id = j.account_id AND b.asset = j.asset)
           FROM ledger.journal j WHERE source = %s GROUP BY account_id, asset
           ORDER BY count(*) DESC, account_id LIMIT %s""",
        (source, count),
    )
    return [AccountLine(*row) for row in rows.fetchall()]
