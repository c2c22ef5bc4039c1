"""Has Python import the compiled modules of a checkout while they stand for its sources, and the sources otherwise.

Comes with an editable install and the .pth file that imports it. Owns where a checkout keeps its compiled core, and the
comparison by content that decides whether it may be used: an edited source is never hidden by what was compiled of its
older text. Knows nothing of compilers, and imports nothing of creditfold's.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

#: The variable that chooses the core: `plain` or `compiled`; unset, the compiled one where there is one.
VARIABLE = "CREDITFOLD_CORE"
#: In the folder of a compiled core: what it was compiled of, or why there is none.
RECORD = "core.json"
AGAIN = "make compiled, or without make: pip install -e ."


class Reason(NamedTuple):
    """Why plain Python runs, and what to do about it."""

    why: str
    remedy: str


class CoreError(ImportError):
    """The core that the environment asks for can't be run."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(f"{why} Try: {remedy}")
        self.why = why
        self.remedy = remedy


class Checkout:
    """A checkout's compiled core, for the Python that runs."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self.folder = os.path.join(self.root, ".creditfold", "compiled", str(sys.implementation.cache_tag))

    def record(self) -> dict[str, Any] | None:
        """What the last compilation left: of which sources, and its modules or the reason why there are none."""
        import json

        try:
            with open(os.path.join(self.folder, RECORD), encoding="utf-8") as file:
                found: dict[str, Any] = json.load(file)
        except (OSError, ValueError):
            return None
        return found

    def reason(self) -> Reason | None:
        """Why a process that starts now runs plain Python; None where it runs the compiled core."""
        if chosen() == "plain":
            return Reason(f"{VARIABLE}=plain asks for it", f"Unset {VARIABLE}.")
        record = self.record()
        if record is None:
            return Reason("this checkout isn't compiled yet", AGAIN)
        if record["python"] != sys.version:
            return Reason("this checkout was compiled for another Python", AGAIN)
        changed = self.changed(record["sources"])
        if changed is not None:
            return Reason(f"{changed} isn't as it was compiled", AGAIN)
        return Reason(*record["plain"]) if record["plain"] else None

    def changed(self, sources: Mapping[str, str]) -> str | None:
        """The first source whose content isn't the one with this digest."""
        return next((path for path, seen in sources.items() if self.digest(path) != seen), None)

    def digest(self, path: str) -> str:
        """The digest of a source's content; an empty text where it can't be read."""
        from hashlib import blake2b

        try:
            with open(os.path.join(self.root, path), "rb") as file:
                return blake2b(file.read(), digest_size=16).hexdigest()
        except OSError:
            return ""

    @contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Hold the lock that a compilation holds; shared, to wait for its end."""
        import fcntl

        os.makedirs(self.folder, exist_ok=True)
        with open(os.path.join(self.folder, "lock"), "a") as file:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield

    def is_being_compiled(self) -> bool:
        """Whether a compilation is at work that decides which core a process runs that starts when it is done."""
        import fcntl

        if chosen() == "plain":
            return False
        try:
            with open(os.path.join(self.folder, "lock"), "a") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            # There is no such folder: nothing was ever compiled.
            return False
        return False


def chosen() -> str | None:
    """The core that the environment asks for. Raises CoreError if it asks for none that there is."""
    core = os.environ.get(VARIABLE) or None
    if core not in (None, "plain", "compiled"):
        raise CoreError(f"{VARIABLE} is plain, compiled or unset, and not {core!r}.", f"Unset {VARIABLE}.")
    return core


class CompiledFinder:
    """Finds the compiled modules of a checkout, all of them or none: they call each other by their places in memory."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout
        self._files: dict[str, str] | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The compiled module of that name, if its source is the checkout's own."""
        # Of the second kind is what mypyc's modules have in common.
        if not name.startswith(("creditfold.", "creditfold__")):
            return None
        if name.startswith("creditfold."):
            *folders, _ = name.split(".")[1:]
            # The command line is never compiled, and has to come up to report which core can't be had.
            if not folders or not path or folders[0] == "cli":
                return None
            # Another tree on PYTHONPATH has other sources by the same names.
            if os.path.realpath(path[0]) != os.path.join(self.checkout.root, *folders):
                return None
        if self._files is None:
            self._files = self._usable()
        file = self._files.get(name)
        if file is None:
            return None
        from importlib.util import spec_from_file_location

        return spec_from_file_location(name, file)

    def _usable(self) -> dict[str, str]:
        reason = self.checkout.reason()
        if reason is None:
            record = self.checkout.record() or {}
            folder = os.path.join(self.checkout.folder, record["folder"])
            return {name: os.path.join(folder, file) for name, file in record["modules"].items()}
        if chosen() == "compiled":
            raise CoreError(f"{VARIABLE}=compiled, and there is no compiled core: {reason.why}.", reason.remedy)
        return {}


def install(root: str) -> None:
    """Have the imports of this process find the compiled modules of the checkout in that folder."""
    sys.meta_path.insert(0, CompiledFinder(Checkout(root)))


def installed_root() -> str | None:
    """The folder of the checkout that this process imports compiled, if it may."""
    return next((one.checkout.root for one in sys.meta_path if isinstance(one, CompiledFinder)), None)
