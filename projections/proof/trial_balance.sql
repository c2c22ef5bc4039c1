-- The sums of the journal by asset, up to an offset of each partition and, if given, an instant: what the accounts' last
-- lines left them (held, debt, ...), what the changes add up to, and by how much the moves filled each place. A row is an
-- asset, a name and a sum: whatever the journal's size, there are few.
WITH ends AS (
    SELECT * FROM unnest(%(partitions)s::integer[], %(ends)s::bigint[]) AS e (log_partition, next_offset)
), lines AS (
    SELECT j.account_id, j.asset, j.version, j.change, j.balance, j.pending, j.held, j.debt
    FROM ledger.journal j JOIN ends e USING (log_partition)
    WHERE j.log_offset < e.next_offset AND j.asset <> ''
      AND (%(until)s::timestamptz IS NULL OR j.decided_at <= %(until)s)
      AND (%(asset)s::text IS NULL OR j.asset = %(asset)s)
), changed AS (
    SELECT asset, sum(change) AS amount FROM lines GROUP BY asset
), last AS (
    SELECT DISTINCT ON (account_id, asset) asset, balance, pending, held, debt
    FROM lines ORDER BY account_id, asset, version DESC
), left_over AS (
    SELECT asset, sum(balance) AS available, sum(pending) AS pending, sum(held) AS held, sum(debt) AS debt
    FROM last GROUP BY asset
), moved AS (
    SELECT m.asset, p.place, sum(p.amount) AS amount,
           coalesce(sum(p.amount) FILTER (WHERE m.lot_command IS NOT NULL), 0) AS of_lots
    FROM ledger.moves m JOIN ends e USING (log_partition)
    CROSS JOIN LATERAL (VALUES (m.target, m.amount), (m.source, -m.amount)) AS p (place, amount)
    WHERE m.log_offset < e.next_offset
      AND (%(until)s::timestamptz IS NULL OR m.decided_at <= %(until)s)
      AND (%(asset)s::text IS NULL OR m.asset = %(asset)s)
    GROUP BY m.asset, p.place
)
SELECT l.asset, v.name, v.amount FROM left_over l CROSS JOIN LATERAL (
    VALUES ('available', l.available), ('pending', l.pending), ('held', l.held), ('debt', l.debt)) AS v (name, amount)
UNION ALL SELECT asset, 'change', amount FROM changed
UNION ALL SELECT asset, 'to ' || place, amount FROM moved
UNION ALL SELECT asset, 'of lots to ' || place, of_lots FROM moved
