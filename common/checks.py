"""What an examination comes to: one thing looked at, how it is, and what to do. Knows nothing of what is examined.

It stands in the lowest room so that Kafka's side and PostgreSQL's can both speak in it.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

State = Literal["danger", "warning", "unknown", "ok"]

#: The worst first. Danger can lose data or give wrong balances; unknown is what can't be told.
STATES: tuple[State, ...] = ("danger", "warning", "unknown", "ok")


class Check(NamedTuple):
    """One thing that was looked at.

    `subject` is the topic or server, `name` the thing looked at, `seen` how it is, `why` what hangs on it, and `remedy`
    what to do if it isn't well.
    """

    subject: str
    name: str
    state: State
    seen: str
    why: str
    remedy: str


def worst_first(checks: Iterable[Check]) -> list[Check]:
    """Sort by state and drop the remedies that nobody needs. What is equally bad keeps its order."""
    needed = (check if check.state != "ok" else check._replace(remedy="") for check in checks)
    return sorted(needed, key=lambda check: STATES.index(check.state))
