-- What read services see, whatever generation is behind it: {schema} is its schema, {number} its number. Read statement
-- by statement by setup.py, which also puts two generations behind a view for the time of a switch.

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

-- What was decided about each dead letter, and what the log knows of it. A redrive without a decision is one that another
-- database knew of: decisions aren't folded from the log.
CREATE OR REPLACE VIEW ledger.dead_letter_states AS
    SELECT d.log_partition, d.log_offset,
           CASE WHEN x.decision = 'discard' THEN 'discarded'
                WHEN x.to_offset IS NOT NULL OR (x.decision IS NULL AND r.log_offset IS NOT NULL) THEN 'redriven'
                WHEN x.decision = 'redrive' THEN 'redriving'
                ELSE 'open' END AS state,
           coalesce(x.decided_by, r.decided_by) AS decided_by, x.decided_at, coalesce(x.note, r.note) AS note, x.corrected,
           coalesce(x.to_partition, r.log_partition) AS to_partition, coalesce(x.to_offset, r.log_offset) AS to_offset
    FROM {schema}.dead_letters d CROSS JOIN {schema}.source s
    LEFT JOIN ledger.dead_letter_decisions x ON x.topic_id = s.topic_id
        AND x.log_partition = d.log_partition AND x.log_offset = d.log_offset
    LEFT JOIN LATERAL (
        SELECT log_partition, log_offset, decided_by, note FROM {schema}.redrives
        WHERE of_partition = d.log_partition AND of_offset = d.log_offset ORDER BY log_partition, log_offset LIMIT 1
    ) r ON x.decision IS DISTINCT FROM 'discard';
