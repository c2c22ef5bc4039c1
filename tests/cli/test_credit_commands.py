"""The commands of credits on the command line: what each asks for, what is refused, and what is reported."""

import io
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from creditfold.cli.append import submission
from creditfold.cli.shared.arguments import ArgumentError, duration_of, instant_of, instant_or_from_now
from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.producers.models.commands import MODELS
from creditfold.producers.models.errors import DeliveryFailedError
from creditfold.schemas.outcome import Decision
from creditfold.schemas.wire import decode
from helpers.support import PATIENT, Cli, read_log, worker

YEAR_2030 = 1_893_456_000_000
DAY_MS = 86_400_000
STEPS = '[{"type": "hold", "command_id": "h", "asset": "x", "amount": 1, "deadline": 4102444800000}]'


@pytest.mark.parametrize(
    ("line", "type", "said"),
    [
        ("grant ada 5", "grant", {"asset": "credits", "amount": 5}),
        (
            "grant ada 5 --class promo --priority 7 --effective-at 2029-12-31 --expires-at 2030-01-01T00:00Z",
            "grant",
            {"lot_class": "promo", "priority": 7, "effective_at": YEAR_2030 - DAY_MS, "expires_at": YEAR_2030},
        ),
        (
            "spend ada 5 --use boosts --partial --effective-at 2030-01-01T01:00+01:00",
            "spend",
            {"use": "boosts", "partial": True, "effective_at": YEAR_2030},
        ),
        ("hold ada 5 --until 2030-01-01", "hold", {"amount": 5, "deadline": YEAR_2030, "use": ""}),
        ("hold ada 5 --until 1893456000000 --use boosts --asset x", "hold", {"deadline": YEAR_2030, "asset": "x"}),
        ("capture ada h-1", "capture", {"hold": "h-1", "amount": 0, "final": False}),
        ("capture ada h-1 25 --final", "capture", {"hold": "h-1", "amount": 25, "final": True}),
        ("release ada h-1", "release", {"hold": "h-1", "amount": 0}),
        ("release ada h-1 3", "release", {"amount": 3}),
        ("refund ada s-1", "refund", {"spend": "s-1", "amount": 0, "reissue": False, "expires_at": 0}),
        ("refund ada s-1 2 --reissue --expires-at 20300101", "refund", {"amount": 2, "expires_at": YEAR_2030}),
        ("void ada g-1", "void_grant", {"grant": "g-1", "number": 0}),
        ("void ada g-1 --number 3", "void_grant", {"number": 3}),
        ("transfer ada bob 5 --use boosts", "transfer", {"to": "bob", "amount": 5, "use": "boosts"}),
        ("freeze ada", "freeze", {"scope": "spending"}),
        ("freeze ada --all", "freeze", {"scope": "all"}),
        ("unfreeze ada", "unfreeze", {}),
        ("close ada", "close", {"forfeit": False}),
        ("close ada --forfeit", "close", {"forfeit": True}),
        ("credit-limit ada 0", "set_credit_limit", {"asset": "credits", "limit": 0}),
        (
            "schedule create ada 5 --first-at 2030-01-01",
            "create_schedule",
            {"period": "months", "every": 1, "first_at": YEAR_2030, "until": 0, "cap": 0, "expires_after_ms": 0},
        ),
        (
            "schedule create ada 5 --first-at 2029-12-31 --every 7 --days --until 2030-01-01 --cap 20"
            " --class promo --priority 7 --expires-after 7d --scope boosts",
            "create_schedule",
            {
                "period": "days",
                "every": 7,
                "until": YEAR_2030,
                "cap": 20,
                "expires_after_ms": 7 * DAY_MS,
                "scope": "boosts",
            },
        ),
        ("schedule cancel ada p-1", "cancel_schedule", {"schedule": "p-1"}),
    ],
)
def test_a_line_asks_for_a_command(bare: Cli, sent: list[Any], line: str, type: str, said: dict[str, Any]) -> None:
    """With the options that all of them share."""
    done = bare(*line.split(), "--no-wait", "--id", "c-1", "--reason", "why", "-m", "k=v")
    assert (done.code, done.err) == (0, "")
    assert done.out == "appended at 0:1\n  command c-1\n"
    (command,) = sent
    shared = {"account": "ada", "command_id": "c-1", "source": "cli", "reason": "why", "metadata": {"k": "v"}}
    assert command.type == type
    assert {**command.fields, **said, **shared} == command.fields


