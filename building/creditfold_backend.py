"""Builds creditfold for pip and `python -m build`: setuptools, and the compiled core where one can be had.

Owns the rule that a compiler never keeps anybody from installing: what can't be compiled is installed in plain Python,
and the reason goes with it, for `creditfold --version` and others to show. CREDITFOLD_CORE=compiled fails instead,
CREDITFOLD_CORE=plain compiles nothing. setup.py says what is compiled, creditfold_compiler how.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import creditfold_compiler
from creditfold_checkout import Reason, chosen
from creditfold_compilation import PLAIN, compile_checkout, is_compiled, with_files
from creditfold_compiler import CompilationError
from setuptools import build_meta

ROOT = Path(__file__).resolve().parent.parent

#: What an editable install calls its copy of creditfold_checkout.
INSTALLED = "creditfold_installed"

#: What pip and `python -m build` pass.
Settings = Mapping[str, Any] | None

build_sdist = build_meta.build_sdist
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What compiling takes, a C compiler as a wheel included where there is no other; nothing where it is in vain."""
    if chosen() == "plain" or sys.implementation.name != "cpython" or not creditfold_compiler.has_headers():
        return []
    return [*creditfold_compiler.TRANSLATORS, *([creditfold_compiler.ZIG] if creditfold_compiler.wants_zig() else [])]


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """What compiling takes, as for a wheel; nothing where the checkout is compiled already."""
    return [] if is_compiled(ROOT) else get_requires_for_build_wheel(config_settings)


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Build a wheel of the compiled core, or a plain one that says why it is plain."""
    reason = Reason("CREDITFOLD_CORE=plain asked for it when it was installed", "Install it again without that.")
    with creditfold_compiler.copied(ROOT) as source:
        if chosen() != "plain":
            try:
                return creditfold_compiler.make_wheel(source, wheel_directory, config_settings, compiled=True)
            except CompilationError as error:
                reason = error.reason
            except OSError as error:
                reason = Reason(str(error), "Mend that, then install it again.")
            _refuse(reason)
        name = creditfold_compiler.make_wheel(source, wheel_directory, config_settings, compiled=False)
    with_files(Path(wheel_directory, name), {f"{{info}}/{PLAIN}": reason})
    return name


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Compile the checkout, and install what imports that as long as the sources are the same."""
    if chosen() != "plain":
        reason = compile_checkout(ROOT, lambda folder: build_wheel(str(folder)))
        if reason is not None:
            _refuse(reason)
    name: str = build_meta.build_editable(wheel_directory, dict(config_settings or {}), metadata_directory)
    finder = (ROOT / "building" / "creditfold_checkout.py").read_text("utf-8")
    # By another name, or the next build would import what the last one installed, and install it again.
    files = {
        f"{INSTALLED}.py": f"{finder}\n\ninstall({os.fspath(ROOT)!r})\n",
        f"{INSTALLED}.pth": f"import {INSTALLED}\n",
    }
    with_files(Path(wheel_directory, name), files)
    return name


def _refuse(reason: Reason) -> None:
    """Report why there is no compiled core; end the build where one is demanded."""
    if chosen() == "compiled":
        sys.exit(f"error: no compiled core: {reason.why}.\ntry: {reason.remedy}")
    print(f"warning: no compiled core, plain Python is installed: {reason.why}. Try: {reason.remedy}", file=sys.stderr)
