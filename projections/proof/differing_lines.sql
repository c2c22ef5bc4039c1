-- The rows of one partition of {schema} before an offset that the chain doesn't cover: headers of dead letters, redrives,
-- and the counts, which are compared only where {other} stands at the same offset.
SELECT * FROM (
    SELECT 'headers' AS what, log_partition, log_offset, headers::text AS content FROM {schema}.dead_letters
    UNION ALL
    SELECT 'redrive', log_partition, log_offset, concat_ws(E'\x1f', of_partition, of_offset, decided_by, note)
    FROM {schema}.redrives
    UNION ALL
    SELECT 'progress', p.log_partition, p.next_offset - 1,
           concat_ws(',', p.clock_ms, p.rules, p.accepted, p.rejected, p.duplicates, p.dead_letters, p.activations,
                     p.ticks, p.tick_minute, p.last_offset, p.last_digest)
    FROM {schema}.progress p JOIN {other}.progress o USING (log_partition, next_offset)
) AS b WHERE log_partition = {partition} AND log_offset < {end}
