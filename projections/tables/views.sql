-- The views for read services, of one generation: {schema} is its schema, {number} its number. Read statement by statement
-- by views.py, which also has a view show two generations for the time of a switch.

CREATE OR REPLACE VIEW ledger.balances AS
    SELECT account_id, asset, available, version, log_partition, log_offset, pending, held, debt, credit_limit
    FROM {schema}.balances;

CREATE OR REPLACE VIEW ledger.journal AS
    SELECT log_partition, log_offset, account_id, version, command_id, kind, asset, amount, change, balance,
           rejection IS NULL AS accepted, rejection, rules,
           to_timestamp(clock_ms / 1000::double precision) AS decided_at,
           CASE WHEN occurred_at_ms > 0 THEN to_timestamp(occurred_at_ms / 1000.0) END AS occurred_at,
           source, note, pending, held, debt, step, nullif(details, '')::json AS details, facts::json AS facts
    FROM {schema}.journal;

-- The facts as the text that is stored: whoever searches many lines for an id has none of them read as JSON.
CREATE OR REPLACE VIEW ledger.journal_texts AS
    SELECT account_id, version, command_id, kind, nullif(details, '')::json AS details, facts FROM {schema}.journal;

CREATE OR REPLACE VIEW ledger.rejections AS
    SELECT log_partition, log_offset, account_id, version, command_id, kind, asset, amount, balance, rejection,
           to_timestamp(clock_ms / 1000::double precision) AS decided_at, source, note, step, nullif(details, '')::json AS details
    FROM {schema}.journal WHERE rejection IS NOT NULL;

CREATE OR REPLACE VIEW ledger.dead_letters AS
    SELECT log_partition, log_offset, reason, detail,
           CASE WHEN appended_at_ms BETWEEN 0 AND 253402300799999 THEN to_timestamp(appended_at_ms / 1000.0) END AS appended_at,
           key, value, headers
    FROM {schema}.dead_letters;

CREATE OR REPLACE VIEW ledger.progress AS
    SELECT s.topic, p.log_partition, p.next_offset, p.accepted, p.rejected, p.duplicates, p.dead_letters,
           p.accepted + p.rejected + p.duplicates + p.dead_letters + p.activations + p.ticks AS records,
           CASE WHEN p.clock_ms > 0 THEN to_timestamp(p.clock_ms / 1000.0) END AS clock, p.folded_at, p.epoch, p.owner,
           p.activations, p.rules, {number} AS generation, p.chain, p.ticks, s.topic_id,
           p.last_offset, p.last_digest
    FROM {schema}.progress p CROSS JOIN {schema}.source s;

CREATE OR REPLACE VIEW ledger.activations AS
    SELECT log_partition, log_offset, rules, to_timestamp(clock_ms / 1000.0) AS activated_at, command_id, source, note
    FROM {schema}.activations;

CREATE OR REPLACE VIEW ledger.redrives AS
    SELECT of_partition, of_offset, log_partition, log_offset, decided_by, note FROM {schema}.redrives;

-- What was decided about each dead letter, and what the log records of it. A redrive without a decision was decided in
-- another database: decisions aren't folded from the log.
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

CREATE OR REPLACE VIEW ledger.accounts AS
    SELECT account_id, is_closed, nullif(frozen, '') AS frozen, version, log_partition, log_offset FROM {schema}.accounts;

-- What ends after the year 9999 is shown as never ending.
CREATE OR REPLACE VIEW ledger.lots AS
    SELECT account_id, command_id, number, asset, amount, remaining, held, spent, expired, voided, forfeited, reissued,
           transferred,
           CASE WHEN is_void THEN 'voided' WHEN is_lapsed THEN 'expired' WHEN is_pending THEN 'pending'
                WHEN is_live THEN 'active' ELSE 'empty' END AS state,
           is_live, lot_class AS class, priority, nullif(scope, '') AS scope,
           CASE WHEN effective_at_ms BETWEEN 1 AND 253402300799999 THEN to_timestamp(effective_at_ms / 1000.0) END AS effective_at,
           CASE WHEN expires_at_ms BETWEEN 1 AND 253402300799999 THEN to_timestamp(expires_at_ms / 1000.0) END AS expires_at,
           source, made, log_partition, log_offset, is_pending
    FROM {schema}.all_lots;

