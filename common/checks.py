"""The result of an examination: one thing checked, its state, and what to do. Knows nothing of what is examined.

It stands in the lowest room because both Kafka's and PostgreSQL's examinations return it.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

State = Literal["danger", "warning", "unknown", "ok"]

#: The worst first. Danger can lose data or give wrong balances; unknown is what can't be seen.
STATES: tuple[State, ...] = ("danger", "warning", "unknown", "ok")


class Check(NamedTuple):
    """One thing that was checked.

    `subject` is the topic or server, `name` the thing checked, `seen` what was found, `why` what depends on it, and
    `remedy` what to do unless it is ok.
    """

    subject: str
    name: str
    state: State
    seen: str
    why: str
    remedy: str


def worst_first(checks: Iterable[Check]) -> list[Check]:
    """Sort by state, and drop the remedies of what is ok. Checks of one state keep their order."""
    needed = (check if check.state != "ok" else check._replace(remedy="") for check in checks)
    return sorted(needed, key=lambda check: STATES.index(check.state))
