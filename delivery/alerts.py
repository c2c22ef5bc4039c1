"""What rules make of lines of the journal: a fold over what they have said so far and the next line. Pure.

A rule of the kind `dropped` or `depleted` says once that an account's available credits fell below a bound, and then
nothing about it until they have recovered, which it says too: on the falling edge, with hysteresis, whatever comes in
between.

          available >= below, then less
     armed ------------------------------> fired     balance.dropped, balance.depleted
       ^                                     |
       +-------------------------------------+       balance.recovered
                 available >= rearm_at

What an account had before a line is in the line. So nothing is kept of an account that is armed, and a rule that is new
knows the state that it begins at: an account that is below then isn't said to have dropped, and one that never dropped
doesn't recover.

A rule of the kind `expiring` waits for the end of lots: it keeps what remains of each that has one.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from creditfold.ledger.facts import Bucket, FactKind, Move
from creditfold.ledger.facts_json import facts_of_json
from creditfold.projections.delivery.rules import AlertRule, FiredState, Judged, LotChange, NewAlert, WatchedLot
from creditfold.projections.queries.windows import JournalRow

#: A rule's id, and a lot: its account, its command, its number.
_Key: TypeAlias = tuple[str, str, str, int]

_SAID = {"dropped": "balance.dropped", "depleted": "balance.depleted"}


def judge(
    rules: Sequence[AlertRule], rows: Iterable[JournalRow], partition: int, fired: Iterable[FiredState]
) -> Judged:
    """What rules make of lines.

    Args:
        rules: all that there are.
        rows: lines of a partition, in the order of the log.
        partition: of the log.
        fired: what the rules have said of the accounts of these lines, and not taken back.

    Returns:
        The alerts, and what is to be kept: the same of any split of the lines.
    """
    before = set(fired)
    now, alerts = set(before), list[NewAlert]()
    lots, changes = dict[_Key, WatchedLot](), dict[_Key, int]()
    for row in rows:
        for rule in rules:
            if not _concerns(rule, row, partition):
                continue
            if rule.kind != "expiring":
                alerts += _take(rule, row, now)
            elif row.facts != "[]":
                _watch(rule, row, lots, changes)
    counted = [LotChange(*key, change) for key, change in changes.items() if change]
    return Judged(alerts, now - before, before - now, list(lots.values()), counted)


def accounts_of(rows: Iterable[JournalRow]) -> list[str]:
    """The accounts whose lines may be said something about."""
    return sorted({row.account for row in rows if row.change})


def _concerns(rule: AlertRule, row: JournalRow, partition: int) -> bool:
    return row.account.startswith(rule.account_prefix) and row.log_offset >= rule.begins.get(str(partition), 0)


def _take(rule: AlertRule, row: JournalRow, fired: set[FiredState]) -> Iterator[NewAlert]:
    if not row.change or rule.asset not in ("", row.asset):
        return
    state = FiredState(rule.id, row.account, row.asset)
    if state in fired:
        if row.balance >= rule.rearm_at:
            fired.remove(state)
            yield _alert(rule, row, "balance.recovered")
    elif row.balance < rule.below <= row.balance - row.change:
        fired.add(state)
        yield _alert(rule, row, _SAID[rule.kind])


def _alert(rule: AlertRule, row: JournalRow, kind: str) -> NewAlert:
    data = {"rule": rule.id, "asset": row.asset, "available": row.balance, "below": rule.below}
    return NewAlert(row.log_offset, row.account, row.version, rule.id, kind, json.dumps(data))


#: What makes a lot.
_MADE = (FactKind.GRANTED, FactKind.ARRIVED, FactKind.REISSUED, FactKind.OCCURRED)


def _watch(rule: AlertRule, row: JournalRow, lots: dict[_Key, WatchedLot], changes: dict[_Key, int]) -> None:
    """Have a rule wait for the ends of the lots that a line makes, and add up what changes of any lot."""
    for fact in facts_of_json(row.facts, row.asset):
        if rule.asset not in ("", fact.asset):
            continue
        ends = 0 if fact.terms is None or fact.kind not in _MADE else fact.terms.expires_at
        for move in fact.moves:
            change = _change_of(move)
            if move.lot is None or not change:
                continue
            key = (rule.id, row.account, *move.lot)
            changes[key] = changes.get(key, 0) + change
            if ends and change > 0:
                lots[key] = WatchedLot(*key, fact.asset, ends, ends - rule.within_ms)


def _change_of(move: Move) -> int:
    """By how much a move changes what remains of its lot."""
    if (move.source == Bucket.REMAINING) == (move.target == Bucket.REMAINING):
        return 0
    return move.amount if move.target == Bucket.REMAINING else -move.amount
