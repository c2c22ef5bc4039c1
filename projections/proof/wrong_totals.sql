-- Totals that aren't the sums of the journal's moves. A missing row counts as zero.
SELECT 'totals' AS what, '' AS account_id, coalesce(t.asset, j.asset) AS name, coalesce(t.log_partition, j.log_partition) AS log_partition,
       t.content AS kept, j.content AS should_be
FROM (
    SELECT log_partition, asset,
           concat_ws(' ', credits, debt, issued, spent, expired, voided, forfeited, reissued, in_transit) AS content
    FROM {schema}.totals
    WHERE (credits, debt, issued, spent, expired, voided, forfeited, reissued, in_transit) <> (0, 0, 0, 0, 0, 0, 0, 0, 0)
) AS t
FULL JOIN (
    SELECT log_partition, asset,
           concat_ws(' ', credits, debt, issued, spent, expired, voided, forfeited, reissued, in_transit) AS content
    FROM (
        SELECT log_partition, asset, coalesce(sum(amount) FILTER (WHERE bucket IN ('remaining', 'held')), 0) AS credits,
               coalesce(-sum(amount) FILTER (WHERE bucket = 'debt'), 0) AS debt,
               coalesce(-sum(amount) FILTER (WHERE bucket = 'issued'), 0) AS issued,
               coalesce(sum(amount) FILTER (WHERE bucket = 'spent'), 0) AS spent,
               coalesce(sum(amount) FILTER (WHERE bucket = 'expired'), 0) AS expired,
               coalesce(sum(amount) FILTER (WHERE bucket = 'voided'), 0) AS voided,
               coalesce(sum(amount) FILTER (WHERE bucket = 'forfeited'), 0) AS forfeited,
               coalesce(sum(amount) FILTER (WHERE bucket = 'reissued'), 0) AS reissued,
               coalesce(sum(amount) FILTER (WHERE bucket = 'in_transit'), 0) AS in_transit
        FROM (
            SELECT l.log_partition, coalesce(f ->> 'asset', l.asset) AS asset, p.bucket, p.amount
            FROM {schema}.journal l JOIN {schema}.progress USING (log_partition)
            CROSS JOIN LATERAL jsonb_array_elements(l.facts::jsonb) AS f
            CROSS JOIN LATERAL jsonb_array_elements(f -> 'moves') AS m
            CROSS JOIN LATERAL (VALUES (m ->> 2, -(m ->> 4)::bigint), (m ->> 3, (m ->> 4)::bigint)) AS p (bucket, amount)
            WHERE l.log_offset BETWEEN 0 AND next_offset - 1 AND l.facts <> '[]'
        ) AS moved
        GROUP BY log_partition, asset
    ) AS summed
    WHERE (credits, debt, issued, spent, expired, voided, forfeited, reissued, in_transit) <> (0, 0, 0, 0, 0, 0, 0, 0, 0)
) AS j ON t.log_partition = j.log_partition AND t.asset = j.asset
WHERE t.content IS DISTINCT FROM j.content
ORDER BY 4, 3 LIMIT {most}
