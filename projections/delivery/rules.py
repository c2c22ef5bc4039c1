"""The rules of alerts: made and removed, each with its line in the audit, and what they keep of accounts.

Owns that a new rule begins at the present state, that what a rule has said is written with how far the rules have read,
and by the process that leads. What a line means for a rule is the room of delivery's.
"""

import secrets
import string
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.common.errors import CreditfoldError
from creditfold.ledger import limits
from creditfold.ledger.limits import is_id, is_note
from creditfold.projections.access.audit import Actor, record_action
from creditfold.projections.connections import rows_of
from creditfold.projections.delivery.checkpoints import Cursor
from creditfold.projections.delivery.leadership import refuse_superseded
from creditfold.projections.queries.windows import Place

#: Rules of a ledger: each line of the journal is held against each of them.
MAX_RULES_OF_ALERTS = 100
#: Milliseconds before their end at which credits can be said to end soon.
MAX_WITHIN_MS = 366 * 86_400_000
#: Lots that are said to end soon in one transaction.
DUE_AT_ONCE = 500

_DIGITS = string.digits + string.ascii_letters


class UnknownRuleError(CreditfoldError):
    """There is no such rule."""

    exit_code = 2


class InvalidRuleError(CreditfoldError):
    """What a rule is to be can't be."""

    exit_code = 2


class RulesChangedError(Exception):
    """There are other rules than those by which lines were judged: nothing was written."""


class AlertRule(NamedTuple):
    """What is watched: accounts that begin with a prefix, and an asset; empty are all.

    `dropped`: the available credits fall below `below`; they have recovered at `rearm_at`. `depleted`: nothing is left.
    `expiring`: something of a lot is left `within_ms` milliseconds before its end. `begins` are the offsets from which
    it counts, by partition as text.
    """

    id: str
    kind: str
    owner: str
    account_prefix: str
    asset: str
    below: int
    rearm_at: int
    within_ms: int
    begins: Mapping[str, int] = {}
    made_at: datetime | None = None


_RULES: LiteralString = """
    SELECT id, kind, owner, account_prefix, asset, below, rearm_at, within_ms, begins, made_at
    FROM ledger_delivery.alert_rules
"""


def alert_rules(connection: Connection[Any]) -> Sequence[AlertRule]:
    """All rules, in the order in which they were made."""
    return rows_of(connection, AlertRule, _RULES + " ORDER BY made_at, id")


def alert_rule_of(connection: Connection[Any], rule_id: str) -> AlertRule:
    """The rule of an id. Raises UnknownRuleError."""
    found = rows_of(connection, AlertRule, _RULES + " WHERE id = %s", (rule_id,))
    if not found:
        raise UnknownRuleError(f"There is no rule with the id {rule_id[:20]!r}.", "`creditfold alerts list` shows all.")
    return found[0]


def create_rule(
    connection: Connection[Any],
    kind: str,
    *,
    by: Actor,
    owner: str,
    account_prefix: str = "",
    asset: str = "",
    below: int = 1,
    rearm_at: int | None = None,
    within_ms: int = 0,
) -> AlertRule:
    """Make a rule, which begins at the present state: what is below its bound already isn't said.

    Args:
        connection: to the database.
        kind: `dropped`, `depleted` or `expiring`.
        by: who does it, and why.
        owner: who it belongs to.
        account_prefix: begins the accounts that are watched; empty: all.
        asset: that is watched; empty: any.
        below: of `dropped`, the bound, in the asset's smallest unit.
        rearm_at: of `dropped` and `depleted`, from which amount on an account has recovered; `below` if not given.
        within_ms: of `expiring`, how long before its end a lot is said to end soon, in milliseconds.

    Raises:
        InvalidRuleError: it can't be, or there are MAX_RULES_OF_ALERTS.
        ReasonMissingError: nobody says why.
    """
    bound = below if kind == "dropped" else 1 if kind == "depleted" else 0
    again = 0 if kind == "expiring" else bound if rearm_at is None else rearm_at
    rule_id = "al_" + "".join(secrets.choice(_DIGITS) for _ in range(16))
    wanted = AlertRule(rule_id, kind, owner, account_prefix, asset, bound, again, within_ms)
    _refuse_impossible(wanted)
    with connection.transaction():
        # Whoever judges lines writes these rows, and looks at the rules then: so it hears of the new one in time.
        connection.execute("LOCK TABLE ledger_delivery.alert_rules IN SHARE ROW EXCLUSIVE MODE")
        connection.execute("SELECT FROM ledger_delivery.alert_cursors FOR UPDATE")
        others = alert_rules(connection)
        if len(others) >= MAX_RULES_OF_ALERTS:
            raise InvalidRuleError(f"There are {MAX_RULES_OF_ALERTS} rules, which is the most.", "Remove one.")
        if not others:
            connection.execute(_BEGIN_ALL)
        # In one statement, and so of one state: what is folded later is of the lines that the rule reads.
        connection.execute(_CREATE, wanted._asdict())
        made = alert_rule_of(connection, rule_id)
        record_action(connection, **by._asdict(), action="alerts.create", target=rule_id, after=rule_fields(made))
    return made


