"""Chooses a C compiler and makes a wheel with the compiled core by it, or says why it can't.

Owns the words for each way in which that fails. Knows nothing of pip, nor of where the wheel goes.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from creditfold_checkout import Reason

#: What compiles Python to C.
TRANSLATORS = ("mypy>=1.15,<3", "cython>=3.1,<4")
#: A C compiler as a wheel, for where there is none.
ZIG = "ziglang>=0.13,<1"
#: What only a compiler that hangs takes longer than, in seconds: for one line, and for all modules.
PROBE_S = 900.0
BUILD_S = 3_600.0

NO_COMPILER = "Install a C compiler (apt-get install gcc python3-dev, or xcode-select --install), then this again."
NO_HEADERS = "Install Python's C headers (apt-get install python3-dev), then this again."

_PROBE = "#include <Python.h>\nint creditfold_probe(void) { return PY_VERSION_HEX; }\n"
_WHEEL = """
import json, sys
from setuptools import build_meta
build_meta.build_wheel(sys.argv[1], json.loads(sys.argv[2]))
"""


class CompilationError(Exception):
    """There is no compiled core to be had here."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.reason = Reason(why, remedy)


def wants_zig() -> bool:
    """Whether the compiler that comes as a wheel is needed: nobody named another, and none that works is there."""
    if os.environ.get("CC") or not has_headers() or not sys.platform.startswith(("linux", "darwin")):
        return False
    with tempfile.TemporaryDirectory(prefix="creditfold-probe-") as cache:
        return not any(_trouble(command, cache) is None for command in _installed())


def find_compiler(cache: str, probe_s: float = PROBE_S) -> list[str]:
    """The command of a C compiler that makes a module for this Python. Raises CompilationError if there is none.

    What it prepares for itself goes into a folder, which its next call had better be given too.
    """
    if sys.implementation.name != "cpython":
        raise CompilationError(f"{sys.implementation.name} runs no compiled core", "Use CPython.")
    if not has_headers():
        raise CompilationError(f"the C headers of Python {sysconfig.get_python_version()} are missing", NO_HEADERS)
    troubles = []
    for command in [*_installed(), *_zig()]:
        trouble = _trouble(command, cache, probe_s)
        if trouble is None:
            return command
        troubles.append(f"the C compiler {shlex.join(command)} fails: {trouble}")
    named = os.environ.get("CC")
    if named and not troubles:
        raise CompilationError(f"there is no C compiler {named}, which CC names", "Unset CC, or name another.")
    raise CompilationError(troubles[0] if troubles else "no C compiler is on PATH", NO_COMPILER)


def has_headers() -> bool:
    """Whether this Python's C headers are there, without which no compiler is of any use."""
    return Path(sysconfig.get_path("include"), "Python.h").exists()


def _installed() -> list[list[str]]:
    """The compilers on PATH; the one that CC names, and no other, if it names one."""
    named = os.environ.get("CC")
    wanted = [named] if named else [str(sysconfig.get_config_var("CC") or "cc"), "cc", "gcc", "clang"]
    found: list[list[str]] = []
    for text in wanted:
        words = shlex.split(text)
        if words and shutil.which(words[0]) and words not in found:
            found.append(words)
    return found


def _zig() -> list[list[str]]:
    from importlib.util import find_spec

    is_wanted = not os.environ.get("CC") and find_spec("ziglang") is not None
    return [[sys.executable, "-m", "ziglang", "cc"]] if is_wanted else []


def _is_zig(command: Sequence[str]) -> bool:
    return "ziglang" in command


