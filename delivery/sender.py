"""Sends requests by HTTP, to public addresses only. Owns connections, their bounds, and what is kept of an answer.

A name is resolved once for a connection, each of its addresses is judged where it is connected to, and that very one is
called: a name that resolves anew meanwhile changes nothing. No redirect is followed, no proxy of the environment is
asked, no cookie is kept, nothing is unpacked. A receiver has fifteen seconds for all of it, and is read a KiB.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from creditfold.common.lookalikes import escaped
from creditfold.delivery.addresses import Network, refusal

#: Seconds for a request, from the look-up of the name to the end of what is read of the answer.
REQUEST_S = 15.0
#: Bytes of an answer that are read and kept.
ANSWER_BYTES = 1_024
#: Names that are looked up at once. One that nobody answers takes a thread for as long as the system's resolver tries.
RESOLVERS = 64
#: Connections at once. Endpoints have a bound each (runner.py), which is far lower.
MOST_CONNECTIONS = 2_000
#: Seconds for which an idle connection is kept.
KEEP_S = 30.0
#: Characters that are kept of an error.
MOST_CHARACTERS = 300

USER_AGENT = "creditfold-webhooks/1"


class RefusedAddressError(OSError):
    """An address that may not be called."""


class Answer(NamedTuple):
    """What came of a request: its status, None if there was no answer, and why; how it begins; Retry-After."""

    status: int | None
    latency_ms: int
    error: str
    head: bytes
    retry_after: str = ""


class _Resolver(AbstractResolver):
    """Looks names up in threads of its own, so that those that nobody answers hold up nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="creditfold-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _socket_factory(allowed: Sequence[Network], *, is_secure: bool) -> Callable[[Any], socket.socket]:
    def made(info: Any) -> socket.socket:
        family, kind, proto, _, address = info
        why = refusal(str(address[0]), allowed, is_secure=is_secure)
        if why:
            raise RefusedAddressError(why)
        return socket.socket(family, kind, proto)

    return made


class Sender:
    """Sends requests; made and closed within an event loop.

    Args:
        allowed: networks that may be called though they aren't public.
        resolver: looks names up; the system's if not given.
    """

    def __init__(self, allowed: Sequence[Network], resolver: AbstractResolver | None = None) -> None:
        self._resolver = _Resolver() if resolver is None else resolver
        self._sessions = {is_secure: self._session(allowed, is_secure=is_secure) for is_secure in (True, False)}

    def _session(self, allowed: Sequence[Network], *, is_secure: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=self._resolver,
            # Each connection asks anew.
            use_dns_cache=False,
            socket_factory=_socket_factory(allowed, is_secure=is_secure),
            limit=MOST_CONNECTIONS,
            keepalive_timeout=KEEP_S,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=REQUEST_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            # What isn't asked for isn't sent: an endpoint learns of nobody else.
            headers={"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()
        await self._resolver.close()

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a request; whatever goes wrong is in the answer."""
        began = time.monotonic()
        session = self._sessions[url.startswith("https:")]
        try:
            async with asyncio.timeout(REQUEST_S):
                async with session.post(
                    url, data=body, headers={"Content-Type": "application/json", **headers}, allow_redirects=False
                ) as response:
                    head = await _head_of(response)
                    if not response.content.at_eof():
                        # What is left isn't waited for.
                        response.close()
                    retry_after = response.headers.get("Retry-After", "")
                    return Answer(response.status, _ms_since(began), _why_not(response), head, retry_after[:100])
        except TimeoutError:
            return Answer(None, _ms_since(began), f"no answer within {REQUEST_S:g} s", b"")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(None, _ms_since(began), _said(error), b"")


async def _head_of(response: aiohttp.ClientResponse) -> bytes:
    head = b""
    while len(head) < ANSWER_BYTES:
        part = await response.content.read(ANSWER_BYTES - len(head))
        if not part:
            break
        head += part
    return head


def _why_not(response: aiohttp.ClientResponse) -> str:
    if 200 <= response.status < 300:
        return ""
    where = response.headers.get("Location")
    led = f", which leads to {where[:100]!r}" if where is not None and 300 <= response.status < 400 else ""
    return f"status {response.status}{led}"


def _said(error: BaseException) -> str:
    """An error in one line. Nothing of a request is in it."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    text = str(inner) or type(inner).__name__
    return escaped(" ".join(text.split()))[:MOST_CHARACTERS]


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
