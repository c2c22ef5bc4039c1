-- Balances that aren't what the account's last decision about the asset left, and those that are missing or too many.
SELECT account_id, asset, coalesce(b.log_partition, j.log_partition) AS log_partition, b.available,
       j.balance AS should_be, b.version, j.version AS version_should_be
FROM {schema}.balances b
FULL JOIN (
    SELECT DISTINCT ON (account_id, asset) account_id, asset, balance, version, log_partition, log_offset
    FROM {schema}.journal JOIN {schema}.progress USING (log_partition)
    WHERE log_offset BETWEEN 0 AND next_offset - 1
    ORDER BY account_id, asset, version DESC
) AS j USING (account_id, asset)
WHERE (b.available, b.version, b.log_partition, b.log_offset)
      IS DISTINCT FROM (j.balance, j.version, j.log_partition, j.log_offset)
ORDER BY account_id, asset LIMIT {most}
