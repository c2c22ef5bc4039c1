"""The client for asyncio. `client.py` is made from this file: the same, without `async` and `await`.

Owns the connection. What is sent and what an answer means is said by `calls`, when it is sent again by `retries`.
"""

from asyncio import sleep
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Self, TypeVar

import httpx
from tenacity import AsyncRetrying

from creditfold.client import calls
from creditfold.client.answers import AcceptedAnswer, OutcomeAnswer, PreviewAnswer
from creditfold.client.async_reads import AsyncReads
from creditfold.client.calls import Call, Received
from creditfold.client.errors import OutcomePendingError
from creditfold.client.retries import SILENT_S, Attempts, Deadline
from creditfold.client.shapes import Command
from creditfold.client.streams import Event, Follower, Line, Opening, Pieces, each_async

T = TypeVar("T")

#: Seconds between two connections of one stream, as the server asks of browsers.
_RECONNECT_S = 1.0


class AsyncClient(AsyncReads):
    """A client of the HTTP door, for asyncio.

    It has the methods of Client, to be awaited or iterated with `async for`; `aclose` closes it.

    Every call is tried again while the server can't be reached, is busy, or has Kafka or PostgreSQL away, for `retry_s`
    seconds at most. A command is sent again under its own id, so it counts once. Tasks may share a client.

    Args:
        url: where the door is, as `https://ledger.example`.
        key: `cfk_...`, or a token of the identity provider; None for a door that takes requests without one.
        retry_s: seconds after which a call that fails isn't tried again; 0 for a single try.
        http: your own client of httpx, for proxies, certificates or pools. It stays yours to close.

    Raises:
        ValueError: the URL is none, or the key can't be one.

    Example:
        >>> ledger = AsyncClient("https://ledger.example", key="cfk_...", retry_s=10)
    """

    def __init__(
        self, url: str, key: str | None = None, *, retry_s: float = 30.0, http: httpx.AsyncClient | None = None
    ) -> None:
        self._url = calls.base_url(url)
        self._headers = calls.authorization(key)
        self._retry_s = retry_s
        self._is_own = http is None
        self._http = httpx.AsyncClient(follow_redirects=False) if http is None else http

    async def __aenter__(self) -> Self:
        """Use it for a block."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections."""
        if self._is_own:
            await self._http.aclose()

    async def append_and_wait(self, command: Command, *, timeout_s: float = 30.0) -> OutcomeAnswer:
        """Append a command and wait for its outcome.

        Args:
            command: what to do, with the id under which it counts once.
            timeout_s: seconds for which to try, and to wait for the outcome; some five more where the server is silent.

        Returns:
            The outcome: look at `accepted` before anything is delivered; else `reason` says why not. A repeat has the
            first one's outcome.

        Raises:
            OutcomePendingError: it is in the log, and not decided in time.
            IdReusedError: the id was used for another command, which stands.
            ClientError: it was refused or couldn't be sent; `maybe_written` says whether it may be in the log.
        """
        deadline = Deadline(timeout_s)
        is_written = False
        while True:
            call = calls.append(command, deadline.left_s(), is_written=is_written)
            found = await self._send(call, deadline.left_s())
            if isinstance(found, OutcomeAnswer):
                return found
            if deadline.is_over():
                raise OutcomePendingError(command, found.position)
            # A repeat is answered with the first one's outcome, and needs no other scope than the command does.
            is_written = True

    async def append(self, command: Command) -> AcceptedAnswer:
        """Append a command, and don't wait for its outcome.

        Returns:
            Where it is in the log: `outcome_at` with its `position` waits for the outcome.

        Raises:
            ClientError: it was refused or couldn't be sent; `maybe_written` says whether it may be in the log.
        """
        return await self._send(calls.submit(command))

    async def outcome_at(self, command: Command, position: str, *, timeout_s: float = 30.0) -> OutcomeAnswer:
        """Wait for the outcome of a command that is in the log. The key needs the scope `read:statement`.

        Args:
            command: what was appended.
            position: where it is, `partition:offset`, as `append` and OutcomePendingError say it.
            timeout_s: seconds for which to wait.

        Returns:
            The outcome of this very record.

        Raises:
            OutcomePendingError: it wasn't decided in time.
            ClientError: the server couldn't be asked.
        """
        deadline = Deadline(timeout_s)
        while True:
            call = calls.outcome_at(command, position, deadline.left_s())
            found = await self._send(call, deadline.left_s())
            if isinstance(found, OutcomeAnswer):
                return found
            if deadline.is_over():
                raise OutcomePendingError(command, position)

    async def preview(self, command: Command) -> PreviewAnswer:
        """Decide a command on its account as folded, and write nothing.

        Returns:
            What it would come to at that position: the lots that it would take, and the balances afterwards.
        """
        return await self._send(calls.preview(command))

    async def append_many(
        self, commands: AsyncIterable[Command] | Iterable[Command], *, is_waiting: bool = True
    ) -> AsyncIterator[Line]:
        """Append many commands. They are sent in pieces of some 60 kB, which is all that is kept of them.

        A piece whose connection breaks is sent again under the same ids, and so are those of a server that is away.

        Args:
            commands: what to do, those of one account in their order.
            is_waiting: whether to wait for outcomes; else an answer is that a command is in the log.

        Yields:
            Each command with its answer, in their order. A refused one has its problem as its answer and ends nothing.

        Raises:
            ClientError: a piece couldn't be sent in `retry_s` seconds. Send all commands again that had no answer,
                from `command` on, under the same ids.
        """
        pieces = Pieces(is_waiting=is_waiting)
        async for command in each_async(commands):
            for piece in pieces.add(command):
                for line in await self._send(piece):
                    yield line
        for piece in pieces.rest():
            for line in await self._send(piece):
                yield line

    async def outcomes(self, *, after: str | None = None, account_prefix: str | None = None) -> AsyncIterator[Event]:
        """Follow outcomes as they are decided. After a cut it goes on where it was: none is missing, none comes twice.

        Args:
            after: the id of the last event that is known; `start` for all there ever was, None for those from now on.
            account_prefix: begins the accounts whose outcomes are wanted.

        Yields:
            Each outcome. Keep its `id` with what you make of it, and hand it over as `after` when you start again.

        Raises:
            ClientError: the server couldn't be reached again within `retry_s` seconds, or refuses.
        """
        follower = Follower(after, account_prefix)
        while True:
            response = await self._opened(follower.opening())
            try:
                async for block in response.aiter_bytes():
                    for event in follower.received(block):
                        yield event
            except httpx.TransportError:
                pass  # As where the server ends the stream.
            finally:
                await response.aclose()
            await sleep(_RECONNECT_S)

    async def _opened(self, call: Opening) -> httpx.Response:
        """The answer to a call, without its body."""
        attempts = Attempts(call, self._retry_s)
        async for attempt in AsyncRetrying(**attempts.policy):
            with attempt:
                try:
                    response = await self._http.send(self._request(call, httpx.Timeout(SILENT_S)), stream=True)
                    if response.status_code == 200:
                        return response
                    attempts.read(Received(response.status_code, response.headers, await response.aread()))
                except httpx.TransportError as error:
                    raise attempts.broken(error) from error
        raise AssertionError("tenacity returns or raises")

    async def _send(self, call: Call[T], bound_s: float | None = None) -> T:
        attempts = Attempts(call, self._retry_s if bound_s is None else bound_s)
        async for attempt in AsyncRetrying(**attempts.policy):
            with attempt:
                try:
                    response = await self._http.send(self._request(call, attempts.timeout()))
                except httpx.TransportError as error:
                    raise attempts.broken(error) from error
                return attempts.read(Received(response.status_code, response.headers, response.content))
        raise AssertionError("tenacity returns or raises")

    def _request(self, call: Call[T], timeout: httpx.Timeout) -> httpx.Request:
        return self._http.build_request(
            call.method,
            self._url + call.path,
            params=call.parameters,
            headers={**self._headers, **call.encoded_headers},
            content=call.content,
            timeout=timeout,
        )
