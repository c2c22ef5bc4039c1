"""Which extra of the package brings which library, and the error where one isn't installed.

A service that only produces installs three libraries; all else is an extra (pyproject.toml, docs/installing.md). It
stands in the lowest room so that each room above can say what it needs. Imports none of what it names.
"""

import importlib.util
import sys
from collections.abc import Mapping

from creditfold.common.errors import CreditfoldError

__all__ = ["MissingExtraError"]

#: What each extra adds, by the name it is imported by, the smallest extra first. All but `client` include `read`.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "read": ("psycopg", "psycopg_pool", "pydantic_settings", "tenacity"),
    "client": ("httpx", "tenacity"),
    "cli": ("rich", "structlog", "typer"),
    "api": (
        "authlib",
        "cryptography",
        "fastapi",
        "graphql",
        "h11",
        "jinja2",
        "joserfc",
        "prometheus_client",
        "requests",
        "starlette",
        "strawberry",
        "uvicorn",
    ),
    "delivery": ("aiohttp", "cryptography"),
    "embedded": ("jgo", "requests", "truststore"),
    "worker": ("aiokafka", "cramjam", "faust"),
    "otel": ("opentelemetry",),
}


class MissingExtraError(CreditfoldError, ImportError):
    """A part of creditfold is used whose libraries aren't installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"{library} isn't installed, which the extra [{extra}] brings.", f"pip install 'creditfold[{extra}]'"
        )


def require(extra: str) -> None:
    """See that an extra's libraries are installed, without importing them. Raises MissingExtraError."""
    for library in EXTRAS[extra]:
        # Faust puts another object in its own place when it is imported, of which Python can't be asked any more.
        if library not in sys.modules and importlib.util.find_spec(library) is None:
            raise MissingExtraError(library, extra)


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """The error that names the extra for a failed import; None where no extra brings the module."""
    library = (error.name or "").partition(".")[0]
    return next((MissingExtraError(library, extra) for extra, names in EXTRAS.items() if library in names), None)
