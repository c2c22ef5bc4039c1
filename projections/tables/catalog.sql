-- The tables that outlive every generation.

CREATE SCHEMA IF NOT EXISTS ledger;

-- One row for each generation. Readers see the live one and workers fold it; a session that locks its row keeps it live.
CREATE TABLE IF NOT EXISTS ledger.generations (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state text COLLATE "C" NOT NULL CHECK (state IN ('building', 'ready', 'live', 'retired')),
    layout smallint NOT NULL,
    purpose text NOT NULL,
    forced_rules smallint,
    until_ms bigint,
    until_offsets jsonb,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ready_at timestamptz,
    activated_at timestamptz,
    retired_at timestamptz,
    note text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX IF NOT EXISTS generations_live ON ledger.generations (state) WHERE state = 'live';

-- What people decided about dead letters. The log has the redriven commands, and nothing else of it. key and
-- value are what is appended, kept so that a redrive that was interrupted appends the same again.
CREATE TABLE IF NOT EXISTS ledger.dead_letter_decisions (
    topic_id text COLLATE "C" NOT NULL,
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    decision text NOT NULL CHECK (decision IN ('redrive', 'discard')),
    decided_by text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    note text NOT NULL,
    corrected boolean NOT NULL DEFAULT false,
    key bytea,
    value bytea,
    to_partition integer,
    to_offset bigint,
    PRIMARY KEY (topic_id, log_partition, log_offset)
);

-- When each kind of proof was done last, and found nothing wrong: for whoever watches that it is done at all. Not of a
-- generation, and no part of the ledger.
CREATE TABLE IF NOT EXISTS ledger.proofs (
    kind text COLLATE "C" PRIMARY KEY CHECK (kind IN ('verify', 'archive')),
    passed_at timestamptz NOT NULL
);

-- The last sign of life of each worker, publisher and deliverer, and what it was doing: see heartbeats.py. Not of a
-- generation, so a rebuild and a switch leave it alone. No part of the ledger.
CREATE TABLE IF NOT EXISTS ledger.heartbeats (
    role text COLLATE "C" NOT NULL CHECK (role IN ('worker', 'publisher', 'delivery')),
    owner text COLLATE "C" NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    state text NOT NULL CHECK (state IN ('starting', 'running', 'stopped')),
    waits_for text NOT NULL,
    turned_s jsonb NOT NULL,
    partitions jsonb NOT NULL,
    started_at timestamptz NOT NULL,
    beat_at timestamptz NOT NULL,
    PRIMARY KEY (role, owner)
) WITH (fillfactor = 50);
