"""Judges from signs of life, progress and the log's ends whether a process or the ledger as a whole is well.

Owns the bounds and the words. Asks nobody: what it judges was read by `projections/queries/health.py` and
`log/offsets.py`.

Well is a ledger in which each partition has a live owner that has caught up, has just committed or is at work within a
bound, and in which nothing that is due is overdue. A backlog is no fault, nor is a partition that waits its turn.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from creditfold.common.checks import Check
from creditfold.log.offsets import End
from creditfold.projections.queries.health import RECENT_S, DatabaseHealth, RecentLetters
from creditfold.projections.queries.heartbeats import Heartbeat, PartitionSign, Role

#: A process that has given no sign of life for so long, in seconds, is frozen, cut off from PostgreSQL, or gone.
FROZEN_S = 10.0
#: How long a process's loops may stand still: the longest fold in Python of a worker's takes some ten seconds.
LOOP_S = 60.0
#: How long a worker may fetch nothing, not even in vain, while Kafka is there.
FETCH_S = 120.0
#: How long a partition may be at one piece of work, its turn waited for included: a tick by which a million credits end
#: takes three to seven minutes.
WORK_S = 900.0
#: How long a partition may have no live owner: a group notices a dead member after ten seconds, then it joins anew.
UNOWNED_S = 25.0
#: How long a partition may have records to fold and an owner that doesn't fetch them, or fail at what it fetched.
IDLE_S = 30.0
#: How long a publisher's partition may have outcomes to publish and publish none.
STILL_S = 60.0
#: How often a piece of work may fail before that is reported.
TRIES = 3
#: What is due waits for a tick, which comes once in CREDITFOLD_TICK_SECONDS: for this many ticks and seconds.
OVERDUE_TICKS = 3
OVERDUE_S = 60.0
#: How long a transfer may be in transit while no partition is behind.
TRANSIT_S = 300.0
#: So many dead letters within RECENT_S are worth a look.
MANY_LETTERS = 10

_LOOK = "Look into its log. Restart it if it is frozen; others take over what it holds."
_MOST_NAMED = 10


class Problem(NamedTuple):
    """What isn't well, in one sentence without its full stop, and what to do."""

    what: str
    remedy: str


class Judgement(NamedTuple):
    """What is wrong with the ledger, and what is done about each partition, in a few words."""

    problems: Sequence[Problem]
    doing: Mapping[int, str]
    stuck: frozenset[int]


# Processes


def is_live(one: Heartbeat) -> bool:
    """Whether a process has given a sign of life just now, and isn't ending."""
    return one.sign.state != "stopped" and one.age_s <= FROZEN_S


def condition(one: Heartbeat) -> str:
    """How a process is, in a few words."""
    problem = problem_of(one, live=False)
    if one.sign.state == "stopped":
        return f"stopped {_seconds(one.age_s)} ago"
    return problem.what if problem is not None else "at work" if _works(one) else "idle"


def _works(one: Heartbeat) -> bool:
    return any(sign.work_s is not None for sign in one.sign.partitions)


def problem_of(one: Heartbeat, *, live: bool) -> Problem | None:
    """What is wrong with a process that should run.

    Args:
        one: its last sign.
        live: only what a restart of the process may mend, and not what it waits for.
    """
    sign = one.sign
    if one.age_s > FROZEN_S:
        return Problem(f"frozen, cut off or gone: no sign of life for {_seconds(one.age_s)}", _LOOK)
    for loop, bound in (("loop", LOOP_S), ("fetching", FETCH_S)):
        still = sign.turned_s.get(loop, 0.0)
        # One that holds no partition has nothing to fetch, and one whose Kafka is away can't.
        excused = loop == "fetching" and (sign.waits_for or all(part.held_s > 0 for part in sign.partitions))
        if still > bound and not excused:
            return Problem(f"its {loop} has stood still for {_seconds(still)}", _LOOK)
    for part in sign.partitions:
        if part.work_s is not None and part.work_s > WORK_S and not part.why:
            what = f"it has been at one piece of work of partition {part.partition} for {_seconds(part.work_s)}"
            return Problem(what, _LOOK)
    return None if live else _waiting(one)


