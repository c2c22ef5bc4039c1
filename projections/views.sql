-- What read services see, whatever generation is behind it. {schema} is the live one, {number} its number, {reader} the
-- readers' role.

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
           p.accepted + p.rejected + p.duplicates + p.dead_letters + p.activations AS records,
           CASE WHEN p.clock_ms > 0 THEN to_timestamp(p.clock_ms / 1000.0) END AS clock, p.folded_at, p.epoch, p.owner,
           p.activations, p.rules, {number} AS generation, p.chain
    FROM {schema}.progress p CROSS JOIN {schema}.source s;

CREATE OR REPLACE VIEW ledger.activations AS
    SELECT log_partition, log_offset, rules, to_timestamp(clock_ms / 1000.0) AS activated_at, command_id, source, note
    FROM {schema}.activations;

CREATE OR REPLACE VIEW ledger.redrives AS
    SELECT of_partition, of_offset, log_partition, log_offset, decided_by, note FROM {schema}.redrives;

GRANT USAGE ON SCHEMA ledger TO {reader};
GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO {reader};
