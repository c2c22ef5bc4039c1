"""What happened, as events: each line of the journal comes to those of its command and of its facts. Pure.

Owns which facts are events, and what each says. An event carries ids, amounts and instants; what commands say in words
(source, reason, details, metadata) isn't sent to anybody. An event's `key` says which one it is for all time: the
account, the line's version, the type, and the place of the fact within the line. So a release that has further types
gives the others the same keys.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from creditfold.common.instants import MAX_INSTANT, iso
from creditfold.delivery.payloads import TEST
from creditfold.ledger.facts import Bucket, Fact, FactKind, Move
from creditfold.ledger.facts_json import facts_of_json
from creditfold.projections.queries.windows import DeadRow, JournalRow

_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Event:
    """Something that happened.

    Args:
        kind: its type.
        key: which one it is, for its ids.
        at_ms: when it happened, in milliseconds since 1970 UTC.
        data: what it says.
        account: that it is about; empty if about none.
        position: where the log has what it is about; empty if nowhere.
        owner: whose endpoints alone get it; empty: all.

    `traceparent` is the context of the trace that what it is about came with; empty where it came with none.
    """

    __slots__ = ("_body", "account", "at_ms", "data", "key", "owner", "position", "traceparent", "type")

    def __init__(
        self,
        kind: str,
        key: str,
        at_ms: int,
        data: Mapping[str, Any],
        *,
        account: str = "",
        position: str = "",
        owner: str = "",
    ) -> None:
        self.type = kind
        self.key = key
        self.at_ms = at_ms
        self.data = data
        self.account = account
        self.position = position
        self.owner = owner
        self.traceparent = ""
        self._body = ""

    @property
    def body(self) -> str:
        """The body of its requests, the same for every endpoint."""
        # Made when somebody wants it, and once.
        if not self._body:
            self._body = _as_json({"type": self.type, "timestamp": iso(self.at_ms), "data": self.data})
        return self._body

    @property
    def lane(self) -> str:
        """What it is delivered in order with: its account; else nothing."""
        # No account begins with the end of a line.
        return self.account or f"\n{self.key}"

    def __repr__(self) -> str:
        return f"Event({self.type}, {self.key!r})"


class LineAlert(NamedTuple):
    """What a rule has made of a line of the journal; `data` is JSON."""

    account: str
    version: int
    rule: str
    type: str
    data: str


def events_of(row: JournalRow, partition: int, alerts: Iterable[LineAlert] = ()) -> list[Event]:
    """What a line of the journal comes to: its command, what happened, and its alerts, in this order."""
    about = _About(row, partition)
    found = []
    if row.command_id is not None:
        found.append(_command(about, row))
    if row.facts != "[]":
        sent: list[Fact] = []
        for number, fact in enumerate(facts_of_json(row.facts, row.asset)):
            if fact.kind == FactKind.SENT:
                sent.append(fact)
            else:
                found += _of_fact(about, number, fact)
        if sent:
            found.append(_sent(about, sent))
    for alert in alerts:
        found.append(about.event(alert.type, row.decided_at_ms, json.loads(alert.data), alert.rule))
    return found


def event_of_letter(row: DeadRow, partition: int) -> Event:
    """The event of a dead letter."""
    position = f"{partition}:{row.log_offset}"
    data = {"position": position, "reason": row.reason, "key": _text(row.key)}
    # It has no clock of its own; its account, if its key is one, may be anybody's.
    return Event("dead_letter.created", f"letter {position}", _appended_ms(row), data, position=position)


def test_event(endpoint_id: str, at_ms: int) -> Event:
    """The event by which somebody tries whether an endpoint is reached."""
    return Event(TEST, f"test {at_ms}", at_ms, {"endpoint": endpoint_id})


class _About(NamedTuple):
    row: JournalRow
    partition: int

    def event(self, kind: str, at_ms: int, more: Mapping[str, Any], place: str = "") -> Event:
        row, position = self.row, f"{self.partition}:{self.row.log_offset}"
        data = {"account": row.account, "version": row.version, "position": position, **more}
        return Event(
            kind, f"{row.account}\0{row.version}\0{place}", at_ms, data, account=row.account, position=position
        )


def _command(about: _About, row: JournalRow) -> Event:
    data = {
        "command_id": row.command_id,
        "kind": row.kind,
        "asset": row.asset,
        "amount": row.amount,
        "change": row.change,
        "available": row.balance,
        "pending": row.pending,
        "held": row.held,
        "debt": row.debt,
        "occurred_at": _instant(row.occurred_at_ms),
    }
    if row.rejection is None:
        return about.event("command.accepted", row.decided_at_ms, data)
    return about.event("command.rejected", row.decided_at_ms, {**data, "reason": row.rejection, "step": row.step})


#: How a lot is made, by the fact.
_MADE = {
    FactKind.GRANTED: "granted",
    FactKind.ARRIVED: "arrived",
    FactKind.REISSUED: "reissued",
    FactKind.OCCURRED: "scheduled",
}
_HOLDS = {
    FactKind.HELD: "hold.opened",
    FactKind.CAPTURED: "hold.captured",
    FactKind.RELEASED: "hold.released",
    FactKind.LAPSED: "hold.lapsed",
}
_ENDS = {FactKind.EXPIRED: "lot.expired", FactKind.VOIDED: "lot.voided"}


def _of_fact(about: _About, number: int, fact: Fact) -> Iterator[Event]:
    kind, at_ms, place = fact.kind, fact.at_ms, str(number)
    if kind in _MADE:
        yield about.event("lot.granted", at_ms, _granted(fact), place)
        if kind == FactKind.OCCURRED:
            turn = {"schedule": fact.ref, "occurrence": int(fact.detail), "amount": _total(fact.moves)}
            yield about.event("schedule.granted", at_ms, {"asset": fact.asset, **turn}, place)
    elif kind in _ENDS:
        for at, (lot, lot_number, amount) in enumerate(_ended(fact)):
            data = {"asset": fact.asset, "lot": lot, "lot_number": lot_number, "amount": amount}
            yield about.event(_ENDS[kind], at_ms, data, f"{place}.{at}")
    elif kind in _HOLDS:
        yield about.event(_HOLDS[kind], at_ms, _hold(fact), place)
    elif kind == FactKind.COMPLETED:
        yield about.event("transfer.completed", at_ms, {"asset": fact.asset, "transfer": fact.ref}, place)
    elif kind == FactKind.RETURNED:
        back = {"asset": fact.asset, "transfer": fact.ref, "amount": _total(fact.moves), "reason": fact.detail}
        yield about.event("transfer.returned", at_ms, back, place)
    elif kind == FactKind.FROZEN:
        yield about.event("account.frozen", at_ms, {"scope": fact.detail}, place)
    elif kind == FactKind.CLOSED:
        yield about.event("account.closed", at_ms, {}, place)


def _granted(fact: Fact) -> dict[str, Any]:
    move, terms = _into_lot(fact.moves), fact.terms
    if move.lot is None or terms is None:
        raise ValueError(f"a fact of the kind {fact.kind} makes no lot")
    return {
        "asset": fact.asset,
        "lot": move.lot.command_id,
        "lot_number": move.lot.number,
        "amount": move.amount,
        "how": _MADE[fact.kind],
        "lot_class": terms.lot_class,
        "priority": terms.priority,
        "effective_at": _instant(terms.effective_at),
        "expires_at": _instant(terms.expires_at),
        "scope": terms.scope or None,
    }


def _into_lot(moves: Iterable[Move]) -> Move:
    # Of a reissue the first one takes the credits out of the old lot.
    return next(move for move in moves if move.target == Bucket.REMAINING)


def _ended(fact: Fact) -> list[tuple[str, int, int]]:
    """The lots that ended, each with what was lost of it."""
    lost = [(move.lot.command_id, move.lot.number, move.amount) for move in fact.moves if move.lot is not None]
    held = fact.particulars[0] if fact.kind == FactKind.VOIDED and fact.particulars else ()
    return lost + [(fact.ref, number, 0) for number in held or ()]


def _hold(fact: Fact) -> dict[str, Any]:
    data = {"asset": fact.asset, "hold": fact.ref, "amount": _total(fact.moves)}
    if fact.kind == FactKind.HELD:
        data["deadline"] = _instant(fact.particulars[0] if fact.particulars else 0)
    elif fact.kind == FactKind.CAPTURED:
        data["capture"] = fact.particulars[0] if fact.particulars else ""
    return data


def _sent(about: _About, facts: list[Fact]) -> Event:
    """The event of a transfer, of which each lot's part is a fact."""
    transfer, to = facts[0].particulars
    amount = sum(_total(fact.moves) for fact in facts)
    data = {"asset": facts[0].asset, "transfer": transfer, "amount": amount, "to": to}
    return about.event("transfer.sent", facts[0].at_ms, data, "sent")


def _total(moves: Iterable[Move]) -> int:
    return sum(move.amount for move in moves)


def _instant(at_ms: int) -> str | None:
    """An instant as JSON has it; None for none, and for one beyond any calendar."""
    return iso(at_ms) if 0 < at_ms <= MAX_INSTANT else None


def _text(key: bytes | None) -> str | None:
    try:
        text = None if key is None else key.decode()
    except UnicodeDecodeError:
        return None
    # What JSON has no plain form for would be no account either.
    return text if text is None or len(text) <= 512 else None


def _appended_ms(row: DeadRow) -> int:
    return min(max(row.appended_at_ms, 0), MAX_INSTANT)
