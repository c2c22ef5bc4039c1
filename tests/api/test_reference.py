"""The page at /docs: rendered in a browser from the door's own document, with nothing from any other server."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from creditfold.api import create_app
from creditfold.api.openapi import operations
from creditfold.api.reference import FILES, POLICY
from creditfold.common.settings import Settings
from helpers.doors import serving
from helpers.support import HANG_S, ROOT, ran

PAGE = ROOT / "api" / "page"
#: What a browser is asked for that loads a page, reports its errors and ends.
ONCE = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"),
    *("--enable-logging=stderr", "--virtual-time-budget=60000", "--dump-dom"),
)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """A client without a key of a door whose Kafka and PostgreSQL are away."""
    nowhere = Settings(kafka_bootstrap="127.0.0.1:9", postgres_dsn="host=127.0.0.1 port=9 dbname=none")
    with serving(nowhere) as url, httpx.Client(base_url=url, timeout=HANG_S, trust_env=False) as opened:
        yield opened


def test_the_vendored_files_are_those_of_the_package() -> None:
    """Byte for byte, with their licence; `make vendored` takes them. The other files are the page's own."""
    record = json.loads((PAGE / "vendored.json").read_text("utf-8"))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in PAGE.iterdir()}
    own = {"index.html", "start.js", "vendored.json"}
    assert {name: digest for name, digest in found.items() if name not in own} == record["sha256"]
    assert record["license"] == "Apache-2.0"
    assert "Apache License" in (PAGE / "swagger-ui.LICENSE.txt").read_text("utf-8")
    assert FILES.keys() <= found.keys()


def test_the_page_needs_no_key_and_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    """What it names is served here, and a browser would refuse all else."""
    page = client.get("/docs")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sorted(named) == ["data:,", *sorted(f"docs/{name}" for name in FILES if name != "index.html")]
    for name in FILES:
        answer = client.get(f"/docs/{name}")
        assert (answer.status_code, answer.content) == (200, (PAGE / name).read_bytes())
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["Content-Type"].startswith(FILES[name])
        again = client.get(f"/docs/{name}", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert "unsafe" not in POLICY
    assert set(re.findall(r"\S+:(?=[\s;]|$)|\w+://\S+", POLICY)) == {"data:"}


@pytest.mark.parametrize("name", ["vendored.json", "other.js", "..%2F..%2Fkeys.py", "%2Fetc%2Fpasswd", "index.html%00"])
def test_nothing_else_is_served(client: httpx.Client, name: str) -> None:
    """Neither another file of the folder nor one outside of it."""
    answer = client.get(httpx.URL(str(client.base_url)).copy_with(raw_path=f"/docs/{name}".encode()))
    assert answer.status_code in (400, 404), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_browser_shows_every_operation(client: httpx.Client, tmp_path: Path) -> None:
    """With nothing refused by the policy, and no other error in its console."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    done = ran(browser, *ONCE, f"--user-data-dir={tmp_path}", f"{client.base_url}/docs", timeout=HANG_S)
    document = create_app(Settings()).openapi()
    shown = set(re.findall(r'id="operations-(?!tag-)\w+-(\w+)"', done.stdout))
    assert shown == {operation["operationId"] for _, _, operation in operations(document)}, done.stderr[-2000:]
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