-- What of the live lots will end, for sums over all accounts: of the lots that stand in balances (inline_lots.py lays out
-- their lines) no more is read than that takes, and nothing of balances without an end. What isn't a lot is left out. The
-- OFFSET has each end worked out once and not wherever it is named, which takes twice as long.
CREATE OR REPLACE VIEW ledger.expiring AS
    SELECT account_id, asset, lot_class AS class, remaining, held, to_timestamp(expires_at_ms / 1000.0) AS expires_at,
           expires_at_ms
    FROM {schema}.lots
    WHERE is_live AND NOT is_void AND NOT is_lapsed AND expires_at_ms BETWEEN 1 AND 253402300799999
    UNION ALL
    SELECT account_id, asset, words[8], words[5]::bigint, 0, to_timestamp(expires_at_ms / 1000.0), expires_at_ms
    FROM (
        SELECT account_id, asset, string_to_array(string_to_table(lots, E'\n'), ' ') AS words
        FROM {schema}.balances WHERE next_at_ms IS NOT NULL
    ) AS l
    CROSS JOIN LATERAL (
        SELECT CASE WHEN translate(words[5] || words[10], '0123456789', '') = '' AND length(words[5]) BETWEEN 1 AND 18
                         AND length(words[10]) BETWEEN 1 AND 15 THEN words[10]::bigint END AS expires_at_ms
        OFFSET 0
    ) AS ends
    WHERE expires_at_ms BETWEEN 1 AND 253402300799999;

CREATE OR REPLACE VIEW ledger.holds AS
    SELECT account_id, command_id, asset, taken,
           (SELECT coalesce(sum((s ->> 2)::bigint), 0)::bigint FROM json_array_elements(slices::json) s) AS held,
           CASE WHEN is_open THEN 'open' WHEN is_lapsed THEN 'lapsed' ELSE 'closed' END AS state,
           CASE WHEN deadline_ms BETWEEN 1 AND 253402300799999 THEN to_timestamp(deadline_ms / 1000.0) END AS deadline,
           slices::json AS slices, made, log_partition, log_offset, is_open
    FROM {schema}.holds;

CREATE OR REPLACE VIEW ledger.transfers AS
    SELECT account_id, command_id, asset, to_account,
           (SELECT coalesce(sum((p ->> 2)::bigint), 0)::bigint FROM json_array_elements(parcels::json) p) AS amount,
           CASE WHEN is_open THEN 'in_transit' ELSE 'settled' END AS state,
           parcels::json AS parcels, log_partition, log_offset, is_open
    FROM {schema}.transfers;

CREATE OR REPLACE VIEW ledger.schedules AS
    SELECT account_id, command_id, asset, amount, every, period,
           CASE WHEN next_at_ms IS NOT NULL THEN 'active' WHEN is_open THEN 'finished' ELSE 'ended' END AS state,
           next_number, CASE WHEN next_at_ms BETWEEN 1 AND 253402300799999 THEN to_timestamp(next_at_ms / 1000.0) END AS next_at,
           CASE WHEN first_at_ms BETWEEN 1 AND 253402300799999 THEN to_timestamp(first_at_ms / 1000.0) END AS first_at,
           CASE WHEN until_ms BETWEEN 1 AND 253402300799999 THEN to_timestamp(until_ms / 1000.0) END AS until,
           nullif(cap, 0) AS cap, lot_class AS class, priority, nullif(scope, '') AS scope,
           nullif(expires_after_ms, 0) AS expires_after_ms,
           made, log_partition, log_offset
    FROM {schema}.schedules;

CREATE OR REPLACE VIEW ledger.debts AS
    SELECT account_id, command_id, asset, debt, log_partition, log_offset FROM {schema}.spends WHERE debt > 0;

-- A spend has no row unless something was refunded of it, or it was owed: all others are as the journal says.
CREATE OR REPLACE VIEW ledger.changed_spends AS
    SELECT account_id, command_id, asset, debt,
           debt + (SELECT coalesce(sum((s ->> 2)::bigint), 0)::bigint FROM json_array_elements(slices::json) s) AS refundable,
           log_partition, log_offset
    FROM {schema}.spends;

-- In milliseconds, as the indexes have them, and of one table each, so that an index can give their order. As a range, for
-- the planner takes two conditions for rarer than one.
CREATE OR REPLACE VIEW ledger.balance_endings AS
    SELECT account_id, asset, next_at_ms, NULL::bigint AS ends_at_ms, log_partition
    FROM {schema}.balances WHERE next_at_ms > 0;

CREATE OR REPLACE VIEW ledger.lot_endings AS
    SELECT account_id, asset, next_at_ms, CASE WHEN is_pending THEN expires_at_ms END AS ends_at_ms, log_partition
    FROM {schema}.lots WHERE next_at_ms > 0 AND expires_at_ms > 0;

