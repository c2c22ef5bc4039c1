"""The clients on a real door: every kind of command, bulk, reads, pages and events, and connections that break."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import client_code
import pytest

from creditfold.client import (
    AsyncClient,
    Batch,
    CancelSchedule,
    Capture,
    Client,
    Close,
    Command,
    CreateSchedule,
    Freeze,
    Grant,
    Hold,
    IdReusedError,
    NotAllowedError,
    ProblemError,
    Refund,
    Release,
    SetCreditLimit,
    Spend,
    SpendStep,
    Transfer,
    Unfreeze,
    VoidGrant,
)
from creditfold.client.answers import AcceptedAnswer, OutcomeAnswer, ReadyAnswer
from creditfold.projections.access.scopes import SCOPES
from helpers.cutting_proxy import CuttingProxy
from helpers.doors import Door
from helpers.node import BRIEF_NPM, need_node
from helpers.pages import blocks
from helpers.published import decoded
from helpers.support import HANG_S, ROOT, ran, read_log

pytestmark = pytest.mark.stack

LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
CREDITS = {"asset": "credits"}


@pytest.fixture(scope="module")
def text(door: Door) -> str:
    """A key that opens everything."""
    return door.make_key(*SCOPES).text


@pytest.fixture
def ledger(door: Door, text: str) -> Iterator[Client]:
    """A client with that key."""
    with Client(door.url, text, retry_s=HANG_S) as client:
        yield client


#: One of each kind, in this order, and the balance of amy's credits afterwards.
EVERY: tuple[tuple[Command, int], ...] = (
    (Grant(command_id="g-1", account="amy", **CREDITS, amount=100, expires_at=LATER, reason="welcome"), 100),
    (Grant(command_id="g-2", account="amy", **CREDITS, amount=7), 107),
    (Spend(command_id="s-1", account="amy", **CREDITS, amount=20, metadata={"order": "1"}), 87),
    (Hold(command_id="h-1", account="amy", **CREDITS, amount=30, deadline=LATER), 57),
    (Capture(command_id="c-1", account="amy", hold="h-1", amount=10), 57),
    (Release(command_id="r-1", account="amy", hold="h-1"), 77),
    (Refund(command_id="b-1", account="amy", spend="s-1", amount=5), 82),
    (VoidGrant(command_id="v-1", account="amy", grant="g-2"), 75),
    (Transfer(command_id="t-1", account="amy", **CREDITS, amount=5, to="bob"), 70),
    (SetCreditLimit(command_id="l-1", account="amy", **CREDITS, limit=10), 70),
    (CreateSchedule(command_id="m-1", account="amy", **CREDITS, amount=5, period="months", first_at=LATER), 70),
    (CancelSchedule(command_id="m-2", account="amy", schedule="m-1"), 70),
    (Batch(command_id="x-1", account="amy", steps=(SpendStep(command_id="x-2", **CREDITS, amount=4),)), 66),
    (Freeze(command_id="f-1", account="amy", scope="all"), 66),
    (Unfreeze(command_id="f-2", account="amy"), 66),
    (Close(command_id="z-1", account="amy", forfeit=True), 0),
)  # fmt: skip


def test_every_command_is_previewed_appended_and_read(ledger: Client) -> None:
    """Each is decided as its preview says, and each read answers in its type."""
    for command, available in EVERY:
        previewed = ledger.preview(command)
        outcome = ledger.append_and_wait(command, timeout_s=HANG_S)
        assert (outcome.outcome, previewed.outcome) == ("accepted", "accepted"), (command, outcome)
        assert outcome.decision is not None
        moves = [one for line in outcome.steps or (outcome.decision,) for one in line.allocations]
        # What a close forfeits is in lines of its own, by asset.
        assert list(previewed.allocations) == moves or isinstance(command, Close)
        (balance,) = ledger.balances("amy", at_least=outcome.position)
        assert (balance.available, previewed.balances["credits"]["available"]) == (available, available), command
    assert outcome.stamp.position == outcome.position
    account = ledger.account("amy", expand="lots,holds", at_least=outcome.position)
    assert (account.is_closed, account.stamp.generation) == (True, 1)
    assert account.lots is not None
    lots = ledger.lots("amy", every=True)
    assert [(lot.command_id, lot.expires_at) for lot in lots.lots if lot.command_id == "g-1"] == [("g-1", LATER)]
    assert lots.stamp.position is not None
    assert [lot for page in ledger.lots_pages("amy", every=True, limit=1) for lot in page.lots] == list(lots.lots)
    found: Any = ledger.command("amy", "s-1")
    assert (found.outcome, found.decision.change) == ("accepted", -20)
    assert ledger.trace("amy", "s-1").refunded == 5
    pages = list(ledger.statement_pages("amy", limit=3))
    assert [line for page in pages for line in page.lines] == list(ledger.statement("amy").lines)
    assert len(pages) > 3
    rows = [line for page in ledger.journal_pages(limit=4) for line in page.lines if line.account == "amy"]
    assert {row.command_id for row in rows} >= {command.command_id for command, _ in EVERY}
    rejected = [row for page in ledger.rejections_pages(from_="0:0,1:0", limit=1) for row in page.lines]
    assert "amy" not in {row.account for row in rejected}
    assert ledger.expiring("amy", within="30d").lots == ()
    assert ledger.ready() == ReadyAnswer(ready=True, kafka=True, postgresql=True)
    assert ledger.trial_balance().balances
    assert "append:grant" in ledger.keys()[0].scopes


def test_errors_have_a_type_and_say_what_to_do(ledger: Client, door: Door) -> None:
    """A rejection is an outcome; what is refused is an error, in the server's words."""
    grant = Grant(command_id="g", account="eve", **CREDITS, amount=5)
    ledger.append_and_wait(grant, timeout_s=HANG_S)
    spend = Spend(command_id="s", account="eve", **CREDITS, amount=50)
    outcome = ledger.append_and_wait(spend, timeout_s=HANG_S)
    assert (outcome.accepted, outcome.outcome, outcome.reason) == (False, "rejected", "insufficient_credits")
    with pytest.raises(IdReusedError) as reused:
        ledger.append_and_wait(grant.model_copy(update={"amount": 6}), timeout_s=HANG_S)
    stamp = reused.value.problem.stamp
    assert (reused.value.status, stamp.position, stamp.generation) == (409, reused.value.problem.position, 1)
    with pytest.raises(ProblemError) as invalid:
        ledger.append_and_wait(grant.model_copy(update={"amount": -1}))
    assert invalid.value.problem.problems
    assert not invalid.value.maybe_written
    with Client(door.url, door.make_key("append:spend").text) as shop, pytest.raises(NotAllowedError) as refused:
        shop.append_and_wait(grant)
    assert refused.value.request_id
    position = ledger.append(Spend(command_id="s-2", account="eve", **CREDITS, amount=1)).position
    again = ledger.outcome_at(Spend(command_id="s-2", account="eve", **CREDITS, amount=1), position, timeout_s=HANG_S)
    assert (again.accepted, again.position) == (True, position)


