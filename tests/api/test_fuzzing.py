"""Every route, with data that fit the document and data that don't: no failure, and no answer that isn't documented."""

import os
import sys
from pathlib import Path

import httpx
import pytest

from helpers.doors import Door, serving
from helpers.support import HANG_S, ROOT, SEED, ran

pytestmark = pytest.mark.stack

PROGRAMS = ROOT / "tests" / "programs"
#: Requests at random of each operation, beyond its examples and the bounds of its parameters; `make fuzz` sends more.
EXAMPLES = os.environ.get("CREDITFOLD_EXAMPLES")
#: What is appended is read by the same code whatever its kind; each kind's bounds are for `make fuzz`.
BRIEF = """
[[operations]]
include-operation-id-regex = "^append_(?!grant|many)"
phases.coverage.enabled = false
"""


def test_no_route_fails_or_answers_what_is_not_documented(door: Door, tmp_path: Path) -> None:
    """Statuses, media types, headers and shapes of answers are those of the document that the door itself serves."""
    door.grant("ada", 500)
    rules = (PROGRAMS / "fuzz.toml").read_text("utf-8")
    (tmp_path / "schemathesis.toml").write_text(rules if EXAMPLES else rules + BRIEF, "utf-8")
    # What it knows of Unicode takes seconds to find out; the other tests keep it there, too.
    unicode = ROOT / ".hypothesis" / "unicode_data"
    unicode.mkdir(parents=True, exist_ok=True)
    (tmp_path / ".hypothesis").mkdir()
    (tmp_path / ".hypothesis" / "unicode_data").symlink_to(unicode)
    program = Path(sys.executable).with_name("schemathesis")
    options = ("--max-examples", EXAMPLES or "3", "--seed", str(SEED), "--no-color", "--warnings", "off")
    env = os.environ | {"SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": str(PROGRAMS), "NO_PROXY": "*"}
    with serving(door.settings, is_open=True) as url:
        # By itself the program waits ten seconds for the document, which is made when it is first asked for.
        document = httpx.get(f"{url}/openapi.json", timeout=HANG_S, trust_env=False)
        (tmp_path / "openapi.json").write_bytes(document.content)
        done = ran(program, "run", "openapi.json", "--url", url, *options, cwd=tmp_path, env=env)
    said = "\n".join(line[:400] for line in (done.stdout + done.stderr).splitlines())
    assert done.returncode == 0, f"seed {SEED}\n{said}"
    assert "No issues found" in said, said
