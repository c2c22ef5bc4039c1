"""The commands that follow from a transfer: one that brings it to its receiver, one that ends it at its sender.

Owns their ids, which follow from the transfer alone, so that one that is appended again is a duplicate. Both are made
of what is kept of the decisions: the row of a transfer, the journal's line of its arrival.
"""

import json
from collections.abc import Iterable
from hashlib import blake2b

from creditfold.ledger.commands import Parcel, ReceiveTransfer, SettleTransfer, Terms
from creditfold.ledger.facts import FactKind


def arrival_id(sender: str, transfer: str) -> str:
    """The id of the command that brings a transfer to its receiver."""
    return _derived_id("in", sender, transfer)


def settlement_id(sender: str, transfer: str) -> str:
    """The id of the command that ends a transfer at its sender."""
    return _derived_id("out", sender, transfer)


def _derived_id(way: str, sender: str, transfer: str) -> str:
    # A command id has at most 64 characters, which a sender's name alone can have.
    digest = blake2b("\0".join((sender, transfer)).encode(), digest_size=16)
    return f"~{way}:{digest.hexdigest()}"


def arrival(sender: str, transfer: str, asset: str, to: str, parcels: Iterable[Parcel]) -> ReceiveTransfer:
    """The command that brings a transfer to its receiver."""
    return ReceiveTransfer(arrival_id(sender, transfer), to, asset, sender, transfer, tuple(parcels))


def settlement(sender: str, transfer: str, returned: str) -> SettleTransfer:
    """The command that ends a transfer at its sender. `returned` is why it came back, or empty."""
    return SettleTransfer(settlement_id(sender, transfer), sender, transfer, returned)


def kept_parcels(text: str) -> tuple[Parcel, ...]:
    """The parcels of a transfer from its row, where they are JSON of [lot's command, its number, amount, terms]."""
    return tuple(Parcel(lot, amount, Terms(*terms)) for lot, _, amount, *terms in json.loads(text))


def why_returned(facts: str) -> str:
    """Why a transfer was refused, from the facts of its arrival's journal line; empty if it arrived."""
    return next((fact["detail"] for fact in json.loads(facts) if fact["kind"] == FactKind.REFUSED), "")
