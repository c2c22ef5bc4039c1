"""Records as a Kafka client hands them over, for folds in memory or in PostgreSQL without Kafka."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from creditfold.schemas.wire import encode


class FakeRecord(NamedTuple):
    """A Kafka client's record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


def plain(  # noqa: PLR0917 - In the order of a line in a ledger.
    kind: str, offset: int, timestamp: int, command_id: str, account: str, amount: int, **fields: Any
) -> FakeRecord:
    """A grant's or a spend's record."""
    body = {"command_id": command_id, "account": account, "asset": "credits", "amount": amount, **fields}
    return FakeRecord(offset, timestamp, account.encode(), encode(kind, body))


grant, spend = partial(plain, "Grant"), partial(plain, "Spend")
