"""The rules of credits, pure: state and decisions. Does no I/O and imports no other room.

Time and ids are arguments. Nothing in this room reads a clock, a random source, the environment or an
unordered set, so the state is a function of the log's prefix and a replay decides what was decided.
"""

from creditfold.ledger.account import Account
from creditfold.ledger.apply import apply
from creditfold.ledger.book import CreditBook
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
from creditfold.ledger.decide import Refused, decide, decide_one
from creditfold.ledger.facts import CorruptStateError, CreditEntry, Fact, FactKind
from creditfold.ledger.folding import Body, Known, Verdict, digest
from creditfold.ledger.reasons import RejectionReason
from creditfold.ledger.time import settle
from creditfold.ledger.versions import RULES, RULESETS, UnknownRulesError, known_rules

__all__ = [
    "COMMANDS",
    "CONTROLS",
    "KINDS",
    "RULES",
    "RULESETS",
    "Account",
    "ActivateRules",
    "Batch",
    "Body",
    "Command",
    "CorruptStateError",
    "CreditBook",
    "CreditEntry",
    "Fact",
    "FactKind",
    "Grant",
    "Known",
    "Refused",
    "RejectionReason",
    "Spend",
    "Tick",
    "UnknownRulesError",
    "Verdict",
    "apply",
    "command_of",
    "decide",
    "decide_one",
    "digest",
    "known_rules",
    "settle",
]
