"""The store's SQL, by generation. Owns the texts; send.py, transaction.py and claim.py send them."""

from functools import lru_cache
from typing import LiteralString, NamedTuple

from psycopg import sql

from creditfold.projections.tables.scripts import schema_of


class Statements(NamedTuple):
    """The store's SQL for one generation, composed once: composing it anew costs more than a small chunk does."""

    claim: bytes
    release: bytes
    bookmarks: bytes
    finds_ids: bytes
    lock: bytes
    load_known: bytes
    known_ids: bytes
    save_journal: bytes
    save_lines: bytes
    save_metadata: bytes
    save_trace_contexts: bytes
    save_dead_letter: bytes
    save_activation: bytes
    save_redrive: bytes
    save_checkpoint: bytes
    move: bytes
    take: bytes


@lru_cache(maxsize=64)
def statements(generation: int) -> Statements:
    """The store's SQL for a generation."""
    schema = sql.Identifier(schema_of(generation))
    return Statements(*(sql.SQL(text).format(schema=schema, **_PARTS).as_bytes(None) for text in _TEXTS))


#: What several texts have in common.
_PARTS = {
    "sent": sql.SQL("""%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, string_to_array(%s, chr(31)),
           string_to_array(%s, chr(31))"""),
    "columns": sql.SQL("""log_partition, next_offset, clock_ms, rules, accepted, rejected, duplicates, dead_letters,
           activations, ticks, tick_minute, last_offset, chain, last_digest"""),
    "moved": sql.SQL("""next_offset = n.next_offset, clock_ms = n.clock_ms, rules = n.rules::smallint,
           chain = n.chain::bytea, accepted = p.accepted + n.accepted, rejected = p.rejected + n.rejected,
           duplicates = p.duplicates + n.duplicates, dead_letters = p.dead_letters + n.dead_letters,
           activations = p.activations + n.activations, ticks = p.ticks + n.ticks, tick_minute = n.tick_minute,
           folded_at = clock_timestamp(),
           last_offset = CASE WHEN n.last_offset < 0 THEN p.last_offset ELSE n.last_offset END,
           last_digest = CASE WHEN n.last_offset < 0 THEN p.last_digest ELSE n.last_digest::bytea END"""),
    "lines": sql.SQL("""log_partition, log_offset, account_id, version, command_id, kind, asset, amount, change,
           balance, rejection, rules, clock_ms, occurred_at_ms, source, note, extra, pending, held, debt, step, details,
           facts"""),
    # No epoch is given twice, not even where the row was set back to before a claim, by a backup or a failover: it is
    # the time in microseconds, more than the last one, and up to a second of chance for clocks that went back.
    "epoch": sql.SQL("""greatest(epoch, floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
           + 1 + floor(random() * 1000000)::bigint"""),
}

