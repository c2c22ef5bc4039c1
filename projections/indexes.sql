-- The journal's indexes that the fold can do without. A rebuild makes them when all rows are there, which is faster.

ALTER TABLE {schema}.journal ADD CONSTRAINT journal_pkey PRIMARY KEY (account_id, version);
-- Rows arrive in the order of the log, partition by partition: a few bytes a page range find a position.
CREATE INDEX journal_position ON {schema}.journal USING brin (log_partition int4_minmax_multi_ops, log_offset int8_minmax_multi_ops)
    WITH (pages_per_range = 32, autosummarize = on);
-- The expression is the one that the view shows as decided_at, so that the newest are found by sorting only those of the
-- same instant. Those share an entry, which an index on the position too would not.
CREATE INDEX journal_rejections ON {schema}.journal (to_timestamp(clock_ms / 1000.0)) WHERE rejection IS NOT NULL;
