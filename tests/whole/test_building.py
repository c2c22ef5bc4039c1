"""What an install gives: the compiled core where it can be had, never a stale one; else plain Python with a reason."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

from helpers.support import HANG_S, ROOT, ran, write_program


@pytest.fixture
def building() -> Iterator[Callable[[str], Any]]:
    """Imports a module that builds; it knows nothing of what is installed."""
    sys.path.insert(0, str(ROOT / "building"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "building"))


@pytest.fixture
def tree(building: Callable[[str], Any], tmp_path: Path) -> Path:
    """A checkout of its own, with nothing but what is built from."""
    root = tmp_path / "checkout"
    with building("creditfold_compiler").copied(ROOT) as source:
        shutil.copytree(source, root, ignore=shutil.ignore_patterns(".link"))
    shutil.copytree(ROOT / "building", root / "building", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def compiler(folder: Path, script: str) -> Path:
    """The only compiler on a PATH: a script in a folder, which it is given back; none where the script is empty."""
    folder.mkdir()
    for name in ("cc", "gcc") if script else ():
        write_program(folder / name, script)
    return folder


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("", "no C compiler is on PATH"),
        ("echo \"cc: fatal error: cannot execute 'cc1'\" >&2; exit 1", "fails: cc: fatal error: cannot execute 'cc1'"),
        ("kill -9 $$", "fails: it ended with code -9 and said nothing"),
        ("exit 0", "fails: it ended with code 0 and said nothing"),
        ("/bin/sleep 100000 & wait", "fails: error: not done after 1 s"),
    ],
    ids=["missing", "fails", "killed", "makes-nothing", "hangs"],
)
def test_a_compiler_that_is_of_no_use_is_named(
    building: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    """With what it says itself, before anything long is begun."""
    made = building("creditfold_compiler")
    monkeypatch.setenv("PATH", str(compiler(tmp_path / "bin", script)))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(made, "_zig", list)
    with pytest.raises(made.CompilationError) as caught:
        made.find_compiler(str(tmp_path), 1.0 if "sleep" in script else HANG_S)
    assert said in caught.value.reason.why
    assert "apt-get install gcc python3-dev" in caught.value.reason.remedy


def test_the_compiler_of_cc_is_taken_and_no_other(
    building: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names one has a reason; a wheel with another isn't asked for."""
    made = building("creditfold_compiler")
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    assert not made.wants_zig()
    with pytest.raises(made.CompilationError, match=r"there is no C compiler .*/cc, which CC names"):
        made.find_compiler(str(tmp_path))
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(compiler(tmp_path / "bin", "exit 1")))
    assert made.wants_zig()
    monkeypatch.setattr(made, "has_headers", lambda: False)
    assert not made.wants_zig()
    with pytest.raises(made.CompilationError, match=r"the C headers of Python 3\S+ are missing") as caught:
        made.find_compiler(str(tmp_path))
    assert "apt-get install python3-dev" in caught.value.reason.remedy


BUILD = "import sys; sys.path.insert(0, sys.argv[1]); import creditfold_backend as b; b.build_wheel(sys.argv[2])"


def build(tree: Path, target: Path, script: str = BUILD, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Build a wheel as pip does, by its backend."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CC", "CREDITFOLD_CORE")}
    return ran(sys.executable, "-c", script, tree / "building", target, env=kept | variables, cwd=tree)


def test_without_a_compiler_plain_python_is_installed_and_says_why(tree: Path, tmp_path: Path) -> None:
    """One line for who watches the build, and the reason in the wheel, which is for any Python; unless demanded."""
    path = str(compiler(tmp_path / "bin", "echo 'error: this is no compiler'; exit 1"))
    done = build(tree, tmp_path, PATH=path)
    assert done.returncode == 0, done.stderr
    assert "warning: no compiled core, plain Python is installed: " in done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("plain-core.json")]
        said = json.loads(archive.read(name))
        assert name in archive.read(name.replace("plain-core.json", "RECORD")).decode()
        assert not [name for name in archive.namelist() if name.endswith(".so")]
    assert said["why"].startswith("the C compiler ")
    assert said["why"].endswith(" fails: error: this is no compiler")
    wheel.unlink()
    done = build(tree, tmp_path, PATH=path, CREDITFOLD_CORE="compiled")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2].startswith("error: no compiled core: the C compiler ")
    assert done.stderr.splitlines()[-1].startswith("try: Install a C compiler")
    assert not list(tmp_path.glob("*.whl"))
    done = build(tree, tmp_path, PATH=path, CREDITFOLD_CORE="plain")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.glob("*-py3-none-any.whl"))) == 1


