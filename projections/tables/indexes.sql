-- The journal's indexes of every row. A rebuild makes them when all rows are there, which is faster, two in parallel.

-- The primary key is made of this one when all are there (scripts.py).
CREATE UNIQUE INDEX IF NOT EXISTS journal_pkey ON {schema}.journal (account_id, version);
-- The ledger's idempotency. A rebuild that must search its journal makes this one earlier. The id comes first, so that it
-- finds the accounts of an id too: of one account and one id the order makes no difference.
CREATE UNIQUE INDEX IF NOT EXISTS journal_command ON {schema}.journal (command_id, account_id);
-- No BRIN index, though rows arrive in the order of the log, partition by partition, and a few bytes a page range would do:
-- the one whose summaries hold several partitions (minmax_multi) loses rows where they are written while a summary is made.
CREATE INDEX IF NOT EXISTS journal_position ON {schema}.journal (log_partition, log_offset);
-- In the order in which a search shows accounts.
CREATE INDEX IF NOT EXISTS metadata_value ON {schema}.metadata (key, value, account_id);
