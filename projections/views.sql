-- What read services see, whatever generation is behind it. {schema} is the live one, {reader} the readers' role.

CREATE SCHEMA IF NOT EXISTS ledger;

CREATE OR REPLACE VIEW ledger.balances AS
    SELECT account_id, asset, available, version, log_partition, log_offset FROM {schema}.balances;

CREATE OR REPLACE VIEW ledger.journal AS
    SELECT log_partition, log_offset, account_id, version, command_id, kind, asset, amount, change, balance,
           rejection IS NULL AS accepted, rejection, rules,
           to_timestamp(clock_ms / 1000.0) AS decided_at,
           CASE WHEN occurred_at_ms > 0 THEN to_timestamp(occurred_at_ms / 1000.0) END AS occurred_at,
           source, note
    FROM {schema}.journal;

CREATE OR REPLACE VIEW ledger.rejections AS
    SELECT log_partition, log_offset, account_id, version, command_id, kind, asset, amount, balance, rejection,
           to_timestamp(clock_ms / 1000.0) AS decided_at, source, note
    FROM {schema}.journal WHERE rejection IS NOT NULL;

CREATE OR REPLACE VIEW ledger.dead_letters AS
    SELECT log_partition, log_offset, reason, detail,
           CASE WHEN appended_at_ms BETWEEN 0 AND 253402300799999 THEN to_timestamp(appended_at_ms / 1000.0) END AS appended_at,
           key, value, headers
    FROM {schema}.dead_letters;

CREATE OR REPLACE VIEW ledger.progress AS
    SELECT s.topic, p.log_partition, p.next_offset, p.accepted, p.rejected, p.duplicates, p.dead_letters,
           p.accepted + p.rejected + p.duplicates + p.dead_letters AS records,
           CASE WHEN p.clock_ms > 0 THEN to_timestamp(p.clock_ms / 1000.0) END AS clock, p.folded_at, p.epoch, p.owner
    FROM {schema}.progress p CROSS JOIN {schema}.source s;

GRANT USAGE ON SCHEMA ledger TO {reader};
GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO {reader};
