-- One generation of the projection. {schema} is its schema. Everything here can be dropped and folded again.

CREATE SCHEMA {schema};

-- Which log this generation is folded from. A topic that was deleted and made anew has another topic_id.
CREATE TABLE {schema}.source (
    topic text PRIMARY KEY,
    topic_id text NOT NULL,
    partitions integer NOT NULL CHECK (partitions > 0)
);

-- Where the fold stands in each partition. The transaction that writes balances moves next_offset with them, and
-- checks epoch, so that a worker that lost the partition can't write. rules is the version in force, chain the digest of
-- all outcomes so far (projections/chain.py). balances_behind is true only in the middle of a bulk fold, which writes
-- balances at its end: what they are until then is told by the journal.
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
    rules smallint NOT NULL DEFAULT {rules},
    chain bytea NOT NULL DEFAULT '',
    balances_behind boolean NOT NULL DEFAULT false,
    folded_at timestamptz
) WITH (fillfactor = 50);

-- The chain at round offsets on the way: where two folds part is looked for between two of them.
CREATE TABLE {schema}.checkpoints (
    log_partition integer NOT NULL,
    next_offset bigint NOT NULL,
    chain bytea NOT NULL,
    PRIMARY KEY (log_partition, next_offset)
);

-- version is the account's count of decisions at the last one about this asset.
CREATE TABLE {schema}.balances (
    account_id text NOT NULL,
    asset text NOT NULL,
    available bigint NOT NULL CHECK (available >= 0),
    version bigint NOT NULL,
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    PRIMARY KEY (account_id, asset)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.1);

-- One row a decision, with the whole body of its command, so that a duplicate can be told from another command of the
-- same id: extra is the digest of what has no column here. The unique key on (account_id, command_id) is the ledger's
-- idempotency, so it stands from the start; the other indexes are in indexes.sql.
CREATE TABLE {schema}.journal (
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    account_id text NOT NULL,
    version bigint NOT NULL,
    command_id text NOT NULL,
    kind text NOT NULL,
    asset text NOT NULL,
    amount bigint NOT NULL,
    change bigint NOT NULL,
    balance bigint NOT NULL,
    rejection text,
    rules smallint NOT NULL,
    clock_ms bigint NOT NULL,
    occurred_at_ms bigint NOT NULL,
    source text NOT NULL,
    note text NOT NULL,
    extra bytea NOT NULL,
    CONSTRAINT journal_command UNIQUE (account_id, command_id),
    CHECK (rejection IS NULL OR change = 0)
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

-- Records that brought another version of the rules into force.
CREATE TABLE {schema}.activations (
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    rules smallint NOT NULL,
    clock_ms bigint NOT NULL,
    command_id text NOT NULL,
    occurred_at_ms bigint NOT NULL,
    source text NOT NULL,
    note text NOT NULL,
    PRIMARY KEY (log_partition, log_offset)
);

-- Records that say of themselves that they mend a dead letter.
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
