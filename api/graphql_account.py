"""The GraphQL type of an account: what the GET routes below an account read. Knows no SQL, no rule and no HTTP."""

from datetime import datetime
from typing import Annotated, Any

import strawberry
from psycopg import Connection
from strawberry.types import Info

from creditfold.api.account_lists import (
    HOLDS,
    LOTS,
    SCHEDULES,
    TRANSFERS,
    HoldsAnswer,
    LotsAnswer,
    SchedulesAnswer,
    TransfersAnswer,
)
from creditfold.api.account_lists import page_of as list_page
from creditfold.api.accounts import balances_of, balances_then, state_of
from creditfold.api.answers import AcceptedAnswer, BalanceAnswer, OutcomeAnswer
from creditfold.api.at_least import refuse_other_generation
from creditfold.api.command_outcome import answer_at, first_answer, first_outcome, look_at
from creditfold.api.ended import EndedAnswer, ended_of
from creditfold.api.ended import page_of as ended_page
from creditfold.api.ended import place_at as place_of_ended
from creditfold.api.expiring import ExpiringAnswer, Within, expiring_of
from creditfold.api.graphql_reads import arg, field
from creditfold.api.graphql_types import list_of, type_of
from creditfold.api.journal import HistoryAnswer, history_of, version_before
from creditfold.api.parameters import PAGE, refuse_empty_time
from creditfold.api.past import refuse_as_of
from creditfold.api.statement import StatementAnswer, place_at, statement_of
from creditfold.api.trace import TraceAnswer, trace_of
from creditfold.api.trace import place_at as place_of_trace
from creditfold.common.instants import duration_of
from creditfold.common.position import Position
from creditfold.projections import queries