def delete_rule(connection: Connection[Any], rule_id: str, *, by: Actor) -> AlertRule:
    """Remove a rule. Raises UnknownRuleError, ReasonMissingError."""
    with connection.transaction():
        before = alert_rule_of(connection, rule_id)
        connection.execute("DELETE FROM ledger_delivery.alert_rules WHERE id = %s", (rule_id,))
        record_action(connection, **by._asdict(), action="alerts.delete", target=rule_id, before=rule_fields(before))
    return before


def rule_fields(rule: AlertRule) -> dict[str, Any]:
    """A rule as JSON has it."""
    found = rule._asdict()
    del found["begins"]
    return {**found, "made_at": None if rule.made_at is None else rule.made_at.isoformat()}


_BEGIN_ALL: LiteralString = """
    INSERT INTO ledger_delivery.alert_cursors AS c (log_partition, topic_id, log_offset)
    SELECT log_partition, topic_id, next_offset FROM ledger.progress
    ON CONFLICT (log_partition) DO UPDATE SET topic_id = excluded.topic_id, log_offset = excluded.log_offset,
        account_id = '', version = 0, last_account = '', last_version = 0
"""

_CREATE: LiteralString = """
    WITH standing AS (
        SELECT log_partition, next_offset, coalesce(round(extract(epoch FROM clock) * 1000)::bigint, 0) AS clock_ms
        FROM ledger.progress
    ), made AS (
        INSERT INTO ledger_delivery.alert_rules
            (id, kind, owner, account_prefix, asset, below, rearm_at, within_ms, begins)
        SELECT %(id)s, %(kind)s, %(owner)s, %(account_prefix)s, %(asset)s, %(below)s, %(rearm_at)s, %(within_ms)s,
               (SELECT jsonb_object_agg(log_partition, next_offset) FROM standing)
    )
    INSERT INTO ledger_delivery.alert_lots
        (rule_id, account_id, command_id, number, log_partition, asset, remaining, expires_at_ms, due_ms)
    SELECT %(id)s, l.account_id, l.command_id, l.number, l.log_partition, l.asset, l.remaining,
           round(extract(epoch FROM l.expires_at) * 1000)::bigint,
           round(extract(epoch FROM l.expires_at) * 1000)::bigint - %(within_ms)s
    FROM ledger.lots l JOIN standing s USING (log_partition)
    WHERE %(kind)s::text = 'expiring' AND l.is_live AND starts_with(l.account_id, %(account_prefix)s)
        AND %(asset)s::text IN ('', l.asset)
        AND extract(epoch FROM l.expires_at) * 1000 - %(within_ms)s > greatest(
            s.clock_ms, extract(epoch FROM clock_timestamp()) * 1000)
"""


