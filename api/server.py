"""Runs the application with uvicorn until it is stopped. Owns the server's bounds: connections, headers, idle time."""

import asyncio
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack

import uvicorn
from fastapi import FastAPI

from creditfold.api.app import create_app
from creditfold.api.connection import Connection
from creditfold.api.metrics import FOR_METRICS
from creditfold.api.requests import MOST_HEAD_BYTES
from creditfold.common.errors import ResourceError
from creditfold.common.settings import Settings
from creditfold.common.spans import SPANS

#: Connections at once; the next are answered with 503.
MOST_CONNECTIONS = 4_096
#: Seconds after which a silent connection is closed.
IDLE_S = 30
#: Seconds for requests under way once the server is asked to stop.
STOP_S = 20
#: Connections that wait to be taken.
BACKLOG = 2_048
#: Files that the process needs besides connections of clients: those to Kafka and PostgreSQL, and its own.
OTHER_FILES = 512


class ListenError(ResourceError):
    """The address can't be listened on."""


class Server(uvicorn.Server):
    """uvicorn's, which lets the application know that it is about to stop, and serves metrics at an address of theirs.

    Args:
        config: how it runs the application.
        for_metrics: listens at that address; None: there is none.
    """

    def __init__(self, config: uvicorn.Config, for_metrics: socket.socket | None = None) -> None:
        super().__init__(config)
        self._for_metrics = for_metrics

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve at both addresses."""
        await super().startup(sockets)
        if self._for_metrics is not None:
            loop = asyncio.get_running_loop()
            self.servers.append(await loop.create_server(self._metrics_connection, sock=self._for_metrics))

    def _metrics_connection(self) -> Connection:
        return Connection(self.config, self.server_state, {**self.lifespan.state, FOR_METRICS: True})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and answer what is under way."""
        self.config.app.state.service.stop()  # type: ignore[union-attr]
        await super().shutdown(sockets)


#: Adds pages to an application.
Install = Callable[[FastAPI], None]


def config_of(settings: Settings, *, is_open: bool, install: Install | None = None) -> uvicorn.Config:
    """How the server runs the application, `install` being as `create_app` has it."""
    return uvicorn.Config(
        create_app(settings, is_open=is_open, install=install),
        host=settings.api_host,
        port=settings.api_port,
        # By name: what reads requests must not depend on what else is installed.
        http=Connection,
        ws="none",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=STOP_S,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        server_header=False,
        # The audit has the address of who connected, not what a header says.
        proxy_headers=False,
        access_log=False,
        log_config=None,
    )


def serve(settings: Settings, *, is_open: bool, install: Install | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C; what is under way is answered first. Raises ListenError."""
    config = config_of(settings, is_open=is_open, install=install)
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        # Raised again by uvicorn once all is answered; to be stopped is no failure.
        signal.signal(signal_, lambda *_: None)
    config.limit_concurrency = min(MOST_CONNECTIONS, max(1, _files() - OTHER_FILES))
    # Ours, since uvicorn would only log what is the matter with it.
    with ExitStack() as opened:
        at = settings.metrics_at("api")
        for_metrics = None if at is None else opened.enter_context(listening(*at))
        own = opened.enter_context(listening(settings.api_host, settings.api_port))
        opened.enter_context(SPANS.sent("serve", settings.otlp_endpoint))
        Server(config, for_metrics).run(sockets=[own])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ListenError."""
    try:
        (family, *_), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        # Python adds the address in its own way.
        why = str(error.strerror).partition(" (while")[0]
        raise ListenError(
            f"The port {port} on {host} can't be listened on: {why}.",
            "Stop what listens there, or choose another: --port and --host, or CREDITFOLD_API_PORT, _API_HOST and "
            "_API_METRICS_ADDRESS.",
        ) from None


def _files() -> int:
    """How many files the process may have open; raises that to what is needed, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if soft in range(wanted):
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft
