-- One generation of the projection. {schema} is its schema. Everything here can be dropped and folded again.
-- Indexed text is ordered by its bytes (COLLATE "C"), which no update of the system's locales changes.
-- The columns of large tables are ordered by their alignment, wide ones first, so that no padding is between them.

CREATE SCHEMA {schema};

-- Which log this generation is folded from. A topic that was deleted and made anew has another topic_id. searchable are
-- the keys of metadata that it indexes, from the log's first record on: they never change, so that no search is of a part.
CREATE TABLE {schema}.source (
    topic text COLLATE "C" PRIMARY KEY,
    topic_id text NOT NULL,
    partitions integer NOT NULL CHECK (partitions > 0),
    searchable text[] NOT NULL
);

-- Where the fold stands in each partition. The transaction that writes balances moves next_offset with them, and
-- checks epoch (the fencing token), so that a worker that lost the partition can't write. rules is the version in force, chain the digest of
-- all outcomes so far (projections/store/chain.py), tick_minute the minute of the last tick. last_offset and last_digest
-- are of the last record that was folded (log/bookmark.py), -1 before the first: a fold that goes on checks by them that
-- the log is still the same.
CREATE TABLE {schema}.progress (
    log_partition integer PRIMARY KEY,
    next_offset bigint NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 0,
    owner text NOT NULL DEFAULT '',
    clock_ms bigint NOT NULL DEFAULT 0,
    accepted bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    dead_letters bigint NOT NULL DEFAULT 0,
    activations bigint NOT NULL DEFAULT 0,
    ticks bigint NOT NULL DEFAULT 0,
    tick_minute bigint NOT NULL DEFAULT 0,
    rules smallint NOT NULL DEFAULT {rules},
    chain bytea NOT NULL DEFAULT '',
    last_offset bigint NOT NULL DEFAULT -1,
    last_digest bytea NOT NULL DEFAULT '',
    folded_at timestamptz
) WITH (fillfactor = 50);

-- The chain at round offsets: the place where two folds part is searched between two of them.
CREATE TABLE {schema}.checkpoints (
    log_partition integer NOT NULL,
    next_offset bigint NOT NULL,
    chain bytea NOT NULL,
    PRIMARY KEY (log_partition, next_offset)
);

-- version is the account's count of journal lines at the last one about this asset.
-- lots has the live lots that have no row in lots, which cost next to nothing to write with the balance: a line each, as
-- inline_lots.py lays it out. next_at_ms is when the first of them ends.
CREATE TABLE {schema}.balances (
    available bigint NOT NULL CHECK (available >= 0),
    pending bigint NOT NULL DEFAULT 0 CHECK (pending >= 0),
    held bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
    debt bigint NOT NULL DEFAULT 0 CHECK (debt >= 0),
    credit_limit bigint NOT NULL DEFAULT 0 CHECK (credit_limit >= 0),
    version bigint NOT NULL,
    log_offset bigint NOT NULL,
    next_at_ms bigint,
    log_partition integer NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    lots text NOT NULL DEFAULT '',
    PRIMARY KEY (account_id, asset)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.1);
CREATE INDEX balances_due ON {schema}.balances (log_partition, next_at_ms) WHERE next_at_ms IS NOT NULL;

-- One row for each decision, with the whole body of its command, so that a duplicate can be distinguished from another
-- command of the same id: details is JSON of the fields that only some commands have, extra the digest of what has no column here.
-- facts is JSON of what happened. Rows without a command are of what time did, and of further assets that a command
-- touched.
-- Its keys are in indexes.sql.
CREATE TABLE {schema}.journal (
    log_offset bigint NOT NULL,
    version bigint NOT NULL,
    amount bigint NOT NULL,
    change bigint NOT NULL,
    balance bigint NOT NULL,
    clock_ms bigint NOT NULL,
    occurred_at_ms bigint NOT NULL,
    pending bigint NOT NULL,
    held bigint NOT NULL,
    debt bigint NOT NULL,
    log_partition integer NOT NULL,
    rules smallint NOT NULL,
    step smallint,
    account_id text COLLATE "C" NOT NULL,
    command_id text COLLATE "C",
    kind text NOT NULL,
    asset text COLLATE "C" NOT NULL,
    rejection text,
    source text NOT NULL,
    note text NOT NULL,
    extra bytea NOT NULL,
    details text NOT NULL,
    facts text NOT NULL,
    CHECK (rejection IS NULL OR change = 0)
);
-- No query searches for these, and they take most of an ANALYZE's time.
ALTER TABLE {schema}.journal ALTER facts SET STATISTICS 0, ALTER details SET STATISTICS 0, ALTER extra SET STATISTICS 0,
    ALTER note SET STATISTICS 0, ALTER amount SET STATISTICS 0, ALTER change SET STATISTICS 0,
    ALTER balance SET STATISTICS 0, ALTER pending SET STATISTICS 0, ALTER held SET STATISTICS 0,
    ALTER debt SET STATISTICS 0, ALTER step SET STATISTICS 0, ALTER occurred_at_ms SET STATISTICS 0;
-- The expression is the one that the view shows as decided_at, so that the newest are found by sorting only those of the
-- same instant. Those share an entry, which an index on the position too would not. Divided as a double, which gives the
-- same instant as a numeric in a fraction of its time.
CREATE INDEX journal_rejections ON {schema}.journal (to_timestamp(clock_ms / 1000::double precision))
    WHERE rejection IS NOT NULL;
-- The lines in which something ended, as the view `ended` has them: a spend ends nothing, and isn't looked into. What a
-- user wrote has its quotes escaped. All accounts may have lines of one instant, so they are there in their order. Looked
-- for by strpos, since a regular expression would take a tenth of what it takes to write a line.
CREATE INDEX journal_ended ON {schema}.journal
    (to_timestamp(clock_ms / 1000::double precision), log_partition, log_offset, account_id, version)
    WHERE kind <> 'spend' AND (strpos(facts, '"expired"') > 0 OR strpos(facts, '"voided"') > 0
                               OR strpos(facts, '"forfeited"') > 0 OR strpos(facts, '"lapsed"') > 0);

-- What decided commands say under the searchable keys, of whose metadata the journal has a digest only: a row for each key
-- of a command. Its index is in indexes.sql.
CREATE TABLE {schema}.metadata (
    log_offset bigint NOT NULL,
    log_partition integer NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL
);

-- The contexts of the traces that commands of the last days came with, for the outcomes and webhooks that follow from
-- them. No part of the ledger, and of no digest.
CREATE TABLE {schema}.trace_contexts (
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    appended_ms bigint NOT NULL,
    traceparent text COLLATE "C" NOT NULL,
    PRIMARY KEY (log_partition, log_offset)
);

-- Records that can't be folded, as they are in the log.
CREATE TABLE {schema}.dead_letters (
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    appended_at_ms bigint NOT NULL,
    key bytea,
    value bytea,
    headers jsonb NOT NULL,
    PRIMARY KEY (log_partition, log_offset)
);
-- The newest first, or the oldest: of all, of a reason, of a key. By appended_at as the view has it, and as the queries
-- of dead letters say it. A key that no account can have may be too long for an index.
CREATE INDEX dead_letters_newest ON {schema}.dead_letters (coalesce(
    CASE WHEN appended_at_ms BETWEEN 0 AND 253402300799999 THEN to_timestamp(appended_at_ms / 1000.0) END, '-infinity'
), log_partition, log_offset);
CREATE INDEX dead_letters_of_reason ON {schema}.dead_letters (reason COLLATE "C", coalesce(
    CASE WHEN appended_at_ms BETWEEN 0 AND 253402300799999 THEN to_timestamp(appended_at_ms / 1000.0) END, '-infinity'
), log_partition, log_offset);
CREATE INDEX dead_letters_of_key ON {schema}.dead_letters (key, coalesce(
    CASE WHEN appended_at_ms BETWEEN 0 AND 253402300799999 THEN to_timestamp(appended_at_ms / 1000.0) END, '-infinity'
), log_partition, log_offset) WHERE octet_length(key) <= 512;

-- Records that put another version of the rules into force.
CREATE TABLE {schema}.activations (
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    rules smallint NOT NULL,
    clock_ms bigint NOT NULL,
    command_id text COLLATE "C" NOT NULL,
    occurred_at_ms bigint NOT NULL,
    source text NOT NULL,
    note text NOT NULL,
    PRIMARY KEY (log_partition, log_offset)
);

-- Records whose headers name the dead letter that they mend.
CREATE TABLE {schema}.redrives (
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    of_partition integer NOT NULL,
    of_offset bigint NOT NULL,
    decided_by text NOT NULL,
    note text NOT NULL,
    PRIMARY KEY (log_partition, log_offset)
);
CREATE INDEX redrives_of ON {schema}.redrives (of_partition, of_offset);

