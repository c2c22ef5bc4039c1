"""The page of transfers in transit, on a door whose worker keeps some back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from creditfold.common.waiting import wait_until
from creditfold.console import transit
from helpers.console import Visitor, links_of, text_of
from helpers.doors import Door, open_door
from helpers.stack_under_test import StackUnderTest
from helpers.support import HANG_S, ROOT, WorkerProcess

pytestmark = pytest.mark.stack


class Holding(WorkerProcess):
    """A worker that keeps transfers back whose ids begin with `out`."""

    program = (str(ROOT / "tests" / "programs" / "held_transfers.py"),)


@pytest.fixture(scope="module")
def door(stack: StackUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A door with such a worker."""
    folder = tmp_path_factory.mktemp("door")
    held: Path = folder / "held"
    held.touch()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HELD_TRANSFERS", str(held))
        with open_door(stack, folder, kind=Holding) as opened:
            yield opened
            held.unlink()


@pytest.fixture(scope="module")
def sent(door: Door) -> int:
    """How many transfers are in transit; another one has arrived."""
    assert "None: whatever was sent has arrived" in transfers_page(door)
    door.append("sender", "grants", "g", asset="credits", amount=1_000)
    for n in range(5):
        sent = door.append("sender", "transfers", f"out-{n}", asset="credits", amount=n + 1, to="<i>receiver</i>")
        assert sent.status_code == 201, sent.text
    door.append("sender", "transfers", "arrives", asset="credits", amount=99, to="other")
    assert wait_until(lambda: "arrives" not in transfers_page(door), HANG_S)
    return 5


def transfers_page(door: Door) -> str:
    """What the page says."""
    with Visitor(door.url) as reader:
        reader.log_in(door.make_key("read:balance").text)
        return text_of(reader.page("/console/transfers"))


def test_transfers_in_transit_are_shown_page_by_page(
    door: Door, visitor: Visitor, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who, to whom, how much, how long, where; each leads on; what has arrived isn't there."""
    monkeypatch.setattr(transit, "MOST_TRANSFERS", 2)
    path, seen = "/console/transfers", []
    for _ in range(3):
        page = visitor.page(path)
        seen += [link for link in links_of(page) if link.endswith("/trace")]
        assert "<i>" not in page
        assert "sender <i>receiver</i>" in text_of(page)
        following = [link for link in links_of(page) if "?after=" in link]
        path = following[0] if following else path
    assert seen == [f"/console/accounts/sender/commands/out-{n}/trace" for n in range(sent)]
    assert "5 credits" in text_of(visitor.page(path))
    page = visitor.page("/console/transfers")
    position = door.http.get("/v1/accounts/sender/commands/out-0").json()["position"]
    assert position in text_of(page)
    assert f"/console/log/{position.replace(':', '/')}" in links_of(page)
    assert "/console/accounts/%3Ci%3Ereceiver%3C%2Fi%3E" in links_of(page)
    operation = visitor.page("/console/operation")
    assert "Transfers in transit 5, the oldest for" in text_of(operation)
    assert "/console/transfers" in links_of(operation)
    assert visitor.page("/console/transfers?after=x", 400)


@pytest.mark.usefixtures("sent")
def test_what_a_scope_doesnt_open_is_no_link(door: Door) -> None:
    """Neither to the log nor to a trace, nor from the page of operation."""
    with Visitor(door.url) as reader:
        reader.log_in(door.make_key("read:balance").text)
        links = links_of(reader.page("/console/transfers"))
        assert [link for link in links if "/trace" in link or "/log/" in link] == []
    with Visitor(door.url) as operator:
        operator.log_in(door.make_key("operate:rules").text)
        page = operator.page("/console/operation")
        assert "/console/transfers" not in links_of(page)
        assert "They are shown to keys with the scope read:balance" in text_of(page), text_of(page)
