-- The outcomes of one partition between two offsets, in order: the offset, then the line that the chain is made of. Each
-- column is text, as COPY writes it; projections/chain.py writes the same.
COPY (
    SELECT * FROM (
        SELECT log_offset AS place, log_partition::text, log_offset::text, account_id, version::text, command_id, kind, asset,
               amount::text, change::text, balance::text, rejection, rules::text, clock_ms::text, occurred_at_ms::text,
               source, note, '\x' || encode(extra, 'hex')
        FROM {schema}.journal WHERE log_partition = {partition} AND log_offset >= {start} AND log_offset < {end}
        UNION ALL
        SELECT log_offset, log_partition::text, log_offset::text, 'dead letter', reason, appended_at_ms::text,
               '\x' || encode(sha256(key), 'hex'), '\x' || encode(sha256(value), 'hex'), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
        FROM {schema}.dead_letters WHERE log_partition = {partition} AND log_offset >= {start} AND log_offset < {end}
        UNION ALL
        SELECT log_offset, log_partition::text, log_offset::text, 'rules', rules::text, clock_ms::text, command_id, source,
               note, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
        FROM {schema}.activations WHERE log_partition = {partition} AND log_offset >= {start} AND log_offset < {end}
    ) AS l ORDER BY place
) TO STDOUT