def _refuse_impossible(wanted: AlertRule) -> None:
    if wanted.kind not in ("dropped", "depleted", "expiring"):
        raise InvalidRuleError(
            f"There is no rule of the kind {wanted.kind[:20]!r}.", "Write dropped, depleted, expiring."
        )
    if not is_note(wanted.account_prefix, limits.MAX_ACCOUNT):
        raise InvalidRuleError(
            "No account begins with that prefix.", f"It has at most {limits.MAX_ACCOUNT} characters, as an account has."
        )
    if wanted.asset and not is_id(wanted.asset, limits.MAX_ASSET):
        raise InvalidRuleError(f"{wanted.asset[:60]!r} is no asset.", f"It has 1 to {limits.MAX_ASSET} characters.")
    if not is_id(wanted.owner, limits.MAX_SOURCE):
        raise InvalidRuleError(f"{wanted.owner[:60]!r} can be no owner.", f"Use 1 to {limits.MAX_SOURCE} characters.")
    if wanted.kind == "expiring":
        if not 1_000 <= wanted.within_ms <= MAX_WITHIN_MS:
            raise InvalidRuleError("The time before the end can't be.", "It is from one second to 366 days.")
    elif not 1 <= wanted.below <= wanted.rearm_at <= limits.MAX_BALANCE:
        raise InvalidRuleError(
            f"{wanted.below:,} and {wanted.rearm_at:,} can be no bounds.",
            "An account drops below a bound of 1 or more, and has recovered at that bound, or above it.",
        )


class FiredState(NamedTuple):
    """A rule has said that an account dropped, and not yet that it recovered."""

    rule_id: str
    account_id: str
    asset: str


class NewAlert(NamedTuple):
    """What a rule makes of a line; `data` is JSON."""

    log_offset: int
    account_id: str
    version: int
    rule_id: str
    type: str
    data: str


class WatchedLot(NamedTuple):
    """A lot that a rule waits for the end of."""

    rule_id: str
    account_id: str
    command_id: str
    number: int
    asset: str
    expires_at_ms: int
    due_ms: int


class LotChange(NamedTuple):
    """By how much what remains of a lot changed, for a rule that waits for its end."""

    rule_id: str
    account_id: str
    command_id: str
    number: int
    change: int


class Judged(NamedTuple):
    """What the rules make of some lines of a partition."""

    alerts: Sequence[NewAlert] = ()
    fired: Collection[FiredState] = ()
    recovered: Collection[FiredState] = ()
    lots: Sequence[WatchedLot] = ()
    changes: Sequence[LotChange] = ()


def alert_cursors(connection: Connection[Any]) -> dict[int, Cursor]:
    """How far the rules have read, by partition."""
    rows = connection.execute(
        """SELECT log_partition, log_offset, account_id, version, last_account, last_version
           FROM ledger_delivery.alert_cursors"""
    ).fetchall()
    return {row[0]: Cursor(row[0], Place(*row[1:4]), *row[4:]) for row in rows}


def fired_states(connection: Connection[Any], rules: Sequence[str], accounts: Sequence[str]) -> set[FiredState]:
    """Of which of these accounts these rules have said that they dropped."""
    return set(
        rows_of(
            connection,
            FiredState,
            """SELECT rule_id, account_id, asset FROM ledger_delivery.alert_states
               WHERE rule_id = ANY(%s) AND account_id = ANY(%s)""",
            (list(rules), list(accounts)),
        )
    )


def save_judged(
    connection: Connection[Any], epoch: int, rules: Collection[str], cursor: Cursor, judged: Judged
) -> None:
    """Write what rules made of lines, and how far they are now, at once.

    Args:
        connection: in autocommit.
        epoch: of the process that leads.
        rules: the ids of all rules by which lines were judged.
        cursor: how far they have read.
        judged: what they made of it.

    Raises:
        SupersededError: another process leads. Nothing was written.
        RulesChangedError: there are other rules by now. Nothing was written.
    """
    with connection.transaction():
        refuse_superseded(connection, epoch)
        connection.execute(
            """UPDATE ledger_delivery.alert_cursors SET log_offset = %s, account_id = %s, version = %s,
                   last_account = %s, last_version = %s WHERE log_partition = %s""",
            (*cursor.place, cursor.last_account, cursor.last_version, cursor.partition),
        )
        # Behind the lock of that row: a rule that is being made is seen.
        if {rule.id for rule in alert_rules(connection)} != set(rules):
            raise RulesChangedError
        _save(connection, cursor.partition, judged)


