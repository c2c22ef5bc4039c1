"""Adds to the error of an embedded server that doesn't answer in which data folder it was looked for.

Knows no command, and looks at nothing but the data folder.
"""

import re

from creditfold.common.errors import CreditfoldError

#: The sentence of a remedy that the folder's own replaces; what follows it is about the command.
_START = re.compile(r"[^.]*`creditfold up`[^.]*\.\s*")


def placed(error: CreditfoldError) -> tuple[str, str]:
    """The message and the remedy of an error, with the data folder where it is about a server that should run there."""
    found = _advice(error.away) if error.away else None
    if found is None:
        return error.message, error.remedy
    return f"{error.message} {found[0]}", f"{found[1]} {_START.sub('', error.remedy, count=1)}".strip()


def _advice(server: str) -> tuple[str, str] | None:
    from creditfold.common.settings import load_settings
    from creditfold.stack.embedded import advice

    try:
        return advice(load_settings(), server)
    except CreditfoldError:  # The settings themselves are wrong, or the folder is another user's.
        return None
