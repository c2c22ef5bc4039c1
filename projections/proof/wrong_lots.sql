-- Lots that aren't the sums of the journal's moves: how much came in, where it is now, and the terms; and those whose marks
-- contradict their own row.
SELECT 'lots' AS what, coalesce(k.account_id, s.account_id) AS account_id,
       coalesce(k.command_id, s.command_id) || ' ' || coalesce(k.number, s.number) AS name,
       coalesce(k.log_partition, s.log_partition) AS log_partition, k.content AS kept, s.content AS should_be
FROM (
    SELECT account_id, command_id, number, log_partition,
           concat_ws(' ', asset, amount, remaining, held, spent, expired, voided, forfeited, reissued, transferred,
                     lot_class, priority, effective_at_ms, expires_at_ms, scope, source, made >> 20) AS content,
           is_live = (remaining > 0 OR held > 0)
           AND next_at_ms IS NOT DISTINCT FROM CASE
               WHEN NOT is_lapsed AND remaining > 0 THEN CASE WHEN is_pending THEN effective_at_ms ELSE nullif(expires_at_ms, 0) END
           END AS is_sound
    FROM {schema}.all_lots
) AS k
FULL JOIN (
    SELECT account_id, command_id, number, max(log_partition) AS log_partition,
           concat_ws(' ', max(asset), coalesce(sum(amount) FILTER (WHERE is_made), 0),
                     coalesce(sum(amount) FILTER (WHERE bucket = 'remaining'), 0),
                     coalesce(sum(amount) FILTER (WHERE bucket = 'held'), 0),
                     coalesce(sum(amount) FILTER (WHERE bucket IN ('spent', 'debt')), 0),
                     coalesce(sum(amount) FILTER (WHERE bucket = 'expired'), 0),
                     coalesce(sum(amount) FILTER (WHERE bucket = 'voided'), 0),
                     coalesce(sum(amount) FILTER (WHERE bucket = 'forfeited'), 0),
                     coalesce(sum(amount) FILTER (WHERE bucket = 'reissued'), 0),
                     coalesce(sum(amount) FILTER (WHERE bucket = 'in_transit'), 0),
                     max(terms), max(source), max(place)) AS content
    FROM (
        SELECT account_id, m ->> 0 AS command_id, (m ->> 1)::integer AS number, log_partition, asset, p.bucket, p.amount,
               is_made AND p.is_target AS is_made,
               CASE WHEN is_made THEN concat_ws(' ', t ->> 'lot_class', t ->> 'priority', t ->> 'effective_at',
                                                t ->> 'expires_at', t ->> 'scope') END AS terms,
               CASE WHEN is_made THEN m ->> 2 END AS source, CASE WHEN is_made THEN log_offset END AS place
        FROM (
            SELECT l.account_id, l.log_partition, l.log_offset, coalesce(f ->> 'asset', l.asset) AS asset, f -> 'terms' AS t, m,
                   m ->> 2 IN ('issued', 'reissued') OR (m ->> 2 = 'in_transit' AND f ->> 'kind' = 'arrived') AS is_made
            FROM {schema}.journal l JOIN {schema}.progress USING (log_partition)
            CROSS JOIN LATERAL jsonb_array_elements(l.facts::jsonb) AS f
            CROSS JOIN LATERAL jsonb_array_elements(f -> 'moves') AS m
            WHERE l.log_offset BETWEEN 0 AND next_offset - 1 AND l.facts <> '[]' AND m ->> 0 <> ''
        ) AS moves
        CROSS JOIN LATERAL (VALUES (m ->> 2, -(m ->> 4)::bigint, false), (m ->> 3, (m ->> 4)::bigint, true))
            AS p (bucket, amount, is_target)
        -- What a lot is made of comes from elsewhere.
        WHERE p.is_target OR NOT is_made
    ) AS parts
    GROUP BY account_id, command_id, number
) AS s USING (account_id, command_id, number)
WHERE k.content IS DISTINCT FROM s.content OR NOT is_sound
ORDER BY 2, 3 LIMIT {most}
