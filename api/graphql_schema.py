"""The GraphQL schema: the reads of the GET routes as fields, each opened by its route's scope.

Owns which fields there are and what each asks of `projections.queries`. All fields of a request read one snapshot, by
one connection, one after the other in one of the readers' threads: nothing here waits for anything else. No field that
reads is below a list, so that a document names each of its reads. Knows no SQL, no rule and no HTTP.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import strawberry
from psycopg import Connection
from pydantic import TypeAdapter, ValidationError
from strawberry.extensions import FieldExtension
from strawberry.schema.config import StrawberryConfig
from strawberry.types import Info

from creditfold.api.access import Caller
from creditfold.api.accounts import (
    HoldAnswer,
    LotAnswer,
    ScheduleAnswer,
    TransferAnswer,
    balances_of,
    balances_then,
    refuse_as_of,
    state_of,
)
from creditfold.api.answers import Answer, BalanceAnswer, OutcomeAnswer
from creditfold.api.books import TotalAnswer, TrialBalanceAnswer, books_of, bounds_of, proof
from creditfold.api.commands import Account as AccountName
from creditfold.api.commands import first_answer, first_outcome
from creditfold.api.expiring import ExpiringAnswer, ExpiringMonthAnswer, Within, expiring_of
from creditfold.api.graphql_types import SCALARS, list_of, type_of
from creditfold.api.journal import Begin, JournalAnswer, Span, page_of, span_of
from creditfold.api.operation import ProgressAnswer, progress_of
from creditfold.api.parameters import PAGE, Cursor, Limit, refuse_empty_time
from creditfold.api.problems import ProblemError, of_error
from creditfold.api.statement import StatementAnswer, place_at, statement_of
from creditfold.api.trace import TraceAnswer, trace_of
from creditfold.common.instants import duration_of
from creditfold.common.position import Position
from creditfold.log.partitioner import partition_of
from creditfold.projections import queries

#: Rows of the lists that one request's fields read together.
MOST_ROWS = 20_000

#: What an argument must be beyond its GraphQL type, as the parameter of that name of the GET routes.
_ARGUMENTS: Mapping[str, TypeAdapter[Any]] = {
    "account": TypeAdapter(AccountName),
    "command_id": TypeAdapter(AccountName),
    "asset": TypeAdapter(AccountName | None),
    "limit": TypeAdapter(Limit),
    "cursor": TypeAdapter(Cursor),
    "within": TypeAdapter(Within),
    "begin": TypeAdapter(Begin),
    "at": TypeAdapter(Begin),
}


class Reads:
    """What the fields of one request read from, and what they came to.

    Args:
        connection: in a snapshot.
        progress: how far the log is folded in it.
        caller: who asks.
        deadline: when nothing more is read, by the monotonic clock.
    """

    def __init__(
        self,
        connection: Connection[Any],
        progress: Sequence[queries.PartitionProgress],
        caller: Caller,
        deadline: float,
    ) -> None:
        self.connection = connection
        self.progress = progress
        self.caller = caller
        self._deadline = deadline
        #: By partition, how far it is folded, of the accounts that were read.
        self.positions: dict[int, Position] = {}
        #: What ended all reads.
        self.failure: Exception | None = None
        self._rows = 0

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
        scope: opens it.
        is_about_all: whether it is about all accounts, and so refused to a caller that is limited to some.
    """

    def __init__(self, scope: str, *, is_about_all: bool = False) -> None:
        self._scope = scope
        self._is_about_all = is_about_all

    def resolve(self, next_: Callable[..., Any], source: Any, info: Info, **arguments: Any) -> Any:
        """Read, if the caller may and the arguments are right.

        What a GET route would answer with 5xx ends the whole request, and is kept for its answer.
        """
        reads: Reads = info.context
        try:
            reads.begin()
            reads.caller.refuse_scope(self._scope)
            if self._is_about_all:
                reads.caller.refuse_prefix()
            found = next_(source, info, **checked(arguments))
            reads.end(found)
        except Exception as error:
            problem = of_error(error)
            if problem is None or problem.status >= 500:
                reads.failure = reads.failure or error
            raise
        return found


