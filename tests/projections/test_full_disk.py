"""A disk that is really full: a small file system, mounted for the test, that holds the tables of the new generation.

The live generation lies on another disk, and is folded and read meanwhile.
"""

from pathlib import Path

import pytest

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.processors.rebuild.steps import ActivationOptions, Request, activate, rebuild
from creditfold.projections.connections import connected
from creditfold.projections.failures import DiskFullError
from creditfold.projections.generations.indexes import is_indexed
from helpers.command_line import run
from helpers.generations import WATCH, history, read, rows_of, states
from helpers.small_disk import ROOMY_KB, SmallDisk
from helpers.support import HANG_S, ROOT, Quiet, append, assert_equals_second_fold, query, wait_until_folded, worker

#: How many records `folded` has: they fill the disk.
FOLDED = 3_000
#: Rebuilds in processes of their own, in small transactions: some are there when the disk is full.
SMALL_PIECES = (str(ROOT / "tests" / "programs" / "small_pieces.py"),)


class FilledBefore(Quiet):
    """Fills a disk at the moment when a rebuild comes to a step."""

    def __init__(self, disk: SmallDisk, step: str) -> None:
        self._disk = disk
        self._step = step

    def begin(self, step: str, done: int, total: int) -> None:
        if step == self._step:
            self._disk.fill()


def test_a_rebuild_on_a_full_disk_is_reported_and_goes_on_when_there_is_room(
    small_disk: SmallDisk, folded: Settings, tmp_path: Path
) -> None:
    """Full before there are tables, while rows are written, and while indexes are made; the live one never notices."""
    into = ("rebuild", "--tablespace", small_disk.tablespace)
    with worker(folded, tmp_path) as live:
        wait_until_folded(folded)
        before = rows_of(folded, 1)

        small_disk.resize(64)
        done = run(folded, *into, check=False)
        assert (done.returncode, "no room left: could not extend file" in done.stderr) == (1, True), done.stderr
        # Nothing was made that could be gone on with.
        assert ("--resume" in done.stderr, states(folded)) == (False, {1: "live"})

        small_disk.resize(1_000)
        done = run(folded, *into, "--processes", "2", check=False, program=SMALL_PIECES)
        assert (done.returncode, "no room left: could not extend file" in done.stderr) == (1, True), done.stderr
        ((number, state),) = (row for row in states(folded).items() if row[1] != "live")
        assert state == "building"
        reported = f"creditfold rebuild --resume {number}; or free it: creditfold drop {number}"
        assert reported in done.stderr
        # The same once more: nobody has made room.
        again = run(folded, "rebuild", "--resume", str(number), check=False)
        assert (again.returncode, reported in again.stderr) == (1, True), again.stderr
        assert rows_of(folded, 1) == before

        append(folded, history(500, 2, 3_000))
        wait_until_folded(folded)
        assert_equals_second_fold(folded)

        small_disk.resize(ROOMY_KB)
        with pytest.raises(DiskFullError, match="no room left"):
            rebuild(folded, Request(resume=number), FilledBefore(small_disk, "Making indexes"))
        with connected(folded.dsn) as connection:
            assert not is_indexed(connection, number)
        assert (states(folded)[number], read(folded, number).digest) == ("building", read(folded, 1).digest)

        append(folded, history(500, 3, 3_500))
        wait_until_folded(folded)
        small_disk.resize(ROOMY_KB)
        run(folded, "rebuild", "--resume", str(number))
        assert "Equal" in run(folded, "verify", str(number)).stdout
        assert rows_of(folded, number) == rows_of(folded, 1)
        assert live.process.poll() is None
    assert not live.said("no room left")


def test_all_of_a_generation_lies_in_its_tablespace(small_disk: SmallDisk, copied: Settings) -> None:
    """The indexes that are made last too: the live one's disk must not be filled by a generation that has its own."""
    done = rebuild(copied, Request(tablespace=small_disk.tablespace), WATCH)
    elsewhere = """SELECT relname FROM pg_class
                   WHERE relnamespace = 'ledger_{:04}'::regnamespace AND relkind IN ('r', 'i')
                     AND reltablespace NOT IN (SELECT oid FROM pg_tablespace WHERE spcname = %s)"""
    assert query(copied, elsewhere.format(done.number), (small_disk.tablespace,)) == []
    assert len(query(copied, elsewhere.format(1), (small_disk.tablespace,))) > 0


def test_a_worker_waits_while_the_live_generation_s_disk_is_full(
    small_disk: SmallDisk, folded: Settings, tmp_path: Path
) -> None:
    """It says why, readers read on, and when there is room it goes on by itself."""
    done = rebuild(folded, Request(tablespace=small_disk.tablespace), WATCH)
    activate(folded, done.number, ActivationOptions(), WATCH)
    small_disk.fill()
    with worker(folded, tmp_path) as process:
        append(folded, history(6_000, 4, 3_000))
        assert wait_until(lambda: "No space left on device" in process.text(), HANG_S), process.text()[-3000:]
        assert query(folded, "SELECT count(*) > 0 FROM ledger.balances") == [(True,)]
        assert process.process.poll() is None
        small_disk.resize(ROOMY_KB)
        wait_until_folded(folded)
    assert_equals_second_fold(folded)


def test_a_tablespace_that_cannot_be_used_is_refused(small_disk: SmallDisk, copied: Settings) -> None:
    """One that isn't there, one that only PostgreSQL uses, and one that the ledger's owner may not use."""
    for name in ("no such place", "pg_global"):
        done = run(copied, "rebuild", "--tablespace", name, check=False)
        assert (done.returncode, f"no tablespace {name}" in done.stderr) == (2, True), done.stderr
    owner = f"{query(copied, 'SELECT current_database()')[0][0]}_owner"
    with connected(copied.dsn) as connection:
        connection.execute(f"CREATE ROLE {owner}")  # type: ignore[arg-type]
        try:
            connection.execute(f"ALTER SCHEMA ledger OWNER TO {owner}")  # type: ignore[arg-type]
            done = run(copied, "rebuild", "--tablespace", small_disk.tablespace, check=False)
            assert done.returncode == 2, done.stderr
            assert f"GRANT CREATE ON TABLESPACE {small_disk.tablespace} TO {owner};" in done.stderr
        finally:
            connection.execute("ALTER SCHEMA ledger OWNER TO CURRENT_USER")
            connection.execute(f"DROP ROLE {owner}")  # type: ignore[arg-type]
    assert states(copied) == {1: "live"}
