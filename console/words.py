"""What pages say in words: amounts, instants, what a line of the journal was, why a command was refused.

Pure: time is an argument. Owns the sentences; what happened is in the facts of the journal, which it only retells.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from creditfold.common.instants import EPOCH
from creditfold.common.lookalikes import escaped
from creditfold.ledger.reasons import REJECTED, RejectionReason
from creditfold.schemas.outcome import Decision

#: What to do about a command that was refused, by why it was.
REMEDIES: Mapping[str, str] = {
    RejectionReason.ACCOUNT_CLOSED: "A closed account stays closed. Use another account.",
    RejectionReason.ACCOUNT_FROZEN: "Unfreeze the account if the reason for its freeze is gone, then send it again.",
    RejectionReason.HOLD_NOT_FOUND: "Look for the hold among the account's holds, and name it by its own id.",
    RejectionReason.SPEND_NOT_FOUND: "Look for the spend in the statement, and name it by its own id.",
    RejectionReason.GRANT_NOT_FOUND: "Look for the grant in the statement, and name it by its own id.",
    RejectionReason.SCHEDULE_NOT_FOUND: "Look for the schedule among the account's schedules, and name it by its id.",
    RejectionReason.HOLD_LAPSED: "What was set aside is free again. Spend it directly, or make a new hold.",
    RejectionReason.HOLD_CLOSED: "Nothing is set aside any more. Spend directly, or make a new hold.",
    RejectionReason.ACCOUNT_NOT_FROZEN: "Nothing is to be done: the account isn't frozen.",
    RejectionReason.NOTHING_TO_VOID: "Nothing is to be done: nothing is left of the grant.",
    RejectionReason.HOLDS_OPEN: "Capture or release the open holds first.",
    RejectionReason.DEBT_OPEN: "Grant what the account owes first, or lower what it spent by a refund.",
    RejectionReason.TRANSFER_IN_TRANSIT: "Wait until the transfer has arrived or come back.",
    RejectionReason.BALANCE_NOT_ZERO: "Let the balance be spent or voided first, or close it with forfeit.",
    RejectionReason.EFFECTIVE_IN_FUTURE: "Date the spend at the present, or leave its date out.",
    RejectionReason.DEADLINE_PASSED: "Give the hold a deadline in the future.",
    RejectionReason.EXCEEDS_HOLD: "Capture at most what the hold still has, and spend the rest directly.",
    RejectionReason.EXCEEDS_REFUNDABLE: "Refund at most what isn't refunded yet; for more, grant it.",
    RejectionReason.INSUFFICIENT_CREDITS: "Grant what is lacking, or ask for less.",
    RejectionReason.BALANCE_LIMIT_EXCEEDED: "Grant less: no account can have more than that.",
}
#: What follows each of them: a decision is final.
AGAIN = "A refusal is final for its id: what is sent again needs a new one."


class Sentence(NamedTuple):
    """A sentence about what happened, and the command that it names, if it names another one."""

    text: str
    about: str | None = None


def number(value: int) -> str:
    """A whole number, with commas."""
    return f"{value:,}"


def day(moment: datetime) -> str:
    """A day in UTC, such as 1 May 2026."""
    found = moment.astimezone(UTC)
    return f"{found.day} {found:%B %Y}"


def moment(moment: datetime) -> str:
    """An instant in UTC, such as 1 May 2026, 10:02:03."""
    found = moment.astimezone(UTC)
    return f"{found.day} {found:%B %Y, %H:%M:%S}"


def end_of(moment: datetime) -> str:
    """When something ends: a day where that begins with it, else an instant."""
    found = moment.astimezone(UTC)
    return day(found) if (found.hour, found.minute, found.second) == (0, 0, 0) else f"{day(found)}, {found:%H:%M}"


def span(seconds: float) -> str:
    """A time in its two largest units, such as 2 h 5 min."""
    left = max(0, int(seconds))
    parts = []
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if left >= size:
            parts.append(f"{left // size:,} {name}")
            left %= size
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def plain(name: str) -> str:
    """A name of ours as words."""
    return name.replace("_", " ").replace("-", " ").replace(".", " ")


def shown(text: str) -> str:
    """A text that anybody may have written: what can't be seen is escaped."""
    return escaped(text)


def short(text: str, most: int) -> str:
    """The beginning of a text that may be long, with a sign that there is more."""
    return text if len(text) <= most else f"{text[:most]}…"


def deadline_words(deadline: datetime | None, now: datetime) -> str:
    """What is left of a hold's time."""
    if deadline is None:
        return "no deadline"
    left = (deadline - now).total_seconds()
    return f"{span(left)} left" if left > 0 else "over"


#: Seconds for which what is shown may lack what is in the log before that is said.
FRESH_S = 60.0


def behind(complete_to: datetime | None, now: datetime) -> str | None:
    """For how long what is shown may lack what is in the log; None where that is no time to speak of."""
    if complete_to is None:
        return None
    age_s = (now - complete_to).total_seconds()
    return span(age_s) if age_s > FRESH_S else None


def sentences(line: Decision) -> list[Sentence]:
    """What a line of the journal was, in words; what was refused too."""
    if not line.accepted:
        return [Sentence(refusal_words(line))]
    found = [_sentence(fact, line) for fact in _merged(line.facts)]
    return found or [Sentence(f"{plain(line.kind)}, which changed nothing")]


