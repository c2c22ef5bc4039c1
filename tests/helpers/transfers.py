"""The next step of a transfer from a command and its outcome, as workers make it from the tables.

Tests of the rules move transfers on with it, without tables.
"""

from creditfold.ledger.commands import Command, Parcel, ReceiveTransfer, SettleTransfer, Transfer
from creditfold.ledger.facts import Accepted, CreditOutcome, FactKind
from creditfold.ledger.transfers import arrival, settlement


def following_command(command: Command, outcome: CreditOutcome) -> ReceiveTransfer | SettleTransfer | None:
    """The command that follows from another account's, to be appended there; its id is always the same.

    None for an outcome that no transfer's step follows.
    """
    if not isinstance(outcome, Accepted):
        return None
    if isinstance(command, Transfer):
        parcels = [
            Parcel(fact.ref, fact.moves[0].amount, fact.terms) for fact in outcome.facts if fact.terms is not None
        ]
        return arrival(command.account, command.command_id, command.asset, command.to, parcels)
    if isinstance(command, ReceiveTransfer):
        returned = next((fact.detail for fact in outcome.facts if fact.kind is FactKind.REFUSED), "")
        return settlement(command.sender, command.transfer, returned)
    return None