@strawberry.type(description="An account; one that was never used has no balances, and is neither frozen nor closed.")
class Account:
    """The reads of one account, now or in the past."""

    account: str
    as_of: strawberry.Private[str | None]

    @field("read:balance", bool)
    def is_closed(self, info: Info) -> Any:
        """Whether the account is closed."""
        return self._state(info).is_closed

    @field("read:balance", str)
    def frozen(self, info: Info) -> Any:
        """spending, all, or nothing."""
        return self._state(info).frozen

    @field("read:balance", list_of(BalanceAnswer))
    def balances(self, info: Info, use: str | None = None) -> Any:
        """Balances, of this moment without `as_of`; with `use` how much of each a use could take."""
        refuse_as_of(self.as_of, {"use": use})
        if self.as_of is not None:
            return balances_then(info.context.connection, self.account, self.as_of)
        return balances_of(info.context.connection, self.account, use)

    @field("read:balance", type_of(LotsAnswer))
    def lots(self, info: Info, every: bool = False, limit: int = PAGE, cursor: str | None = None) -> Any:
        """A page of the lots, in the order of spending; with `every` of the empty, expired and voided ones too."""
        asked: dict[str, Any] = {"every": every, "as_of": self.as_of}
        return list_page(info.context.connection, self.account, LOTS, limit, cursor, **asked)

    @field("read:balance", type_of(HoldsAnswer))
    def holds(self, info: Info, every: bool = False, limit: int = PAGE, cursor: str | None = None) -> Any:
        """A page of the holds, the next to lapse first; with `every` of the lapsed and closed ones too."""
        asked: dict[str, Any] = {"every": every, "as_of": self.as_of}
        return list_page(info.context.connection, self.account, HOLDS, limit, cursor, **asked)

    @field("read:balance", type_of(TransfersAnswer))
    def transfers(self, info: Info, every: bool = False, limit: int = PAGE, cursor: str | None = None) -> Any:
        """A page of what the account sent to others; with `every` of what is settled too."""
        return list_page(self._present(info, "transfers"), self.account, TRANSFERS, limit, cursor, every=every)

    @field("read:balance", type_of(SchedulesAnswer))
    def schedules(self, info: Info, limit: int = PAGE, cursor: str | None = None) -> Any:
        """A page of the schedules, by their ids."""
        return list_page(self._present(info, "schedules"), self.account, SCHEDULES, limit, cursor)

    @field("read:balance", type_of(ExpiringAnswer), within=Within)
    def expiring(self, info: Info, within: str = "30d") -> Any:
        """The credits that will end within a time, as 90s, 15m, 2h or 30d, by day and by lot."""
        found = queries.expiring(self._present(info, "expiring"), self.account, duration_of(within))
        return expiring_of(found)

    @field("read:statement", type_of(StatementAnswer))
    def statement(
        self,
        info: Info,
        *,
        since: Annotated[datetime | None, arg("from")] = None,
        until: datetime | None = None,
        asset: str | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Any:
        """A page of the statement between two instants, the second of which doesn't count any more."""
        refuse_empty_time(since, until)
        connection, live = self._present(info, "statement"), info.context.generation
        generation, place = place_at(cursor)
        refuse_other_generation(generation, live)
        asked: dict[str, Any] = {"since": since, "until": until, "asset": asset, "limit": limit}
        found = queries.statement(connection, self.account, **asked, place=place)
        return statement_of(found, info.context.caller, since, until, live)

    @field("read:statement", type_of(HistoryAnswer))
    def history(
        self,
        info: Info,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Any:
        """A page of what was decided about the account, what time did and rejections included, the latest first."""
        refuse_empty_time(since, until)
        connection, live = self._present(info, "history"), info.context.generation
        generation, before = version_before(cursor)
        refuse_other_generation(generation, live)
        found = queries.history(connection, self.account, limit + 1, before, since=since, until=until)
        return history_of(found, limit, live, is_personal=info.context.is_personal)

    @field("read:statement", type_of(EndedAnswer))
    def ended(
        self,
        info: Info,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Any:
        """A page of what of the account expired, was voided or forfeited, and of holds that lapsed, latest first."""
        refuse_empty_time(since, until)
        connection, place = self._present(info, "ended"), place_of_ended("account_ended", cursor, self.account)
        found = ended_of(connection, self.account, limit + 1, since=since, until=until, place=place)
        return ended_page("account_ended", found, info.context.caller, limit)

    @field("read:statement", type_of(OutcomeAnswer))
    def command(self, info: Info, command_id: str, at: str | None = None) -> Any:
        """What became of the record at a position, or else of the first command of an id; `pending` until then."""
        connection, is_personal = self._present(info, "command"), info.context.is_personal
        if at is None:
            found = first_outcome(connection, self.account, command_id)
            return first_answer(found, self.account, command_id, is_personal=is_personal)
        asked = (Position.parse(at), self.account, command_id)
        answer = answer_at(look_at(connection, *asked), *asked, is_personal=is_personal)
        return _undecided(answer) if isinstance(answer, AcceptedAnswer) else answer

    @field("read:statement", type_of(TraceAnswer))
    def trace(self, info: Info, command_id: str, limit: int = PAGE, cursor: str | None = None) -> Any:
        """Where a command's credits came from, and where they went since: a page of the moves."""
        connection, live = self._present(info, "trace"), info.context.generation
        generation, place = place_of_trace(cursor)
        refuse_other_generation(generation, live)
        found = queries.trace(connection, self.account, command_id, limit=limit, place=place)
        return trace_of(found, self.account, command_id, live, is_personal=info.context.is_personal)

    def _present(self, info: Info, name: str) -> Connection[Any]:
        """The connection to read with what is known of the present only. Raises ProblemError for the past."""
        refuse_as_of(self.as_of, {name: name})
        found: Connection[Any] = info.context.connection
        return found

    def _state(self, info: Info) -> Any:
        return state_of(info.context.connection, self.account, self.as_of)


def _undecided(found: AcceptedAnswer) -> OutcomeAnswer:
    """A command that isn't decided yet, for which the GET route has a status of its own."""
    return OutcomeAnswer.model_construct(**found.model_dump(), accepted=False, reason=None, decision=None, steps=[])