def _trouble(command: Sequence[str], cache: str, bound_s: float = PROBE_S) -> str | None:
    """Why this compiler makes no module for this Python, in its own words; None if it does."""
    with tempfile.TemporaryDirectory(prefix="creditfold-probe-") as folder:
        source, module = Path(folder, "probe.c"), Path(folder, "probe.so")
        source.write_text(_PROBE, "utf-8")
        include = [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]
        linking = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        variables = _variables(command, cache)
        # Optimised, as the modules are: ziglang first makes itself libraries for the way that it is asked for.
        line = [
            *shlex.split(variables["CC"]),
            "-O3",
            "-shared",
            "-fPIC",
            *include,
            *linking,
            str(source),
            "-o",
            str(module),
        ]
        try:
            code, said = run(line, Path(folder), variables, bound_s)
        except OSError as error:
            return str(error)
        return None if code == 0 and module.exists() else words_of(code, said)


def _variables(command: Sequence[str], cache: str) -> dict[str, str]:
    """The environment in which setuptools calls this compiler."""
    variables = {**os.environ, "CC": shlex.join(command), "MYPYPATH": ".link"}
    if _is_zig(command):
        # By default it writes for the processor that it runs on alone, and keeps a cache in the user's home.
        variables["CC"] = shlex.join([*command, "-mcpu=baseline"])
        shared = "-bundle -undefined dynamic_lookup" if sys.platform == "darwin" else "-shared"
        # Without -O3 it would make itself the libraries of its other way, for 20 s.
        variables["LDSHARED"] = f"{variables['CC']} -O3 {shared}"
        variables |= dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), cache)
    return variables


def run(command: Sequence[str], cwd: Path, variables: Mapping[str, str], bound_s: float) -> tuple[int, str]:
    """Run a command and all that it starts to their end, `bound_s` seconds at most. Returns its code and its output."""
    # A group of its own, because a compiler that hangs is a child of a child.
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    try:
        said, _ = process.communicate(timeout=bound_s)
    except subprocess.TimeoutExpired:
        return -1, f"error: not done after {bound_s:,.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, said.decode(errors="replace")


_TELLING = re.compile(r"\berror\b|killed|no space|terminated|cannot|not found", re.IGNORECASE)


def words_of(code: int, said: str) -> str:
    """The line of a failed command's output that says most of why it failed."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # What a compiler says of its own end comes before what its callers say of that.
    telling = [line for line in lines if _TELLING.search(line)] or lines[-1:]
    return telling[0][:300].rstrip(".") if telling else f"it ended with code {code} and said nothing"


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A copy of what a wheel is built of, so that an old build can't lend it a file, and the tree stays clean."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    rooms: dict[str, str] = project["tool"]["setuptools"]["package-dir"]
    with tempfile.TemporaryDirectory(prefix="creditfold-build-") as folder:
        source = Path(folder, "source")
        for name in rooms.values():
            # A module that was compiled next to its source by hand would come into any wheel.
            unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
            shutil.copytree(root / name, source / name, ignore=unwanted)
        for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
            shutil.copy(root / name, source)
        # Under their full names, for the translator.
        for name, place in rooms.items():
            link = source / ".link" / name.replace(".", "/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source / place, target_is_directory=True)
        yield source


def make_wheel(source: Path, directory: str, settings: Mapping[str, object] | None = None, *, compiled: bool) -> str:
    """Build the wheel of a copied tree into a folder, and return its name.

    Raises CompilationError if it can't be compiled, and RuntimeError if it can't be built in plain Python either.
    """
    with tempfile.TemporaryDirectory(prefix="creditfold-wheel-") as folder:
        variables = dict(os.environ)
        if compiled:
            # Asks setup.py for the compiled modules.
            variables = {**_variables(find_compiler(folder), folder), "CREDITFOLD_EXTENSIONS": "1"}
        line = [sys.executable, "-c", _WHEEL, folder, json.dumps(dict(settings or {}))]
        code, said = run(line, source, variables, BUILD_S)
        wheels = list(Path(folder).glob("*.whl"))
        if code != 0 or not wheels:
            if not compiled:
                raise RuntimeError(said)
            sys.stderr.write(said)
            remedy = "Mend what it says or use another C compiler (CC=clang), then this again."
            raise CompilationError(f"compiling fails: {words_of(code, said)}", remedy)
        shutil.move(wheels[0], Path(directory, wheels[0].name))
        return wheels[0].name
