-- Webhooks and alerts: who is called, how far each has been, what waits, and what was tried. Not of a generation: a
-- rebuild and a switch leave it alone. Not in the schema `ledger`, all of which readers may see.

CREATE SCHEMA IF NOT EXISTS ledger_delivery;

-- Who delivers: the process that has the highest epoch, for as long as it renews its lease. Each of its transactions
-- checks the epoch (the fencing token) and holds its row, so that one that woke up late can't write, and another process
-- begins behind the last one that could. When the lease was renewed is a row of its own, which nobody holds.
CREATE TABLE IF NOT EXISTS ledger_delivery.leadership (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch bigint NOT NULL DEFAULT 0,
    owner text NOT NULL DEFAULT ''
);
INSERT INTO ledger_delivery.leadership DEFAULT VALUES ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS ledger_delivery.lease (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    renewed_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);
INSERT INTO ledger_delivery.lease DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Who is called. No types, and no prefixes, are all. revision changes with whatever a deliverer must hear of;
-- failing_since is when the first request failed of those since the last that didn't.
CREATE TABLE IF NOT EXISTS ledger_delivery.endpoints (
    id text COLLATE "C" PRIMARY KEY,
    url text NOT NULL,
    description text NOT NULL,
    owner text NOT NULL,
    types text[] NOT NULL,
    account_prefixes text[] NOT NULL,
    state text NOT NULL DEFAULT 'enabled' CHECK (state IN ('enabled', 'disabled')),
    disabled_why text NOT NULL DEFAULT '',
    disabled_at timestamptz,
    failing_since timestamptz,
    revision bigint NOT NULL DEFAULT 1,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What requests are signed with, two at a time while it is rotated: a key for HMAC and the seed of an ed25519 key. They
-- are kept as they are, since each request is signed anew.
CREATE TABLE IF NOT EXISTS ledger_delivery.signing_keys (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    endpoint_id text COLLATE "C" NOT NULL REFERENCES ledger_delivery.endpoints (id) ON DELETE CASCADE,
    secret bytea NOT NULL,
    seed bytea NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz
);
CREATE INDEX IF NOT EXISTS signing_keys_of_endpoint ON ledger_delivery.signing_keys (endpoint_id);

-- How far an endpoint has been, in each partition of the log: all before this place was delivered, isn't for it, or has a
-- row in deliveries. Partition -1 is that of notices, by their numbers. The last line before it is named, by which the
-- place is found in a log that was restored into another topic.
CREATE TABLE IF NOT EXISTS ledger_delivery.cursors (
    endpoint_id text COLLATE "C" NOT NULL REFERENCES ledger_delivery.endpoints (id) ON DELETE CASCADE,
    log_partition integer NOT NULL,
    topic_id text NOT NULL,
    log_offset bigint NOT NULL,
    account_id text COLLATE "C" NOT NULL DEFAULT '',
    version bigint NOT NULL DEFAULT 0,
    last_account text COLLATE "C" NOT NULL DEFAULT '',
    last_version bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (endpoint_id, log_partition)
) WITH (fillfactor = 50);

-- What failed, or waits behind what failed, of the same lane: an account; and what was given up after the last try. All
-- else waits in the journal. number orders a lane.
CREATE SEQUENCE IF NOT EXISTS ledger_delivery.delivery_numbers;
CREATE TABLE IF NOT EXISTS ledger_delivery.deliveries (
    endpoint_id text COLLATE "C" NOT NULL REFERENCES ledger_delivery.endpoints (id) ON DELETE CASCADE,
    webhook_id text COLLATE "C" NOT NULL,
    number bigint NOT NULL DEFAULT nextval('ledger_delivery.delivery_numbers'),
    lane text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    position text NOT NULL,
    traceparent text COLLATE "C" NOT NULL DEFAULT '',
    body text NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'parked')),
    tries integer NOT NULL,
    next_at timestamptz NOT NULL,
    error text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (endpoint_id, webhook_id)
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS deliveries_in_order ON ledger_delivery.deliveries (endpoint_id, number);