def _waiting(one: Heartbeat) -> Problem | None:
    sign = one.sign
    if sign.waits_for:
        return Problem(f"it waits for {sign.waits_for}", "It goes on by itself when that is there again.")
    if sign.state == "starting":
        return Problem("it is starting", "Ask again in a moment; its log says what it waits for.")
    for part in sign.partitions:
        if (what := _failure(part)) is not None:
            return Problem(what, "Its log says why, again and again. It goes on by itself once the cause is gone.")
    return None


def _failure(part: PartitionSign) -> str | None:
    failed_s = max(part.work_s or 0.0, part.still_s or 0.0)
    if part.why and (part.tries >= TRIES or failed_s > IDLE_S):
        return f"partition {part.partition} fails, for {_seconds(failed_s)}: {part.why}"
    if part.still_s is not None and part.still_s > STILL_S:
        return f"partition {part.partition} has outcomes to publish and has published none for {_seconds(part.still_s)}"
    return None


def judge_machine(
    role: Role, found: Sequence[Heartbeat], host: str, is_running: Callable[[int], bool], *, live: bool
) -> list[Problem]:
    """What is wrong with the processes of a role on one machine; one must be there.

    Args:
        role: which processes.
        found: the signs of all of them, anywhere.
        host: the machine's name.
        is_running: whether a process of this machine exists, by its pid.
        live: as in problem_of.
    """
    mine = [one for one in found if one.sign.role == role and one.sign.host == host]
    running = [one for one in mine if one.sign.state != "stopped" and (is_live(one) or is_running(one.sign.pid))]
    if not running:
        last = min(mine, key=lambda one: one.age_s, default=None)
        seen = "" if last is None else f"; {last.sign.owner} gave its last sign {_seconds(last.age_s)} ago"
        elsewhere = sum(is_live(one) for one in found if one.sign.role == role)
        others = f"; {elsewhere} on other machines" if elsewhere else ""
        return [Problem(f"no {role} runs on this machine ({host}){seen}{others}", f"Start one: creditfold {role}")]
    return _problems_of(role, running, live=live)


def _problems_of(role: Role, found: Sequence[Heartbeat], *, live: bool) -> list[Problem]:
    """What is wrong with processes of a role, each by its name; `live` as in problem_of."""
    judged = [(one, problem_of(one, live=live)) for one in found]
    return [Problem(f"{role} {one.sign.owner}: {it.what}", it.remedy) for one, it in judged if it is not None]


# The ledger as a whole


class Reached(NamedTuple):
    """What Kafka shows, besides what PostgreSQL does.

    `ends` are each partition's ends, `waiting_s` for how long the first record to fold has been in the log, where that
    was looked at.
    """

    ends: Mapping[int, End]
    waiting_s: Mapping[int, float]


def suspects(health: DatabaseHealth, ends: Mapping[int, End]) -> dict[int, int]:
    """The partitions of which it must be known since when their next record waits, and that record's offset."""
    holders = _holders(health)
    return {
        row.log_partition: row.next_offset
        for row in health.progress
        if _has_work(row.next_offset, ends.get(row.log_partition))
        and (part := holders.get(row.log_partition)) is not None
        and part.work_s is None
        and min(_ago_s(row.folded_at, health.now_ms), part.holds_s or 0.0) > IDLE_S
    }


def judge_ledger(health: DatabaseHealth, reached: Reached, tick_s: float) -> Judgement:
    """What is wrong with the ledger: its partitions, what is due in it, its publishers where there are any.

    Args:
        health: what PostgreSQL shows.
        reached: what Kafka shows.
        tick_s: seconds between two ticks of a partition; 0 for a ledger without ticks.
    """
    workers = [one for one in health.heartbeats if one.sign.role == "worker"]
    problems, doing, stuck = _judge_partitions(health, reached, workers)
    return Judgement(
        [*problems, *_judge_overdue(health, reached, tick_s), *_judge_publishers(health)], doing, frozenset(stuck)
    )