-- The state of an account as a whole; only accounts that were once frozen or closed, or had a command of no asset, have
-- a row. version is that of the last journal line of no asset.
CREATE TABLE {schema}.accounts (
    account_id text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    is_closed boolean NOT NULL,
    frozen text NOT NULL,
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL
);
CREATE INDEX accounts_frozen ON {schema}.accounts (account_id) WHERE nullif(frozen, '') IS NOT NULL;
CREATE INDEX accounts_closed ON {schema}.accounts (account_id) WHERE is_closed;

-- Ends the transaction that writes a partition which another worker has claimed or folded meanwhile.
CREATE FUNCTION {schema}.refuse_displaced() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'LDG01', MESSAGE = 'a partition does not stand where its worker left it';
END
$$;

-- The columns of a line in COPY's text form, with its escapes undone. Cut at two backslashes, which are one in the text,
-- no piece has anything but the other escapes left.
CREATE FUNCTION {schema}.cells_of_copy(line text) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(CASE WHEN cell <> '\N' THEN coalesce((
        SELECT string_agg(replace(replace(replace(replace(replace(replace(
                   piece, '\b', chr(8)), '\t', chr(9)), '\n', chr(10)), '\v', chr(11)), '\f', chr(12)), '\r', chr(13)),
                   '\' ORDER BY place)
        FROM string_to_table(cell, '\\') WITH ORDINALITY AS p (piece, place)), '')
    END ORDER BY number)
    FROM string_to_table(line, chr(9)) WITH ORDINALITY AS c (cell, number)
$$;

-- Credits that came in together, and where each part of them is. made is the log's offset times 2^20 and a number;
-- next_at_ms is when time changes something in it next, log_offset that of the record that changed it last. A lot that
-- only plain spends change gets its row when it is empty; until then it stands in its balance. Either way it is in
-- all_lots.
CREATE TABLE {schema}.lots (
    effective_at_ms bigint NOT NULL,
    expires_at_ms bigint NOT NULL,
    made bigint NOT NULL,
    amount bigint NOT NULL,
    remaining bigint NOT NULL CHECK (remaining >= 0),
    held bigint NOT NULL CHECK (held >= 0),
    spent bigint NOT NULL CHECK (spent >= 0),
    expired bigint NOT NULL CHECK (expired >= 0),
    voided bigint NOT NULL CHECK (voided >= 0),
    forfeited bigint NOT NULL CHECK (forfeited >= 0),
    reissued bigint NOT NULL CHECK (reissued >= 0),
    transferred bigint NOT NULL CHECK (transferred >= 0),
    next_at_ms bigint,
    log_offset bigint NOT NULL,
    number integer NOT NULL,
    log_partition integer NOT NULL,
    priority smallint NOT NULL,
    is_pending boolean NOT NULL,
    is_lapsed boolean NOT NULL,
    is_void boolean NOT NULL,
    is_live boolean NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    command_id text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    lot_class text NOT NULL,
    scope text NOT NULL,
    source text NOT NULL,
    PRIMARY KEY (account_id, command_id, number),
    CONSTRAINT lots_conserved
        CHECK (amount = remaining + held + spent + expired + voided + forfeited + reissued + transferred)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.1);
CREATE INDEX lots_live ON {schema}.lots (account_id) WHERE is_live;
CREATE INDEX lots_pending ON {schema}.lots (account_id) WHERE is_pending;
CREATE INDEX lots_due ON {schema}.lots (log_partition, next_at_ms) WHERE next_at_ms IS NOT NULL;

-- The lots that stand in balances. A line that isn't one of a lot is left out: `creditfold verify` then names the account.
CREATE VIEW {schema}.inline_lots AS
    SELECT *, amount - remaining - expired - voided - forfeited - reissued - transferred AS spent,
           nullif(expires_at_ms, 0) AS next_at_ms
    FROM (
        SELECT b.account_id, b.asset, b.log_partition, {line_columns}
        FROM {schema}.balances b
        CROSS JOIN LATERAL string_to_table(b.lots, E'\n') AS line
        CROSS JOIN LATERAL string_to_array(line, ' ') AS words
        WHERE b.lots <> '' AND line ~ {line_pattern}
    ) AS l;

-- Of the same types throughout: otherwise PostgreSQL makes all rows of an account before it orders them and takes a few.
CREATE VIEW {schema}.all_lots AS
    SELECT account_id, command_id, number, asset, lot_class, priority, effective_at_ms, expires_at_ms, scope, made, source,
           amount, remaining, held, spent, expired, voided, forfeited, reissued, transferred, is_pending, is_lapsed, is_void,
           is_live, next_at_ms, log_partition, log_offset
    FROM {schema}.lots
    UNION ALL
    SELECT account_id, command_id, number, asset, lot_class, priority, effective_at_ms, expires_at_ms, '', made, source,
           amount, remaining, 0::bigint, spent, expired, voided, forfeited, reissued, transferred, false, false, false,
           true, next_at_ms, log_partition, log_offset
    FROM {schema}.inline_lots;

-- Credits set aside. slices is JSON of [lot's command, lot's number, amount], as in spends.
CREATE TABLE {schema}.holds (
    account_id text COLLATE "C" NOT NULL,
    command_id text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    deadline_ms bigint NOT NULL,
    made bigint NOT NULL,
    taken bigint NOT NULL,
    slices text NOT NULL,
    is_open boolean NOT NULL,
    is_lapsed boolean NOT NULL,
    next_at_ms bigint,
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    PRIMARY KEY (account_id, command_id)
);
CREATE INDEX holds_open ON {schema}.holds (account_id) WHERE is_open;
CREATE INDEX holds_due ON {schema}.holds (log_partition, next_at_ms) WHERE next_at_ms IS NOT NULL;

-- Spends and captures that were refunded in part, or whose debt was made or paid: all others are as the journal says.
CREATE TABLE {schema}.spends (
    account_id text COLLATE "C" NOT NULL,
    command_id text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    made bigint NOT NULL,
    debt bigint NOT NULL CHECK (debt >= 0),
    slices text NOT NULL,
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    PRIMARY KEY (account_id, command_id)
);
CREATE INDEX spends_owed ON {schema}.spends (account_id) WHERE debt > 0;

-- Credits sent to other accounts. parcels is JSON of [lot's command, lot's number, amount, and the lot's terms].
CREATE TABLE {schema}.transfers (
    account_id text COLLATE "C" NOT NULL,
    command_id text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    to_account text NOT NULL,
    parcels text NOT NULL,
    is_open boolean NOT NULL,
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    PRIMARY KEY (account_id, command_id)
);
CREATE INDEX transfers_open ON {schema}.transfers (log_partition, account_id) WHERE is_open;

CREATE TABLE {schema}.schedules (
    account_id text COLLATE "C" NOT NULL,
    command_id text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    amount bigint NOT NULL,
    period text NOT NULL,
    first_at_ms bigint NOT NULL,
    every integer NOT NULL,
    until_ms bigint NOT NULL,
    cap bigint NOT NULL,
    lot_class text NOT NULL,
    priority smallint NOT NULL,
    expires_after_ms bigint NOT NULL,
    scope text NOT NULL,
    made bigint NOT NULL,
    next_number integer NOT NULL,
    is_open boolean NOT NULL,
    next_at_ms bigint,
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    PRIMARY KEY (account_id, command_id)
);
CREATE INDEX schedules_due ON {schema}.schedules (log_partition, next_at_ms) WHERE next_at_ms IS NOT NULL;

-- Double entry: where each partition's credits are, and where they came from and went, as sums of all changes. credits and
-- debt are sums over the balances, the others over the moves of the facts; what the one side gains the other must lose, or
-- nothing is written. Credits in transit from another partition count below zero.
CREATE TABLE {schema}.totals (
    log_partition integer NOT NULL,
    asset text COLLATE "C" NOT NULL,
    credits numeric NOT NULL,
    debt numeric NOT NULL,
    issued numeric NOT NULL,
    spent numeric NOT NULL,
    expired numeric NOT NULL,
    voided numeric NOT NULL,
    forfeited numeric NOT NULL,
    reissued numeric NOT NULL,
    in_transit numeric NOT NULL,
    PRIMARY KEY (log_partition, asset),
    CONSTRAINT totals_balance
        CHECK (credits - debt + spent + expired + voided + forfeited + reissued + in_transit = issued)
) WITH (fillfactor = 50);

-- What happened in each hour of the log's clock, which `hour` begins, as sums of moves: what was spent and brought back, repaid
-- debt, what ended and why, and what lapsed holds gave back. By the class of the lots, empty for debt, and by the
-- source and the reason of the command, empty where time did it. The rows of an hour are as many as its sources and reasons.
CREATE TABLE {schema}.hourly_totals (
    hour timestamptz NOT NULL,
    log_partition integer NOT NULL,
    asset text COLLATE "C" NOT NULL,
    what text COLLATE "C" NOT NULL,
    lot_class text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    reason text COLLATE "C" NOT NULL,
    amount numeric NOT NULL,
    PRIMARY KEY (hour, log_partition, asset, what, lot_class, source, reason)
) WITH (fillfactor = 50);