CREATE OR REPLACE VIEW ledger.metadata AS
    SELECT key, value, account_id, log_partition, log_offset FROM {schema}.metadata;

CREATE OR REPLACE VIEW ledger.trace_contexts AS
    SELECT log_partition, log_offset, traceparent FROM {schema}.trace_contexts;

CREATE OR REPLACE VIEW ledger.searchable_metadata AS
    SELECT unnest(searchable) AS key FROM {schema}.source;

CREATE OR REPLACE VIEW ledger.totals AS
    SELECT log_partition, asset, credits, debt, issued, spent, expired, voided, forfeited, reissued, in_transit
    FROM {schema}.totals;

CREATE OR REPLACE VIEW ledger.hourly_totals AS
    SELECT hour, log_partition, asset, what, nullif(lot_class, '') AS class, source, reason, amount
    FROM {schema}.hourly_totals;

-- The balances at the time of the query: as the fold would find them if it settled the account now, except for schedules'
-- turns (projections/queries/balances_now.py counts these too). Credits come back in pieces: a lot whose window
-- opened is one, and so is each slice of a hold that lapsed. They do so in the order of their instants, and debt takes
-- of the unscoped ones until nothing is owed. An account that owes something has nothing unscoped at first. Turns are
-- counted, and compared in a form that keeps the planner from the index on next_at_ms, which is of all accounts.
CREATE OR REPLACE VIEW ledger.balances_now AS
    SELECT b.account_id, b.asset, (b.available - ended.amount + back.available)::bigint AS available,
           (b.pending - back.activated)::bigint AS pending, (b.held - back.lapsed)::bigint AS held,
           (b.debt - back.repaid)::bigint AS debt, b.credit_limit, b.available AS stored_available, b.version,
           b.log_partition, b.log_offset, to_timestamp(n.at_ms / 1000.0) AS at,
           (SELECT count(*) > 0 FROM {schema}.schedules s
            WHERE s.account_id = b.account_id AND s.asset = b.asset AND coalesce(s.next_at_ms, 9223372036854775807) <= n.at_ms) AS schedule_due
    FROM {schema}.balances b
    CROSS JOIN LATERAL (
        SELECT greatest(floor(extract(epoch FROM now()) * 1000)::bigint, max(p.clock_ms)) AS at_ms
        FROM {schema}.progress p WHERE p.log_partition = b.log_partition
    ) n
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(l.remaining), 0) AS amount FROM {schema}.all_lots l
        WHERE l.account_id = b.account_id AND l.asset = b.asset AND l.is_live
              AND NOT (l.is_pending OR l.is_lapsed OR l.is_void) AND l.expires_at_ms BETWEEN 1 AND n.at_ms
    ) ended
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(amount) FILTER (WHERE kind = 1), 0) AS activated,
               coalesce(sum(amount) FILTER (WHERE kind = 2), 0) AS lapsed,
               coalesce(sum(repaid), 0) AS repaid,
               coalesce(sum(amount - repaid) FILTER (WHERE NOT is_lost AND ends_at_ms > n.at_ms), 0) AS available
        FROM (
            SELECT kind, amount, ends_at_ms, is_lost,
                   CASE WHEN pays THEN greatest(0, least(amount, b.debt - (sum(amount) FILTER (WHERE pays) OVER in_order - amount)))
                        ELSE 0 END AS repaid
            FROM (
                SELECT *, scope = '' AND NOT is_lost AS pays FROM (
                    SELECT 1 AS kind, l.effective_at_ms AS at_ms, l.made AS event, l.remaining AS amount, l.scope, l.priority,
                           coalesce(nullif(l.expires_at_ms, 0), 9223372036854775807) AS ends_at_ms, l.lot_class,
                           l.effective_at_ms, l.made, false AS is_lost
                    FROM {schema}.lots l
                    WHERE l.account_id = b.account_id AND l.asset = b.asset AND l.is_live AND l.is_pending
                          AND l.effective_at_ms <= n.at_ms
                    UNION ALL
                    SELECT 2, h.deadline_ms, h.made, (s.slice ->> 2)::bigint, l.scope, l.priority,
                           coalesce(nullif(l.expires_at_ms, 0), 9223372036854775807), l.lot_class, l.effective_at_ms, l.made,
                           l.is_void OR l.is_lapsed OR l.expires_at_ms BETWEEN 1 AND h.deadline_ms
                    FROM {schema}.holds h
                    CROSS JOIN LATERAL json_array_elements(h.slices::json) WITH ORDINALITY AS s (slice, at)
                    JOIN {schema}.lots l ON l.account_id = h.account_id AND l.command_id = s.slice ->> 0
                         AND l.number = (s.slice ->> 1)::integer
                    WHERE h.account_id = b.account_id AND h.asset = b.asset AND h.is_open AND h.deadline_ms <= n.at_ms
                          AND s.at BETWEEN 1 AND 2147483647
                ) pieces
            ) ordered
            WINDOW in_order AS (ORDER BY at_ms, kind, event, priority, scope = '', ends_at_ms, lot_class <> 'promo',
                                effective_at_ms, made ROWS UNBOUNDED PRECEDING)
        ) paid
    ) back;