def _save(connection: Connection[Any], partition: int, judged: Judged) -> None:
    for query, rows in (
        (_ALERTS, [(partition, *one) for one in judged.alerts]),
        (_FIRED, judged.fired),
        (_RECOVERED, judged.recovered),
        (_LOTS, [(*one, partition) for one in judged.lots]),
        (_CHANGES, judged.changes),
    ):
        if rows:
            connection.execute(query, [list(column) for column in zip(*rows, strict=True)])


_ALERTS: LiteralString = """
    INSERT INTO ledger_delivery.alerts (log_partition, log_offset, account_id, version, rule_id, type, data)
    SELECT * FROM unnest(%s::integer[], %s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[])
    ON CONFLICT DO NOTHING
"""
_FIRED: LiteralString = """
    INSERT INTO ledger_delivery.alert_states (rule_id, account_id, asset)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[]) ON CONFLICT DO NOTHING
"""
_RECOVERED: LiteralString = """
    DELETE FROM ledger_delivery.alert_states s
    USING unnest(%s::text[], %s::text[], %s::text[]) AS n (rule_id, account_id, asset)
    WHERE (s.rule_id, s.account_id, s.asset) = (n.rule_id, n.account_id, n.asset)
"""
_LOTS: LiteralString = """
    INSERT INTO ledger_delivery.alert_lots
        (rule_id, account_id, command_id, number, asset, expires_at_ms, due_ms, log_partition, remaining)
    SELECT n.*, 0 FROM unnest(%s::text[], %s::text[], %s::text[], %s::integer[], %s::text[], %s::bigint[], %s::bigint[],
                              %s::integer[]) AS n
    ON CONFLICT DO NOTHING
"""
_CHANGES: LiteralString = """
    UPDATE ledger_delivery.alert_lots l SET remaining = remaining + n.change
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::integer[], %s::bigint[])
        AS n (rule_id, account_id, command_id, number, change)
    WHERE (l.account_id, l.command_id, l.number, l.rule_id) = (n.account_id, n.command_id, n.number, n.rule_id)
"""


def notify_due(connection: Connection[Any], epoch: int, clocks: Mapping[int, int]) -> int:
    """Say of lots that they end soon, each once, where something of them is left; returns how many were looked at.

    Args:
        connection: in autocommit.
        epoch: of the process that leads.
        clocks: by partition, what time it is there, in milliseconds since 1970 UTC.

    Raises SupersededError where another process leads.
    """
    with connection.transaction():
        refuse_superseded(connection, epoch)
        found = connection.execute(
            _DUE, {"partitions": list(clocks), "clocks": list(clocks.values()), "most": DUE_AT_ONCE}
        ).fetchone()
    return 0 if found is None else int(found[0])


# By the rows' own places, or the whole table would be read; nobody else writes it. A lot that ended before anybody said
# so is left out.
_DUE: LiteralString = """
    WITH clocks AS (
        SELECT * FROM unnest(%(partitions)s::integer[], %(clocks)s::bigint[]) AS c (log_partition, clock_ms)
    ), due AS (
        DELETE FROM ledger_delivery.alert_lots WHERE ctid = ANY(ARRAY(
            SELECT d.ctid FROM clocks c CROSS JOIN LATERAL (
                SELECT t.ctid FROM ledger_delivery.alert_lots t
                WHERE t.log_partition = c.log_partition AND t.due_ms <= c.clock_ms ORDER BY t.due_ms LIMIT %(most)s
            ) d
        ))
        RETURNING *
    ), said AS (
        INSERT INTO ledger_delivery.notices (type, account_id, owner, identity, at_ms, data)
        SELECT 'credits.expiring_soon', account_id, '',
               json_build_array(account_id, command_id, number, rule_id)::text, clock_ms,
               json_build_object('rule', rule_id, 'account', account_id, 'asset', asset, 'lot', command_id,
                                 'lot_number', number, 'remaining', remaining, 'expires_at',
                                 to_char(to_timestamp(expires_at_ms / 1000.0) AT TIME ZONE 'UTC',
                                         'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))::text
        FROM due JOIN clocks USING (log_partition)
        WHERE remaining > 0 AND expires_at_ms > clock_ms ORDER BY due_ms, account_id, command_id, number
    )
    SELECT count(*) FROM due
"""
