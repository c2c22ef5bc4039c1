"""Runs the application with uvicorn until it is stopped. Owns the server's bounds: connections, headers, idle time."""

import asyncio
import ipaddress

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from creditfold.api.app import create_app
from creditfold.common.settings import Settings

#: Connections at once; the next are answered with 503.
MOST_CONNECTIONS = 4_096
#: Seconds after which a silent connection is closed.
IDLE_S = 30
#: Seconds for requests under way once the server is asked to stop.
STOP_S = 20


class Connection(H11Protocol):
    """A connection whose requests can cut it (`abort`) and learn that the server stops (`stopping`), by their state."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve, as the server calls it."""
        super().connection_made(transport)
        self._stopping = asyncio.Event()
        self.app_state = {**self.app_state, "abort": transport.abort, "stopping": self._stopping}

    def shutdown(self) -> None:
        """End after the request under way, as the server calls it; a stream without an end ends now."""
        super().shutdown()
        self._stopping.set()


def config_of(settings: Settings, *, is_open: bool) -> uvicorn.Config:
    """How the server runs the application."""
    return uvicorn.Config(
        create_app(settings, is_open=is_open),
        host=settings.api_host,
        port=settings.api_port,
        http=Connection,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=STOP_S,
        h11_max_incomplete_event_size=32_768,
        server_header=False,
        access_log=False,
        log_config=None,
    )


def serve(settings: Settings, *, is_open: bool) -> None:
    """Serve until SIGTERM or Ctrl-C; what is under way is answered first."""
    uvicorn.Server(config_of(settings, is_open=is_open)).run()


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
