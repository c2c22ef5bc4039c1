"""The heartbeats of workers, publishers and deliverers, in a table that outlives every generation. Judges none.

PostgreSQL's clock times each, so that ages don't depend on the clocks of the machines that write or read them.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

Role: TypeAlias = Literal["worker", "publisher", "delivery"]
State: TypeAlias = Literal["starting", "running", "stopped"]

#: The row of a process that is gone is removed after this, in seconds; until then it shows when it was last there.
KEPT_S = 3_600.0


class PartitionSign(NamedTuple):
    """What a process does about one partition. Seconds count up to the heartbeat.

    `held_s` is how long ago it last held the partition, 0 if it holds it; `holds_s` for how long it has, None if it
    doesn't. `work_s` is for how long it has been at its present piece of work, waiting for its turn included, None
    where it has none; `still_s` for how long it has had work and finished none. `tries` counts its failed attempts, and
    `why` is the error of the last one.
    """

    partition: int
    held_s: float = 0.0
    holds_s: float | None = None
    work_s: float | None = None
    still_s: float | None = None
    tries: int = 0
    why: str = ""


class Sign(NamedTuple):
    """What a process reports about itself.

    `turned_s` is for how many seconds each of its loops has stood still, by the loop's name. `waits_for` is empty,
    or names the server that it waits for and why.
    """

    role: Role
    host: str
    pid: int
    state: State
    up_s: float
    waits_for: str
    turned_s: dict[str, float]
    partitions: Sequence[PartitionSign]

    @property
    def owner(self) -> str:
        """The process's name, as `progress` has it."""
        return f"{self.host}:{self.pid}"


class Heartbeat(NamedTuple):
    """The last sign of a process, and its age in seconds."""

    sign: Sign
    age_s: float


def beat(connection: Connection[TupleRow], sign: Sign) -> None:
    """Write a sign over the process's last one. Raises what PostgreSQL raises."""
    connection.execute(
        """INSERT INTO ledger.heartbeats AS h
               (role, owner, host, pid, state, waits_for, turned_s, partitions, started_at, beat_at)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp() - make_interval(secs => %s), clock_timestamp())
           ON CONFLICT (role, owner) DO UPDATE SET state = excluded.state, waits_for = excluded.waits_for,
               turned_s = excluded.turned_s, partitions = excluded.partitions, started_at = excluded.started_at,
               beat_at = excluded.beat_at""",
        (
            sign.role,
            sign.owner,
            sign.host,
            sign.pid,
            sign.state,
            sign.waits_for,
            Jsonb(sign.turned_s),
            Jsonb([one._asdict() for one in sign.partitions]),
            sign.up_s,
        ),
    )


def forget_gone(connection: Connection[TupleRow]) -> None:
    """Remove the rows of processes that have given no sign for long."""
    connection.execute(
        "DELETE FROM ledger.heartbeats WHERE beat_at < clock_timestamp() - make_interval(secs => %s)", (KEPT_S,)
    )


def heartbeats(connection: Connection[Any], role: Role | None = None) -> list[Heartbeat]:
    """The last signs of all processes, or of those of one role, by name.

    While the server is away nobody can write: what it can't have got before it started isn't counted as silence.
    """
    rows = connection.execute(
        """SELECT role, host, pid, state, extract(epoch FROM beat_at - started_at)::float8, waits_for, turned_s,
                  partitions, extract(epoch FROM clock_timestamp() - greatest(
                      beat_at, CASE WHEN state <> 'stopped' THEN pg_postmaster_start_time() END))::float8
           FROM ledger.heartbeats WHERE role = coalesce(%s, role) ORDER BY role, owner""",
        (role,),
    ).fetchall()
    found = []
    for *words, turned_s, partitions, age_s in rows:
        sign = Sign._make([*words, turned_s, tuple(PartitionSign(**one) for one in partitions)])
        found.append(Heartbeat(sign, max(0.0, age_s)))
    return found