def _judge_partitions(
    health: DatabaseHealth, reached: Reached, workers: Sequence[Heartbeat]
) -> tuple[list[Problem], dict[int, str], list[int]]:
    problems: list[Problem] = []
    holders, live = _holders(health), [one for one in workers if is_live(one)]
    doing: dict[int, str] = {}
    wrong: dict[int, str] = {}
    unowned: dict[int, float] = {}
    for row in health.progress:
        partition, end, part = row.log_partition, reached.ends.get(row.log_partition), holders.get(row.log_partition)
        alone_s = unowned_s(partition, workers)
        if end is not None and row.next_offset > end.high:
            wrong[partition] = f"partition {partition}: the log is shorter than what was folded"
        elif alone_s > UNOWNED_S or not live:
            unowned[partition] = alone_s
        elif part is not None and (failure := _failure(part)) is not None:
            wrong[partition] = failure
        elif part is not None and part.work_s is not None and part.work_s > WORK_S:
            wrong[partition] = f"partition {partition} has been at one chunk for {_seconds(part.work_s)}"
        elif part is not None and part.work_s is None and _has_work(row.next_offset, end):
            idle_s = min(
                _ago_s(row.folded_at, health.now_ms), part.holds_s or 0.0, reached.waiting_s.get(partition, 0.0)
            )
            if idle_s > IDLE_S:
                wrong[partition] = f"partition {partition} has records to fold, and isn't folded for {_seconds(idle_s)}"
        doing[partition] = _doing(part, alone_s, partition in wrong)
    if not live:
        problems.append(_none_at_work("worker", workers))
    elif unowned:
        worst = max(unowned.values())
        since = f" for {_seconds(worst)}" if worst < float("inf") else ""
        problems.append(
            Problem(f"no live worker holds partition {_named(unowned)}{since}", "Look into the workers' logs.")
        )
    problems += [Problem(what, _remedy_of(what)) for what in wrong.values()]
    return problems, doing, [*unowned, *wrong]


def _remedy_of(what: str) -> str:
    if "shorter" in what:
        return "It isn't the log that the projection was folded from, or it lost records: stop the workers, restore it."
    return "Look into its worker's log; restart the worker if that says nothing."


def _none_at_work(role: Role, known: Sequence[Heartbeat]) -> Problem:
    last = min(known, key=lambda one: one.age_s, default=None)
    seen = "none was ever there" if last is None else f"the last one, {last.sign.owner}: {condition(last)}"
    return Problem(f"no {role} is at work; {seen}", f"Start one with `creditfold {role}`, or look into its log.")


def unowned_s(partition: int, workers: Sequence[Heartbeat]) -> float:
    """For how many seconds no live worker has held a partition: 0 if one does, infinite if none ever has."""
    seen = [
        one.age_s + part.held_s
        for one in workers
        for part in one.sign.partitions
        if part.partition == partition and not (is_live(one) and part.held_s == 0)
    ]
    if any(is_live(one) and _part_of(one, partition) is not None for one in workers):
        return 0.0
    # One that has just started gets the time that it takes to join the others.
    starting = [one.sign.up_s + one.age_s for one in workers if is_live(one) and one.sign.up_s <= UNOWNED_S]
    return min(seen + starting, default=float("inf"))


def _part_of(one: Heartbeat, partition: int) -> PartitionSign | None:
    """What a process does about a partition that it holds, its seconds brought up to now."""

    def by_now(seconds: float | None) -> float | None:
        return None if seconds is None else seconds + one.age_s

    for part in one.sign.partitions:
        if part.partition == partition and part.held_s == 0:
            return part._replace(holds_s=by_now(part.holds_s), work_s=by_now(part.work_s), still_s=by_now(part.still_s))
    return None


def _holders(health: DatabaseHealth) -> dict[int, PartitionSign]:
    """By partition what its live owner does; of two that believe to hold it, the one that got it last."""
    found: dict[int, PartitionSign] = {}
    for one in health.heartbeats:
        if one.sign.role != "worker" or not is_live(one):
            continue
        for sign in one.sign.partitions:
            part = _part_of(one, sign.partition)
            if part is not None:
                known = found.get(part.partition)
                if known is None or (part.holds_s or 0.0) < (known.holds_s or 0.0):
                    found[part.partition] = part
    return found