class Compilations:
    """Makes wheels with a module that stands for compiled ones, or plain ones with a reason; counts them."""

    def __init__(self) -> None:
        self.count = 0
        self.failure: BaseException | None = None
        self.edits: Path | None = None
        self.plain: dict[str, str] | None = None

    def __call__(self, folder: Path) -> None:
        self.count += 1
        if self.failure is not None:
            (folder / "half.c").write_text("half")
            raise self.failure
        if self.edits is not None:
            self.edits.write_text("", "utf-8")
        with zipfile.ZipFile(folder / "creditfold.whl", "w") as archive:
            if self.plain is not None:
                archive.writestr("creditfold-0.1.0.dist-info/plain-core.json", json.dumps(self.plain))
            else:
                archive.writestr(f"creditfold/ledger/limits{EXTENSION_SUFFIXES[0]}", f"number {self.count}")
                archive.writestr(f"creditfold__mypyc{EXTENSION_SUFFIXES[0]}", "")


def test_a_compiled_module_stands_for_the_sources_it_was_compiled_of_only(
    building: Callable[[str], Any], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By content: an edit is never hidden, one taken back costs nothing, and nothing is compiled twice."""
    monkeypatch.delenv("CREDITFOLD_CORE")
    kept, made = building("creditfold_checkout"), building("creditfold_compilation")
    checkout, compilations = kept.Checkout(str(tree)), Compilations()

    def found(room: Path = tree / "ledger", name: str = "creditfold.ledger.limits") -> str | None:
        # A finder decides once for its process, so each question is another process's.
        spec = kept.CompiledFinder(checkout).find_spec(name, [str(room)])
        return None if spec is None else Path(str(spec.origin)).read_text()

    assert (found(), checkout.reason()) == (None, ("this checkout isn't compiled yet", kept.AGAIN))
    assert made.compile_checkout(tree, compilations) is None
    assert (found(), found(name="creditfold__mypyc")) == ("number 1", "")
    # Another tree that comes first has other sources; what isn't compiled is Python's own.
    assert found(ROOT / "ledger") is None
    assert found(name="creditfold.ledger.commands") is None
    for path in (tree / "ledger").iterdir():
        os.utime(path)
    made.compile_checkout(tree, compilations)
    assert (compilations.count, found()) == (1, "number 1")
    edited = tree / "ledger" / "limits.py"
    before = edited.read_text("utf-8")
    edited.write_text(f"{before}#", "utf-8")
    assert (found(), checkout.reason().why) == (None, "ledger/limits.py isn't as it was compiled")
    monkeypatch.setenv("CREDITFOLD_CORE", "compiled")
    with pytest.raises(ImportError, match=r"there is no compiled core: ledger/limits\.py isn't .*Try: make compiled"):
        found()
    monkeypatch.delenv("CREDITFOLD_CORE")
    edited.write_text(before, "utf-8")
    assert found() == "number 1"
    # What a compiled module takes from others is compiled into it.
    (tree / "common" / "position.py").write_text("SECONDS = 1\n", "utf-8")
    assert (found(), checkout.reason().why) == (None, "common/position.py isn't as it was compiled")
    assert made.compile_checkout(tree, compilations) is None
    assert (compilations.count, found()) == (2, "number 2")
    # And what has nothing to do with it isn't.
    (tree / "cli" / "demo" / "main.py").write_text("", "utf-8")
    assert found() == "number 2"
    monkeypatch.setenv("CREDITFOLD_CORE", "plain")
    assert (found(), checkout.reason().why) == (None, "CREDITFOLD_CORE=plain asks for it")
    monkeypatch.setenv("CREDITFOLD_CORE", "fast")
    with pytest.raises(ImportError, match="plain, compiled or unset, and not 'fast'"):
        found()


def test_a_compilation_that_ends_in_the_middle_is_done_anew(
    building: Callable[[str], Any], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed or on a full disk: nothing half done is taken for whole, and the next call begins anew."""
    monkeypatch.delenv("CREDITFOLD_CORE")
    kept, made = building("creditfold_checkout"), building("creditfold_compilation")
    checkout, compilations = kept.Checkout(str(tree)), Compilations()
    compilations.failure = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        made.compile_checkout(tree, compilations)
    assert checkout.reason().why == "this checkout isn't compiled yet"
    # What SIGKILL leaves.
    (Path(checkout.folder) / "build-x").mkdir()
    compilations.failure = None
    compilations.edits = tree / "ledger" / "limits.py"
    changed = made.compile_checkout(tree, compilations)
    assert changed.why == "its sources were changed while they were compiled"
    assert checkout.reason().why == "this checkout isn't compiled yet"
    compilations.edits = None
    compilations.plain = {"why": "no C compiler is on PATH", "remedy": "Install one."}
    assert made.compile_checkout(tree, compilations) == ("no C compiler is on PATH", "Install one.")
    assert checkout.reason() == ("no C compiler is on PATH", "Install one.")
    # It is tried again, since a compiler may have come.
    compilations.plain = None
    assert not made.is_compiled(tree)
    assert made.compile_checkout(tree, compilations) is None
    assert checkout.reason() is None
    assert made.is_compiled(tree)
    assert sorted(path.name for path in Path(checkout.folder).iterdir() if path.is_dir()) == [
        checkout.record()["folder"]
    ]
    shutil.rmtree(Path(checkout.folder) / checkout.record()["folder"])
    assert not made.is_compiled(tree)
    made.compile_checkout(tree, compilations)
    assert compilations.count == 5


def test_who_waits_for_a_compilation_sees_its_end(
    building: Callable[[str], Any], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is held as long as it lasts; who runs plain Python in any case waits for none."""
    monkeypatch.delenv("CREDITFOLD_CORE")
    kept = building("creditfold_checkout")
    checkout = kept.Checkout(str(tree))
    assert not checkout.is_being_compiled()
    with checkout.locked():
        assert checkout.is_being_compiled()
        monkeypatch.setenv("CREDITFOLD_CORE", "plain")
        assert not checkout.is_being_compiled()
        monkeypatch.delenv("CREDITFOLD_CORE")
    assert not checkout.is_being_compiled()
    with checkout.locked(shared=True):
        assert not checkout.is_being_compiled()


@pytest.mark.usefixtures("without_index")
def test_without_a_network_compiling_says_so_and_plain_python_runs(
    building: Callable[[str], Any], tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With pip's own words; the next call begins anew."""
    made = building("creditfold_compilation")
    # As in an environment that has none of the tools.
    monkeypatch.setattr(made, "find_spec", lambda name: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for core, code, word in ((None, 0, "warning"), ("compiled", 1, "error")):
            if core:
                monkeypatch.setenv("CREDITFOLD_CORE", core)
            else:
                monkeypatch.delenv("CREDITFOLD_CORE")
            assert made.main(tree) == code
            said = capsys.readouterr().err
            assert "No matching distribution found for setuptools" in said
            assert f"\n{word}: no compiled core" in said
            assert "HTTPS_PROXY" in said.splitlines()[-1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert building("creditfold_checkout").Checkout(str(tree)).record() is None


def test_an_editable_install_imports_what_is_compiled(tree: Path, tmp_path: Path) -> None:
    """Its wheel brings what looks for compiled modules, and names the checkout; what can't be had is an error."""
    done = build(tree, tmp_path, BUILD.replace("build_wheel", "build_editable"), CREDITFOLD_CORE="plain")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    site = "import site, sys; site.addsitedir(sys.argv[1]); "
    script = (
        site + "import creditfold_installed as c; print(c.installed_root());"
        " import creditfold.ledger.limits as m; print(m.__file__)"
    )
    found = ran(sys.executable, "-S", "-c", script, tmp_path / "site")
    assert found.stdout.splitlines() == [str(tree), str(tree / "ledger" / "limits.py")]
    script = site + "from creditfold.cli.entry import main; main()"
    for core, said in (
        ("fast", "CREDITFOLD_CORE is plain, compiled or unset, and not 'fast'.\ntry: Unset CREDITFOLD_CORE.\n"),
        ("compiled", "CREDITFOLD_CORE=compiled, and there is no compiled core: this checkout isn't compiled yet."),
    ):
        variables = os.environ | {"CREDITFOLD_CORE": core}
        done = ran(sys.executable, "-S", "-c", script, tmp_path / "site", env=variables)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {said}")


HOOKS = """
import sys; sys.path.insert(0, sys.argv[1])
import creditfold_backend
creditfold_backend.compile_checkout = lambda *_: None
getattr(creditfold_backend, sys.argv[2])(sys.argv[3])
"""


@pytest.mark.parametrize(
    "hook", ["prepare_metadata_for_build_wheel", "prepare_metadata_for_build_editable", "build_sdist", "build_editable"]
)
def test_nothing_but_a_wheel_is_compiled(tree: Path, tmp_path: Path, hook: str) -> None:
    """Also where the compiled core is demanded: pip asks for metadata first; no module lies beside a source."""
    made = tmp_path / "made"
    made.mkdir()
    subprocess.run(
        [sys.executable, "-c", HOOKS, str(tree / "building"), hook, str(made)],
        env=os.environ | {"CREDITFOLD_CORE": "compiled"},
        cwd=tree,
        check=True,
    )
    assert list(made.glob("creditfold-*"))
    assert not (tree / "build").exists()
    assert not [path for path in tree.rglob("*") if path.suffix in (".c", ".so")]


@pytest.mark.parametrize("lacks", ["headers", "nothing"])
def test_what_compiling_takes_is_asked_for_where_it_is_of_use(
    building: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    """Without Python's headers nothing can be compiled, so nothing is fetched for it that an index may not have."""
    monkeypatch.delenv("CREDITFOLD_CORE")
    backend = building("creditfold_backend")
    monkeypatch.setattr(building("creditfold_compiler"), "has_headers", lambda: lacks != "headers")
    monkeypatch.setenv("CC", "cc")
    for is_compiled in (False, True):
        monkeypatch.setattr(backend, "is_compiled", lambda _, done=is_compiled: done)
        needed = [] if lacks == "headers" else list(building("creditfold_compiler").TRANSLATORS)
        assert backend.get_requires_for_build_wheel() == needed
        assert backend.get_requires_for_build_editable() == ([] if is_compiled else needed)