def test_a_busy_server_is_asked_again_when_it_says(door: Door) -> None:
    """The second request finds the key's bucket empty, and is answered all the same."""
    key = door.make_key("read:balance", rate=2.0, burst=1).text
    with Client(door.url, key, retry_s=HANG_S) as client:
        assert [client.balances("nobody") for _ in range(3)] == [()] * 3


def appended(door: Door, account: str) -> list[str]:
    """The ids of an account's commands in the log, each as often as it is there."""
    return [
        row["command_id"]
        for _, row in map(decoded, (r.value for r in read_log(door.settings)))
        if row["account"] == account
    ]


async def test_a_command_whose_answer_is_cut_counts_once(door: Door, proxy: CuttingProxy, text: str) -> None:
    """The server has it, and the client sends it again under the same id; many at once as well as one."""
    grant = Grant(command_id="g", account="cut", **CREDITS, amount=10)
    with Client(proxy.url, text, retry_s=HANG_S) as client:
        proxy.cut_answers = 1
        outcome = client.append_and_wait(grant, timeout_s=HANG_S)
    assert (outcome.outcome, outcome.accepted, proxy.cut_answers) == ("duplicate", True, 0)
    many = [Spend(command_id=f"s-{n}", account="cut", **CREDITS, amount=1) for n in range(4)]
    async with AsyncClient(proxy.url, text, retry_s=HANG_S) as client_:
        proxy.cut_answers = 1
        lines = [line async for line in client_.append_many(many)]
        assert [(line.command, getattr(line.answer, "accepted", None)) for line in lines] == [
            (one, True) for one in many
        ]
        proxy.cut_answers = 1
        (balance,) = await client_.balances("cut")
    assert (balance.available, proxy.cut_answers) == (6, 0)
    ids = appended(door, "cut")
    assert ids.count("g") == 2
    assert set(ids) == {"g", *(one.command_id for one in many)}