def _doing(part: PartitionSign | None, alone_s: float, is_wrong: bool) -> str:
    if part is None:
        return "no owner" if alone_s == float("inf") else f"no owner for {_seconds(alone_s)}"
    if part.why:
        return "fails"
    if part.work_s is not None:
        return f"at work {_seconds(part.work_s)}" if part.work_s >= 1 else "at work"
    return "stands still" if is_wrong else "idle"


def _has_work(next_offset: int, end: End | None) -> bool:
    return end is not None and next_offset < end.stable


def _is_caught_up(health: DatabaseHealth, reached: Reached) -> dict[int, bool]:
    """Whether each partition is folded to the end, or so nearly that a tick can't be among what waits."""
    return {
        row.log_partition: not _has_work(row.next_offset, reached.ends.get(row.log_partition))
        or _ago_s(row.clock, health.now_ms) < IDLE_S
        for row in health.progress
    }


def _judge_overdue(health: DatabaseHealth, reached: Reached, tick_s: float) -> list[Problem]:
    caught_up = _is_caught_up(health, reached)
    problems: list[Problem] = []
    bound_s = OVERDUE_TICKS * tick_s + OVERDUE_S
    overdue = {
        partition: (health.now_ms - due_ms) / 1000
        for partition, due_ms in sorted((health.due_since_ms or {}).items())
        if tick_s > 0 and caught_up.get(partition) and (health.now_ms - due_ms) / 1000 > bound_s
    }
    if overdue:
        problems.append(
            Problem(
                f"what is due in partition {_named(overdue)} is overdue by {_seconds(max(overdue.values()))}",
                "Workers append ticks; look into their logs. `creditfold tick` appends them now.",
            )
        )
    transit = health.transit
    if transit is not None and transit.oldest_ms is not None and all(caught_up.values()):
        age_s = (health.now_ms - transit.oldest_ms) / 1000
        if age_s > TRANSIT_S:
            problems.append(
                Problem(
                    f"a transfer has been in transit for {_seconds(age_s)}",
                    "Look for `a transfer is stuck in transit` in the workers' logs; `creditfold dead-letters list`.",
                )
            )
    return problems


def _judge_publishers(health: DatabaseHealth) -> list[Problem]:
    """What is wrong with publishers, where there are any that weren't stopped."""
    running = [one for one in health.heartbeats if one.sign.role == "publisher" and one.sign.state != "stopped"]
    if not running:
        return []
    live = [one for one in running if is_live(one)]
    if not live:
        return [_none_at_work("publisher", running)]
    problems = _problems_of("publisher", live, live=False)
    alone = {row.log_partition: unowned_s(row.log_partition, running) for row in health.progress}
    unowned = {partition: seconds for partition, seconds in alone.items() if seconds > UNOWNED_S}
    if unowned:
        problems.append(
            Problem(f"no live publisher holds partition {_named(unowned)}", "Look into the publishers' logs.")
        )
    return problems


def judge_dead_letters(recent: Sequence[RecentLetters], subject: str) -> Check:
    """Dead letters that come in number are commands that somebody meant, until they are decided about."""
    total, unsettled = sum(row.letters for row in recent), sum(row.unsettled for row in recent)
    reasons = ", ".join(f"{row.letters} {row.reason}" for row in recent)
    within = f"within {RECENT_S / 60:.0f} minutes"
    return Check(
        subject,
        "dead letters",
        "warning" if unsettled >= MANY_LETTERS else "ok",
        f"{total} {within}: {reasons}; {unsettled} not decided about" if total else f"none {within}",
        "Each is a command that somebody meant; in number they come from a producer that is wrong.",
        "creditfold dead-letters list --open --totals ; docs/runbooks/dead-letters.md",
    )


def _ago_s(instant: datetime | None, now_ms: int) -> float:
    return float("inf") if instant is None else max(0.0, now_ms / 1000 - instant.timestamp())


def _named(partitions: Mapping[int, float]) -> str:
    names = [str(partition) for partition in sorted(partitions)]
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s"