-- Each move of credits from one place to another.
-- PostgreSQL expects 100 elements of a JSON array, and so 10,000 moves of a line: it would read the journal from its start
-- rather than use an account's index. All elements' numbers lie within the bounds, and it estimates that few do.
CREATE OR REPLACE VIEW ledger.moves AS
    SELECT j.log_partition, j.log_offset, j.account_id, j.version, f.at::integer AS fact, m.at::integer AS move,
           coalesce(f.fact ->> 'asset', j.asset) AS asset, j.command_id, f.fact ->> 'kind' AS kind,
           to_timestamp((f.fact ->> 'at')::bigint / 1000.0) AS at, f.fact ->> 'ref' AS ref,
           nullif(m.move ->> 0, '') AS lot_command, nullif((m.move ->> 1)::integer, 0) AS lot_number,
           m.move ->> 2 AS source, m.move ->> 3 AS target, (m.move ->> 4)::bigint AS amount,
           to_timestamp(j.clock_ms / 1000::double precision) AS decided_at
    FROM {schema}.journal j
    CROSS JOIN LATERAL json_array_elements(j.facts::json) WITH ORDINALITY AS f (fact, at)
    CROSS JOIN LATERAL json_array_elements(f.fact -> 'moves') WITH ORDINALITY AS m (move, at)
    WHERE f.at BETWEEN 1 AND 2147483647 AND m.at BETWEEN 1 AND 2147483647;

-- What ended, move by move. The lines are those of the index journal_ended; how many elements there are is said as in moves.
-- The line of a further asset of a command is behind the command's own.
CREATE OR REPLACE VIEW ledger.ended AS
    SELECT j.log_partition, j.log_offset, j.account_id, j.version, f.at::integer AS fact, m.at::integer AS move,
           to_timestamp(j.clock_ms / 1000::double precision) AS decided_at, coalesce(f.fact ->> 'asset', j.asset) AS asset,
           CASE WHEN m.move ->> 3 IN ('expired', 'voided', 'forfeited') THEN m.move ->> 3 ELSE 'lapsed' END AS what,
           (m.move ->> 4)::bigint AS amount, to_timestamp((f.fact ->> 'at')::bigint / 1000.0) AS at,
           m.move ->> 0 AS lot_command, (m.move ->> 1)::integer AS lot_number,
           CASE WHEN f.fact ->> 'kind' = 'lapsed' THEN f.fact ->> 'ref' END AS hold, j.kind,
           coalesce(c.command_id, j.command_id) AS command_id, coalesce(c.source, j.source) AS source,
           coalesce(c.note, j.note) AS note
    FROM {schema}.journal j
    CROSS JOIN LATERAL json_array_elements(j.facts::json) WITH ORDINALITY AS f (fact, at)
    CROSS JOIN LATERAL json_array_elements(f.fact -> 'moves') WITH ORDINALITY AS m (move, at)
    LEFT JOIN LATERAL (
        SELECT o.command_id, o.source, o.note FROM {schema}.journal o
        WHERE j.command_id IS NULL AND j.kind <> 'settled' AND o.account_id = j.account_id AND o.version < j.version
              AND o.log_partition = j.log_partition AND o.log_offset = j.log_offset AND o.command_id IS NOT NULL
        ORDER BY o.version DESC LIMIT 1
    ) AS c ON true
    WHERE j.kind <> 'spend' AND (strpos(j.facts, '"expired"') > 0 OR strpos(j.facts, '"voided"') > 0
                                 OR strpos(j.facts, '"forfeited"') > 0 OR strpos(j.facts, '"lapsed"') > 0)
          AND (m.move ->> 3 IN ('expired', 'voided', 'forfeited') OR f.fact ->> 'kind' = 'lapsed')
          AND f.at BETWEEN 1 AND 2147483647 AND m.at BETWEEN 1 AND 2147483647;
