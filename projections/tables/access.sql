-- Who may use the HTTP door, and who did what through it. Not of a generation: a rebuild and a switch leave it alone.
-- Not in the schema `ledger`, all of which readers may see.

CREATE SCHEMA IF NOT EXISTS ledger_access;

-- A key by the id that stands in its text. limits are what its scopes are limited to.
CREATE TABLE IF NOT EXISTS ledger_access.keys (
    id text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    scopes text[] NOT NULL,
    account_prefix text NOT NULL DEFAULT '',
    assets text[] NOT NULL DEFAULT '{{}}',
    most_amount bigint,
    -- Requests a second, and at once; the setting's where there is none.
    rate double precision,
    burst integer,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    used_at timestamptz,
    revoked_at timestamptz
);

-- The secrets of a key, two at a time while it is rotated. Only their digests are kept.
CREATE TABLE IF NOT EXISTS ledger_access.secrets (
    digest bytea PRIMARY KEY,
    key_id text COLLATE "C" NOT NULL REFERENCES ledger_access.keys (id),
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz
);
CREATE INDEX IF NOT EXISTS secrets_of_key ON ledger_access.secrets (key_id);

-- What operators did: appended to, never changed.
CREATE TABLE IF NOT EXISTS ledger_access.audit (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    who text NOT NULL,
    address text NOT NULL,
    action text COLLATE "C" NOT NULL,
    target text NOT NULL,
    reason text NOT NULL,
    request_id text NOT NULL,
    before jsonb,
    after jsonb
);
CREATE INDEX IF NOT EXISTS audit_at ON ledger_access.audit (at);

-- Long work of operators: rebuilds and the like, each done by a process of its own. Whether that still runs is shown by
-- the session lock that it holds, and not here: see projections/access/operations.py.
CREATE TABLE IF NOT EXISTS ledger_access.operations (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL DEFAULT 'starting',
    parameters jsonb NOT NULL,
    who text NOT NULL,
    address text NOT NULL,
    why text NOT NULL,
    request_id text NOT NULL,
    -- The generation that it is about, or that it makes.
    generation integer,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reported_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    -- What it does now, and how far that is, in records; 0 of 0 where there is nothing to count.
    step text NOT NULL DEFAULT '',
    done bigint NOT NULL DEFAULT 0,
    total bigint NOT NULL DEFAULT 0,
    result jsonb,
    -- With code, message and remedy.
    error jsonb
);
-- These may be missing from a table that is there: when somebody wanted it to end early, and the states.
ALTER TABLE ledger_access.operations ADD COLUMN IF NOT EXISTS cancel_at timestamptz;
ALTER TABLE ledger_access.operations DROP CONSTRAINT IF EXISTS operations_state_check;
ALTER TABLE ledger_access.operations ADD CONSTRAINT operations_state_check
    CHECK (state IN ('starting', 'running', 'done', 'failed', 'cancelled'));
