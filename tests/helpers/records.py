"""Records as a Kafka client hands them over, for folds in memory or in PostgreSQL without Kafka."""

from collections.abc import Sequence
from typing import NamedTuple

from creditfold.schemas.wire import encode


class FakeRecord(NamedTuple):
    """A Kafka client's record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


def grant(offset: int, timestamp: int, command_id: str, account: str, amount: int) -> FakeRecord:
    body = {"command_id": command_id, "account": account, "asset": "credits", "amount": amount}
    return FakeRecord(offset, timestamp, account.encode(), encode("Grant", body))


def spend(offset: int, timestamp: int, command_id: str, account: str, amount: int) -> FakeRecord:
    body = {"command_id": command_id, "account": account, "asset": "credits", "amount": amount}
    return FakeRecord(offset, timestamp, account.encode(), encode("Spend", body))