-- Each request, and the beginning of its answer. status is NULL where there was none.
CREATE TABLE IF NOT EXISTS ledger_delivery.attempts (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    endpoint_id text COLLATE "C" NOT NULL REFERENCES ledger_delivery.endpoints (id) ON DELETE CASCADE,
    webhook_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    try integer NOT NULL,
    status integer,
    latency_ms integer NOT NULL,
    error text NOT NULL,
    answer bytea NOT NULL
);
CREATE INDEX IF NOT EXISTS attempts_of_endpoint ON ledger_delivery.attempts (endpoint_id, number);
CREATE INDEX IF NOT EXISTS attempts_at ON ledger_delivery.attempts (at);

-- Events that belong to no line of the journal, in their order: credits that end soon, an endpoint that was disabled.
-- identity is what their ids are made of.
CREATE TABLE IF NOT EXISTS ledger_delivery.notices (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type text COLLATE "C" NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    owner text NOT NULL,
    identity text NOT NULL,
    at_ms bigint NOT NULL,
    data text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What is watched. below and rearm_at are amounts of available credits; within_ms is of what ends soon. begins has the
-- offset of each partition from which the rule counts, in the topic of that id.
CREATE TABLE IF NOT EXISTS ledger_delivery.alert_rules (
    id text COLLATE "C" PRIMARY KEY,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('dropped', 'depleted', 'expiring')),
    owner text NOT NULL,
    account_prefix text NOT NULL,
    asset text COLLATE "C" NOT NULL,
    below bigint NOT NULL,
    rearm_at bigint NOT NULL,
    within_ms bigint NOT NULL,
    begins jsonb NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Where the rules have been, in each partition. Endpoints follow behind.
CREATE TABLE IF NOT EXISTS ledger_delivery.alert_cursors (
    log_partition integer PRIMARY KEY,
    topic_id text NOT NULL,
    log_offset bigint NOT NULL,
    account_id text COLLATE "C" NOT NULL DEFAULT '',
    version bigint NOT NULL DEFAULT 0,
    last_account text COLLATE "C" NOT NULL DEFAULT '',
    last_version bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- The accounts of which a rule has said that they dropped, and not yet that they recovered.
CREATE TABLE IF NOT EXISTS ledger_delivery.alert_states (
    rule_id text COLLATE "C" NOT NULL REFERENCES ledger_delivery.alert_rules (id) ON DELETE CASCADE,
    account_id text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    PRIMARY KEY (rule_id, account_id, asset)
);

-- The lots that a rule waits for the end of, each with what remains of it after the lines that the rules have read.
CREATE TABLE IF NOT EXISTS ledger_delivery.alert_lots (
    rule_id text COLLATE "C" NOT NULL REFERENCES ledger_delivery.alert_rules (id) ON DELETE CASCADE,
    account_id text COLLATE "C" NOT NULL,
    command_id text COLLATE "C" NOT NULL,
    number integer NOT NULL,
    log_partition integer NOT NULL,
    asset text COLLATE "C" NOT NULL,
    remaining bigint NOT NULL,
    expires_at_ms bigint NOT NULL,
    due_ms bigint NOT NULL,
    PRIMARY KEY (account_id, command_id, number, rule_id)
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS alert_lots_due ON ledger_delivery.alert_lots (log_partition, due_ms);

-- What the rules have made of lines of the journal, by the lines.
CREATE TABLE IF NOT EXISTS ledger_delivery.alerts (
    log_partition integer NOT NULL,
    log_offset bigint NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    rule_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    data text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (log_partition, log_offset, account_id, version, rule_id, type)
);

-- Those who deliver give signs of life, too. A table of an earlier release doesn't know the role.
ALTER TABLE ledger.heartbeats DROP CONSTRAINT IF EXISTS heartbeats_role_check;
ALTER TABLE ledger.heartbeats ADD CONSTRAINT heartbeats_role_check
    CHECK (role IN ('worker', 'publisher', 'delivery'));
