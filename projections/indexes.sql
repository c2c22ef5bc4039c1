-- The journal's indexes of every row. A rebuild makes them when all rows are there, which is faster, two beside each other.

-- Of this one journal_pkey is made, when all are there (setup.py).
CREATE UNIQUE INDEX IF NOT EXISTS journal_pkey ON {schema}.journal (account_id, version);
-- The ledger's idempotency. A rebuild that must look into its journal has this one earlier.
CREATE UNIQUE INDEX IF NOT EXISTS journal_command ON {schema}.journal (account_id, command_id);
-- Rows arrive in the order of the log, partition by partition: a few bytes a page range find a position.
CREATE INDEX IF NOT EXISTS journal_position ON {schema}.journal USING brin (log_partition int4_minmax_multi_ops, log_offset int8_minmax_multi_ops)
    WITH (pages_per_range = 32, autosummarize = on);
