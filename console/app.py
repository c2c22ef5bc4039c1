"""Adds the console to the application of the HTTP door: `creditfold serve` shows it under `/console`."""

from fastapi import FastAPI

from creditfold.console import (
    account,
    books,
    command,
    helping,
    login,
    long_operations,
    mending,
    operation,
    search,
    static_files,
    transit,
    unknown,
)
from creditfold.console.provider import Attempts
from creditfold.console.sessions import Sessions

#: Those that have routes; what none of the others has is the last one's.
_MODULES = (
    *(static_files, login, search, account, command, helping, books),
    *(operation, transit, long_operations, mending, unknown),
)


def install(app: FastAPI) -> None:
    """Add the pages to an application.

    Args:
        app: of the HTTP door, whose service the pages read with.
    """
    app.state.console_sessions = Sessions()
    app.state.console_looks = operation.Looks()
    app.state.console_attempts, app.state.console_provider = Attempts(), None
    for module in _MODULES:
        module.router.add_to(app)
