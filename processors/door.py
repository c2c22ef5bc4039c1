"""Asks this machine's HTTP door how it is. Knows its address and its routes of health, and nothing else of it."""

from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

from creditfold.common.errors import CreditfoldError
from creditfold.common.settings import Settings

#: Seconds that a door has to answer.
ANSWER_S = 10.0


class DoorError(CreditfoldError):
    """The HTTP door doesn't serve, or can't do its work."""


def url_of(settings: Settings) -> str:
    """Where this machine reaches the HTTP door of these settings."""
    return f"http://{_address(settings)}"


def is_ready(settings: Settings) -> bool:
    """Whether an HTTP door of these settings answers on this machine, and Kafka and PostgreSQL answer it."""
    return _status(settings, "/health/ready") == HTTPStatus.OK


def refuse_unready(settings: Settings, *, live: bool) -> str:
    """Judge this machine's HTTP door, and return what to report.

    Args:
        settings: where it listens.
        live: pass one that answers at all.

    Raises:
        DoorError: it doesn't answer, or a server that it needs is away.
    """
    path = "/health/live" if live else "/health/ready"
    status = _status(settings, path)
    if status != HTTPStatus.OK:
        raise DoorError(
            f"The HTTP door at {url_of(settings)} "
            + ("doesn't answer." if status is None else f"answers {path} with {status}."),
            "Is `creditfold serve` running?" if status is None else f"curl {url_of(settings)}{path} says what is away.",
        )
    return f"The HTTP door is {'alive' if live else 'ready'}."


def _status(settings: Settings, path: str) -> int | None:
    connection = HTTPConnection(_address(settings), timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _address(settings: Settings) -> str:
    # One that listens on all addresses is asked on loopback.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.api_host, settings.api_host)  # noqa: S104 - Read, not bound.
    return f"{f'[{host}]' if ':' in host else host}:{settings.api_port}"