def checked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A field's arguments, of which each is what the GET routes take. Raises ProblemError."""
    return {name: value if value is None else _checked(name, value) for name, value in arguments.items()}


def _checked(name: str, value: Any) -> Any:
    if name not in _ARGUMENTS:
        return value
    try:
        return _ARGUMENTS[name].validate_python(value)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
    raise ProblemError(400, "invalid_request", f"{name}: {said}.", "The schema says what each argument may be.")


def _field(scope: str, kind: Any, *, is_about_all: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Make a method a field that reads: opened by a scope, of a GraphQL type, null where it fails."""

    def made(read: Callable[..., Any]) -> Any:
        extension = Reading(scope, is_about_all=is_about_all)
        return strawberry.field(read, graphql_type=kind | None, description=read.__doc__, extensions=[extension])

    return made


def _arg(name: str) -> Any:
    return strawberry.argument(name=name)


@strawberry.type(description="An account; one that was never used has no balances, and is neither frozen nor closed.")
class Account:
    """The reads of one account, now or in the past."""

    account: str
    as_of: strawberry.Private[str | None]

    @_field("read:balance", bool)
    def is_closed(self, info: Info) -> Any:
        """Whether the account is closed."""
        return self._state(info).is_closed

    @_field("read:balance", str)
    def frozen(self, info: Info) -> Any:
        """spending, all, or nothing."""
        return self._state(info).frozen

    @_field("read:balance", list_of(BalanceAnswer))
    def balances(self, info: Info, use: str | None = None) -> Any:
        """Balances, of this moment without `as_of`; with `use` how much of each a use could take."""
        refuse_as_of(self.as_of, {"use": use})
        if self.as_of is not None:
            return balances_then(info.context.connection, self.account, self.as_of)
        return balances_of(info.context.connection, self.account, use)

    @_field("read:balance", list_of(LotAnswer))
    def lots(self, info: Info, every: bool = False) -> Any:
        """Lots in the order of spending; with `every` the empty, expired and voided ones too."""
        return queries.lots(self._present(info, "lots"), self.account, every=every)

    @_field("read:balance", list_of(HoldAnswer))
    def holds(self, info: Info, every: bool = False) -> Any:
        """Holds, the next to lapse first; with `every` the lapsed and closed ones too."""
        return queries.holds(self._present(info, "holds"), self.account, every=every)

    @_field("read:balance", list_of(TransferAnswer))
    def transfers(self, info: Info, every: bool = False) -> Any:
        """What the account sent to others; with `every` what is settled too."""
        return queries.transfers(self._present(info, "transfers"), self.account, every=every)

    @_field("read:balance", list_of(ScheduleAnswer))
    def schedules(self, info: Info) -> Any:
        """Schedules, the next to fall due first."""
        return queries.schedules(self._present(info, "schedules"), self.account)

    @_field("read:balance", type_of(ExpiringAnswer))
    def expiring(self, info: Info, within: str = "30d") -> Any:
        """The credits that will end within a time, as 90s, 15m, 2h or 30d, by day and by lot."""
        found = queries.expiring(self._present(info, "expiring"), self.account, duration_of(within))
        return expiring_of(found)

    @_field("read:statement", type_of(StatementAnswer))
    def statement(
        self,
        info: Info,
        *,
        since: Annotated[datetime | None, _arg("from")] = None,
        until: datetime | None = None,
        asset: str | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Any:
        """A page of the statement between two instants, the second of which doesn't count any more."""
        refuse_empty_time(since, until)
        connection, place = self._present(info, "statement"), place_at(cursor)
        asked: dict[str, Any] = {"since": since, "until": until, "asset": asset, "limit": limit}
        found = queries.statement(connection, self.account, **asked, place=place)
        return statement_of(found, info.context.caller, since, until)

    @_field("read:statement", type_of(OutcomeAnswer))
    def command(self, info: Info, command_id: str) -> Any:
        """What became of the first command of an id."""
        found = first_outcome(self._present(info, "command"), self.account, command_id)
        return first_answer(found, self.account, command_id, is_personal=info.context.is_personal)

    @_field("read:statement", type_of(TraceAnswer))
    def trace(self, info: Info, command_id: str) -> Any:
        """Where a command's credits came from, and where they went since."""
        found = queries.trace(self._present(info, "trace"), self.account, command_id)
        return trace_of(found, self.account, command_id, is_personal=info.context.is_personal)

    def _present(self, info: Info, name: str) -> Connection[Any]:
        """The connection to read with what is known of the present only. Raises ProblemError for the past."""
        refuse_as_of(self.as_of, {name: name})
        found: Connection[Any] = info.context.connection
        return found

    def _state(self, info: Info) -> Any:
        return state_of(info.context.connection, self.account, self.as_of)


@strawberry.type(
    description="What can be read. A field that fails is null, and `errors` says why; the others are there."
)
class Query:
    """The reads of accounts, and those across all of them."""

    @_field("read:*", Account)
    def account(self, info: Info, account: str, as_of: str | None = None) -> Any:
        """An account. `as_of`, a time or a position, both inclusive: by what was decided until then."""
        info.context.enter(account)
        return Account(account=account, as_of=as_of)

    @_field("read:statement", list_of(ExpiringMonthAnswer), is_about_all=True)
    def expiring(self, info: Info, until: datetime | None = None) -> Any:
        """The credits of all accounts that will end, by month and asset, as the accounts were last settled."""
        return queries.expiring_totals(info.context.connection, until)

    @_field("read:statement", type_of(JournalAnswer), is_about_all=True)
    def journal(
        self,
        info: Info,
        begin: Annotated[str | None, _arg("from")] = None,
        cursor: str | None = None,
        limit: int = PAGE,
    ) -> Any:
        """The journal of all accounts, from positions on (`partition:offset`, by comma), oldest first."""
        return _page("journal", info.context, span_of("journal", cursor, begin), limit)

    @_field("read:statement", type_of(JournalAnswer), is_about_all=True)
    def rejections(
        self,
        info: Info,
        begin: Annotated[str | None, _arg("from")] = None,
        cursor: str | None = None,
        limit: int = PAGE,
    ) -> Any:
        """What was rejected in all accounts, and why, from positions on, oldest first."""
        return _page("rejections", info.context, span_of("rejections", cursor, begin), limit)

    @_field("read:statement", list_of(TotalAnswer), is_about_all=True)
    def totals(self, info: Info) -> Any:
        """Where all credits are and where they came from, by asset, as the fold keeps it."""
        return queries.totals(info.context.connection)

    @_field("read:statement", type_of(TrialBalanceAnswer), is_about_all=True)
    def trial_balance(
        self, info: Info, at: str | None = None, until: datetime | None = None, asset: str | None = None
    ) -> Any:
        """The proof from the journal that what the accounts have is what was issued and didn't go elsewhere."""
        found = proof(info.context.connection, **bounds_of(at, until), asset=asset)
        return books_of(found)

    @_field("read:balance", list_of(ProgressAnswer))
    def progress(self, info: Info) -> Any:
        """How far each partition of the log is folded."""
        return progress_of(info.context.progress)


def _page(route: str, reads: Reads, span: Span, limit: int) -> Any:
    page = queries.journal(reads.connection, span.places, limit, only_rejected=route == "rejections", until=span.until)
    return page_of(route, page, span, is_personal=reads.is_personal)


SCHEMA = strawberry.Schema(
    Query,
    config=StrawberryConfig(
        # As everywhere else here.
        auto_camel_case=False,
        scalar_map=dict(SCALARS),
        # Some answers leave out what they don't have.
        default_resolver=lambda source, name: getattr(source, name, None),
    ),
)


def as_text() -> str:
    """The schema as it is committed, in GraphQL's own language."""
    return SCHEMA.as_str() + "\n"