_TEXTS: tuple[LiteralString, ...] = (
    # claim
    """UPDATE {schema}.progress SET epoch = {epoch}, owner = %s WHERE log_partition = %s
       RETURNING next_offset, epoch, clock_ms, last_offset, last_digest, (SELECT searchable FROM {schema}.source)""",
    # release
    """UPDATE {schema}.progress SET epoch = {epoch}, owner = '' WHERE log_partition = %s AND owner <> ''""",
    # bookmarks
    """SELECT log_partition, next_offset, clock_ms, last_offset, last_digest FROM {schema}.progress
       WHERE log_partition = ANY(%s)""",
    # finds_ids
    "SELECT to_regclass('{schema}.journal_command') IS NOT NULL",
    # lock
    """SELECT next_offset, epoch, clock_ms, rules, chain, tick_minute, last_offset, last_digest FROM {schema}.progress
       WHERE log_partition = %s FOR UPDATE""",
    # load_known
    """SELECT account_id, command_id, kind,
           CASE WHEN kind IN ('grant', 'spend', 'hold', 'transfer', 'receive_transfer', 'set_credit_limit',
                              'create_schedule') THEN asset ELSE '' END,
           amount, occurred_at_ms, source, note, extra, details
       FROM unnest(string_to_array(%s, chr(31)), string_to_array(%s, chr(31))) AS k (account_id, command_id)
       JOIN {schema}.journal USING (account_id, command_id)""",
    # known_ids
    "SELECT account_id, command_id FROM {schema}.journal WHERE log_partition = %s AND command_id IS NOT NULL",
    # save_journal
    "COPY {schema}.journal ({lines}) FROM STDIN",
    # save_lines: journal lines as COPY takes them, in two values. In the first nothing is escaped, except missing
    # values and extra, which always is. OFFSET keeps PostgreSQL from cutting a line up anew for each of its columns.
    r"""INSERT INTO {schema}.journal ({lines})
       SELECT c[1]::integer, c[2]::bigint, c[3], c[4]::bigint, c[5], c[6], c[7], c[8]::bigint, c[9]::bigint,
              c[10]::bigint, c[11], c[12]::smallint, c[13]::bigint, c[14]::bigint, c[15], c[16],
              decode(ltrim(c[17], '\x'), 'hex'), c[18]::bigint, c[19]::bigint, c[20]::bigint, c[21]::smallint, c[22],
              c[23]
       FROM (SELECT string_to_array(line, chr(9), '\N') AS c FROM string_to_table(%b, chr(10)) AS line
             UNION ALL SELECT {schema}.cells_of_copy(line) FROM string_to_table(%b, chr(10)) AS line
             OFFSET 0) AS s""",
    # save_metadata
    """INSERT INTO {schema}.metadata (log_partition, log_offset, account_id, key, value)
       SELECT %s, m.log_offset, m.account_id, m.key, m.value
       FROM unnest(%b, string_to_array(%s, chr(31)), string_to_array(%s, chr(31)), string_to_array(%s, chr(31)))
           AS m (log_offset, account_id, key, value)""",
    # save_trace_contexts: of this week, for an outcome or a webhook that is later than that belongs to no trace that
    # anybody looks at. As many again of older ones go, so that they never become more than that.
    """WITH n AS (
           SELECT * FROM unnest(%b, %b, %s::text[]) AS n (log_offset, appended_ms, traceparent)
           WHERE n.appended_ms > (extract(epoch FROM clock_timestamp()) - 7 * 86400) * 1000
       ), oldest AS (
           SELECT log_offset, appended_ms FROM {schema}.trace_contexts WHERE log_partition = %s
           ORDER BY log_offset LIMIT 100 + 2 * (SELECT count(*) FROM n)
       ), dropped AS (
           DELETE FROM {schema}.trace_contexts USING oldest WHERE trace_contexts.log_partition = %s
           AND trace_contexts.log_offset = oldest.log_offset
           AND oldest.appended_ms <= (extract(epoch FROM clock_timestamp()) - 7 * 86400) * 1000
       )
       INSERT INTO {schema}.trace_contexts (log_partition, log_offset, appended_ms, traceparent)
       SELECT %s, log_offset, appended_ms, traceparent FROM n ON CONFLICT DO NOTHING""",
    # save_dead_letter
    """INSERT INTO {schema}.dead_letters
           (log_partition, log_offset, reason, detail, appended_at_ms, key, value, headers)
       VALUES (%s, %s, %s, %s, %s, %s, %s, %s)""",
    # save_activation
    """INSERT INTO {schema}.activations
           (log_partition, log_offset, rules, clock_ms, command_id, occurred_at_ms, source, note)
       VALUES (%s, %s, %s, %s, %s, %s, %s, %s)""",
    # save_redrive
    """INSERT INTO {schema}.redrives (log_partition, log_offset, of_partition, of_offset, decided_by, note)
       VALUES (%s, %s, %s, %s, %s, %s)""",
    # save_checkpoint
    "INSERT INTO {schema}.checkpoints (log_partition, next_offset, chain) VALUES (%s, %s, %s)",
    # move
    """UPDATE {schema}.progress AS p SET {moved} FROM unnest({sent}) AS n ({columns})
       WHERE p.log_partition = n.log_partition""",
    # take: as `move`, for partitions that stand where they are expected to, under the epochs given; if one doesn't,
    # refuse_displaced() ends the transaction. They are locked in the order in which every other transaction locks
    # several.
    """WITH n AS MATERIALIZED (SELECT * FROM unnest(%b, %b, {sent}) AS s (start, epoch, {columns})),
       held AS MATERIALIZED (
           SELECT p.log_partition FROM {schema}.progress AS p JOIN n USING (log_partition)
           WHERE p.next_offset = n.start AND p.epoch = n.epoch ORDER BY p.log_partition FOR UPDATE OF p
       ),
       moved AS (
           UPDATE {schema}.progress AS p SET {moved} FROM n JOIN held USING (log_partition)
           WHERE p.log_partition = n.log_partition RETURNING 1
       )
       SELECT CASE WHEN count(*) <> (SELECT count(*) FROM n) THEN {schema}.refuse_displaced() END FROM moved""",
)

# Activating another generation takes moments, and must not be ended halfway by a worker that waits for it.
END_BLOCKERS = sql.SQL("""
    SELECT pg_terminate_backend(a.pid) FROM unnest(pg_blocking_pids(%s)) AS b (pid) JOIN pg_stat_activity a USING (pid)
    WHERE a.application_name <> %s
""")

#: What the session that switches generations calls itself.
SWITCHING = "creditfold activate"

# The switch locks this row for itself, so a claim is made either in the old generation before it, and fenced by it, or
# in the new one after it.
#: How often to look for the live generation, since each look may wait for a switch and find what was live before.
LOOKS = 5
LIVE = "SELECT number, layout FROM ledger.generations WHERE state = 'live' FOR SHARE"
