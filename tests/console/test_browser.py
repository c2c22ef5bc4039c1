"""The console in a real Chromium: accessible in both themes on a phone, by the keyboard, and in three clicks."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from creditfold.projections.access.scopes import SCOPES
from helpers.doors import Door, serving
from helpers.identity_provider import SUBJECT, provider_at, settings_with
from helpers.node import npm_installed
from helpers.stack_under_test import free_port
from helpers.support import ROOT, ran

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("browser")]

#: Bytes of a page and of the picture of one at most.
MOST_BYTES, MOST_PICTURE_BYTES = 100_000, 150_000
PICTURE = ROOT / "docs" / "console.png"
#: Each kind of page, with something on it.
PAGES = (
    "/console?q=alice",
    "/console?q=nobody",
    "/console/accounts/alice",
    "/console/accounts/nobody",
    "/console/accounts/alice/commands/order-17",
    "/console/accounts/alice/commands/order-18",
    "/console/accounts/alice/commands/order-17/trace",
    "/console/accounts/alice/commands/welcome/trace",
    "/console/accounts/alice/lines/1",
    "/console/accounts/alice/commands/unknown",
    "/console/books",
    "/console/books/classes",
    "/console/books/ending",
    "/console/books/proof",
    "/console/operation",
    "/console/transfers",
    "/console/rebuild",
    "/console/rules",
    "/console/dead-letters/LETTER",
    "/console/generations/1",
    "/console/accounts/alice/grant?asset=credits",
    "/console/accounts/alice/refund?spend=order-17",
    "/console/accounts/alice/void-grant?grant=bonus",
    "/console/log/0/0",
)
#: What support is asked, where it looks, and what it reads there.
QUESTIONS: Mapping[str, Mapping[str, Any]] = {
    "where did my credits go": {"search": "alice", "links": ["alice", "trace order-17"], "said": "It spent 130"},
    "why was I refused": {"search": "order-18", "links": ["why order-18"], "said": "there is too little for this use"},
    "when do mine expire": {"search": "alice", "links": ["alice"], "said": "30 credits end on"},
}


@pytest.fixture(scope="module")
def seen(door: Door, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a browser saw on its way through the pages."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    folder = npm_installed(tmp_path_factory.mktemp("npm"))
    letter = _fill(door)
    asked = {
        "browser": browser,
        "url": door.url,
        "key": door.make_key(*SCOPES).text,
        "pages": [page.replace("LETTER", letter) for page in PAGES],
        "questions": QUESTIONS,
        "keyboard": "alice",
        "form": "/console/accounts/alice/grant?asset=credits",
        "shown": "/console/accounts/alice",
        "screenshot": str(PICTURE) if os.environ.get("CREDITFOLD_RECORD") else None,
    }
    port = free_port()
    # Of another site than the provider's address, as far as a browser goes.
    address = f"http://localhost:{port}"
    with (
        provider_at(free_port()) as provider,
        serving(door.settings, is_open=True) as without_keys,
        serving(door.settings.model_copy(update=settings_with(provider, address)), port=port),
    ):
        doors = {"open": without_keys, "provided": address}
        done = ran("node", folder / "console.mjs", json.dumps({**asked, **doors}))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _fill(door: Door) -> str:
    """An account with something of everything; returns the position of a dead letter."""
    soon, later = ((datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="milliseconds") for days in (40, 120))
    commands: list[tuple[str, str, dict[str, Any]]] = [
        ("grants", "welcome", {"amount": 50, "lot_class": "promo", "expires_at": soon}),
        ("grants", "invoice-2041", {"amount": 400, "expires_at": later}),
        ("spends", "order-16", {"amount": 20, "reason": "a picture"}),
        ("grants", "invoice-2077", {"amount": 200}),
        ("spends", "order-17", {"amount": 130, "metadata": {"order": "A-17"}}),
        ("holds", "render-5", {"amount": 60, "deadline": later, "use": "render"}),
        ("grants", "bonus", {"amount": 30, "lot_class": "promo", "expires_at": soon}),
        ("spends", "order-18", {"amount": 9_000}),
    ]
    for what, key, body in commands:
        door.append("alice", what, key, asset="credits", **body)
    return str(door.append("alice", "grants", "welcome", asset="credits", amount=51).json()["position"])


def test_no_page_has_a_serious_finding_in_either_theme(seen: dict[str, Any]) -> None:
    """By axe-core, at 360 px."""
    # The login and two answers of a form besides, and the login with a provider.
    assert len(seen["pages"]) == 2 * (len(PAGES) + 3) + 1
    # Each was seen in the colours of its theme.
    assert {(page["theme"], page["background"]) for page in seen["pages"]} == {
        ("light", "rgb(255, 255, 255)"),
        ("dark", "rgb(20, 24, 29)"),
    }
    assert {page["checked"] for page in seen["pages"]} == {"axe-core"}
    assert {(page["path"], page["theme"]): page["violations"] for page in seen["pages"] if page["violations"]} == {}


def test_each_page_is_small_and_fits_a_phone(seen: dict[str, Any]) -> None:
    """Nothing scrolls sideways but tables in their own frames."""
    assert all(0 < page["bytes"] < MOST_BYTES for page in seen["pages"])
    assert {page["path"] for page in seen["pages"] if page["overflow"] > 0} == set()


def test_the_browser_refuses_nothing(seen: dict[str, Any]) -> None:
    """Neither the policy nor a script complains; the pages that aren't there and the bad form are."""
    assert [line for line in seen["console"] if not re.search("status of 40[04]", line)] == []


def test_a_door_without_keys_takes_the_forms_of_its_own_pages(seen: dict[str, Any]) -> None:
    """A browser says where a form comes from, unless a policy has it say `null`, as other origins do."""
    assert seen["open"] == "/console"


def test_who_comes_from_an_identity_provider_is_logged_in_at_once(seen: dict[str, Any]) -> None:
    """Without JavaScript, at the page that was asked for first: the new cookie goes along, as strict as any."""
    assert seen["provider"]["asked"].startswith("127.0.0.1:")
    assert f"jwt:{SUBJECT}" in seen["provider"]["said"]
    assert "Balance now" in seen["provider"]["said"]
    strictness = {"creditfold_console": "Strict", "creditfold_login": "Strict", "creditfold_provider": "Lax"}
    assert seen["provider"]["cookies"] == strictness


def test_what_takes_long_comes_by_itself(seen: dict[str, Any]) -> None:
    """Htmx puts it into the page of the books."""
    assert "promo" in seen["books"]
    assert "What ends in which month" in seen["books"]


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_of_support_is_answered_in_three_clicks(seen: dict[str, Any], name: str) -> None:
    """The search among them."""
    answered = seen["clicks"][name]
    assert answered["clicks"] <= 3
    assert QUESTIONS[name]["said"] in answered["said"]


def test_the_keyboard_goes_everywhere_and_is_seen(seen: dict[str, Any]) -> None:
    """From the skip link to a hit, each with an outline."""
    order = seen["keyboard"]["order"]
    assert order[0]["name"] == "Skip to the content"
    assert [one for one in order if not one["shown"]] == []
    assert seen["keyboard"]["at"] == "/console/accounts/alice"


def test_the_picture_of_the_readme_is_small() -> None:
    """`CREDITFOLD_RECORD=1` takes it anew."""
    assert 0 < PICTURE.stat().st_size < MOST_PICTURE_BYTES
