-- The outcomes of one partition between two offsets, in order: the offset, then the line that the chain hashes. Each
-- column is text, as COPY writes it; projections/store/chain.py writes the same.
COPY (
    SELECT place, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, c16, c17, c18, c19, c20, c21, c22, c23
    FROM (
        SELECT log_offset AS place, account_id COLLATE "C" AS name, version AS number,
               log_partition::text AS c1, log_offset::text AS c2, account_id AS c3, version::text AS c4, command_id AS c5,
               kind AS c6, asset AS c7, amount::text AS c8, change::text AS c9, balance::text AS c10, rejection AS c11,
               rules::text AS c12, clock_ms::text AS c13, occurred_at_ms::text AS c14, source AS c15, note AS c16,
               '\x' || encode(extra, 'hex') AS c17,
               pending::text AS c18, held::text AS c19, debt::text AS c20, step::text AS c21, details AS c22, facts AS c23
        FROM {schema}.journal WHERE log_partition = {partition} AND log_offset >= {start} AND log_offset < {end}
        UNION ALL
        SELECT log_offset, '', 0, log_partition::text, log_offset::text, 'dead letter', reason, appended_at_ms::text,
               '\x' || encode(sha256(key), 'hex'), '\x' || encode(sha256(value), 'hex'), NULL, NULL, NULL, NULL, NULL, NULL,
               NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
        FROM {schema}.dead_letters WHERE log_partition = {partition} AND log_offset >= {start} AND log_offset < {end}
        UNION ALL
        SELECT log_offset, '', 0, log_partition::text, log_offset::text, 'rules', rules::text, clock_ms::text, command_id,
               source, note, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
        FROM {schema}.activations WHERE log_partition = {partition} AND log_offset >= {start} AND log_offset < {end}
    ) AS l ORDER BY place, name, number
) TO STDOUT
