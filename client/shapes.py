"""What commands and answers are made of. Knows no route and no network.

`commands.py` and `answers.py`, which are generated from docs/openapi.json, derive from these.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

from pydantic import AwareDatetime, BaseModel, ConfigDict, PrivateAttr

T = TypeVar("T")

#: An instant of a command: a datetime with a time zone, or milliseconds since 1970 UTC.
Instant = AwareDatetime | int


class Stamp(NamedTuple):
    """Which state an answer reflects, and by which id the server's log knows the request.

    Args:
        position: the last record of the account's partition that it reflects, `partition:offset`; of a command's
            outcome, that of its own record. None where the answer is about no single partition.
        generation: of the projection; None where none was read.
        request_id: of the request.
        complete_to: everything that was appended before this instant is in the answer; None where that isn't known.
    """

    position: str | None
    generation: int | None
    request_id: str | None
    complete_to: datetime | None = None


_NO_STAMP = Stamp(None, None, None)


class Answer(BaseModel):
    """An object of an answer. What a newer server adds to it is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    _stamp: Stamp = PrivateAttr(_NO_STAMP)

    @property
    def stamp(self) -> Stamp:
        """Which state the answer reflects. An object within another one has none of its own."""
        return self._stamp

    def __eq__(self, other: object) -> bool:
        # By what it says; when that was asked is no part of it.
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = BaseModel.__hash__


class Rows(tuple[T, ...]):
    """The rows of an answer, with which state they reflect.

    Args:
        rows: in the answer's order.
        stamp: which state they reflect.

    Example:
        >>> Rows([1, 2]).stamp.position is None
        True
    """

    stamp: Stamp

    def __new__(cls, rows: Iterable[T] = (), stamp: Stamp = _NO_STAMP) -> "Rows[T]":
        """Make them of rows in their order."""
        made = super().__new__(cls, rows)
        made.stamp = stamp
        return made


def stamped(found: T, stamp: Stamp) -> T:
    """An answer with which state it reflects."""
    if isinstance(found, Answer):
        found._stamp = stamp
        return found
    return cast(T, Rows(found, stamp)) if isinstance(found, list) else found


class Fields(BaseModel):
    """Fields of a command or of a step of one. Their types are checked here, their bounds by the server."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    #: What the command is called in the log and in a bulk line.
    kind: ClassVar[str]

    def body(self) -> dict[str, Any]:
        """The fields that were said, as JSON has them."""
        return self.model_dump(mode="json", exclude_unset=True)


class Step(Fields):
    """A command within a batch."""

    command_id: str

    def body(self) -> dict[str, Any]:
        """The fields that were said, with which command it is."""
        return {"type": self.kind, **super().body()}


class Command(Fields):
    """A command of one account.

    Args:
        command_id: its idempotency key, 1 to 64 characters: choose it before the first try and store it with the order.
            The ledger counts an id of an account once, whenever and however often it is sent.
        account: 1 to 128 characters.
        occurred_at: when it happened at the source; decides nothing.
        reason: why, for people; at most 1,024 characters.
        metadata: your own notes; at most 32 entries, keys of 1 to 64 characters, values of at most 1,024.
        confirmed: whether what the server refuses as a likely mistake is meant.
    """

    #: The last part of its route.
    route: ClassVar[str]

    command_id: str
    account: str
    occurred_at: Instant = 0
    reason: str = ""
    metadata: dict[str, str] = {}
    confirmed: bool = False

    def line(self) -> bytes:
        """The command as a line of a bulk request."""
        found = {"type": self.kind, "account": self.account, "command_id": self.command_id, **self.body()}
        return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def body(self) -> dict[str, Any]:
        """The body of a request: the fields that were said, without what the path and the headers say."""
        found = {name: value for name, value in super().body().items() if name not in ("account", "command_id")}
        if "steps" in found:
            found["steps"] = [step.body() for step in getattr(self, "steps", ())]
        return found
