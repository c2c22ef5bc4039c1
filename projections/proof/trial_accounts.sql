-- Accounts whose balance isn't what their last line about the asset left, or isn't what is in their lots.
SELECT account_id, asset, what FROM (
    SELECT coalesce(b.account_id, j.account_id) AS account_id, coalesce(b.asset, j.asset) AS asset,
           'the balance isn''t what the journal''s last line left' AS what
    FROM ledger.balances b FULL JOIN (
        SELECT DISTINCT ON (account_id, asset) account_id, asset, balance, pending, held, debt
        FROM ledger.journal WHERE asset <> '' ORDER BY account_id, asset, version DESC
    ) AS j ON b.account_id = j.account_id AND b.asset = j.asset
    WHERE (b.available, b.pending, b.held, b.debt) IS DISTINCT FROM (j.balance, j.pending, j.held, j.debt)
    UNION ALL
    SELECT coalesce(b.account_id, l.account_id), coalesce(b.asset, l.asset), 'the balance isn''t what is in the lots'
    FROM ledger.balances b FULL JOIN (
        SELECT account_id, asset, coalesce(sum(remaining) FILTER (WHERE state <> 'pending'), 0) AS available,
               coalesce(sum(remaining) FILTER (WHERE state = 'pending'), 0) AS pending, sum(held) AS held
        FROM ledger.lots GROUP BY account_id, asset
    ) AS l ON b.account_id = l.account_id AND b.asset = l.asset
    WHERE (coalesce(b.available, 0), coalesce(b.pending, 0), coalesce(b.held, 0))
          <> (coalesce(l.available, 0), coalesce(l.pending, 0), coalesce(l.held, 0))
) AS w WHERE %(asset)s::text IS NULL OR asset = %(asset)s
ORDER BY account_id, asset, what LIMIT %(most)s
