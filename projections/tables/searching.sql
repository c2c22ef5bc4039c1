-- By which accounts are found by what they have and by what ends, where that is asked for: every change of a balance writes
-- them too.
CREATE INDEX balances_available ON {schema}.balances (asset, available, account_id);
CREATE INDEX balances_ending ON {schema}.balances (account_id, next_at_ms) WHERE next_at_ms IS NOT NULL;
