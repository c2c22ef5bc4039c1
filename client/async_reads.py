"""What the client asks of the HTTP door, for asyncio.

Written from docs/openapi.json by docs/client_code.py (`make api`).
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, TypeVar

from creditfold.client.answers import (
    AcceptedAnswer,
    AccountAnswer,
    AccountsAnswer,
    AttemptsAnswer,
    AuditAnswer,
    BalanceAnswer,
    DeadLettersAnswer,
    DeliveriesAnswer,
    EndedAnswer,
    EndedTotalsAnswer,
    EndpointAnswer,
    ExpiringAnswer,
    ExpiringMonthAnswer,
    GenerationAnswer,
    GraphqlAnswer,
    HistoryAnswer,
    HoldsAnswer,
    JournalAnswer,
    KeyAnswer,
    LetterResultsAnswer,
    LiveAnswer,
    LogRecordAnswer,
    LotsAnswer,
    NewEndpointAnswer,
    NewKeyAnswer,
    OneDeadLetterAnswer,
    OperationAnswer,
    OperationsAnswer,
    OutcomeAnswer,
    ProgressAnswer,
    ReadyAnswer,
    ResentAnswer,
    RuleAnswer,
    RulesAnswer,
    SchedulesAnswer,
    SpentAnswer,
    StatementAnswer,
    TotalAnswer,
    TraceAnswer,
    TransfersAnswer,
    TrialBalanceAnswer,
)
from creditfold.client.calls import Call, following, json_body, path
from creditfold.client.shapes import Instant, Rows

T = TypeVar("T")


class AsyncReads(ABC):
    """The methods that are the same but for their routes."""

    @abstractmethod
    async def _send(self, call: Call[T], bound_s: float | None = None) -> T: ...

    async def graphql(
        self,
        *,
        query: str,
        at_least: str | None = None,
        extensions: dict[str, Any] | None = None,
        operation_name: str | None = None,
        variables: dict[str, Any] | None = None,
    ) -> GraphqlAnswer:
        """Read by GraphQL what the GET routes read, all of one snapshot, each field with the scope of its route.

        Args:
            query: the document. At most 16,384 characters and 1,000 tokens.
            at_least: positions, `partition:offset`, by comma, that the answer must reflect; waits for them.
            extensions: not looked at.
            operation_name: the operation, where the document has several.
            variables: values of the operation's variables.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                "/graphql",
                {200: GraphqlAnswer, 400: GraphqlAnswer},
                query={"at_least": at_least},
                **json_body(query=query, extensions=extensions, operationName=operation_name, variables=variables),
            )
        )

    async def live(self) -> LiveAnswer:
        """Whether the process serves requests. Needs no key."""
        return await self._send(Call("GET", "/health/live", {200: LiveAnswer}))

    async def ready(self) -> ReadyAnswer:
        """Whether Kafka and PostgreSQL answer, asked now. Needs no key."""
        return await self._send(Call("GET", "/health/ready", {200: ReadyAnswer, 503: ReadyAnswer}))

    async def schema(self, schema_id: int) -> Any:
        """The Avro schema of an id, as the log's records carry it. Needs no key: the schemas are public."""
        return await self._send(Call("GET", path("/schemas/{schema_id}", schema_id=schema_id), {200: Any}))

    async def accounts(
        self,
        *,
        cursor: str | None = None,
        limit: int | None = None,
        account_prefix: str | None = None,
        command_id: str | None = None,
        state: Literal["open", "frozen", "closed"] | None = None,
        asset: str | None = None,
        balance: Literal["available", "pending", "held", "debt"] | None = None,
        least: int | None = None,
        most: int | None = None,
        ends_before: Instant | None = None,
        at_least: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> AccountsAnswer:
        """Accounts by a command, metadata, state, balance, or by what ends; all that is asked must be so.

        Args:
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            account_prefix: begins the accounts.
            command_id: of a command of theirs that was decided.
            state: one that is frozen isn't open.
            asset: they have or had credits of it.
            balance: what `least` and `most` are about.
            least: the least balance of the asset.
            most: the most balance of the asset.
            ends_before: something of the asset, or of any, ends before this (RFC 3339).
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.
            metadata: `metadata[key]=value`: a command of theirs says so. The key is one of
                CREDITFOLD_SEARCHABLE_METADATA. Needs the scope read:personal.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                "/v1/accounts",
                {200: AccountsAnswer},
                query={
                    "cursor": cursor,
                    "limit": limit,
                    "account_prefix": account_prefix,
                    "command_id": command_id,
                    "state": state,
                    "asset": asset,
                    "balance": balance,
                    "least": least,
                    "most": most,
                    "ends_before": ends_before,
                    "at_least": at_least,
                    "metadata": metadata,
                },
            )
        )

    async def accounts_pages(
        self,
        *,
        cursor: str | None = None,
        limit: int | None = None,
        account_prefix: str | None = None,
        command_id: str | None = None,
        state: Literal["open", "frozen", "closed"] | None = None,
        asset: str | None = None,
        balance: Literal["available", "pending", "held", "debt"] | None = None,
        least: int | None = None,
        most: int | None = None,
        ends_before: Instant | None = None,
        at_least: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> AsyncIterator[AccountsAnswer]:
        """The pages of `accounts`, one after the other until there are no more.

        Args:
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            account_prefix: begins the accounts.
            command_id: of a command of theirs that was decided.
            state: one that is frozen isn't open.
            asset: they have or had credits of it.
            balance: what `least` and `most` are about.
            least: the least balance of the asset.
            most: the most balance of the asset.
            ends_before: something of the asset, or of any, ends before this (RFC 3339).
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.
            metadata: `metadata[key]=value`: a command of theirs says so. The key is one of
                CREDITFOLD_SEARCHABLE_METADATA. Needs the scope read:personal.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.accounts(
                cursor=cursor,
                limit=limit,
                account_prefix=account_prefix,
                command_id=command_id,
                state=state,
                asset=asset,
                balance=balance,
                least=least,
                most=most,
                ends_before=ends_before,
                at_least=at_least,
                metadata=metadata,
            )
            yield page
            if (cursor := following(page)) is None:
                return

    async def account(
        self,
        account: str,
        *,
        use: str | None = None,
        expand: str | None = None,
        as_of: str | None = None,
        at_least: str | None = None,
    ) -> AccountAnswer:
        """An account: its balances at this moment, and on demand its lots and holds, all of one snapshot.

        Args:
            account: the account.
            use: a use; adds how much of each balance it could take.
            expand: lots, holds, or both by comma: of the same snapshot, 1,000 of each.
            as_of: a time or a position, both inclusive: by what was decided until then.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/accounts/{account}", account=account),
                {200: AccountAnswer},
                query={"use": use, "expand": expand, "as_of": as_of, "at_least": at_least},
            )
        )

    async def balances(
        self, account: str, *, use: str | None = None, as_of: str | None = None, at_least: str | None = None
    ) -> Rows[BalanceAnswer]:
        """An account's balances at this moment: what ended is not in them, nor what hasn't begun.

        Args:
            account: the account.
            use: a use; adds how much of each balance it could take.
            as_of: a time or a position, both inclusive: by what was decided until then.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/accounts/{account}/balances", account=account),
                {200: list[BalanceAnswer]},
                query={"use": use, "as_of": as_of, "at_least": at_least},
            )
        )

    async def command(
        self, account: str, command_id: str, *, at: str | None = None, wait: float | None = None
    ) -> OutcomeAnswer | AcceptedAnswer:
        """What became of a command.

        With `at`, of that record of the log; else of the first one that had this id. A key that may append, and hasn't
        the scope `read:statement`, sees the outcomes of the commands that it sent itself.

        Args:
            account: the account.
            command_id: the command's id.
            at: the record's position, as an answer 202 names it.
            wait: seconds to wait for the outcome.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/accounts/{account}/commands/{command_id}", account=account, command_id=command_id),
                {200: OutcomeAnswer, 202: AcceptedAnswer},
                query={"at": at, "wait": wait},
            )
        )

    async def trace(
        self,
        account: str,
        command_id: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        at_least: str | None = None,
    ) -> TraceAnswer:
        """Where a command's credits came from, and where they went since: moves by pages, in the order of the journal.

        Args:
            account: the account.
            command_id: the command's id.
            limit: moves of a page.
            cursor: `next` of the page before: this page begins where that one ended.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/accounts/{account}/commands/{command_id}/trace", account=account, command_id=command_id),
                {200: TraceAnswer},
                query={"limit": limit, "cursor": cursor, "at_least": at_least},
            )
        )

    async def trace_pages(
        self,
        account: str,
        command_id: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        at_least: str | None = None,
    ) -> AsyncIterator[TraceAnswer]:
        """The pages of `trace`, one after the other until there are no more.

        Args:
            account: the account.
            command_id: the command's id.
            limit: moves of a page.
            cursor: `next` of the page before: this page begins where that one ended.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.trace(account, command_id, limit=limit, cursor=cursor, at_least=at_least)
            yield page
            if (cursor := following(page)) is None:
                return

    async def account_ended(
        self,
        account: str,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        at_least: str | None = None,
    ) -> EndedAnswer:
        """What of an account expired, was voided or forfeited, and the holds that lapsed, the latest first, and why.

        Args:
            account: the account.
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/accounts/{account}/ended", account=account),
                {200: EndedAnswer},
                query={"since": since, "until": until, "cursor": cursor, "limit": limit, "at_least": at_least},
            )
        )

    async def account_ended_pages(
        self,
        account: str,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        at_least: str | None = None,
    ) -> AsyncIterator[EndedAnswer]:
        """The pages of `account_ended`, one after the other until there are no more.

        Args:
            account: the account.
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.account_ended(
                account, since=since, until=until, cursor=cursor, limit=limit, at_least=at_least
            )
            yield page
            if (cursor := following(page)) is None:
                return

    async def expiring(self, account: str, *, within: str | None = None, at_least: str | None = None) -> ExpiringAnswer:
        """The credits of an account that will end, by day and by lot, the first to end first.

        Args:
            account: the account.
            within: how long from now on, as 90s, 15m, 2h or 30d.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/accounts/{account}/expiring", account=account),
                {200: ExpiringAnswer},
                query={"within": within, "at_least": at_least},
            )
        )

    async def history(
        self,
        account: str,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        at_least: str | None = None,
    ) -> HistoryAnswer:
        """What was decided about an account, what time did and rejections included, the latest first.

        Args:
            account: the account.
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/accounts/{account}/history", account=account),
                {200: HistoryAnswer},
                query={"since": since, "until": until, "cursor": cursor, "limit": limit, "at_least": at_least},
            )
        )

    async def history_pages(
        self,
        account: str,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        at_least: str | None = None,
    ) -> AsyncIterator[HistoryAnswer]:
        """The pages of `history`, one after the other until there are no more.

        Args:
            account: the account.
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.history(account, since=since, until=until, cursor=cursor, limit=limit, at_least=at_least)
            yield page
            if (cursor := following(page)) is None:
                return

    async def holds(
        self,
        account: str,
        *,
        every: bool | None = None,
        as_of: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        at_least: str | None = None,
    ) -> HoldsAnswer:
        """An account's holds, the next to lapse first; now, or by what was decided until a time or a position.

        Args:
            account: the account.
            every: lapsed and closed ones too, by their ids.
            as_of: a time or a position, both inclusive: by what was decided until then.
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/accounts/{account}/holds", account=account),
                {200: HoldsAnswer},
                query={"every": every, "as_of": as_of, "cursor": cursor, "limit": limit, "at_least": at_least},
            )
        )

    async def holds_pages(
        self,
        account: str,
        *,
        every: bool | None = None,
        as_of: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        at_least: str | None = None,
    ) -> AsyncIterator[HoldsAnswer]:
        """The pages of `holds`, one after the other until there are no more.

        Args:
            account: the account.
            every: lapsed and closed ones too, by their ids.
            as_of: a time or a position, both inclusive: by what was decided until then.
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.holds(account, every=every, as_of=as_of, cursor=cursor, limit=limit, at_least=at_least)
            yield page
            if (cursor := following(page)) is None:
                return

    async def lots(
        self,
        account: str,
        *,
        every: bool | None = None,
        as_of: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        at_least: str | None = None,
    ) -> LotsAnswer:
        """An account's lots, in the order of spending; now, or by what was decided until a time or a position.

        Args:
            account: the account.
            every: empty, expired and voided ones too, by the ids of the commands that made them.
            as_of: a time or a position, both inclusive: by what was decided until then.
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/accounts/{account}/lots", account=account),
                {200: LotsAnswer},
                query={"every": every, "as_of": as_of, "cursor": cursor, "limit": limit, "at_least": at_least},
            )
        )

    async def lots_pages(
        self,
        account: str,
        *,
        every: bool | None = None,
        as_of: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        at_least: str | None = None,
    ) -> AsyncIterator[LotsAnswer]:
        """The pages of `lots`, one after the other until there are no more.

        Args:
            account: the account.
            every: empty, expired and voided ones too, by the ids of the commands that made them.
            as_of: a time or a position, both inclusive: by what was decided until then.
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.lots(account, every=every, as_of=as_of, cursor=cursor, limit=limit, at_least=at_least)
            yield page
            if (cursor := following(page)) is None:
                return

    async def schedules(
        self, account: str, *, cursor: str | None = None, limit: int | None = None, at_least: str | None = None
    ) -> SchedulesAnswer:
        """An account's schedules, by their ids.

        Args:
            account: the account.
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/accounts/{account}/schedules", account=account),
                {200: SchedulesAnswer},
                query={"cursor": cursor, "limit": limit, "at_least": at_least},
            )
        )

    async def schedules_pages(
        self, account: str, *, cursor: str | None = None, limit: int | None = None, at_least: str | None = None
    ) -> AsyncIterator[SchedulesAnswer]:
        """The pages of `schedules`, one after the other until there are no more.

        Args:
            account: the account.
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.schedules(account, cursor=cursor, limit=limit, at_least=at_least)
            yield page
            if (cursor := following(page)) is None:
                return

    async def statement(
        self,
        account: str,
        *,
        from_: Instant | None = None,
        until: Instant | None = None,
        asset: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        at_least: str | None = None,
    ) -> StatementAnswer:
        """An account's statement between two instants, the second of which doesn't count any more.

        As JSON by pages; as lines of JSON or CSV whole.

        Args:
            account: the account.
            from_: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            asset: only this asset.
            limit: rows of a page.
            cursor: `next` of the page before: this page begins where that one ended.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/accounts/{account}/statement", account=account),
                {200: StatementAnswer},
                query={
                    "from": from_,
                    "until": until,
                    "asset": asset,
                    "limit": limit,
                    "cursor": cursor,
                    "at_least": at_least,
                },
            )
        )

    async def statement_pages(
        self,
        account: str,
        *,
        from_: Instant | None = None,
        until: Instant | None = None,
        asset: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        at_least: str | None = None,
    ) -> AsyncIterator[StatementAnswer]:
        """The pages of `statement`, one after the other until there are no more.

        Args:
            account: the account.
            from_: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            asset: only this asset.
            limit: rows of a page.
            cursor: `next` of the page before: this page begins where that one ended.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.statement(
                account, from_=from_, until=until, asset=asset, limit=limit, cursor=cursor, at_least=at_least
            )
            yield page
            if (cursor := following(page)) is None:
                return

    async def transfers(
        self,
        account: str,
        *,
        every: bool | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        at_least: str | None = None,
    ) -> TransfersAnswer:
        """What an account sent to others, by the ids of the transfers.

        Args:
            account: the account.
            every: settled ones too.
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/accounts/{account}/transfers", account=account),
                {200: TransfersAnswer},
                query={"every": every, "cursor": cursor, "limit": limit, "at_least": at_least},
            )
        )

    async def transfers_pages(
        self,
        account: str,
        *,
        every: bool | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        at_least: str | None = None,
    ) -> AsyncIterator[TransfersAnswer]:
        """The pages of `transfers`, one after the other until there are no more.

        Args:
            account: the account.
            every: settled ones too.
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.
            at_least: position, `partition:offset`, that the answer must reflect; waits for it.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.transfers(account, every=every, cursor=cursor, limit=limit, at_least=at_least)
            yield page
            if (cursor := following(page)) is None:
                return

    async def alert_rules(self) -> Rows[RuleAnswer]:
        """All rules of alerts; a caller that is limited to a prefix sees those within it."""
        return await self._send(Call("GET", "/v1/alert-rules", {200: list[RuleAnswer]}))

    async def create_alert_rule(
        self,
        *,
        kind: Literal["dropped", "depleted", "expiring"],
        reason: str,
        account_prefix: str | None = None,
        asset: str | None = None,
        below: int | None = None,
        rearm_at: int | None = None,
        within_s: int | None = None,
    ) -> RuleAnswer:
        """Have it said once when an account drops below a bound, has nothing left, or is about to lose credits.

        It begins at the present state: what is below its bound already isn't said.

        Args:
            kind: kind.
            reason: why, for the audit.
            account_prefix: begins the accounts that are watched.
            asset: that is watched; empty: any.
            below: of `dropped`: the bound.
            rearm_at: an account has recovered at this; at the bound if not given.
            within_s: of `expiring`: seconds before the end of a lot.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                "/v1/alert-rules",
                {201: RuleAnswer},
                **json_body(
                    kind=kind,
                    reason=reason,
                    account_prefix=account_prefix,
                    asset=asset,
                    below=below,
                    rearm_at=rearm_at,
                    within_s=within_s,
                ),
                is_repeatable=False,
            )
        )

    async def delete_alert_rule(self, rule_id: str, *, reason: str) -> RuleAnswer:
        """Remove a rule of alerts.

        Args:
            rule_id: the rule's id.
            reason: why, for the audit.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "DELETE",
                path("/v1/alert-rules/{rule_id}", rule_id=rule_id),
                {200: RuleAnswer},
                query={"reason": reason},
                is_repeatable=False,
            )
        )

    async def audit(self, *, limit: int | None = None, cursor: str | None = None) -> AuditAnswer:
        """What operators did, newest first: who, when, from where, why, before and after.

        Args:
            limit: rows of a page.
            cursor: `next` of the page before: this page begins where that one ended.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(Call("GET", "/v1/audit", {200: AuditAnswer}, query={"limit": limit, "cursor": cursor}))

    async def audit_pages(self, *, limit: int | None = None, cursor: str | None = None) -> AsyncIterator[AuditAnswer]:
        """The pages of `audit`, one after the other until there are no more.

        Args:
            limit: rows of a page.
            cursor: `next` of the page before: this page begins where that one ended.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.audit(limit=limit, cursor=cursor)
            yield page
            if (cursor := following(page)) is None:
                return

    async def dead_letters(
        self,
        *,
        reason: str | None = None,
        open: bool | None = None,
        account: str | None = None,
        partition: int | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> DeadLettersAnswer:
        """The records of the log that can't be folded, newest first: why, what they hold, what was decided about them.

        Args:
            reason: only those of this reason.
            open: only those about which nothing was decided yet.
            account: only those with this key.
            partition: only those of this one.
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            limit: rows of a page.
            cursor: `next` of the page before: this page begins where that one ended.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                "/v1/dead-letters",
                {200: DeadLettersAnswer},
                query={
                    "reason": reason,
                    "open": open,
                    "account": account,
                    "partition": partition,
                    "since": since,
                    "until": until,
                    "limit": limit,
                    "cursor": cursor,
                },
            )
        )

    async def dead_letters_pages(
        self,
        *,
        reason: str | None = None,
        open: bool | None = None,
        account: str | None = None,
        partition: int | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> AsyncIterator[DeadLettersAnswer]:
        """The pages of `dead_letters`, one after the other until there are no more.

        Args:
            reason: only those of this reason.
            open: only those about which nothing was decided yet.
            account: only those with this key.
            partition: only those of this one.
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            limit: rows of a page.
            cursor: `next` of the page before: this page begins where that one ended.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.dead_letters(
                reason=reason,
                open=open,
                account=account,
                partition=partition,
                since=since,
                until=until,
                limit=limit,
                cursor=cursor,
            )
            yield page
            if (cursor := following(page)) is None:
                return

    async def dead_letter(self, position: str) -> OneDeadLetterAnswer:
        """One dead letter, also with what was decided about the command that had its id first."""
        return await self._send(
            Call("GET", path("/v1/dead-letters/{position}", position=position), {200: OneDeadLetterAnswer})
        )

    async def discard(
        self,
        *,
        preview: bool | None = None,
        account: str | None = None,
        every: bool | None = None,
        limit: int | None = None,
        partition: int | None = None,
        positions: Sequence[str] | None = None,
        reason: str | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        why: str | None = None,
    ) -> LetterResultsAnswer:
        """Decide that nothing is done about dead letters. They stay, and can't be redriven any more.

        Args:
            preview: show what would be done, and do nothing.
            account: the open ones with this key.
            every: all open ones.
            limit: of those that a filter finds, the oldest ones.
            partition: the open ones of this partition.
            positions: of their records, `partition:offset`.
            reason: the open ones of this reason.
            since: the open ones appended at this instant or later (RFC 3339).
            until: the open ones appended before this instant (RFC 3339).
            why: for the audit, and kept with the decision; needed but for a preview.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                "/v1/dead-letters:discard",
                {200: LetterResultsAnswer},
                query={"preview": preview},
                **json_body(
                    account=account,
                    every=every,
                    limit=limit,
                    partition=partition,
                    positions=positions,
                    reason=reason,
                    since=since,
                    until=until,
                    why=why,
                ),
                is_repeatable=False,
            )
        )

    async def redrive(
        self,
        *,
        preview: bool | None = None,
        account: str | None = None,
        command: dict[str, Any] | None = None,
        confirmed: bool | None = None,
        every: bool | None = None,
        fields: dict[str, Any] | None = None,
        limit: int | None = None,
        metadata: dict[str, str] | None = None,
        partition: int | None = None,
        positions: Sequence[str] | None = None,
        reason: str | None = None,
        since: Instant | None = None,
        type: str | None = None,
        until: Instant | None = None,
        why: str | None = None,
    ) -> LetterResultsAnswer:
        """Append the commands of dead letters again, corrected if needed, each once, ever, and wait for their outcomes.

        One that was interrupted is finished by the same request again. A correction needs the scope, the limits and the
        amounts of the command that it makes.

        Args:
            preview: show what would be done, and do nothing.
            account: the open ones with this key.
            command: the whole command instead, with its type.
            confirmed: whether what looks like a mistake is meant.
            every: all open ones.
            fields: fields of the command that differ.
            limit: of those that a filter finds, the oldest ones.
            metadata: metadata that differ.
            partition: the open ones of this partition.
            positions: of their records, `partition:offset`.
            reason: the open ones of this reason.
            since: the open ones appended at this instant or later (RFC 3339).
            type: the command's type, if that differs.
            until: the open ones appended before this instant (RFC 3339).
            why: for the audit, and kept with the decision; needed but for a preview.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                "/v1/dead-letters:redrive",
                {200: LetterResultsAnswer},
                query={"preview": preview},
                **json_body(
                    account=account,
                    command=command,
                    confirmed=confirmed,
                    every=every,
                    fields=fields,
                    limit=limit,
                    metadata=metadata,
                    partition=partition,
                    positions=positions,
                    reason=reason,
                    since=since,
                    type=type,
                    until=until,
                    why=why,
                ),
                is_repeatable=False,
            )
        )

    async def ended(
        self,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> EndedAnswer:
        """What of all accounts expired, was voided or forfeited, and the holds that lapsed, the latest first, and why.

        Args:
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                "/v1/ended",
                {200: EndedAnswer},
                query={"since": since, "until": until, "cursor": cursor, "limit": limit},
            )
        )

    async def ended_pages(
        self,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[EndedAnswer]:
        """The pages of `ended`, one after the other until there are no more.

        Args:
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.ended(since=since, until=until, cursor=cursor, limit=limit)
            yield page
            if (cursor := following(page)) is None:
                return

    async def ended_totals(
        self,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        asset: str | None = None,
        by: str | None = None,
        limit: int | None = None,
    ) -> EndedTotalsAnswer:
        """What of all accounts ended in a time that begins and ends with an hour in UTC, by class, source and reason.

        Args:
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            asset: only this asset.
            by: what tells sums apart, by comma: class, source, reason. None: all of them that the key may read.
            limit: rows at most, the largest sums of each asset first.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                "/v1/ended/totals",
                {200: EndedTotalsAnswer},
                query={"since": since, "until": until, "asset": asset, "by": by, "limit": limit},
            )
        )

    async def expiring_totals(self, *, until: Instant | None = None) -> Rows[ExpiringMonthAnswer]:
        """The credits of all accounts that will end, by month and asset, as the accounts were last settled."""
        return await self._send(Call("GET", "/v1/expiring", {200: list[ExpiringMonthAnswer]}, query={"until": until}))

    async def generations(self) -> Rows[GenerationAnswer]:
        """All generations, oldest first: what they are, how far they are folded, how large they are."""
        return await self._send(Call("GET", "/v1/generations", {200: list[GenerationAnswer]}))

    async def drop(self, number: int, *, why: str) -> GenerationAnswer:
        """Remove a generation and its tables for good, and answer with what it was. The live one is refused.

        Args:
            number: the generation's number.
            why: why, for the audit.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "DELETE",
                path("/v1/generations/{number}", number=number),
                {200: GenerationAnswer},
                query={"why": why},
                is_repeatable=False,
            )
        )

    async def activate(
        self, number: int, *, why: str, accept_differences: bool | None = None, log_replaced: bool | None = None
    ) -> OperationAnswer:
        """Make a generation the live one, which readers see and workers fold, brought up to it and proven to be equal.

        Going back is activating the old one.

        Args:
            number: the generation's number.
            why: why, for the audit.
            accept_differences: switch although decisions differ.
            log_replaced: the log was restored into a new topic, of which this was folded.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                path("/v1/generations/{number}:activate", number=number),
                {202: OperationAnswer},
                **json_body(why=why, accept_differences=accept_differences, log_replaced=log_replaced),
                is_repeatable=False,
            )
        )

    async def verify(
        self, number: int, *, why: str, against: int | None = None, limit: int | None = None
    ) -> OperationAnswer:
        """Prove that a generation is what the log says: compare it with the live one, the live one with a fresh fold.

        Args:
            number: the generation's number.
            why: why, for the audit.
            against: another generation; the live one if not given, or of that a fresh fold.
            limit: differences that are named.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                path("/v1/generations/{number}:verify", number=number),
                {202: OperationAnswer},
                **json_body(why=why, against=against, limit=limit),
                is_repeatable=False,
            )
        )

    async def rebuild(
        self,
        *,
        why: str,
        note: str | None = None,
        processes: int | None = None,
        rate: int | None = None,
        resume: int | None = None,
        tablespace: str | None = None,
        until: Instant | None = None,
        until_positions: Sequence[str] | None = None,
    ) -> OperationAnswer:
        """Fold the log into a new generation besides the live one, or go on with one that was interrupted.

        Readers notice nothing. With `until` or `until_positions` it ends there, and is for looking at only.

        Args:
            why: why, for the audit.
            note: what it is for, for people.
            processes: that fold at a time; one for each core if not given.
            rate: records a second at most; the live fold keeps its latency.
            resume: go on with this generation.
            tablespace: postgreSQL's, of the new tables.
            until: the last instant of the log's clock that counts (RFC 3339).
            until_positions: the last record of its partition that counts, `partition:offset`.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                "/v1/generations:rebuild",
                {202: OperationAnswer},
                **json_body(
                    why=why,
                    note=note,
                    processes=processes,
                    rate=rate,
                    resume=resume,
                    tablespace=tablespace,
                    until=until,
                    until_positions=until_positions,
                ),
                is_repeatable=False,
            )
        )

    async def journal(
        self,
        *,
        from_: str | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> JournalAnswer:
        """The journal of all accounts, from a position or a time on, oldest first.

        Args:
            from_: positions of the first records, `partition:offset`, by comma. Only the partitions that are named are
                read. None: all of them, from their beginnings.
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                "/v1/journal",
                {200: JournalAnswer},
                query={"from": from_, "since": since, "until": until, "cursor": cursor, "limit": limit},
            )
        )

    async def journal_pages(
        self,
        *,
        from_: str | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[JournalAnswer]:
        """The pages of `journal`, one after the other until there are no more.

        Args:
            from_: positions of the first records, `partition:offset`, by comma. Only the partitions that are named are
                read. None: all of them, from their beginnings.
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.journal(from_=from_, since=since, until=until, cursor=cursor, limit=limit)
            yield page
            if (cursor := following(page)) is None:
                return
            from_ = None

    async def keys(self) -> Rows[KeyAnswer]:
        """All keys, revoked ones last; a caller that is limited to a prefix sees those within it."""
        return await self._send(Call("GET", "/v1/keys", {200: list[KeyAnswer]}))

    async def create_key(
        self,
        *,
        name: str,
        reason: str,
        scopes: Sequence[str],
        account_prefix: str | None = None,
        assets: Sequence[str] | None = None,
        burst: int | None = None,
        expires_at: Instant | None = None,
        most_amount: int | None = None,
        rate: float | None = None,
    ) -> NewKeyAnswer:
        """Make a key, with no scope that the caller's own hasn't, within the caller's limits, and not for longer.

        Args:
            name: becomes the source of each of its commands.
            reason: why, for the audit.
            scopes: what it opens.
            account_prefix: begins every account that it may touch.
            assets: those that it may name; none given: any.
            burst: requests at once; as many as in a second if not given.
            expires_at: when it ends; never if not given.
            most_amount: largest amount of one command.
            rate: requests a second; as the settings say if not given.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                "/v1/keys",
                {201: NewKeyAnswer},
                **json_body(
                    name=name,
                    reason=reason,
                    scopes=scopes,
                    account_prefix=account_prefix,
                    assets=assets,
                    burst=burst,
                    expires_at=expires_at,
                    most_amount=most_amount,
                    rate=rate,
                ),
                is_repeatable=False,
            )
        )

    async def revoke_key(self, key_id: str, *, reason: str) -> KeyAnswer:
        """Have a key open nothing any more, at the latest two seconds from now. Its row stays, for the audit.

        A caller that is limited to a prefix may revoke those within it.

        Args:
            key_id: the key's id.
            reason: why, for the audit.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "DELETE",
                path("/v1/keys/{key_id}", key_id=key_id),
                {200: KeyAnswer},
                query={"reason": reason},
                is_repeatable=False,
            )
        )

    async def rotate_key(
        self, key_id: str, *, reason: str, expires_at: Instant | None = None, overlap_s: int | None = None
    ) -> NewKeyAnswer:
        """Give a key a new text; the old one stays good for a while.

        The new text opens what the key's scopes say, so that the caller must have them all.

        Args:
            key_id: the key's id.
            reason: why, for the audit.
            expires_at: when the new text ends; as the old one if not given.
            overlap_s: seconds for which the old text stays good.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                path("/v1/keys/{key_id}:rotate", key_id=key_id),
                {200: NewKeyAnswer},
                **json_body(reason=reason, expires_at=expires_at, overlap_s=overlap_s),
                is_repeatable=False,
            )
        )

    async def log_record(self, partition: int, offset: int) -> LogRecordAnswer:
        """One record of the log, decoded, with its key and its headers. It needn't be folded yet, nor be a command.

        Args:
            partition: of the log.
            offset: in the partition.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET", path("/v1/log/{partition}/{offset}", partition=partition, offset=offset), {200: LogRecordAnswer}
            )
        )

    async def operations(self, *, limit: int | None = None, cursor: str | None = None) -> OperationsAnswer:
        """Long operations, newest first: those of the kinds that the caller's scopes open.

        Args:
            limit: rows of a page.
            cursor: `next` of the page before: this page begins where that one ended.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call("GET", "/v1/operations", {200: OperationsAnswer}, query={"limit": limit, "cursor": cursor})
        )

    async def operations_pages(
        self, *, limit: int | None = None, cursor: str | None = None
    ) -> AsyncIterator[OperationsAnswer]:
        """The pages of `operations`, one after the other until there are no more.

        Args:
            limit: rows of a page.
            cursor: `next` of the page before: this page begins where that one ended.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.operations(limit=limit, cursor=cursor)
            yield page
            if (cursor := following(page)) is None:
                return

    async def operation(self, number: int) -> OperationAnswer:
        """A long operation: how far it is, and what came of it."""
        return await self._send(Call("GET", path("/v1/operations/{number}", number=number), {200: OperationAnswer}))

    async def cancel_operation(self, number: int, *, why: str) -> OperationAnswer:
        """Have a rebuild, a comparison or a diff end early, in order: what a rebuild folded stays, to be resumed.

        Nothing changes where it has ended already. An activation can't be cancelled.

        Args:
            number: the operation's number.
            why: why, for the audit.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                path("/v1/operations/{number}:cancel", number=number),
                {200: OperationAnswer, 202: OperationAnswer},
                **json_body(why=why),
                is_repeatable=False,
            )
        )

    async def progress(self) -> Rows[ProgressAnswer]:
        """How far each partition of the log is folded."""
        return await self._send(Call("GET", "/v1/progress", {200: list[ProgressAnswer]}))

    async def rejections(
        self,
        *,
        from_: str | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> JournalAnswer:
        """What was rejected in all accounts, and why, from a position or a time on, oldest first.

        Args:
            from_: positions of the first records, `partition:offset`, by comma. Only the partitions that are named are
                read. None: all of them, from their beginnings.
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                "/v1/rejections",
                {200: JournalAnswer},
                query={"from": from_, "since": since, "until": until, "cursor": cursor, "limit": limit},
            )
        )

    async def rejections_pages(
        self,
        *,
        from_: str | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[JournalAnswer]:
        """The pages of `rejections`, one after the other until there are no more.

        Args:
            from_: positions of the first records, `partition:offset`, by comma. Only the partitions that are named are
                read. None: all of them, from their beginnings.
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            cursor: `next` of the page before: this page begins where that one ended.
            limit: rows of a page.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.rejections(from_=from_, since=since, until=until, cursor=cursor, limit=limit)
            yield page
            if (cursor := following(page)) is None:
                return
            from_ = None

    async def rules(self) -> RulesAnswer:
        """Which versions of the rules this release has, and which is in force in each partition since when."""
        return await self._send(Call("GET", "/v1/rules", {200: RulesAnswer}))

    async def diff(self, *, why: str, limit: int | None = None, rules: int | None = None) -> OperationAnswer:
        """Decide history again by other rules, or by this release's code, and show what would be decided otherwise.

        Args:
            why: why, for the audit.
            limit: differences that are named.
            rules: their version; if not given those that the log has in force, by this release's code.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                "/v1/rules:diff",
                {202: OperationAnswer},
                **json_body(why=why, limit=limit, rules=rules),
                is_repeatable=False,
            )
        )

    async def spent(
        self,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        asset: str | None = None,
        by: str | None = None,
        limit: int | None = None,
    ) -> SpentAnswer:
        """What all accounts spent in a time that begins and ends with an hour in UTC, by class, source and reason.

        Args:
            since: the first instant that counts (RFC 3339).
            until: the first instant that doesn't count any more (RFC 3339).
            asset: only this asset.
            by: what tells sums apart, by comma: class, source, reason. None: all of them that the key may read.
            limit: rows at most, the largest sums of each asset first.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                "/v1/spent",
                {200: SpentAnswer},
                query={"since": since, "until": until, "asset": asset, "by": by, "limit": limit},
            )
        )

    async def totals(self) -> Rows[TotalAnswer]:
        """Where all credits are and where they came from, by asset, as the fold keeps it."""
        return await self._send(Call("GET", "/v1/totals", {200: list[TotalAnswer]}))

    async def trial_balance(
        self, *, at: str | None = None, until: Instant | None = None, asset: str | None = None
    ) -> TrialBalanceAnswer:
        """The proof from the journal that what the accounts have is what was issued and didn't go elsewhere.

        Reads the whole journal, so there is one proof at a time. Where that takes too long for a request, `creditfold
        trial-balance` proves the same.

        Args:
            at: the last records that count, `partition:offset`, by comma.
            until: the last instant of the log's clock that counts.
            asset: only this asset.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET", "/v1/trial-balance", {200: TrialBalanceAnswer}, query={"at": at, "until": until, "asset": asset}
            )
        )

    async def webhook_endpoints(self) -> Rows[EndpointAnswer]:
        """All endpoints; a caller that is limited to a prefix sees those within it."""
        return await self._send(Call("GET", "/v1/webhook-endpoints", {200: list[EndpointAnswer]}))

    async def create_webhook_endpoint(
        self,
        *,
        reason: str,
        url: str,
        account_prefixes: Sequence[str] | None = None,
        description: str | None = None,
        from_start: bool | None = None,
        types: Sequence[str] | None = None,
    ) -> NewEndpointAnswer:
        """Have an endpoint called about what is decided from now on.

        It gets what `read:statement` reads, which the caller must have, of accounts within the caller's reach.

        Args:
            reason: why, for the audit.
            url: that is called, by https.
            account_prefixes: one begins each account that it is called about; none given: any.
            description: what it is for, in a few words.
            from_start: send all that was ever decided, not only what comes.
            types: of the events that it gets; none given: all.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                "/v1/webhook-endpoints",
                {201: NewEndpointAnswer},
                **json_body(
                    reason=reason,
                    url=url,
                    account_prefixes=account_prefixes,
                    description=description,
                    from_start=from_start,
                    types=types,
                ),
                is_repeatable=False,
            )
        )

    async def delete_webhook_endpoint(self, endpoint_id: str, *, reason: str) -> EndpointAnswer:
        """Remove an endpoint with all that waits for it, and answer with what it was.

        Args:
            endpoint_id: the endpoint's id.
            reason: why, for the audit.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "DELETE",
                path("/v1/webhook-endpoints/{endpoint_id}", endpoint_id=endpoint_id),
                {200: EndpointAnswer},
                query={"reason": reason},
                is_repeatable=False,
            )
        )

    async def webhook_endpoint(self, endpoint_id: str) -> EndpointAnswer:
        """An endpoint: what it gets, and how far it is."""
        return await self._send(
            Call("GET", path("/v1/webhook-endpoints/{endpoint_id}", endpoint_id=endpoint_id), {200: EndpointAnswer})
        )

    async def change_webhook_endpoint(
        self,
        endpoint_id: str,
        *,
        reason: str,
        account_prefixes: Sequence[str] | None = None,
        description: str | None = None,
        types: Sequence[str] | None = None,
        url: str | None = None,
    ) -> EndpointAnswer:
        """Change what an endpoint gets, or where it is; what is sent from now on goes there.

        Args:
            endpoint_id: the endpoint's id.
            reason: why, for the audit.
            account_prefixes: one begins each account that it is called about; empty: any.
            description: what it is for, in a few words.
            types: of the events that it gets; empty: all.
            url: that is called, by https.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "PATCH",
                path("/v1/webhook-endpoints/{endpoint_id}", endpoint_id=endpoint_id),
                {200: EndpointAnswer},
                **json_body(
                    reason=reason, account_prefixes=account_prefixes, description=description, types=types, url=url
                ),
                is_repeatable=False,
            )
        )

    async def webhook_attempts(
        self, endpoint_id: str, *, webhook_id: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> AttemptsAnswer:
        """An endpoint's requests, newest first, with how their answers began.

        Args:
            endpoint_id: the endpoint's id.
            webhook_id: only those of this event.
            limit: rows of a page.
            cursor: `next` of the page before: this page begins where that one ended.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/webhook-endpoints/{endpoint_id}/attempts", endpoint_id=endpoint_id),
                {200: AttemptsAnswer},
                query={"webhook_id": webhook_id, "limit": limit, "cursor": cursor},
            )
        )

    async def webhook_attempts_pages(
        self, endpoint_id: str, *, webhook_id: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> AsyncIterator[AttemptsAnswer]:
        """The pages of `webhook_attempts`, one after the other until there are no more.

        Args:
            endpoint_id: the endpoint's id.
            webhook_id: only those of this event.
            limit: rows of a page.
            cursor: `next` of the page before: this page begins where that one ended.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.webhook_attempts(endpoint_id, webhook_id=webhook_id, limit=limit, cursor=cursor)
            yield page
            if (cursor := following(page)) is None:
                return

    async def webhook_deliveries(
        self, endpoint_id: str, *, state: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> DeliveriesAnswer:
        """What waits for an endpoint, or was given up, oldest first.

        Args:
            endpoint_id: the endpoint's id.
            state: pending, or parked.
            limit: rows of a page.
            cursor: `next` of the page before: this page begins where that one ended.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "GET",
                path("/v1/webhook-endpoints/{endpoint_id}/deliveries", endpoint_id=endpoint_id),
                {200: DeliveriesAnswer},
                query={"state": state, "limit": limit, "cursor": cursor},
            )
        )

    async def webhook_deliveries_pages(
        self, endpoint_id: str, *, state: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> AsyncIterator[DeliveriesAnswer]:
        """The pages of `webhook_deliveries`, one after the other until there are no more.

        Args:
            endpoint_id: the endpoint's id.
            state: pending, or parked.
            limit: rows of a page.
            cursor: `next` of the page before: this page begins where that one ended.

        Yields:
            Each page; its `next`, as `cursor`, goes on behind it.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        while True:
            page = await self.webhook_deliveries(endpoint_id, state=state, limit=limit, cursor=cursor)
            yield page
            if (cursor := following(page)) is None:
                return

    async def disable_webhook_endpoint(self, endpoint_id: str, *, reason: str) -> EndpointAnswer:
        """Call an endpoint no more. What is for it waits until it is enabled again.

        Args:
            endpoint_id: the endpoint's id.
            reason: why, for the audit.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                path("/v1/webhook-endpoints/{endpoint_id}:disable", endpoint_id=endpoint_id),
                {200: EndpointAnswer},
                **json_body(reason=reason),
                is_repeatable=False,
            )
        )

    async def enable_webhook_endpoint(
        self, endpoint_id: str, *, reason: str, from_now: bool | None = None
    ) -> EndpointAnswer:
        """Call an endpoint again, and send it what came meanwhile.

        Args:
            endpoint_id: the endpoint's id.
            reason: why, for the audit.
            from_now: leave out what came meanwhile.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                path("/v1/webhook-endpoints/{endpoint_id}:enable", endpoint_id=endpoint_id),
                {200: EndpointAnswer},
                **json_body(reason=reason, from_now=from_now),
                is_repeatable=False,
            )
        )

    async def resend_webhooks(
        self,
        endpoint_id: str,
        *,
        reason: str,
        account_prefix: str | None = None,
        first: str | None = None,
        last: str | None = None,
        since: Instant | None = None,
        type: str | None = None,
        until: Instant | None = None,
        webhook_id: str | None = None,
    ) -> ResentAnswer:
        """Send events again, by the same ids: one, a range of positions, or what was given up.

        Args:
            endpoint_id: the endpoint's id.
            reason: why, for the audit.
            account_prefix: only of accounts that begin so.
            first: the first position of a range, `partition:offset`.
            last: the last position of the range.
            since: only what failed first at this instant or later.
            type: of what was given up, only events of this type.
            until: only what failed first before this instant.
            webhook_id: of one event that waits or was given up.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                path("/v1/webhook-endpoints/{endpoint_id}:resend", endpoint_id=endpoint_id),
                {202: ResentAnswer},
                **json_body(
                    reason=reason,
                    account_prefix=account_prefix,
                    first=first,
                    last=last,
                    since=since,
                    type=type,
                    until=until,
                    webhook_id=webhook_id,
                ),
                is_repeatable=False,
            )
        )

    async def rotate_webhook_secret(
        self, endpoint_id: str, *, reason: str, overlap_s: int | None = None
    ) -> NewEndpointAnswer:
        """Give an endpoint a new secret and a new key; the old ones sign too for a while.

        Args:
            endpoint_id: the endpoint's id.
            reason: why, for the audit.
            overlap_s: seconds for which the old one signs too.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                path("/v1/webhook-endpoints/{endpoint_id}:rotate", endpoint_id=endpoint_id),
                {200: NewEndpointAnswer},
                **json_body(reason=reason, overlap_s=overlap_s),
                is_repeatable=False,
            )
        )

    async def test_webhook_endpoint(self, endpoint_id: str, *, reason: str) -> ResentAnswer:
        """Send an endpoint an `endpoint.test`, whatever it asks for. Its attempts show what came of it.

        Args:
            endpoint_id: the endpoint's id.
            reason: why, for the audit.

        Returns:
            The answer.

        Raises:
            ClientError: it was refused, or couldn't be asked in time.
        """
        return await self._send(
            Call(
                "POST",
                path("/v1/webhook-endpoints/{endpoint_id}:test", endpoint_id=endpoint_id),
                {202: ResentAnswer},
                **json_body(reason=reason),
                is_repeatable=False,
            )
        )
