"""The effects of a command that lie in the past: turns that are taken at once, credits that expire at once.

Owns the note for those who send: such a command is valid, and the fold does as it says. Time is an argument;
the log's own clock, which decides, is a little later. Source: docs/rules.md, "Time" and "Schedules".
"""

from bisect import bisect_left
from typing import Any

from creditfold.common.instants import iso
from creditfold.ledger.commands import CreateSchedule
from creditfold.ledger.lots import DAY_MS, Scheduled


def past_turns(schedule: CreateSchedule, now_ms: int) -> list[int]:
    """The instants of a schedule's turns that lie in the past, in order; at most one a day since 1973."""
    turns = Scheduled(schedule, 0)
    # No two turns are closer than a day.
    most = max(0, (now_ms - schedule.first_at) // DAY_MS + 1)
    count = bisect_left(range(1, most + 1), True, key=lambda number: turns.instant(number) > now_ms)
    return [turns.instant(number) for number in range(1, count + 1)]


def in_turns(schedule: CreateSchedule, turns: list[int], now_ms: int) -> str:
    """What past turns grant, in words."""
    most = "at most " if schedule.cap else ""
    taken = f"{len(turns):,} of its turns lie in the past" if len(turns) > 1 else "its first turn lies in the past"
    said = f"{taken} and grant {most}{len(turns) * schedule.amount:,} {schedule.asset} at once"
    lasts = schedule.expires_after_ms
    ended = sum(at + lasts <= now_ms for at in turns) if lasts else 0
    return f"{said}, {most}{ended * schedule.amount:,} of which expire at once" if ended else said


def past_effect(type: str, fields: dict[str, Any], now_ms: int) -> str | None:
    """Say what of a command's effect lies in the past, or None where nothing does.

    Args:
        type: of the command, as in `MODELS`.
        fields: as the log has them; a batch's steps among them.
        now_ms: in milliseconds since 1970 UTC.
    """
    if type == "batch":
        said = (past_effect(step["kind"], step, now_ms) for step in fields["steps"])
        return "; ".join(f"steps[{index}]: {one}" for index, one in enumerate(said) if one) or None
    if type == "create_schedule":
        schedule = CreateSchedule(**fields)
        turns = past_turns(schedule, now_ms)
        return in_turns(schedule, turns, now_ms) if turns else None
    ends = fields.get("expires_at", 0)
    if not 0 < ends <= now_ms:
        return None
    what = "what it reissues expires" if type == "refund" else "the credits expire"
    return f"expires_at lies in the past, {iso(ends)}: {what} at once"
