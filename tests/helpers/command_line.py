"""Runs `creditfold` in the process of the tests, with the settings of a test."""

import io
import subprocess
from contextlib import redirect_stderr, redirect_stdout

import pytest

from creditfold.cli.main import _run
from creditfold.common.settings import Settings, load_settings
from helpers import fork_server
from helpers.support import HANG_S, environment


def use(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the commands of this process read these settings."""
    for name, value in environment(settings).items():
        if name.startswith("CREDITFOLD_"):
            monkeypatch.setenv(name, value)
    load_settings.cache_clear()


def run(
    settings: Settings, *arguments: str, check: bool = True, program: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run `creditfold` with these settings: here, or another program in its place in a process of its own."""
    if program:
        done = fork_server.run([*program, *arguments], env=environment(settings), timeout=HANG_S)
    else:
        done = _run_here(settings, arguments)
    assert not check or done.returncode == 0, done.stderr
    return done


def started(
    settings: Settings, *arguments: str, program: tuple[str, ...] = ("-m", "creditfold.cli.main")
) -> "fork_server.Process":
    """Start `creditfold` with these settings, or another program in its place, in a process of its own."""
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return fork_server.Process([*program, *arguments], env=environment(settings), **piped)


def _run_here(settings: Settings, arguments: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        for name, value in environment(settings).items():
            patched.setenv(name, value)
        load_settings.cache_clear()
        code = _run(list(arguments))
    load_settings.cache_clear()
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


LETTER = "0:0"


# Nobody folds here, so nothing comes of waiting.
QUICK = ("--timeout", "0.1")


#: What each command needs to get as far as PostgreSQL. `{folder}` is an empty one, `{file}` one to import.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "up": (),
    "init": (),
    "publisher": ("--check",),
    "keys create": ("shop", "--scope", "audit", "--reason", "test"),
    "keys list": (),
    "keys rotate": ("first", "--reason", "test"),
    "keys revoke": ("first", "--reason", "test"),
    "webhooks create": ("https://shop.example/hooks", "--reason", "test"),
    "webhooks list": (),
    "webhooks show": ("ep_1",),
    "webhooks rotate": ("ep_1", "--reason", "test"),
    "webhooks disable": ("ep_1", "--reason", "test"),
    "webhooks enable": ("ep_1", "--reason", "test"),
    "webhooks delete": ("ep_1", "--reason", "test"),
    "webhooks attempts": ("ep_1",),
    "webhooks resend": ("ep_1", "--parked", "--reason", "test"),
    "webhooks listen": ("--timeout", "0.1"),
    "alerts add": ("--below", "5", "--reason", "test"),
    "alerts list": (),
    "alerts remove": ("al_1", "--reason", "test"),
    "status": ("--interval", "0.05"),
    "tick": QUICK,
    "rebuild": (),
    "generations": (),
    "activate": ("3",),
    "drop": ("1",),
    "verify": (),
    "diff": (),
    "trial-balance": (),
    "accounts": (),
    "doctor": (),
    "grant": ("ann", "5", *QUICK),
    "spend": ("ann", "1", *QUICK),
    "hold": ("ann", "1", "--until", "2100-01-01", *QUICK),
    "capture": ("ann", "h-1", *QUICK),
    "release": ("ann", "h-1", *QUICK),
    "refund": ("ann", "s-1", *QUICK),
    "void": ("ann", "g-1", *QUICK),
    "transfer": ("ann", "bob", "1", *QUICK),
    "freeze": ("ann", *QUICK),
    "unfreeze": ("ann", *QUICK),
    "close": ("ann", *QUICK),
    "credit-limit": ("ann", "9", *QUICK),
    "schedule create": ("ann", "5", "--first-at", "2100-01-01", "--months", "1", *QUICK),
    "schedule cancel": ("ann", "p-1", *QUICK),
    "batch": ("ann", "{steps}", *QUICK),
    "import": ("{file}",),
    "balance": ("ann",),
    "history": ("ann",),
    "statement": ("ann",),
    "expiring": ("--all",),
    "ended": (),
    "spent": (),
    "lots": ("ann",),
    "holds": ("ann",),
    "transfers": ("ann",),
    "schedules": ("ann",),
    "trace": ("ann", "g-1"),
    "why": ("ann", "s-1"),
    "rejections": ("--totals",),
    "dsn": (),
    "follow": ("ann", "--since", "start", "--timeout", "0.1"),
    "archive": ("{folder}",),
    "restore": ("{folder}",),
    "rules list": (),
    "rules activate": ("1", "--reason", "test", *QUICK),
    "dead-letters list": (),
    "dead-letters show": (LETTER,),
    "dead-letters redrive": (LETTER, "--why", "test", *QUICK),
    "dead-letters discard": (LETTER, "--why", "test"),
}
