-- Rows in partitions or at offsets that the fold has never been at.
SELECT r.what, r.log_partition, r.log_offset, r.account
FROM (
    SELECT 'journal' AS what, log_partition, log_offset, account_id AS account FROM {schema}.journal
    UNION ALL SELECT 'dead_letters', log_partition, log_offset, '' FROM {schema}.dead_letters
    UNION ALL SELECT 'activations', log_partition, log_offset, '' FROM {schema}.activations
    UNION ALL SELECT 'redrives', log_partition, log_offset, '' FROM {schema}.redrives
    UNION ALL SELECT 'checkpoints', log_partition, next_offset - 1, '' FROM {schema}.checkpoints
) AS r LEFT JOIN {schema}.progress p USING (log_partition)
WHERE p.log_partition IS NULL OR r.log_offset < 0 OR r.log_offset >= p.next_offset
ORDER BY r.log_partition, r.log_offset LIMIT {most}
