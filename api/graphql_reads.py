"""What each GraphQL field that reads has around it: a scope, a prefix, checked arguments, bounds of time and of rows.

All fields of a request read one snapshot, by one connection, one after the other in one of the readers' threads:
nothing here waits for anything else. Knows no field.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import strawberry
from psycopg import Connection
from pydantic import TypeAdapter, ValidationError
from strawberry.extensions import FieldExtension
from strawberry.types import Info

from creditfold.api.access import Caller
from creditfold.api.answers import Answer
from creditfold.api.journal import Begin
from creditfold.api.log_record import LogRecordAnswer
from creditfold.api.parameters import Account as AccountName
from creditfold.api.parameters import Cursor, Limit
from creditfold.api.problems import ProblemError, of_error
from creditfold.common.position import Position
from creditfold.log.partitioner import partition_of
from creditfold.projections import queries

_NO_TEXT = re.compile("[\0\ud800-\udfff]").search
#: Reads the record of the log at a position, for a caller.
RecordOf: TypeAlias = Callable[[Position, Caller], LogRecordAnswer]

#: Rows of the lists that one request's fields read together.
MOST_ROWS = 20_000

#: What an argument must be beyond its GraphQL type, as the parameter of that name of the GET routes.
_CHECKS: Mapping[str, TypeAdapter[Any]] = {
    "account": TypeAdapter(AccountName),
    "command_id": TypeAdapter(AccountName),
    "asset": TypeAdapter(AccountName | None),
    "limit": TypeAdapter(Limit),
    "cursor": TypeAdapter(Cursor),
    "begin": TypeAdapter(Begin),
}


class Reads:
    """What the fields of one request read from, and what they came to.

    Args:
        connection: in a snapshot.
        progress: how far the log is folded in it.
        record: reads one record of the log, by its position, for a caller.
        caller: who asks.
        deadline: when nothing more is read, by the monotonic clock.
    """

    def __init__(
        self,
        connection: Connection[Any],
        progress: Sequence[queries.PartitionProgress],
        record: RecordOf,
        caller: Caller,
        deadline: float,
    ) -> None:
        self.connection = connection
        self.progress = progress
        self.record = record
        self.caller = caller
        self._deadline = deadline
        #: By partition, how far it is folded, of the accounts that were read.
        self.positions: dict[int, Position] = {}
        #: Whether something was read that isn't of one account.
        self.is_of_all = False
        #: What ended all reads.
        self.failure: Exception | None = None
        self._rows = 0

    @property
    def generation(self) -> int:
        """That is read; 0 where nothing was prepared."""
        return self.progress[0].generation if self.progress else 0

    @property
    def is_personal(self) -> bool:
        """Whether the caller may read what commands say in words."""
        return "read:personal" in self.caller.scopes

    def begin(self) -> None:
        """Refuse to read where a read failed already, or the time is over. Raises that error, ProblemError."""
        if self.failure is not None:
            raise self.failure
        if time.monotonic() > self._deadline:
            raise ProblemError(
                503, "query_too_slow", "The query took too long.", "Ask for less at once, or read by the GET routes."
            )

    def enter(self, account: str) -> None:
        """Note that an account is read. Raises ProblemError where the caller may not."""
        self.caller.refuse_account(account)
        if self.progress:
            partition = partition_of(account.encode(), len(self.progress))
            self.positions[partition] = Position(partition, self.progress[partition].next_offset - 1)

    def end(self, found: Any) -> None:
        """Count what was read. Raises ProblemError where it is too much."""
        self._rows += _rows_of(found)
        if self._rows > MOST_ROWS:
            raise ProblemError(
                400,
                "answer_too_large",
                f"The lists of the answer have more than {MOST_ROWS:,} rows.",
                "Ask for less, or read long lists by the GET routes.",
            )


def _rows_of(found: Any) -> int:
    if isinstance(found, Answer):
        return sum(_rows_of(value) for value in vars(found).values())
    if isinstance(found, list):
        return len(found) + sum(map(_rows_of, found))
    return 0


class Reading(FieldExtension):
    """What each field that reads has around it.

    Args:
        scope: opens it, as a route.
        is_about_all: whether it is about all accounts, and so refused to a caller that is limited to some.
        checks: what arguments must be beyond their GraphQL types, by their names.
    """

    def __init__(self, scope: str, *, is_about_all: bool, checks: Mapping[str, TypeAdapter[Any]]) -> None:
        self.scope = scope
        self.is_about_all = is_about_all
        self._checks = checks

    def resolve(self, next_: Callable[..., Any], source: Any, info: Info, **arguments: Any) -> Any:
        """Read, if the caller may and the arguments are right.

        What a GET route would answer with 5xx ends the whole request, and is kept for its answer.
        """
        reads: Reads = info.context
        try:
            reads.begin()
            reads.caller.refuse_scope(self.scope)
            if self.is_about_all:
                reads.caller.refuse_prefix()
            if source is None and info.field_name != "account":
                reads.is_of_all = True
            found = next_(source, info, **self._checked(arguments))
            reads.end(found)
        except Exception as error:
            problem = of_error(error)
            if problem is None or problem.status >= 500:
                reads.failure = reads.failure or error
            raise
        return found

    def _checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A field's arguments, of which each is what the GET route takes. Raises ProblemError."""
        if not _is_of_text(list(arguments.values())):
            said = "An argument has a NUL, or half of a surrogate pair."
            raise ProblemError(400, "invalid_request", said, "No text of the ledger has one.")
        return {
            name: value if value is None or name not in self._checks else _valid(name, value, self._checks[name])
            for name, value in arguments.items()
        }


def _is_of_text(value: Any) -> bool:
    """Whether all texts of arguments are such as a URL may have, and PostgreSQL keeps."""
    if isinstance(value, str):
        return _NO_TEXT(value) is None
    # Of an input type, what it has.
    within = value if isinstance(value, list) else list(getattr(value, "__dict__", {}).values())
    return all(map(_is_of_text, within))


def _valid(name: str, value: Any, check: TypeAdapter[Any]) -> Any:
    try:
        return check.validate_python(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
    raise ProblemError(400, "invalid_request", f"{name}: {said}.", "The schema says what each argument may be.")


def field(scope: str, kind: Any, *, is_about_all: bool = False, **checks: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a method a field that reads.

    Args:
        scope: opens it, as a route.
        kind: its GraphQL type; it is null where it fails.
        is_about_all: whether it is about all accounts.
        checks: the types of the GET route's parameters, by the names of arguments that are checked by them; those of
            some are known here.
    """
    wanted = {**_CHECKS, **{name: TypeAdapter(check) for name, check in checks.items()}}

    def made(read: Callable[..., Any]) -> Any:
        extension = Reading(scope, is_about_all=is_about_all, checks=wanted)
        return strawberry.field(read, graphql_type=kind | None, description=read.__doc__, extensions=[extension])

    return made


def arg(name: str) -> Any:
    """An argument that Python has another name for."""
    return strawberry.argument(name=name)
