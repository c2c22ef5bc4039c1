-- Accounts that aren't shut as the journal says, limits of balances that aren't those that were set last, and balances whose
-- lots can't be read, or end before or after it says; and lots that are there more than once.
SELECT what, account_id, name, log_partition, kept, should_be
FROM (
    SELECT 'accounts' AS what, coalesce(a.account_id, j.account_id) AS account_id, '' AS name,
           coalesce(a.log_partition, j.log_partition) AS log_partition, a.content AS kept, j.content AS should_be
    FROM (
        SELECT account_id, log_partition, concat_ws(' ', version, is_closed, frozen, log_offset) AS content
        FROM {schema}.accounts
    ) AS a
    FULL JOIN (
        SELECT account_id, max(log_partition) AS log_partition,
               concat_ws(' ', max(version), coalesce(bool_or(kind = 'close' AND rejection IS NULL), false),
                         coalesce((array_agg(facts::jsonb -> 0 ->> 'detail' ORDER BY version DESC)
                                   FILTER (WHERE kind IN ('freeze', 'unfreeze') AND rejection IS NULL))[1], ''),
                         max(log_offset)) AS content
        FROM {schema}.journal JOIN {schema}.progress USING (log_partition)
        WHERE log_offset BETWEEN 0 AND next_offset - 1 AND asset = ''
        GROUP BY account_id
    ) AS j USING (account_id)
    UNION ALL
    SELECT 'balances', coalesce(b.account_id, j.account_id), coalesce(b.asset, j.asset),
           coalesce(b.log_partition, j.log_partition), 'limit ' || coalesce(b.credit_limit, 0),
           'limit ' || coalesce(j.credit_limit, 0)
    FROM (SELECT * FROM {schema}.balances WHERE credit_limit <> 0) AS b
    FULL JOIN (
        SELECT DISTINCT ON (account_id, asset) account_id, asset, log_partition,
               (facts::jsonb -> 0 ->> 'detail')::bigint AS credit_limit
        FROM {schema}.journal JOIN {schema}.progress USING (log_partition)
        WHERE log_offset BETWEEN 0 AND next_offset - 1 AND kind = 'set_credit_limit' AND rejection IS NULL
        ORDER BY account_id, asset, version DESC
    ) AS j USING (account_id, asset)
    UNION ALL
    SELECT 'balances', account_id, asset, log_partition, concat(lines, ' lots, next at ', coalesce(next_at_ms, 0)),
           concat(lots, ' lots, next at ', coalesce(ends_at_ms, 0))
    FROM (
        SELECT account_id, asset, log_partition, b.next_at_ms, (SELECT count(*) FROM string_to_table(b.lots, E'\n')) AS lines,
               coalesce(i.lots, 0) AS lots, ends_at_ms
        FROM {schema}.balances b
        LEFT JOIN (
            SELECT account_id, asset, count(*) AS lots, min(next_at_ms) AS ends_at_ms FROM {schema}.inline_lots
            GROUP BY account_id, asset
        ) AS i USING (account_id, asset)
        WHERE b.lots <> '' OR b.next_at_ms IS NOT NULL
    ) AS inline
    UNION ALL
    SELECT 'lots', account_id, command_id || ' ' || number, max(log_partition), count(*) || ' times', '1 times'
    FROM {schema}.all_lots GROUP BY account_id, command_id, number HAVING count(*) > 1
) AS w
WHERE kept IS DISTINCT FROM should_be
ORDER BY what, account_id, name LIMIT {most}
