"""Lots and holds as they were after a line of their account's journal, as rows like those of now.

Reads the views in schema `ledger` only. The amounts are sums of the account's moves up to that line; what never changes
of a lot or a hold (its terms, its place in an order) is that of its row of now. So a query takes as long as the
account's journal up to the line is, and nothing is read of other accounts.
"""

from typing import LiteralString

from creditfold.projections.queries.lots import SELECT_HOLDS, SELECT_LOTS

# A slice that comes back to a lot whose window is over is lost by a move, and so is what remains in one that ends or is
# voided: of these states there is an amount. But one that is voided while all it has is held has none, and its fact
# names its number. A window that is ahead is one that opens after the clock that the account was settled to.
_LOTS: LiteralString = """(
    WITH parts AS MATERIALIZED (
        SELECT lot_command AS command_id, lot_number AS number, max(log_offset) AS log_offset,
               sum(CASE 'remaining' WHEN target THEN amount WHEN source THEN -amount ELSE 0 END)::bigint AS remaining,
               sum(CASE 'held' WHEN target THEN amount WHEN source THEN -amount ELSE 0 END)::bigint AS held,
               sum(CASE WHEN target IN ('spent', 'debt') THEN amount WHEN source = 'spent' THEN -amount
                        ELSE 0 END)::bigint AS spent,
               sum(amount) FILTER (WHERE target = 'expired')::bigint AS expired,
               sum(amount) FILTER (WHERE target = 'voided')::bigint AS voided,
               sum(amount) FILTER (WHERE target = 'forfeited')::bigint AS forfeited,
               sum(amount) FILTER (WHERE target = 'reissued')::bigint AS reissued,
               sum(CASE WHEN target = 'in_transit' THEN amount WHEN source = 'in_transit' AND kind = 'returned'
                        THEN -amount ELSE 0 END)::bigint AS transferred
        FROM ledger.moves
        WHERE account_id = %(account)s AND version <= %(version)s AND lot_command IS NOT NULL
        GROUP BY lot_command, lot_number
    ), voided_while_held AS MATERIALIZED (
        SELECT DISTINCT f.fact ->> 'ref' AS command_id, n.number::integer AS number
        FROM ledger.journal j
        CROSS JOIN LATERAL json_array_elements(j.facts) WITH ORDINALITY AS f (fact, at)
        CROSS JOIN LATERAL json_array_elements_text(f.fact -> 'held_numbers') WITH ORDINALITY AS n (number, at)
        WHERE j.account_id = %(account)s AND j.version <= %(version)s AND j.facts::text LIKE '%%"held_numbers"%%'
              AND f.at BETWEEN 1 AND 2147483647 AND n.at BETWEEN 1 AND 2147483647
    ), settled AS (
        SELECT decided_at FROM ledger.journal WHERE account_id = %(account)s AND version = %(version)s
    )
    SELECT n.account_id, n.command_id, n.number, n.asset, n.amount, p.remaining, p.held, p.spent,
           coalesce(p.expired, 0) AS expired, coalesce(p.voided, 0) AS voided, coalesce(p.forfeited, 0) AS forfeited,
           coalesce(p.reissued, 0) AS reissued, p.transferred,
           CASE WHEN p.voided > 0 OR v.number IS NOT NULL THEN 'voided'
                WHEN NOT s.is_live THEN 'empty'
                WHEN p.expired > 0 THEN 'expired'
                WHEN n.effective_at > (SELECT decided_at FROM settled) THEN 'pending'
                ELSE 'active' END AS state,
           s.is_live, n.class, n.priority, n.scope, n.effective_at, n.expires_at, n.source, n.made, n.log_partition,
           p.log_offset
    FROM parts p
    JOIN ledger.lots n ON n.account_id = %(account)s AND n.command_id = p.command_id AND n.number = p.number
    LEFT JOIN voided_while_held v ON v.command_id = p.command_id AND v.number = p.number
    CROSS JOIN LATERAL (SELECT p.remaining > 0 OR p.held > 0 AS is_live) s
)"""

_HOLDS: LiteralString = """(
    WITH slices AS (
        SELECT ref, lot_command, lot_number, bool_or(kind = 'lapsed') AS is_lapsed, max(log_offset) AS log_offset,
               min(move) FILTER (WHERE target = 'held') AS place,
               sum(CASE WHEN target = 'held' THEN amount ELSE -amount END)::bigint AS held
        FROM ledger.moves
        WHERE account_id = %(account)s AND version <= %(version)s AND 'held' IN (source, target)
        GROUP BY ref, lot_command, lot_number
    ), parts AS MATERIALIZED (
        SELECT ref AS command_id, sum(held)::bigint AS held, bool_or(is_lapsed) AS is_lapsed,
               max(log_offset) AS log_offset,
               coalesce(json_agg(json_build_array(lot_command, lot_number, held) ORDER BY place)
                            FILTER (WHERE held > 0), '[]'::json) AS slices
        FROM slices GROUP BY ref
    )
    SELECT n.account_id, n.command_id, n.asset, n.taken, p.held,
           CASE WHEN p.held > 0 THEN 'open' WHEN p.is_lapsed THEN 'lapsed' ELSE 'closed' END AS state,
           n.deadline, p.slices, n.made, n.log_partition, p.log_offset, p.held > 0 AS is_open
    FROM parts p JOIN ledger.holds n ON n.account_id = %(account)s AND n.command_id = p.command_id
)"""

#: The lots and the holds of an `account` as they were after its line of a `version`, as the queries of those of now.
SELECT_LOTS_AS_OF: LiteralString = SELECT_LOTS.replace("ledger.lots", _LOTS)
SELECT_HOLDS_AS_OF: LiteralString = SELECT_HOLDS.replace("ledger.holds", _HOLDS)