def refusal_words(line: Decision) -> str:
    """What a refused command asked for, and why it was refused."""
    wanted = f" of {_of(line.amount, line.asset)}" if line.amount else ""
    step = "" if line.step is None else f" for its step {line.step + 1}"
    return f"refused a {plain(line.kind)}{wanted}{step}: {reason_words(line.rejection)}"


def reason_words(reason: str | None) -> str:
    """Why a command was refused. A newer release may know more reasons."""
    known = str(reason)
    return REJECTED.get(known, plain(known))


def remedy_words(reason: str | None) -> str:
    """What to do about a command that was refused."""
    known = REMEDIES.get(str(reason))
    return AGAIN if known is None else f"{known} {AGAIN}"


def preview_words(account: str, balances: Mapping[str, Mapping[str, int]], ends: Iterable[tuple[int, datetime]]) -> str:
    """What an account will have, and what ends first.

    Args:
        account: its id.
        balances: by asset, afterwards.
        ends: what ends, and when; in any order.
    """
    parts = [_of(balance["available"], asset) for asset, balance in balances.items()]
    text = f"{account} will have {' and '.join(parts) or 'nothing'}"
    first = min(ends, key=lambda one: one[1], default=None)
    if first is not None:
        text += f"; the first {number(first[0])} end on {end_of(first[1])}"
    return f"{text}."


def _of(amount: int, asset: str) -> str:
    return f"{number(amount)} {shown(asset)}" if asset else number(amount)


class _Told(NamedTuple):
    """A fact, or several about one thing that happened at once, and how much they moved."""

    fact: Mapping[str, Any]
    amount: int
    asset: str


def _merged(facts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Facts of one kind about the same thing as one, with the moves of all of them."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for fact in facts:
        key = (fact["kind"], fact["ref"], fact.get("asset"), fact.get("terms", {}).get("expires_at"))
        known = found.setdefault(key, {**fact, "moves": []})
        known["moves"] += fact.get("moves", ())
        known.update({name: value for name, value in fact.items() if name not in known})
    return list(found.values())


def _sentence(fact: Mapping[str, Any], line: Decision) -> Sentence:
    amount = sum(move[4] for move in fact["moves"])
    told = _Told(fact, amount, fact.get("asset", line.asset))
    make = _SENTENCES.get(fact["kind"])
    if make is None:
        return Sentence(f"{plain(fact['kind'])} {_of(amount, told.asset) if amount else ''}".strip())
    ref = fact["ref"]
    return Sentence(make(told), ref if ref and ref != line.command_id else None)


def _moved(told: _Told) -> str:
    return _of(told.amount, told.asset)


def _terms(told: _Told) -> str:
    terms = told.fact.get("terms")
    if terms is None:
        return ""
    begins = f", good from {end_of(_instant(terms['effective_at']))}" if terms["effective_at"] > told.fact["at"] else ""
    scope = f", for {shown(terms['scope'])} only" if terms["scope"] else ""
    return f"{begins}{scope}, ends {end_of(_instant(terms['expires_at']))}" if terms["expires_at"] else begins + scope


def _instant(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)


def _spent(told: _Told) -> str:
    owed = sum(move[4] for move in told.fact["moves"] if move[2] == "debt")
    return f"spent {_moved(told)}" + (f", {number(owed)} of it owed" if owed else "")


def _held(told: _Told) -> str:
    deadline = told.fact.get("deadline")
    return f"set aside {_moved(told)}" + (f" until {end_of(_instant(deadline))}" if deadline else "")


def _sent(told: _Told) -> str:
    to = told.fact.get("to", "")
    return f"sent {_moved(told)}" + (f" to {shown(to)}" if to else "")


def _scheduled(told: _Told) -> str:
    fact = told.fact
    return f"began a schedule of {_of(fact.get('amount', 0), told.asset)} each {fact.get('period', '')}".strip()


_SENTENCES: Mapping[str, Callable[[_Told], str]] = {
    "occurred": lambda told: f"a schedule granted {_moved(told)}{_terms(told)}",
    "capped": lambda told: "a schedule granted nothing: it is at its cap",
    "activated": lambda told: "credits became good",
    "lapsed": lambda told: f"a hold met its deadline and gave back {_moved(told)}",
    "expired": lambda told: f"{_moved(told)} ended unspent",
    "repaid": lambda told: f"{_moved(told)} paid a debt",
    "granted": lambda told: f"granted {_moved(told)}{_terms(told)}",
    "spent": _spent,
    "held": _held,
    "captured": lambda told: f"spent {_moved(told)} of a hold",
    "released": lambda told: f"gave back {_moved(told)} of a hold",
    "refunded": lambda told: f"refunded {_moved(told)}",
    "reissued": lambda told: f"refunded {_moved(told)} as new credits{_terms(told)}",
    "voided": lambda told: f"took back {_moved(told)}",
    "sent": _sent,
    "arrived": lambda told: f"received {_moved(told)}{_terms(told)}",
    "refused": lambda told: f"didn't take a transfer: {reason_words(told.fact.get('detail'))}",
    "completed": lambda told: "a transfer arrived",
    "returned": lambda told: f"a transfer came back with {_moved(told)}",
    "frozen": lambda told: f"froze the account: {plain(told.fact.get('detail', ''))}",
    "unfrozen": lambda told: "ended the account's freeze",
    "forfeited": lambda told: f"gave up {_moved(told)}",
    "closed": lambda told: "closed the account",
    "limited": lambda told: f"set the credit limit to {number(int(told.fact.get('detail') or 0))}",
    "scheduled": _scheduled,
    "cancelled": lambda told: "ended a schedule",
}
