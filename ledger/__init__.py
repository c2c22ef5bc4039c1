"""The rules of credits, pure: state, decisions, evolution. Does no I/O and imports no other room.

Time and ids are arguments. Nothing in this room reads a clock, a random source, the environment or an
unordered set, so the state is a function of the log's prefix and a replay decides what was decided.
"""

from creditfold.ledger.book import CREDIT_RULES, CreditBook
from creditfold.ledger.commands import (
    COMMANDS,
    CONTROLS,
    KINDS,
    ActivateRules,
    Batch,
    Command,
    Grant,
    Spend,
    Tick,
    command_of,
)
from creditfold.ledger.decisions import FIRST_RULES, RULESETS, Accepted, Account, Outcome, Rejected, decide, evolve
from creditfold.ledger.facts import CreditEntry
from creditfold.ledger.folding import Body, Book, Entry, Known, UnknownRulesError, Verdict, digest
from creditfold.ledger.reasons import RejectionReason
from creditfold.ledger.versions import AnyBook, activated, known_rules, knows_lots, open_book

__all__ = [
    "COMMANDS",
    "CONTROLS",
    "CREDIT_RULES",
    "FIRST_RULES",
    "KINDS",
    "RULESETS",
    "Accepted",
    "Account",
    "ActivateRules",
    "AnyBook",
    "Batch",
    "Body",
    "Book",
    "Command",
    "CreditBook",
    "CreditEntry",
    "Entry",
    "Grant",
    "Known",
    "Outcome",
    "Rejected",
    "RejectionReason",
    "Spend",
    "Tick",
    "UnknownRulesError",
    "Verdict",
    "activated",
    "command_of",
    "decide",
    "digest",
    "evolve",
    "known_rules",
    "knows_lots",
    "open_book",
]
