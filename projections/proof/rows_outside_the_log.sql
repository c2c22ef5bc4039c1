-- Rows in partitions or at offsets that the fold has never been at.
SELECT r.what, r.log_partition, r.log_offset, r.account
FROM (
    SELECT 'journal' AS what, log_partition, log_offset, account_id AS account FROM {schema}.journal
    UNION ALL SELECT 'dead_letters', log_partition, log_offset, '' FROM {schema}.dead_letters
    UNION ALL SELECT 'activations', log_partition, log_offset, '' FROM {schema}.activations
    UNION ALL SELECT 'redrives', log_partition, log_offset, '' FROM {schema}.redrives
    UNION ALL SELECT 'checkpoints', log_partition, next_offset - 1, '' FROM {schema}.checkpoints
    UNION ALL SELECT 'accounts', log_partition, log_offset, account_id FROM {schema}.accounts
    UNION ALL SELECT 'metadata', log_partition, log_offset, account_id FROM {schema}.metadata
    UNION ALL SELECT 'lots', log_partition, log_offset, account_id FROM {schema}.all_lots
    UNION ALL SELECT 'holds', log_partition, log_offset, account_id FROM {schema}.holds
    UNION ALL SELECT 'spends', log_partition, log_offset, account_id FROM {schema}.spends
    UNION ALL SELECT 'transfers', log_partition, log_offset, account_id FROM {schema}.transfers
    UNION ALL SELECT 'schedules', log_partition, log_offset, account_id FROM {schema}.schedules
) AS r LEFT JOIN {schema}.progress p USING (log_partition)
WHERE p.log_partition IS NULL OR r.log_offset < 0 OR r.log_offset >= p.next_offset
ORDER BY r.log_partition, r.log_offset LIMIT {most}
