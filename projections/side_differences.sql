-- What the chain leaves out, compared between two generations in one partition before an offset.
WITH mine AS (
    SELECT 'headers' AS what, log_partition, log_offset, headers::text AS content FROM {left}.dead_letters
    UNION ALL
    SELECT 'redrive', log_partition, log_offset, concat_ws(E'\x1f', of_partition, of_offset, decided_by, note)
    FROM {left}.redrives
    UNION ALL
    SELECT 'progress', p.log_partition, p.next_offset - 1,
           concat_ws(',', p.clock_ms, p.rules, p.accepted, p.rejected, p.duplicates, p.dead_letters, p.activations)
    FROM {left}.progress p JOIN {right}.progress o USING (log_partition, next_offset)
), theirs AS (
    SELECT 'headers' AS what, log_partition, log_offset, headers::text AS content FROM {right}.dead_letters
    UNION ALL
    SELECT 'redrive', log_partition, log_offset, concat_ws(E'\x1f', of_partition, of_offset, decided_by, note)
    FROM {right}.redrives
    UNION ALL
    SELECT 'progress', o.log_partition, o.next_offset - 1,
           concat_ws(',', o.clock_ms, o.rules, o.accepted, o.rejected, o.duplicates, o.dead_letters, o.activations)
    FROM {left}.progress p JOIN {right}.progress o USING (log_partition, next_offset)
)
SELECT what, log_partition, log_offset
FROM (SELECT * FROM mine WHERE log_partition = {partition} AND log_offset < {end}) AS m
FULL JOIN (SELECT * FROM theirs WHERE log_partition = {partition} AND log_offset < {end}) AS t
USING (what, log_partition, log_offset)
WHERE m.content IS DISTINCT FROM t.content
ORDER BY log_offset LIMIT {most}