def test_every_command_can_be_asked_for(bare: Cli, sent: list[Any], tmp_path: Path) -> None:
    """The table above has every type but the batch, which is a file."""
    (tmp_path / "steps.json").write_text("\ufeff" + STEPS)
    assert bare("batch", "ada", str(tmp_path / "steps.json"), "--no-wait", "--id", "b").code == 0
    assert sent[0].fields["steps"][0] | {"kind": "hold", "command_id": "h"} == sent[0].fields["steps"][0]
    (mark,) = test_a_line_asks_for_a_command.pytestmark  # type: ignore[attr-defined]
    assert {row[1] for row in mark.args[1]} | {"batch"} == set(MODELS)


def test_steps_come_from_the_input_too(bare: Cli, sent: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As other tools write them."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(STEPS.encode())))
    assert bare("batch", "ada", "-", "--no-wait").code == 0
    assert len(sent[0].steps) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("hold ada 5", "--until"),
        ("hold ada 5 --until soon", "'soon' is no time"),
        ("hold ada 5 --until 0", "deadline must be an instant"),
        ("hold ada 5 --until 1969-01-01T00:00Z", "1969-01-01T00:00Z lies outside 1973-03-03T09:46:40Z to 9999"),
        ("hold ada 5 --until 999999999d", "deadline must be"),
        ("capture ada h-1 0", "amount must be a whole number from 1"),
        ("capture ada h-1 many", "amount must be a whole number from 1"),
        ("release ada h-1 0", "leave it out for all that is left"),
        ("refund ada s-1 0", "leave it out for all that is left"),
        ("refund ada s-1 --expires-at 2030-01-01", "say reissue too"),
        ("void ada g-1 --number x", "--number"),
        ("transfer ada ada 5", "to must be another account"),
        ("grant ada 5 --class gold", "--class"),
        ("grant ada 5 --priority 101", "priority must be a whole number from 0 to 100"),
        ("grant ada 5 --effective-at 2030-01-01 --expires-at 20300101", "expires_at must be after effective_at"),
        ("grant ada 5 --id ~x", "without ~ at its start"),
        ("credit-limit ada -- -1", "limit must be"),
        ("schedule create ada 5", "--first-at"),
        ("schedule create ada 5 --first-at 2030-01-01 --until 2030-01-01", "until must be after first_at"),
        ("schedule create ada 5 --first-at 2030-01-01 --expires-after 7", "'7' is no length of time"),
        ("schedule", ""),
        ("batch ada no-such-file", "Can't read no-such-file"),
        ("batch ada .", "Can't read"),
    ],
)
def test_what_cannot_be_meant_is_refused(bare: Cli, sent: list[Any], line: str, says: str) -> None:
    """With code 2, and before anything is sent."""
    done = bare(*line.split())
    assert says in done.err
    assert (done.code, sent) == (2 if says else done.code, [])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"{", "holds no steps: it is not JSON"),
        (b"\xff", "is not UTF-8"),
        (b"{}", "holds no list"),
        (b"[]", "steps must be a list of 1 to 100"),
        (b'[{"type": "hold", "type": "spend"}]', "the key 'type' twice"),
        (b'[{"type": "hold"}]', "steps[0].command_id is missing"),
        (b" " * 1_100_000, "more than 1,048,576 bytes"),
    ],
)
def test_a_file_that_holds_no_steps_is_refused(
    bare: Cli, sent: list[Any], tmp_path: Path, text: bytes, says: str
) -> None:
    """Saying why."""
    (tmp_path / "steps.json").write_bytes(text)
    done = bare("batch", "ada", str(tmp_path / "steps.json"))
    assert (done.code, done.out, sent) == (2, "", [])
    assert says in done.err


NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("90s", YEAR_2030 + 90_000),
        ("15m", YEAR_2030 + 900_000),
        ("2h", YEAR_2030 + 7_200_000),
        ("7d", YEAR_2030 + 604_800_000),
        ("20300101", YEAR_2030),
        ("1893456000000", YEAR_2030),
        ("2030-01-01T00:00:00.0009Z", YEAR_2030),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_times(text: str, at: int) -> None:
    """A length of time counts from now; eight digits are a date, and more are milliseconds."""
    assert instant_or_from_now(text, NOW) == at


@pytest.mark.parametrize("text", ["", "7", "-7d", "1.5h", "7w", "7 d", "\u0667d", "d"])
def test_what_is_no_length_of_time(text: str) -> None:
    """Each says how to write one."""
    with pytest.raises(ArgumentError, match="no length of time"):
        duration_of(text)


def test_a_time_without_its_zone_is_in_utc() -> None:
    """As everywhere here."""
    assert instant_of("2030-01-01T00:00") == YEAR_2030


def test_a_hold_that_counts_from_now_says_how_it_is_sent_again(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """15m from now would be another deadline by then, and another command under the same id."""
    seen: list[Any] = []

    def fail(attempt: Any, _: float) -> Position:
        attempt.sent = True
        seen.append(attempt.command.deadline)
        raise DeliveryFailedError("The log didn't confirm it.", "")

    monkeypatch.setattr(submission, "_appended", fail)
    done = bare("hold", "ada", "5", "--until", "15m", "--id", "h-1", "--no-wait")
    assert done.code == 1
    assert f"sent again with --id h-1 --until {seen[0]}, all else the same, it counts once" in done.err


def decided(
    kind: str, asset: str, amount: int, change: int, rejection: str | None = None, *, facts: Any = ()
) -> Decision:
    """A line of the journal."""
    row = {"account_id": "ada", "kind": kind, "asset": asset, "amount": amount, "change": change, "balance": 1_000}
    given = row | {"accepted": rejection is None, "rejection": rejection, "facts": facts}
    return Decision(**{name: given.get(name) for name in Decision._fields})  # type: ignore[arg-type]


EXPIRED = [
    {"kind": "granted", "ref": "g", "moves": [["g", 1, "issued", "remaining", 5]]},
    {"kind": "expired", "ref": "g", "moves": [["g", 1, "remaining", "expired", 5]]},
]


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (decided("grant", "x", 5, 5), "accepted: +5 x; ada has 1,000 x"),
        (decided("hold", "x", 5, -5), "accepted: -5 x; ada has 1,000 x"),
        (decided("capture", "x", 5, 0), "accepted: capture of 5 x; ada has 1,000 x"),
        (decided("freeze", "", 0, 0), "accepted: freeze"),
        (decided("spend", "x", 5, 0, "account_frozen"), "rejected: account_frozen: spend of 5 x; ada has 1,000 x"),
        (decided("close", "", 0, 0, "holds_open"), "rejected: holds_open: close"),
        (decided("grant", "x", 5, 0, facts=EXPIRED), "accepted: grant of 5 x; ada has 1,000 x; 5 x expired at once"),
    ],
)
def test_an_outcome_in_words(decision: Decision, said: str) -> None:
    """Whatever the command was about."""
    assert submission.outcome_in_words(decision) == said


def test_a_batch_says_what_expired_at_once_in_its_steps() -> None:
    """Its own line is of no asset and has no facts."""
    steps = [decided("grant", asset, 5, 0, facts=EXPIRED) for asset in ("x", "y", "x")]
    said = submission.outcome_in_words(decided("batch", "", 0, 0), [*steps, decided("grant", "z", 5, 5)])
    assert said == "accepted: batch; 10 x expired at once; 5 y expired at once"


# What needs the stack.


def test_commands_stand_in_the_log(cli: Cli, ledger_settings: Settings) -> None:
    """With --no-wait nobody needs to fold them."""
    lines = ["hold ada 5 --until 15m", "unfreeze ada", "grant ada 5", "grant ada 5 --class promo"]
    places = [cli(*line.split(), "--no-wait", *PATIENT, "--json").json["position"] for line in lines]
    found = {str(Position(row.partition, row.offset)): decode(row.value) for row in read_log(ledger_settings)}
    assert [found[place].record for place in places] == ["Hold", "Unfreeze", "Grant", "Grant"]


