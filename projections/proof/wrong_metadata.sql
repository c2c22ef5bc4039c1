-- What accounts are searched by, of commands that the journal doesn't have, or under keys that this generation doesn't index.
SELECT 'metadata' AS what, account_id, key AS name, log_partition, 'of offset ' || log_offset AS kept,
       NULL AS should_be
FROM {schema}.metadata m
WHERE key <> ALL (SELECT unnest(searchable) FROM {schema}.source)
      OR NOT EXISTS (SELECT FROM {schema}.journal j WHERE j.log_partition = m.log_partition
                     AND j.log_offset = m.log_offset AND j.account_id = m.account_id)
ORDER BY account_id, name LIMIT {most}
