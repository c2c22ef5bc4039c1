"""Compiles a checkout for the Python that runs this, unless its sources are what was compiled last.

Owns the folder of the compiled core: what is in it is whole or not there. The Makefile calls it as a script; an
editable install does the same. How a wheel is built is creditfold_backend's business.
"""

import base64
import hashlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from creditfold_checkout import AGAIN, RECORD, Checkout, Reason, chosen

#: In the .dist-info of a plain wheel: why it is plain.
PLAIN = "plain-core.json"


def compile_checkout(root: Path, build: Callable[[Path], object]) -> Reason | None:
    """Compile a checkout unless that was done; `build` puts a wheel of it into a folder. Why it stays plain, or None.

    One that is killed leaves nothing behind that would be taken for a compiled core, and the next call begins anew.
    """
    checkout = Checkout(str(root))
    with checkout.locked():
        if is_compiled(root):
            return None
        folder = Path(checkout.folder)
        for left in folder.glob("build-*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as temporary:
            sources = {path: checkout.digest(path) for path in sources_of(root)}
            build(Path(temporary))
            if {path: checkout.digest(path) for path in sources_of(root)} != sources:
                # Nobody knows which text was compiled.
                return Reason("its sources were changed while they were compiled", AGAIN)
            (wheel,) = Path(temporary).glob("*.whl")
            modules, plain = _unpacked(wheel, Path(temporary, "core"))
            name = hashlib.blake2b(json.dumps([sys.version, sources]).encode(), digest_size=8).hexdigest()
            shutil.rmtree(folder / name, ignore_errors=True)
            if plain is None:
                os.replace(Path(temporary, "core"), folder / name)
            text = {"python": sys.version, "sources": sources, "folder": name, "modules": modules, "plain": plain}
            Path(temporary, RECORD).write_text(json.dumps(text, indent=1), "utf-8")
            os.replace(Path(temporary, RECORD), folder / RECORD)
        # What runs from an older one has its files open.
        for other in folder.iterdir():
            if other.is_dir() and other.name != name:
                shutil.rmtree(other, ignore_errors=True)
    return plain


def is_compiled(root: Path) -> bool:
    """Whether a checkout's compiled core is there, whole, and of the sources that it would be compiled of now."""
    checkout = Checkout(str(root))
    record = checkout.record()
    return (
        record is not None
        and not record["plain"]
        and record["python"] == sys.version
        and checkout.changed(record["sources"]) is None
        and set(sources_of(root)) == set(record["sources"])
        and all(Path(checkout.folder, record["folder"], file).exists() for file in record["modules"].values())
    )


def sources_of(root: Path) -> list[str]:
    """What a compiled core is made of: its modules, all that they import of ours, and what compiles them.

    What is only imported belongs to it because a compiled module holds constants and the order of fields of others.
    """
    import ast
    import tomllib

    setup = runpy.run_path(str(root / "setup.py"), run_name="setup")
    packages = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    found: dict[str, None] = {}
    left = [*setup["COMPILED"]]
    while left:
        path = left.pop()
        if path in found or not (root / path).is_file():
            continue
        found[path] = None
        left += [f"{folder}/__init__.py" for folder in PurePosixPath(path).parents if folder.name]
        for node in ast.walk(ast.parse((root / path).read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{name}" for name in names)]
            for name in names:
                package, _, module = name.rpartition(".")
                if package in packages:
                    left.append(f"{package.removeprefix('creditfold.').replace('.', '/')}/{module}.py")
    return sorted([*found, *(f"{path}.pyx" for path in setup["CYTHON"]), "setup.py", "building/creditfold_compiler.py"])


def _unpacked(wheel: Path, folder: Path) -> tuple[dict[str, str], Reason | None]:
    """The compiled modules of a wheel by their names, put into a folder; or why it has none."""
    modules = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(f".dist-info/{PLAIN}"):
                return {}, Reason(**json.loads(archive.read(name)))
            suffix = next((one for one in EXTENSION_SUFFIXES if name.endswith(one)), None)
            if suffix is not None:
                archive.extract(name, folder)
                modules[name.removesuffix(suffix).replace("/", ".")] = name
    return modules, None


def with_files(wheel: Path, files: Mapping[str, str | Reason]) -> None:
    """Put files into a wheel and into its list of them; `{info}` in a name is its .dist-info folder."""
    made = wheel.with_suffix(".new")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        record = next(name for name in old.namelist() if name.endswith(".dist-info/RECORD"))
        lines = old.read(record).decode()
        for item in old.infolist():
            if item.filename != record:
                new.writestr(item, old.read(item))
        for name, content in files.items():
            place = name.format(info=record.removesuffix("/RECORD"))
            text = content if isinstance(content, str) else json.dumps(content._asdict())
            new.writestr(place, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            lines = f"{place},sha256={digest},{len(text.encode())}\n{lines}"
        new.writestr(record, lines)
    os.replace(made, wheel)


class PipError(Exception):
    """pip made no wheel."""


def _by_pip(root: Path, folder: Path) -> None:
    """Have pip build the wheel, which fetches what that takes; by what is installed, where that is all of it."""
    line = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps", f"--wheel-dir={folder}"]
    if all(find_spec(name) is not None for name in ("setuptools", "mypyc", "Cython")) and _has_compiler():
        line.append("--no-build-isolation")
    # A group of its own, for all that it starts to be interrupted with it: by Ctrl-C or by a signal to this one alone.
    process = subprocess.Popen(
        [*line, str(root)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        out, err = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate()
        raise
    if process.returncode != 0:
        sys.stderr.write(out + err)
        raise PipError(next(_errors(err), f"pip ended with code {process.returncode}"))


def _has_compiler() -> bool:
    import creditfold_compiler

    return not creditfold_compiler.wants_zig()


def _errors(said: str) -> Iterator[str]:
    return (line.strip().removeprefix("ERROR: ") for line in said.splitlines() if "ERROR" in line or "error: " in line)


def main(root: Path) -> int:
    """Compile a checkout, or report why not. Returns 1 where that fails and CREDITFOLD_CORE=compiled demands it."""
    # A shell has what it starts in the background ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if chosen() == "plain":
        return 0

    def build(folder: Path) -> None:
        print("Compiling the core; this takes a minute or two.", file=sys.stderr, flush=True)
        _by_pip(root, folder)

    try:
        reason = compile_checkout(root, build)
    except PipError as error:
        remedy = f"Mend what pip says above, the network (HTTPS_PROXY, PIP_INDEX_URL) or the disk, then {AGAIN}"
        reason = Reason(f"pip couldn't build it: {error}", remedy)
    except OSError as error:
        reason = Reason(str(error), f"Mend that, then {AGAIN}")
    except KeyboardInterrupt:
        return 130
    if reason is None:
        return 0
    is_demanded = chosen() == "compiled"
    print(
        f"error: no compiled core: {reason.why}.\ntry: {reason.remedy}"
        if is_demanded
        else f"warning: no compiled core, plain Python runs, several times slower: {reason.why}. Try: {reason.remedy}",
        file=sys.stderr,
    )
    return 1 if is_demanded else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
