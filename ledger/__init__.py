"""The rules of credits, pure: state, decisions, evolution. Does no I/O and imports no other room.

Time and ids are arguments. Nothing in this room reads a clock, a random source, the environment or an
unordered set, so the state is a function of the log's prefix and a replay decides what was decided.
"""

from creditfold.ledger.commands import COMMANDS, KINDS, ActivateRules, Command, Grant, Spend
from creditfold.ledger.decisions import (
    FIRST_RULES,
    RULESETS,
    Accepted,
    Account,
    Outcome,
    Rejected,
    RejectionReason,
    decide,
    evolve,
)
from creditfold.ledger.folding import Body, Book, Entry, Known, UnknownRulesError, Verdict, digest

__all__ = [
    "COMMANDS",
    "FIRST_RULES",
    "KINDS",
    "RULESETS",
    "Accepted",
    "Account",
    "ActivateRules",
    "Body",
    "Book",
    "Command",
    "Entry",
    "Grant",
    "Known",
    "Outcome",
    "Rejected",
    "RejectionReason",
    "Spend",
    "UnknownRulesError",
    "Verdict",
    "decide",
    "digest",
    "evolve",
]
