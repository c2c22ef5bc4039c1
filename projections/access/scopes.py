"""The scopes that there are, and what each opens. Knows no key, no route and no web framework."""

from collections.abc import Iterable

from creditfold.common.errors import CreditfoldError
from creditfold.producers.models.commands import MODELS

#: The kinds of commands that people append by hand, to help somebody.
MANUAL = ("grant", "refund", "void_grant")

#: What a scope opens. One that begins with `append:` or `manual:` is for a kind of command each.
SCOPES: dict[str, str] = {
    **{f"append:{kind}": f"append commands of the kind {kind}" for kind in MODELS},
    **{f"manual:{kind}": f"append commands of the kind {kind} by hand: with a reason, audited" for kind in MANUAL},
    "read:balance": "read balances, lots, holds, transfers, schedules and progress",
    "read:statement": "read decisions, statements, the journal, traces and outcomes",
    "read:personal": "read and search by what commands say in words: source, reason, metadata",
    "operate:dead-letters": "redrive and discard dead letters, read records of the log",
    "operate:generations": "rebuild, verify, activate and drop generations",
    "operate:rules": "compare versions of the rules",
    "operate:metrics": "read metrics",
    "webhooks": "create, change and remove webhook endpoints and alert rules, and send events again",
    "keys": "create, list, rotate and revoke keys",
    "audit": "read the audit",
}


class UnknownScopeError(CreditfoldError):
    """A scope that there isn't."""

    exit_code = 2


def refuse_unknown(scopes: Iterable[str]) -> None:
    """Raise UnknownScopeError for a scope that there isn't; its remedy names those that there are."""
    unknown = sorted(set(scopes) - SCOPES.keys())
    if unknown:
        names = ", ".join(name[:60] for name in unknown[:5])
        raise UnknownScopeError(f"There is no scope {names}.", f"The scopes are: {', '.join(SCOPES)}.")
