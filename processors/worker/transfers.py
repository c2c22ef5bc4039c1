"""Forwards transfers: from the sender's partition to the receiver's, and their ends back to the sender.

Owns what is to be appended for a transfer on its way, which follows from state alone: its end if its receiver has
decided about it, else its arrival. There is no outbox and nothing to lose: what was appended twice is a duplicate to
the fold, and what wasn't is found again. What it remembers only saves appending twice. Knows neither Kafka nor
PostgreSQL.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from creditfold.ledger.commands import ReceiveTransfer, SettleTransfer
from creditfold.ledger.credit_validity import problem_of
from creditfold.ledger.transfers import arrival, arrival_id, kept_parcels, settlement, settlement_id, why_returned
from creditfold.log.appender import NewRecord
from creditfold.log.partitioner import partition_of
from creditfold.projections.queries.background import Arrival, OpenTransfer, Standing
from creditfold.schemas.wire import encode

#: Derived commands remembered as appended, and as hopeless. Those forgotten are appended again, as duplicates.
REMEMBERED = 50_000

#: Bytes of parcels that are read and appended at a time, beyond the first transfer's.
BYTES_AT_ONCE = 8 * 2**20

log = structlog.get_logger()


class TransferPlan(NamedTuple):
    """What to do about transfers on their way: which to end at their senders, and whose parcels to bring."""

    ends: Sequence[tuple[OpenTransfer, Arrival]]
    arrivals: Sequence[OpenTransfer]


class Sending(NamedTuple):
    """A derived command's record, and its id."""

    command_id: str
    record: NewRecord


class TransferForwarder:
    """Decides what to append for transfers on their way, and remembers what was.

    Args:
        partitions: partition count of the command topic.
        remembered: derived commands to remember.
    """

    def __init__(self, partitions: int, remembered: int = REMEMBERED) -> None:
        self._partitions = partitions
        self._remembered = remembered
        self._offsets: OrderedDict[str, int] = OrderedDict()
        self._hopeless: OrderedDict[str, None] = OrderedDict()

    def plan(
        self,
        transfers: Iterable[OpenTransfer],
        arrivals: Mapping[tuple[str, str], Arrival],
        standings: Mapping[int, Standing],
    ) -> TransferPlan:
        """What to append for transfers.

        Args:
            transfers: that are on their way.
            arrivals: what their receivers have decided, by account and command id.
            standings: where all partitions stood before the other two were read.
        """
        ends: list[tuple[OpenTransfer, Arrival]] = []
        coming: list[OpenTransfer] = []
        size = 0
        for one in transfers:
            decided = arrivals.get(arrival_key(one))
            if decided is not None:
                self._offsets.pop(arrival_id(*one.key), None)
                if self._is_new(settlement_id(*one.key), one, one.partition, standings):
                    ends.append((one, decided))
                continue
            target = partition_of(one.to.encode(), self._partitions)
            if target not in standings:
                continue
            if self._is_new(arrival_id(*one.key), one, target, standings) and (
                not coming or size + one.size <= BYTES_AT_ONCE
            ):
                coming.append(one)
                size += one.size
        return TransferPlan(ends, coming)

    def _is_new(
        self, command_id: str, transfer: OpenTransfer, partition: int, standings: Mapping[int, Standing]
    ) -> bool:
        """Whether a derived command must be appended, and isn't on its way or without hope."""
        offset = self._offsets.get(command_id)
        if offset is None:
            return command_id not in self._hopeless
        if offset < standings[partition].next_offset:
            del self._offsets[command_id]
            self._give_up(command_id, transfer, f"the fold made nothing of the record at {partition}:{offset}")
        return False

    def _give_up(self, command_id: str, transfer: OpenTransfer, why: str) -> None:
        log.warning(
            "a transfer is stuck in transit",
            account=transfer.sender,
            transfer=transfer.transfer,
            to=transfer.to,
            why=why,
        )
        _remember(self._hopeless, command_id, None, self._remembered)

    def ends(self, plan: TransferPlan) -> list[Sending]:
        """The records that end transfers at their senders."""
        return [
            self._sending(settlement(*one.key, decided.rejection or why_returned(decided.facts)), one.partition)
            for one, decided in plan.ends
        ]

    def arrivals(self, plan: TransferPlan, parcels: Mapping[tuple[str, str], str]) -> list[Sending]:
        """The records that bring transfers to their receivers; `parcels` are as they are kept, by transfer."""
        found = []
        for one in plan.arrivals:
            if one.key not in parcels:
                continue
            command = arrival(*one.key, one.asset, one.to, kept_parcels(parcels[one.key]))
            problem = problem_of(command)
            if problem is not None:
                # It would only be a dead letter.
                self._give_up(command.command_id, one, problem)
                continue
            found.append(self._sending(command, partition_of(one.to.encode(), self._partitions)))
        return found

    def _sending(self, command: ReceiveTransfer | SettleTransfer, partition: int) -> Sending:
        fields = fields_of(command)
        value = encode(type(command).__name__, fields)
        return Sending(command.command_id, NewRecord(partition, command.account.encode(), value))

    def forget_offsets(self) -> None:
        """Remember no place in the log any more: the log may have lost its end, and with it what was appended.

        What isn't lost is appended twice then, and counts once.
        """
        self._offsets.clear()

    def appended(self, command_id: str, offset: int | None) -> None:
        """Remember where a derived command stands in the log; if that isn't known, it is appended again."""
        if offset is not None:
            _remember(self._offsets, command_id, offset, self._remembered)


def arrival_key(transfer: OpenTransfer) -> tuple[str, str]:
    """The account and the command id by which the receiver's decision about a transfer is found."""
    return transfer.to, arrival_id(*transfer.key)


def fields_of(command: ReceiveTransfer | SettleTransfer) -> dict[str, Any]:
    """A derived command's fields as its schema has them."""
    fields = command._asdict()
    if isinstance(command, ReceiveTransfer):
        fields["parcels"] = [
            {"lot": lot, "amount": amount, **terms._asdict()} for lot, amount, terms in command.parcels
        ]
    return fields


def _remember(memory: OrderedDict[str, Any], name: str, value: Any, most: int) -> None:
    memory[name] = value
    while len(memory) > most:
        memory.popitem(last=False)