async def test_many_are_appended_in_pieces_and_followed_over_cuts(proxy: CuttingProxy, text: str) -> None:
    """Each command has its answer, in order; each outcome comes once, whatever breaks meanwhile."""
    count = 700

    async def commands() -> AsyncIterator[Command]:
        yield Grant(command_id="g", account="bulk", **CREDITS, amount=count)
        for number in range(count):
            yield Spend(command_id=f"s-{number}", account="bulk", **CREDITS, amount=-1 if number == 7 else 1)

    async with AsyncClient(proxy.url, text, retry_s=HANG_S) as client:
        lines = [line async for line in client.append_many(commands(), is_waiting=False)]
        assert [line.command.command_id for line in lines] == ["g", *(f"s-{number}" for number in range(count))]
        assert {type(line.answer) for line in lines} == {AcceptedAnswer, ProblemError}
        wrong = lines[8].answer
        assert isinstance(wrong, ProblemError)
        assert (wrong.status, wrong.command) == (400, lines[8].command)
        seen = []
        async with aclosing(client.outcomes(after="start", account_prefix="bulk")) as events:
            async for event in events:
                seen.append(event)
                if len(seen) in (1, 300):
                    proxy.cut_all()
                if len(seen) == count:
                    break
        assert [event.decision.version for event in seen] == list(range(1, count + 1))
    with Client(proxy.url, text) as client_, closing(client_.outcomes(after=seen[9].id)) as rest:
        assert next(rest).id == seen[10].id
        again = client_.append_many(line.command for line in islice(lines, 3))
        answers = [line.answer for line in again]
    for one in answers:
        assert isinstance(one, OutcomeAnswer)
        assert (one.outcome, one.stamp.generation, one.stamp.position) == ("duplicate", 1, one.position)


#: Compiles only where the line after the comment doesn't.
WRONG = """\
import type { paths } from "./creditfold.js";
type Body = paths["/v1/accounts/{account}/grants"]["post"]["requestBody"]["content"]["application/json"];
export const right: Body = { asset: "credits", amount: 5 };
// @ts-expect-error
export const wrong: Body = { asset: "credits", amount: "5" };
"""


@pytest.fixture
def typescript(tmp_path: Path) -> Path:
    """A copy of TypeScript's package in a tree of its own, with the document that its types are made from."""
    need_node()
    copy = tmp_path / "clients" / "typescript"
    shutil.copytree(client_code.TYPESCRIPT, copy, ignore=shutil.ignore_patterns("node_modules", "*.js"))
    (tmp_path / "docs").mkdir()
    shutil.copy(client_code.DOCUMENT, tmp_path / "docs")
    (copy / "wrong.ts").write_text(WRONG, "utf-8")
    settings = copy / "tsconfig.json"
    settings.write_text(settings.read_text("utf-8").replace('"shop.ts"', '"shop.ts", "wrong.ts"'), "utf-8")
    return copy


def test_typescript_has_the_types_and_charges_once(proxy: CuttingProxy, text: str, typescript: Path) -> None:
    """As the quick start says it; its types are those of the document, and a wrong field doesn't compile."""
    (shown,) = (block.text for block in blocks(ROOT / "docs" / "quickstart.md") if block.language == "sh")
    variables = {**os.environ, **BRIEF_NPM, "LEDGER_URL": proxy.url, "LEDGER_KEY": text}
    sh = partial(ran, "sh", "-ec", env=variables)
    proxy.cut_answers = 1
    done = sh(shown, cwd=typescript.parents[1])
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (0, ["deliver", "380 credits"]), (
        done.stdout + done.stderr
    )
    assert proxy.cut_answers == 0
    assert sh("node shop.js", cwd=typescript).stdout == "deliver\n380 credits\n"
    committed = (typescript / "creditfold.ts").read_text("utf-8")
    client_code.write_types(typescript)
    assert (typescript / "creditfold.ts").read_text("utf-8") == committed, "run `make api`"
