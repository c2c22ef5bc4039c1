-- What happened in an hour that isn't the sum of the journal's moves, by the classes of the lots as they are.
SELECT 'hourly_totals' AS what, '' AS account_id,
       concat_ws(' ', to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24"Z"'), asset, h.what, nullif(lot_class, ''), source, reason) AS name,
       log_partition, t.amount::text AS kept, j.amount::text AS should_be
FROM {schema}.hourly_totals AS t
FULL JOIN (
    SELECT to_timestamp(l.clock_ms / 3600000 * 3600) AS hour, l.log_partition, coalesce(f ->> 'asset', l.asset) AS asset,
           CASE WHEN m ->> 3 IN ('spent', 'expired', 'voided', 'forfeited') THEN m ->> 3
                WHEN m ->> 2 = 'spent' THEN 'refunded' ELSE f ->> 'kind' END AS what,
           coalesce(k.lot_class, '') AS lot_class, translate(coalesce(c.source, l.source), chr(31), ' ') AS source,
           left(translate(coalesce(c.note, l.note), chr(31), ' '), {reason}) AS reason, sum((m ->> 4)::bigint) AS amount
    FROM {schema}.journal l JOIN {schema}.progress USING (log_partition)
    CROSS JOIN LATERAL jsonb_array_elements(l.facts::jsonb) AS f
    CROSS JOIN LATERAL jsonb_array_elements(f -> 'moves') AS m
    LEFT JOIN {schema}.all_lots k
        ON k.account_id = l.account_id AND k.command_id = m ->> 0 AND k.number = (m ->> 1)::integer
    -- The line of a further asset is behind its command's own.
    LEFT JOIN LATERAL (
        SELECT o.source, o.note FROM {schema}.journal o
        WHERE l.command_id IS NULL AND l.kind <> 'settled' AND o.account_id = l.account_id AND o.version < l.version
              AND o.log_offset = l.log_offset AND o.command_id IS NOT NULL
        ORDER BY o.version DESC LIMIT 1
    ) AS c ON true
    WHERE l.log_offset BETWEEN 0 AND next_offset - 1 AND l.facts <> '[]'
          AND (m ->> 3 IN ('spent', 'expired', 'voided', 'forfeited') OR m ->> 2 = 'spent' OR f ->> 'kind' IN ('lapsed', 'repaid'))
    GROUP BY 1, 2, 3, 4, 5, 6, 7
) AS j USING (hour, log_partition, asset, what, lot_class, source, reason)
CROSS JOIN LATERAL (SELECT coalesce(t.what, j.what) AS what) AS h
WHERE t.amount IS DISTINCT FROM j.amount
ORDER BY 4, 3 LIMIT {most}