#: Lines in their order, the code that each ends with, and how what it prints begins.
STORY = (
    ("grant ada 100 --id g-1", 0, "accepted: +100 credits; ada has 100 credits"),
    ("grant ada 50 --class promo --scope boosts", 0, "accepted: +50 credits; ada has 150 credits"),
    ("spend ada 120 --use boosts --id s-1", 0, "accepted: -120 credits; ada has 30 credits"),
    ("hold ada 20 --until 15m --id h", 0, "accepted: -20 credits; ada has 10 credits"),
    ("capture ada h 5", 0, "accepted: capture of 5 credits; ada has 10 credits"),
    ("release ada h", 0, "accepted: +15 credits; ada has 25 credits"),
    ("release ada h", 3, "rejected: hold_closed: release"),
    ("refund ada s-1 2", 0, "accepted: +2 credits; ada has 27 credits"),
    ("void ada g-1", 0, "accepted: -27 credits; ada has 0 credits"),
    ("grant ada 100", 0, "accepted: +100 credits; ada has 100 credits"),
    ("transfer ada bob 75", 0, "accepted: -75 credits; ada has 25 credits"),
    ("freeze ada", 0, "accepted: freeze\n"),
    ("spend ada 1", 3, "rejected: account_frozen: spend of 1 credits"),
    ("unfreeze ada", 0, "accepted: unfreeze\n"),
    ("batch ada steps.json", 0, "accepted: batch\n"),
    ("schedule create eve 5 --first-at 2100-01-01 --id m", 0, "accepted: create_schedule of 5 credits"),
    ("schedule cancel eve m", 0, "accepted: cancel_schedule"),
    ("credit-limit eve 1000", 0, "accepted: set_credit_limit"),
    ("spend eve 3 --id s-1", 0, "accepted: "),
    ("close eve --forfeit", 3, "rejected: debt_open: close"),
    ("close zoe", 0, "accepted: close\n"),
)


@pytest.mark.usefixtures("one_producer")
def test_each_is_decided(cli: Cli, ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line into the log, and back out of the fold."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steps.json").write_text(
        '[{"type": "hold", "command_id": "b-1", "asset": "credits", "amount": 10, "deadline": 4102444800000},'
        ' {"type": "capture", "command_id": "b-2", "hold": "b-1", "final": true}]'
    )
    with worker(ledger_settings, tmp_path):
        for line, code, said in STORY:
            done = cli(*line.split(), *PATIENT)
            assert (line, done.code, done.out[: len(said)], done.err) == (line, code, said, "")
        done = cli("grant", "kim", "5", "--expires-at", "2001-01-01", *PATIENT)
        assert done.out.startswith("accepted: grant of 5 credits; kim has 0 credits; 5 credits expired at once\n")
        assert done.err.startswith("note: expires_at lies in the past")
        (tmp_path / "past.json").write_text(
            '[{"type": "grant", "command_id": "b-3", "asset": "credits", "amount": 5, "expires_at": "2001-01-01"}]'
        )
        for name in ("b-4", "b-4"):
            done = cli("batch", "kim", "past.json", "--id", name, *PATIENT)
            assert "accepted: batch; 5 credits expired at once\n" in done.out
        done = cli("batch", "kim", "past.json", "--id", "b-4", "--json", *PATIENT)
        assert [step["command_id"] for step in done.json["steps"]] == ["b-3"]
        first = (datetime.now(UTC) - timedelta(days=3, hours=1)).isoformat()
        turns = ("--days", "--first-at", first, "--expires-after", "36h")
        done = cli("schedule", "create", "lee", "5", *turns, *PATIENT)
        assert "lee has 10 credits; 10 credits expired at once" in done.out
        assert "4 of its turns lie in the past and grant 20 credits at once, 10 of which expire at once" in done.err
