"""Reports which core a process runs, the compiled one or plain Python's, and why it isn't the compiled one.

How it is compiled, and what a checkout imports, is the business of `building/`, which leaves the reason with the
installed distribution or, in a checkout, returns it through the module that it installed.
"""

import importlib
import json
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent

#: What creditfold_backend names the file in which a plain wheel says why it is plain.
_PLAIN = "plain-core.json"


class Core(NamedTuple):
    """Which core runs: the compiled one, or plain Python's, then with the reason and what to do about it."""

    is_compiled: bool
    why: str = ""
    remedy: str = ""

    @property
    def name(self) -> str:
        """Its name, as it stands in a line of output."""
        return "the compiled core" if self.is_compiled else "plain Python"

    @property
    def warning(self) -> str:
        """One line for who expects the compiled core; an empty one where it runs."""
        if self.is_compiled:
            return ""
        return f"plain Python runs, several times slower than the compiled core: {self.why}. Try: {self.remedy}"


def running_core() -> Core:
    """The core that this process runs."""
    spec = find_spec("creditfold.log.reader")
    if spec is not None and not str(spec.origin).endswith(".py"):
        return Core(is_compiled=True)
    return _plain(_checkout())


def next_core() -> Core:
    """The core that a process started now would run: in a checkout, it may have been compiled since this one began."""
    checkout = _checkout()
    if checkout is None:
        return running_core()
    return Core(is_compiled=True) if checkout.reason() is None else _plain(checkout)


def await_compilation() -> None:
    """Wait for the end of a compilation of this checkout, if one is at work."""
    checkout = _checkout()
    if checkout is not None:
        with checkout.locked(shared=True):
            pass


def is_being_compiled() -> bool:
    """Whether this checkout is being compiled just now."""
    checkout = _checkout()
    return checkout is not None and bool(checkout.is_being_compiled())


def _checkout() -> Any:
    """The checkout's own record of its core, None where this isn't one that was installed to be edited."""
    try:
        module = importlib.import_module("creditfold_installed")
    except ImportError:
        return None
    checkout = module.Checkout(str(ROOT))
    return checkout if checkout.root == module.installed_root() else None


def _plain(checkout: Any) -> Core:
    reason = checkout.reason() if checkout is not None else _reason_of_install()
    if reason is None:
        return Core(False, "it was compiled while this ran", "Start it again.")
    return Core(False, *reason)


def _reason_of_install() -> tuple[str, str]:
    try:
        text = distribution("creditfold").read_text(_PLAIN)
    except PackageNotFoundError:
        text = None
    if text is None:
        return "it runs from sources that weren't installed", "pip install creditfold"
    said = json.loads(text)
    return said["why"], said["remedy"]
