-- Balances that aren't what the account's last line about the asset left, and those that are missing or too many.
SELECT account_id, asset, coalesce(b.log_partition, j.log_partition) AS log_partition, b.available,
       j.balance AS should_be, b.version, j.version AS version_should_be,
       b.pending, j.pending AS pending_should_be, b.held, j.held AS held_should_be, b.debt, j.debt AS debt_should_be,
       b.log_offset, j.log_offset AS log_offset_should_be
FROM {schema}.balances b
FULL JOIN (
    SELECT DISTINCT ON (account_id, asset) account_id, asset, balance, pending, held, debt, version, log_partition, log_offset
    FROM {schema}.journal JOIN {schema}.progress USING (log_partition)
    WHERE log_offset BETWEEN 0 AND next_offset - 1 AND asset <> ''
    ORDER BY account_id, asset, version DESC
) AS j USING (account_id, asset)
WHERE (b.available, b.pending, b.held, b.debt, b.version, b.log_partition, b.log_offset)
      IS DISTINCT FROM (j.balance, j.pending, j.held, j.debt, j.version, j.log_partition, j.log_offset)
ORDER BY account_id, asset LIMIT {most}
