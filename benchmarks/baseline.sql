-- What a team would otherwise write: a table of balances, a journal with an idempotency key, and two functions, one for a
-- single operation and one for many. No lots, no reasons, no chain, no log to fold again. benchmarks/baseline.py calls it.

CREATE TABLE wallet (
    id bigint PRIMARY KEY,
    credits bigint NOT NULL CHECK (credits >= 0)
);

-- amount is granted if it is more than nothing, and spent if it is less. A rejected operation is kept too.
CREATE TABLE entry (
    operation text PRIMARY KEY,
    wallet bigint NOT NULL,
    amount bigint NOT NULL,
    is_accepted boolean NOT NULL,
    credits bigint NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One operation: whether it was accepted, now or when its id came first.
CREATE FUNCTION decide(an_operation text, a_wallet bigint, an_amount bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    held bigint;
    verdict boolean;
BEGIN
    -- The lock comes first, so that two of the same id can't both find it unused.
    SELECT credits INTO STRICT held FROM wallet WHERE id = a_wallet FOR NO KEY UPDATE;
    SELECT is_accepted INTO verdict FROM entry WHERE operation = an_operation;
    IF FOUND THEN
        RETURN verdict;
    END IF;
    verdict := held + an_amount >= 0;
    IF verdict THEN
        held := held + an_amount;
        UPDATE wallet SET credits = held WHERE id = a_wallet;
    END IF;
    INSERT INTO entry (operation, wallet, amount, is_accepted, credits)
    VALUES (an_operation, a_wallet, an_amount, verdict, held);
    RETURN verdict;
END $$;

-- Many operations in one call and one commit, in their order: how many were accepted now.
CREATE FUNCTION decide_all(operations text[], wallets bigint[], amounts bigint[]) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    accepted integer := 0;
    held bigint;
    verdict boolean;
    one record;
BEGIN
    -- In the order of their ids, so that no two batches wait for each other.
    PERFORM FROM wallet WHERE id = ANY (wallets) ORDER BY id FOR NO KEY UPDATE;
    FOR one IN SELECT * FROM unnest(operations, wallets, amounts) AS u (operation, wallet, amount) LOOP
        CONTINUE WHEN EXISTS (SELECT FROM entry WHERE operation = one.operation);
        UPDATE wallet SET credits = credits + one.amount
        WHERE id = one.wallet AND credits + one.amount >= 0 RETURNING credits INTO held;
        verdict := FOUND;
        IF verdict THEN
            accepted := accepted + 1;
        ELSE
            SELECT credits INTO STRICT held FROM wallet WHERE id = one.wallet;
        END IF;
        INSERT INTO entry (operation, wallet, amount, is_accepted, credits)
        VALUES (one.operation, one.wallet, one.amount, verdict, held);
    END LOOP;
    RETURN accepted;
END $$;
