-- The sums of the tables of state at present, by asset: the balances, the totals and the lots.
WITH b AS (
    SELECT * FROM ledger.balances WHERE %(asset)s::text IS NULL OR asset = %(asset)s
), t AS (
    SELECT * FROM ledger.totals WHERE %(asset)s::text IS NULL OR asset = %(asset)s
), l AS (
    SELECT * FROM ledger.lots WHERE %(asset)s::text IS NULL OR asset = %(asset)s
)
SELECT s.asset, 'balances', v.name, v.amount FROM (
    SELECT asset, sum(available) AS available, sum(pending) AS pending, sum(held) AS held, sum(debt) AS debt
    FROM b GROUP BY asset
) AS s CROSS JOIN LATERAL (
    VALUES ('available', s.available), ('pending', s.pending), ('held', s.held), ('debt', s.debt)) AS v (name, amount)
UNION ALL
SELECT s.asset, 'totals', v.name, v.amount FROM (
    SELECT asset, sum(credits) AS credits, sum(debt) AS debt, sum(issued) AS issued, sum(spent) AS spent,
           sum(expired) AS expired, sum(voided) AS voided, sum(forfeited) AS forfeited, sum(reissued) AS reissued,
           sum(in_transit) AS in_transit FROM t GROUP BY asset
) AS s CROSS JOIN LATERAL (
    VALUES ('credits', s.credits), ('debt', s.debt), ('issued', s.issued), ('spent', s.spent), ('expired', s.expired),
           ('voided', s.voided), ('forfeited', s.forfeited), ('reissued', s.reissued), ('in_transit', s.in_transit)
    ) AS v (name, amount)
UNION ALL
SELECT s.asset, 'lots', v.name, v.amount FROM (
    SELECT asset, sum(remaining) AS remaining, sum(held) AS held, sum(spent) AS spent, sum(expired) AS expired,
           sum(voided) AS voided, sum(forfeited) AS forfeited FROM l GROUP BY asset
) AS s CROSS JOIN LATERAL (
    VALUES ('remaining', s.remaining), ('held', s.held), ('spent', s.spent), ('expired', s.expired),
           ('voided', s.voided), ('forfeited', s.forfeited)) AS v (name, amount)
