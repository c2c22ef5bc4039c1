"""The requests of docs/http.md that are shown without a key, as a door on loopback takes them."""

import json
import re
import shutil

import pytest

from helpers.doors import Door, serving
from helpers.support import ROOT, ran

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(shutil.which("curl") is None, reason="the page has curl"),
]

PAGE = (ROOT / "docs" / "http.md").read_text("utf-8")
#: What stands indented: a command each, whose further lines are indented more or end a quote.
SHOWN = [
    re.sub(r"^    ", "", block, flags=re.MULTILINE).strip()
    for block in re.findall(r"\n\n((?:    .*\n)+)", PAGE)
    if "curl" in block
]
COMMANDS = [line for block in SHOWN for line in (block.splitlines() if block.count("\ncurl") else [block])]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_request_without_a_key_is_answered(door: Door, command: str) -> None:
    """At the port that the page says for these; a stream is asked for the time of a look."""
    door.grant("ada", 5)
    assert "http://127.0.0.1:29081/" in command
    bounded = command.replace("curl -N", "curl -N -m 2").replace("curl ", "curl -sS --noproxy '*' ")
    with serving(door.settings, is_open=True) as url:
        done = ran("bash", "-c", bounded.replace("http://127.0.0.1:29081", url))
    if "curl -N" in command:
        # 28: the time is over.
        assert (done.returncode, done.stderr.count("401")) == (28, 0), done.stderr
        return
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        found = json.loads(line)
        assert found.get("status", 201) == 201, found
        assert "errors" not in found, found


def test_the_page_has_such_requests() -> None:
    """One for each of the parts that show one."""
    assert len(COMMANDS) == 5
