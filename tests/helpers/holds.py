"""Holds what a test must catch in the middle, for as long as the test wants, however fast or slow the machine is.

Knows PostgreSQL's locks and a process's signals. Refuses to know what is tested.
"""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil
import psycopg

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.projections.store.statements import SWITCHING
from helpers.support import HANG_S, Raw, WorkerProcess, append, query

#: Offsets of a partition that one lock stands for: among so many records at least one gets a line in the journal.
_STRETCH = 64

# Each line waits for the stretch of the log that its record is in. A generation has no tables before the command that
# is held makes them, so another trigger puts this one on them.
_GATE = """
    CREATE FUNCTION public.wait_for_stretch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_advisory_xact_lock_shared(NEW.log_partition, (NEW.log_offset / {stretch})::integer);
        RETURN NEW;
    END $$;
    CREATE FUNCTION public.put_gate() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        IF to_regclass('{journal}') IS NOT NULL AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'gate') THEN
            CREATE TRIGGER gate BEFORE INSERT ON {journal} FOR EACH ROW EXECUTE FUNCTION public.wait_for_stretch();
        END IF;
    END $$;
    CREATE EVENT TRIGGER put_gate ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
        EXECUTE FUNCTION public.put_gate();
"""
#: Sessions of a database that are at work, but for the one that asks. One that waits for its client is active too where
#: that has sent a part of what it sends at once.
_BUSY = """state = 'active' AND wait_event IS DISTINCT FROM 'ClientRead' AND backend_type = 'client backend'
    AND pid <> pg_backend_pid()"""
_NO_GATE = """
    DROP EVENT TRIGGER put_gate;
    DROP FUNCTION public.put_gate;
    DROP FUNCTION public.wait_for_stretch CASCADE;
"""


class Gate:
    """Keeps a generation that isn't made yet from being folded beyond some places. Made by `gate_in`."""

    def __init__(self, settings: Settings, holder: "psycopg.Connection[tuple[object, ...]]") -> None:
        self._settings = settings
        self._holder = holder

    def close(self, partition: int, offset: int) -> None:
        """Let no line of a partition be written from the stretch of this offset on."""
        self._holder.execute("SELECT pg_advisory_lock(%s, %s)", (partition, offset // _STRETCH))

    def open(self) -> None:
        """Let all go on."""
        self._holder.execute("SELECT pg_advisory_unlock_all()")

    def waiting(self) -> int:
        """How many folds stand before it, each in the middle of a transaction."""
        text = """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
        return int(query(self._settings, text)[0][0])


@contextmanager
def gate_in(settings: Settings, generation: int) -> Iterator[Gate]:
    """A gate in the next generation, open at first and at the end of the block."""
    with psycopg.connect(settings.dsn, autocommit=True) as holder:
        text = _GATE.format(journal=f"ledger_{generation:04}.journal", stretch=_STRETCH)
        holder.execute(text.encode())
        gate = Gate(settings, holder)
        try:
            yield gate
        finally:
            gate.open()
            holder.execute(_NO_GATE)


def freeze(process: WorkerProcess) -> None:
    """Stop a process, and wait until it is."""
    process.send(signal.SIGSTOP)
    alive = psutil.Process(process.process.pid)
    assert wait_until(lambda: alive.status() == psutil.STATUS_STOPPED, HANG_S), alive.status()


def freeze_inside_a_transaction(settings: Settings, process: WorkerProcess, records: Iterable[Raw]) -> None:
    """Freeze a worker in the middle of the transaction of a chunk of these records, with its partition locked.

    The lock is the transaction's first step. The test has it until the worker is frozen, which has sent nothing behind,
    or, of a small chunk, as much as it had sent of the whole. Only for generation 1.
    """
    # A claim doesn't end the session of a switch, as it does with a worker's.
    with psycopg.connect(settings.dsn, application_name=SWITCHING) as holder:

        def hold() -> None:
            holder.execute("SELECT FROM ledger_0001.progress ORDER BY log_partition FOR UPDATE")

        hold()
        append(settings, records)
        while True:
            assert wait_until(lambda: _sessions(settings, "wait_event_type = 'Lock'") > 0, HANG_S)
            freeze(process)
            holder.commit()
            # A session that has the lock now is active for a moment, until it waits for its worker.
            assert wait_until(lambda: _sessions(settings, _BUSY) == 0, HANG_S)
            if _is_locked(settings):
                return
            # It had given up the lock, as it does after some seconds, and tries again; or it had sent the whole.
            hold()
            process.send(signal.SIGCONT)


def _is_locked(settings: Settings) -> bool:
    """Whether somebody has locked a partition."""
    text = """SELECT (SELECT count(*) FROM ledger_0001.progress)
                  > (SELECT count(*) FROM (SELECT FROM ledger_0001.progress FOR UPDATE SKIP LOCKED) unlocked)"""
    return bool(query(settings, text)[0][0])


def _sessions(settings: Settings, condition: str) -> int:
    text = f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
    return int(query(settings, text)[0][0])
