"""Checks how far the log reaches: it must be whole, and no record from the future. Pure: reads no server."""

from collections.abc import Mapping, Sequence

from creditfold.common.checks import Check
from creditfold.common.errors import ResourceError
from creditfold.common.position import Position
from creditfold.log.continuity import REPLACED, LogReplacedError
from creditfold.log.doctor.facts import FoldedLog, LogExtent
from creditfold.log.doctor.wording import counted, named, unknown
from creditfold.log.origin import REMEDY

FUTURE_WARNING_MS = 5_000
FUTURE_DANGER_MS = 300_000


def examine_extent(name: str, extent: LogExtent, folded: FoldedLog | None, now_ms: int) -> list[Check]:
    """The log is of these rules, whole from 0 to where it was folded, and no record comes from the future."""
    newest = extent.newest_ms
    why = "It shows whether the brokers' clocks agree with this machine's."
    clock = (
        unknown(name, "append times", newest, why)
        if isinstance(newest, ResourceError)
        else check_append_times(name, newest, now_ms)
    )
    next_offsets = folded.next_offsets if folded is not None else None
    return [
        check_origin(name, extent.old),
        check_start(name, extent.starts, next_offsets),
        check_end(name, extent.ends, next_offsets or {}),
        *([check_history(name, folded)] if folded is not None else []),
        clock,
    ]


def check_origin(name: str, old: Sequence[Position]) -> Check:
    """A log that was made before version 1 of the rules can't be folded."""
    return Check(
        name,
        "first records",
        "danger" if old else "ok",
        f"{old[0]} was written before version 1 of the rules" if old else "not older than version 1 of the rules",
        "Nothing can read the records of an older log: workers, publishers and rebuilds refuse it.",
        REMEDY,
    )


def check_start(name: str, starts: Mapping[int, int], next_offsets: Mapping[int, int] | None) -> Check:
    """A log that doesn't start at 0 has lost what came before. `next_offsets` is None where the fold can't be asked."""
    gone = {partition: start for partition, start in sorted(starts.items()) if start > 0}
    unfolded = [partition for partition, start in gone.items() if (next_offsets or {}).get(partition, 0) < start]
    if next_offsets is not None and not unfolded:
        remedy = (
            "The balances still hold what is gone, but a rebuild is impossible without a backup of the topic. Back the "
            "database up with `pg_dump`, and find out who removed records (kafka-delete-records.sh, retention)."
        )
    else:
        remedy = "Stop the workers, and restore the topic from a backup." + (
            f" Partition {named(unfolded)} was not folded past the gap: no balance holds all of what is gone."
            if next_offsets is not None
            else ""
        )
    return Check(
        name,
        "start of the log",
        "danger" if gone else "ok",
        f"{sum(gone.values())} offsets are gone: {counted(gone)}" if gone else "0 in every partition",
        "What lies before a partition's start is lost from the truth.",
        remedy,
    )


def check_end(name: str, ends: Mapping[int, int], next_offsets: Mapping[int, int]) -> Check:
    """A log that ends before what was folded has lost its end."""
    short = {
        partition: next_offsets[partition] - end
        for partition, end in sorted(ends.items())
        if next_offsets.get(partition, 0) > end
    }
    return Check(
        name,
        "end of the log",
        "danger" if short else "ok",
        f"{sum(short.values())} folded offsets are gone: {counted(short)}" if short else "nothing folded lies beyond",
        "Balances count commands that the log no longer has, and new ones would be skipped in their place.",
        "Stop the producers and the workers, and restore the topic from a backup or from a replica that still has it.",
    )


def check_history(name: str, folded: FoldedLog) -> Check:
    """The last records that were folded are still in the log, where they were."""
    title, refused = "last folded records", folded.refused
    why = "A log that lost its end and grew past it has other commands at offsets that were folded; they are skipped."
    if isinstance(refused, ResourceError):
        return unknown(name, title, refused, why)
    # One that ends too early is the business of the checks above.
    replaced = {partition: error for partition, error in refused.items() if isinstance(error, LogReplacedError)}
    seen = " ".join(error.message for error in replaced.values())
    return Check(name, title, "danger" if replaced else "ok", seen or "where they were", why, REPLACED)


def check_append_times(name: str, newest_ms: Mapping[int, int], now_ms: int) -> Check:
    """A record from the future means that a broker's clock, or this machine's, is wrong."""
    ahead = {partition: newest - now_ms for partition, newest in sorted(newest_ms.items())}
    late = [partition for partition, ms in ahead.items() if ms > FUTURE_WARNING_MS]
    worst = max(ahead.values(), default=0)
    seen = f"{worst / 1000:.1f} s in the future: partition {named(late)}" if late else "none in the future"
    return Check(
        name,
        "append times",
        "ok" if not late else "danger" if worst > FUTURE_DANGER_MS else "warning",
        seen,
        "The log's clock never goes back: after a record from the future it stands still until that time has come.",
        "Set the clocks of the brokers and of this machine by NTP; `chronyc tracking` shows how far off they are.",
    )
