"""The GraphQL schema: the reads of the GET routes as fields, each opened by its route's scope.

Owns which fields there are across accounts and what each asks of `projections.queries`; those of one account are
graphql_account.py's, those of operators graphql_operation.py's. No field that reads is below a list, so that a document
names each of its reads. Knows no SQL, no rule and no HTTP.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import strawberry
from strawberry.schema.config import StrawberryConfig
from strawberry.types import Info

from creditfold.api.books import TotalAnswer, TrialBalanceAnswer, books_of, bounds_of, proof
from creditfold.api.ended import EndedAnswer
from creditfold.api.ended import page_of as ended_page
from creditfold.api.ended import place_at as place_of_ended
from creditfold.api.expiring import ExpiringMonthAnswer
from creditfold.api.graphql_account import Account
from creditfold.api.graphql_operation import OperatorFields
from creditfold.api.graphql_reads import Reads, arg, field
from creditfold.api.graphql_types import SCALARS, Long, list_of, type_of
from creditfold.api.hours import By, EndedTotalsAnswer, MostRows, SpentAnswer, sums
from creditfold.api.journal import Begin, JournalAnswer, Span, page_of, span_of
from creditfold.api.operation import ProgressAnswer, progress_of
from creditfold.api.parameters import PAGE, refuse_empty_time
from creditfold.api.problems import ProblemError
from creditfold.api.search import (
    AccountsAnswer,
    Amount,
    Balance,
    CommandId,
    Prefix,
    SearchedAsset,
    State,
    account_behind,
    wanted_of,
)
from creditfold.api.search import page_of as accounts_page
from creditfold.projections import queries

#: What the arguments of a search must be, and those of sums.
_SEARCH: dict[str, Any] = {
    "account_prefix": Prefix,
    "command_id": CommandId,
    "state": State,
    "asset": SearchedAsset,
    "balance": Balance,
    "least": Amount | None,
    "most": Amount | None,
}
_SUMS: dict[str, Any] = {"by": By, "limit": MostRows}


@strawberry.input(description="A key of metadata, one of CREDITFOLD_SEARCHABLE_METADATA, and what it says.")
class Metadata:
    """What `metadata[key]=value` is of the GET route. Needs the scope read:personal."""

    key: str
    value: str


@strawberry.type(description="How many accounts there are: up to 10,000.")
class AccountCount:
    """What the header Creditfold-Count is of the HEAD route."""

    number: Long
    has_more: bool = strawberry.field(description="Whether there are more.")


def _said(metadata: Sequence[Metadata] | None) -> dict[str, str]:
    """Metadata by key. Raises ProblemError for a key that is there twice."""
    found = {one.key: one.value for one in metadata or ()}
    if len(found) < len(metadata or ()):
        raise ProblemError(400, "ambiguous_request", "A key of metadata is there twice.", "Send it once.")
    return found


@strawberry.type(
    description="What can be read. A field that fails is null, and `errors` says why; the others are there."
)
class Query(OperatorFields):
    """The reads of accounts, those across all of them, and those of operators."""

    @field("read:*", Account)
    def account(self, info: Info, account: str, as_of: str | None = None) -> Any:
        """An account. `as_of`, a time or a position, both inclusive: by what was decided until then."""
        info.context.enter(account)
        return Account(account=account, as_of=as_of)

    @field("read:balance", type_of(AccountsAnswer), **_SEARCH)
    def accounts(
        self,
        info: Info,
        *,
        account_prefix: str | None = None,
        command_id: str | None = None,
        metadata: list[Metadata] | None = None,
        state: str | None = None,
        asset: str | None = None,
        balance: str = "available",
        least: Long | None = None,
        most: Long | None = None,
        ends_before: datetime | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Any:
        """A page of accounts by a command, metadata, state, balance, or by what ends; all that is asked must be so."""
        said = (command_id, _said(metadata), state, asset, balance, least, most, ends_before)
        wanted = wanted_of(info.context.caller, account_prefix, *said)
        found = queries.search_accounts(info.context.connection, wanted, limit, account_behind(cursor, wanted))
        return accounts_page(found, wanted)

    @field("read:balance", AccountCount, **_SEARCH)
    def account_count(
        self,
        info: Info,
        *,
        account_prefix: str | None = None,
        command_id: str | None = None,
        metadata: list[Metadata] | None = None,
        state: str | None = None,
        asset: str | None = None,
        balance: str = "available",
        least: Long | None = None,
        most: Long | None = None,
        ends_before: datetime | None = None,
    ) -> Any:
        """How many accounts `accounts` would find."""
        said = (command_id, _said(metadata), state, asset, balance, least, most, ends_before)
        wanted = wanted_of(info.context.caller, account_prefix, *said)
        return queries.count_accounts(info.context.connection, wanted)

    @field("read:statement", list_of(ExpiringMonthAnswer), is_about_all=True)
    def expiring(self, info: Info, until: datetime | None = None) -> Any:
        """The credits of all accounts that will end, by month and asset, as the accounts were last settled."""
        return queries.expiring_totals(info.context.connection, until)

    @field("read:statement", type_of(JournalAnswer), is_about_all=True)
    def journal(
        self,
        info: Info,
        *,
        begin: Annotated[str | None, arg("from")] = None,
        since: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
        limit: int = PAGE,
    ) -> Any:
        """The journal of all accounts, from positions (`partition:offset`, by comma) or a time on, oldest first."""
        return _page("journal", info.context, span_of("journal", cursor, begin, since, until), limit)

    @field("read:statement", type_of(JournalAnswer), is_about_all=True)
    def rejections(
        self,
        info: Info,
        *,
        begin: Annotated[str | None, arg("from")] = None,
        since: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
        limit: int = PAGE,
    ) -> Any:
        """What was rejected in all accounts, and why, from positions or a time on, oldest first."""
        return _page("rejections", info.context, span_of("rejections", cursor, begin, since, until), limit)

    @field("read:statement", type_of(EndedAnswer), is_about_all=True)
    def ended(
        self,
        info: Info,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Any:
        """A page of what of all accounts expired, was voided or forfeited, and of holds that lapsed, latest first."""
        place = place_of_ended("ended", cursor)
        refuse_empty_time(since, until)
        found = queries.ended(info.context.connection, limit + 1, since=since, until=until, place=place)
        return ended_page("ended", found, info.context.caller, limit)

    @field("read:statement", type_of(EndedTotalsAnswer), is_about_all=True, **_SUMS)
    def ended_totals(
        self,
        info: Info,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        asset: str | None = None,
        by: str | None = None,
        limit: int = PAGE,
    ) -> Any:
        """What of all accounts ended in whole hours of UTC, by class, source and reason, the most first."""
        asked = {"since": since, "until": until, "asset": asset, "by": by, "limit": limit}
        return sums(info.context.connection, info.context.caller, "ended", **asked)

    @field("read:statement", type_of(SpentAnswer), is_about_all=True, **_SUMS)
    def spent(
        self,
        info: Info,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        asset: str | None = None,
        by: str | None = None,
        limit: int = PAGE,
    ) -> Any:
        """What all accounts spent in whole hours of UTC, by class, source and reason, the most first."""
        asked = {"since": since, "until": until, "asset": asset, "by": by, "limit": limit}
        return sums(info.context.connection, info.context.caller, "spent", **asked)

    @field("read:statement", list_of(TotalAnswer), is_about_all=True)
    def totals(self, info: Info) -> Any:
        """Where all credits are and where they came from, by asset, as the fold keeps it."""
        return queries.totals(info.context.connection)

    @field("read:statement", type_of(TrialBalanceAnswer), is_about_all=True, at=Begin)
    def trial_balance(
        self, info: Info, at: str | None = None, until: datetime | None = None, asset: str | None = None
    ) -> Any:
        """The proof from the journal that what the accounts have is what was issued and didn't go elsewhere."""
        found = proof(info.context.connection, **bounds_of(at, until), asset=asset)
        return books_of(found)

    @field("read:balance", list_of(ProgressAnswer))
    def progress(self, info: Info) -> Any:
        """How far each partition of the log is folded."""
        return progress_of(info.context.progress, info.context.caller)


def _page(route: str, reads: Reads, span: Span, limit: int) -> Any:
    asked: dict[str, Any] = {"only_rejected": route == "rejections", "since": span.since, "until": span.until}
    page = queries.journal(reads.connection, span.places, limit, **asked)
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
