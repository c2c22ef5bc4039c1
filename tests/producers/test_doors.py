"""What no door of the producers lets through, and what each reads alike: every door with every field of every command.

The tables are made from the models, so that a new field is looked at in every door without anybody thinking of it.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, NamedTuple

import pytest

from creditfold.cli.append.redrive import _corrections
from creditfold.cli.shared.arguments import ArgumentError, instant_of, moment_of
from creditfold.cli.shared.output import safe
from creditfold.common import instants
from creditfold.common.lookalikes import oddity_of
from creditfold.common.position import Position
from creditfold.ledger import limits
from creditfold.ledger.commands import CreateSchedule as Schedule
from creditfold.ledger.validity import check
from creditfold.producers import (
    Batch,
    CreateSchedule,
    DoubtfulCommandError,
    Grant,
    GrantStep,
    InvalidCommandError,
    encode_command,
    parse_command,
)
from creditfold.producers.import_commands import CsvRecords, JsonLines
from creditfold.producers.import_records import RawRecord
from creditfold.producers.models.commands import MAX_PAST_TURNS, MODELS
from creditfold.producers.models.fields import Instant
from creditfold.producers.models.past_effects import past_effect, past_turns
from creditfold.producers.models.steps import STEP_MODELS
from creditfold.producers.redrive import Corrections, Letter, RedriveRefusedError, command_begun, mend
from creditfold.producers.strict_json import BadRecordError
from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.wire import decode, encode
from helpers.commands import LEAST, least, step
from helpers.support import Cli

YEAR_2027 = 1_798_761_600_000
DAY_MS = 86_400_000


# The doors. Each makes a command of its type's fields, or says why not.


def by_constructor(type: str, fields: dict[str, Any]) -> Any:
    return MODELS[type](**{name: value for name, value in fields.items() if name != "type"})


def by_fields(type: str, fields: dict[str, Any]) -> Any:
    return parse_command(fields)


def by_json_line(type: str, fields: dict[str, Any]) -> Any:
    return JsonLines().parse(json.dumps(fields).encode())


def by_csv(type: str, fields: dict[str, Any]) -> Any:
    row, text = {name: as_cell(value) for name, value in fields.items()}, io.StringIO()
    csv.writer(text).writerows([list(row), list(row.values())])
    header, cells = text.getvalue().encode("utf-8", "surrogatepass").splitlines()
    return CsvRecords.with_header(RawRecord(1, 1, header)).parse(cells)


def as_cell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else json.dumps(value) if value == {} else str(value)


def by_redrive(type: str, fields: dict[str, Any]) -> Any:
    """With the fields set one by one, as the command line has them, on a record that is sound."""
    was = parse_command(least(type))
    said = [f"{name}={as_cell(value)}" for name, value in fields.items() if name != "type"]
    letter = Letter(Position(0, 0), DeadLetterReason.KEY_MISMATCH, "", encode_command(was).value)
    return mend(letter, _corrections(said, None, None), 2).command


def by_redrive_json(type: str, fields: dict[str, Any]) -> Any:
    letter = Letter(Position(0, 0), DeadLetterReason.EMPTY_VALUE, "", None)
    return mend(letter, Corrections(command=fields), 2).command


DOORS: dict[str, Callable[[str, dict[str, Any]], Any]] = {
    "constructor": by_constructor,
    "fields": by_fields,
    "json": by_json_line,
    "csv": by_csv,
    "redrive": by_redrive,
    "redrive-json": by_redrive_json,
}
REFUSED = (InvalidCommandError, BadRecordError, RedriveRefusedError)
#: Doors that know texts only, and no batches.
FLAT = ("csv", "redrive")


class Place(NamedTuple):
    """A field of a command, or of a step of a batch."""

    type: str
    field: str
    is_step: bool = False

    def filled(self, value: Any) -> dict[str, Any]:
        """The command with this field, and what must stand beside it."""
        beside = {"reissue": True} if (self.type, self.field) == ("refund", "expires_at") else {}
        if not self.is_step:
            return least(self.type, **beside, **{self.field: value})
        one = step(self.type, "s-1", **beside)
        return least("batch", steps=[{**one, self.field: value}])

    def read(self, command: Any) -> Any:
        """What a command has in it."""
        return getattr(command.steps[0] if self.is_step else command, self.field)

    @property
    def doors(self) -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
        for name, door in DOORS.items():
            if not ((self.is_step or self.type == "batch") and name in FLAT):
                yield name, lambda fields, door=door: door("batch" if self.is_step else self.type, fields)


def places(is_wanted: Callable[[Any, str, Any], bool]) -> list[Place]:
    found = [
        Place(type, name, is_step)
        for models, is_step in ((MODELS, False), (STEP_MODELS, True))
        for type, model in models.items()
        for name, field in model.model_fields.items()
        if is_wanted(model, name, field)
    ]
    assert {place.is_step for place in found} == {True, False}
    return found


def ids(place: Place) -> str:
    return f"{'step-' if place.is_step else ''}{place.type}-{place.field}"


INSTANTS = places(lambda _, __, field: any(isinstance(mark, Instant) for mark in field.metadata))
RESTS = places(lambda model, name, _: name in model.unsaid)
NAMES = places(lambda _, name, field: field.annotation is str and name not in ("source", "reason"))


def test_no_field_escapes_the_tables() -> None:
    """Whatever is called as an instant is one, and what None can be given for has its 0 in the log."""
    whole = places(lambda _, __, field: field.annotation in (int, int | None))
    at = {place.field for place in whole if place.field.endswith("_at")} | {"deadline", "until"}
    assert {place.field for place in INSTANTS} == at
    assert all(place.field.endswith("_ms") or place in RESTS for place in places(lambda _, __, f: f.default is None))
    assert instants.MAX_INSTANT == limits.MAX_OCCURRED_AT


DATE = 20_270_101
#: What is no instant, and what is said of it.
NO_INSTANTS: list[tuple[Any, str]] = [
    (1_798_761_600, "1798761600 is in seconds? In milliseconds it is 1798761600000, 2027-01-01T00:00:00Z"),
    (DATE, "20270101 is a date? Write it as 2027-01-01"),
    (46_388, "46388 is 1970-01-01T00:00:46.388Z in milliseconds"),
    (1, "is it in seconds?"),
    (99_999_999_999, "is in seconds?"),
    (202_701_011_200, "is a date? Write it as 2027-01-01T12:00:00Z"),
    (20_270_101_120_000, "is a date? Write it as 2027-01-01T12:00:00Z"),
    (1_798_761_600_000_000, "is in microseconds? In milliseconds it is 1798761600000"),
    (1_798_761_600_000_000_000, "is in nanoseconds? In milliseconds it is 1798761600000"),
    (253_402_300_800_000, "lies after 9999"),
    (-1, ""),
    ("1798761600", "is in seconds?"),
    ("1969-12-31", "lies outside 1973"),
    ("soon", "'soon' is no time in ISO 8601"),
    ("2027-02-30", "no time"),
    ("12345678", "no time"),
    ("2027-01-01x12:00", "no time"),
    ("01.02.2027", "no time"),
    ("1.79876E+12", "no time"),
    (True, ""),
    (1.5e12, ""),
]
#: One instant in the ways that it is written.
SPELLINGS: list[Any] = [
    YEAR_2027,
    str(YEAR_2027),
    "20270101",
    "2027-01-01",
    "2027-01-01T00:00Z",
    "2027-01-01 00:00:00",
    "2027-01-01t00:00:00.000z",
    "20270101T000000Z",
    "20270101T020000+0200",
    "2026-12-31T19:00:00-05:00",
    "2027-W01-1" if datetime.fromisoformat("2027-W01-1") == datetime(2027, 1, 1) else "2026-W53-5",
]


@pytest.mark.parametrize("place", INSTANTS, ids=ids)
def test_an_instant_in_another_unit_is_refused_in_every_door(place: Place) -> None:
    """Named by its field, with what was most likely meant."""
    for name, door in place.doors:
        for value, says in NO_INSTANTS:
            if value == DATE and name in FLAT:
                continue  # In a text eight digits are a date.
            with pytest.raises(REFUSED) as refused:
                door(place.filled(value))
            assert place.field in str(refused.value), (name, value)
            assert says in str(refused.value), (name, value)


@pytest.mark.parametrize("place", INSTANTS, ids=ids)
def test_an_instant_is_read_alike_in_every_door(place: Place) -> None:
    """In ISO 8601 and in milliseconds; midnight in UTC where nothing else is said."""
    # Later than all that must come before it, and earlier than what must come behind.
    for name, door in place.doors:
        for spelling in SPELLINGS:
            fields = place.filled(spelling)
            if place.field in ("first_at", "until"):
                fields["first_at"] = spelling if place.field == "first_at" else "2026-12-01"
            assert place.read(door(fields)) == YEAR_2027, (name, spelling)


@pytest.mark.parametrize("place", INSTANTS, ids=ids)
def test_an_instant_of_0_says_none_where_there_may_be_none(place: Place) -> None:
    """No instant of 1970 can be meant by it."""
    must_be_said = place.field in LEAST[place.type]
    for name, door in place.doors:
        for nothing in (0, "0"):
            fields = place.filled(nothing)
            (fields["steps"][0] if place.is_step else fields).pop("reissue", None)
            if must_be_said:
                with pytest.raises(REFUSED, match=place.field):
                    door(fields)
            else:
                assert place.read(door(fields)) == 0, name


def test_an_instant_of_python_has_a_time_zone() -> None:
    """A datetime without one is the local time of some, and UTC of others."""
    made = Grant(**least_of("grant", expires_at=datetime(2027, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))))
    assert made.expires_at == YEAR_2027
    assert Grant(**least_of("grant", expires_at=date(2027, 1, 1))).expires_at == YEAR_2027
    with pytest.raises(InvalidCommandError, match=r"expires_at must be an instant.*it has no time zone"):
        Grant(**least_of("grant", expires_at=datetime(2027, 1, 1)))


def least_of(type: str, **other: Any) -> dict[str, Any]:
    return {name: value for name, value in least(type, **other).items() if name != "type"}


#: How the command line names the instants of each command; `occurred_at` it doesn't ask for.
OPTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "grant": ("grant ada 5", {"effective_at": "--effective-at", "expires_at": "--expires-at"}),
    "spend": ("spend ada 5", {"effective_at": "--effective-at"}),
    "hold": ("hold ada 5", {"deadline": "--until"}),
    "refund": ("refund ada s-1 --reissue", {"expires_at": "--expires-at"}),
    "create_schedule": ("schedule create ada 5", {"first_at": "--first-at", "until": "--until"}),
}


def test_the_command_line_reads_instants_as_the_other_doors(cli: Cli, sent: list[Any]) -> None:
    """Each option of each command."""
    asked = {(type, field) for type, (_, options) in OPTIONS.items() for field in options}
    assert asked == {place[:2] for place in INSTANTS if not place.is_step and place.field != "occurred_at"}
    for type, (line, options) in OPTIONS.items():
        for field, option in options.items():
            beside = ["--first-at", "2026-12-01"] if field == "until" else []
            # All spellings are read by one function; here it counts that each option asks it.
            for spelling in SPELLINGS[:3]:
                done = cli(*line.split(), *beside, option, str(spelling), "--no-wait")
                assert (done.code, getattr(sent.pop(), field)) == (0, YEAR_2027), (line, spelling)
            for value, says in (NO_INSTANTS[0], ("soon", "no time")):
                done = cli(*line.split(), *beside, option, str(value), "--no-wait")
                assert (done.code, sent, type) == (2, [], type), (line, value)
                assert says in done.err
    assert [instant_of(str(spelling)) for spelling in SPELLINGS] == [YEAR_2027] * len(SPELLINGS)
    for value, says in NO_INSTANTS:
        if value != DATE:
            with pytest.raises(ArgumentError) as refused:
                instant_of(str(value))
            assert says in refused.value.message


def test_readers_times_are_read_alike() -> None:
    """Of any year, since nothing comes of them; but in no other unit."""
    assert {moment_of(str(spelling)) for spelling in SPELLINGS} == {datetime(2027, 1, 1, tzinfo=UTC)}
    assert moment_of("1969-12-31").year == 1969
    for text in ("1798761600", "1798761600000000", "soon", "01.02.2027", "12345678"):
        with pytest.raises(ArgumentError):
            moment_of(text)
    assert instant_of("0") == 0


# An amount of 0, and its kin.


@pytest.mark.parametrize("place", RESTS, ids=ids)
def test_only_leaving_a_field_out_means_everything(place: Place) -> None:
    """A 0 is the result of a sum that came out wrong, and a null one that came to nothing."""
    for name, door in place.doors:
        with pytest.raises(REFUSED, match=f"{place.field} must be a whole number.*leave it out"):
            door(place.filled(0))
        assert place.read(door(place.filled(7))) == 7, name
        without = place.filled(0)
        del (without["steps"][0] if place.is_step else without)[place.field]
        command = door(without)
        assert place.read(command) is None, name
        # In the log it is the 0 that it ever was.
        row = decode(encode_command(command).value).fields
        assert (row["steps"][0] if place.is_step else row)[place.field] == 0
    assert place.read(by_fields("", place.filled(None))) is None


@pytest.mark.parametrize("type", MODELS)
def test_null_in_json_is_refused_by_its_name(type: str) -> None:
    """In every field, whatever it would be taken for."""
    for name in MODELS[type].model_fields:
        if name != "type":
            with pytest.raises(BadRecordError, match=f"'{name}' is null: leave the field out"):
                by_json_line(type, {**least(type), name: None})


def test_null_in_a_step_and_in_a_note_is_refused() -> None:
    """JSON is JSON at every depth."""
    with pytest.raises(BadRecordError, match="'amount' is null"):
        by_json_line("batch", least("batch", steps=[step("refund", "s-1", amount=None)]))
    with pytest.raises(BadRecordError, match="'k' is null"):
        by_json_line("grant", least("grant", metadata={"k": None}))


def test_the_command_line_leaves_out_what_is_not_said(cli: Cli, sent: list[Any]) -> None:
    """And refuses a 0 that is said."""
    for line in ("capture ada h-1", "release ada h-1", "refund ada s-1"):
        assert cli(*line.split(), "--no-wait").code == 0
        assert sent.pop().amount is None
        assert "amount must be a whole number from 1" in cli(*line.split(), "0", "--no-wait").err
    for line in ("void ada g-1 --number 0", "schedule create ada 5 --first-at 2100-01-01 --cap 0"):
        done = cli(*line.split(), "--no-wait")
        assert (done.code, "leave it out" in done.err) == (2, True)
    done = cli("schedule", "create", "ada", "5", "--first-at", "2100-01-01", "--expires-after", "0d", "--no-wait")
    assert (done.code, "expires_after_ms must be" in done.err) == (2, True)
    assert not sent


# Texts that look like what they aren't.

ODD = [
    ("ann\u200b", "U+200B (ZERO WIDTH SPACE) as its character 4"),
    ("\ufeffann", "U+FEFF (ZERO WIDTH NO-BREAK SPACE) as its character 1"),
    ("\u202eann", "U+202E (RIGHT-TO-LEFT OVERRIDE)"),
    ("a\u00adnn", "U+00AD (SOFT HYPHEN)"),
    ("an\u2060n", "U+2060 (WORD JOINER)"),
    ("a\u00a0n", "U+00A0 (NO-BREAK SPACE)"),
    ("a\u2028n", "U+2028 (LINE SEPARATOR)"),
    ("a\u3164n", "U+3164 (HANGUL FILLER)"),
    ("ann\ufe0f", "U+FE0F (VARIATION SELECTOR-16)"),
    ("ann\U000e0061", "U+E0061 (TAG LATIN SMALL LETTER A)"),
    ("ann\ue000", "U+E000"),
    ("ann\uffff", "U+FFFF"),
    ("zoe\u0308", "Unicode's form NFC"),
]
#: What is refused for good, since the fold takes it for no id either.
NO_NAMES = ["a\x00", "a\x1b[2J", "a\x7f", "a\u0085n", "ann ", "\u3000ann", "a\tb"]


@pytest.mark.parametrize("place", NAMES, ids=ids)
def test_what_nobody_sees_is_refused_in_every_name_and_door(place: Place) -> None:
    """Named by its code and place; and taken where it is confirmed, since credits may be there by another door."""
    # A step's scope and a command's, and the ids that may not be equal, are fine with any text.
    for name, door in place.doors:
        for text, says in ODD:
            with pytest.raises(REFUSED) as refused:
                door(place.filled(text))
            assert f"{place.field} must not have" in str(refused.value), (name, text)
            assert says in str(refused.value)
        for text in NO_NAMES:
            with pytest.raises(REFUSED):
                door(place.filled(text))
    for text, _ in ODD:
        with pytest.raises(DoubtfulCommandError):
            parse_command(place.filled(text))
        command = parse_command(place.filled(text), confirmed=True)
        assert place.read(command) == text
        found = decode(encode_command(command).value)
        assert check(found.record, found.values) is None
    for text in NO_NAMES:
        with pytest.raises(InvalidCommandError) as refused_for_good:
            parse_command(place.filled(text), confirmed=True)
        assert type(refused_for_good.value) is InvalidCommandError
    assert place.read(parse_command(place.filled("Zoë 🜁 北京"))) == "Zoë 🜁 北京"


def test_keys_of_notes_are_names_and_notes_are_free() -> None:
    """A note is written in any language, with its joiners and direction marks."""
    with pytest.raises(DoubtfulCommandError, match=r"metadata must not have U\+200B"):
        parse_command(least("grant", metadata={"k\u200b": "v"}))
    note = "👩\u200d💻 \u200fक्\u200dष"
    command = parse_command(least("grant", source=note, reason=note, metadata={"k": note}))
    assert (command.source, command.reason, command.metadata) == (note, note, {"k": note})


def test_a_doubt_beside_a_fault_is_a_fault() -> None:
    """Confirming the one would not mend the other."""
    with pytest.raises(InvalidCommandError) as refused:
        parse_command(least("grant", account="ann\u200b", amount=0))
    assert type(refused.value) is InvalidCommandError
    assert len(refused.value.problems) == 2
    with pytest.raises(InvalidCommandError, match="amount"):
        parse_command(least("grant", account="ann\u200b", amount=0), confirmed=True)


def test_a_doubt_is_confirmed_in_steps_too() -> None:
    """By the batch, and by a step's own class."""
    odd = step("grant", "s\u200b")
    with pytest.raises(DoubtfulCommandError, match=r"steps\[0\]\.command_id must not have"):
        parse_command(least("batch", steps=[odd]))
    made = parse_command(least("batch", steps=[odd]), confirmed=True)
    assert isinstance(made, Batch)
    one = GrantStep.confirmed(**{name: value for name, value in odd.items() if name != "type"})
    assert Batch(command_id="c-1", account="ada", steps=(one,)) == made


def test_the_command_line_takes_a_doubtful_name_with_yes(cli: Cli, sent: list[Any]) -> None:
    """And shows what it is."""
    done = cli("transfer", "ann\u200b", "ann", "5", "--no-wait")
    assert (done.code, sent) == (2, [])
    assert "account must not have U+200B (ZERO WIDTH SPACE) as its character 4" in done.err
    assert "add --yes" in done.err
    assert cli("transfer", "ann\u200b", "ann", "5", "--no-wait", "--yes").code == 0
    assert sent.pop().account == "ann\u200b"


def test_what_nobody_sees_is_escaped_in_print() -> None:
    """So that two accounts that look alike can be distinguished, and a terminal isn't fooled."""
    shown = {safe(text) for text, _ in ODD}
    assert len(shown) == len(ODD)
    assert all(text.isascii() for text in shown)
    assert safe("Zoë 🜁 北京 नमस्ते") == "Zoë 🜁 北京 नमस्ते"
    assert all(oddity_of(text) for text, _ in ODD)


def test_json_in_print_is_the_same_document(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """With its escapes where a terminal would obey."""
    from creditfold.cli.shared.output import print_json, print_json_line

    value = {"account": "ann\u200b\x9b2J\u202e\x7f Zoë 🜁 \U000e0061"}
    for show in (print_json, print_json_line):
        show(value)
        text = capsys.readouterr().out
        assert json.loads(text) == value
        assert "Zoë 🜁" in text
        assert not any(ord(char) < 32 or ord(char) == 127 or oddity_of(char) for char in text if char != "\n")


# What lies in the past.


@pytest.mark.parametrize(
    ("more", "turns"),
    [
        ({"period": "months", "first_at": YEAR_2027}, 1),
        ({"period": "months", "first_at": YEAR_2027 + 1}, 0),
        ({"period": "days", "first_at": YEAR_2027 - 10 * DAY_MS}, 11),
        ({"period": "days", "first_at": YEAR_2027 - 10 * DAY_MS, "every": 3}, 4),
        ({"period": "days", "first_at": YEAR_2027 - 10 * DAY_MS, "until": YEAR_2027 - 8 * DAY_MS}, 2),
        ({"period": "months", "first_at": 100_000_000_000}, 646),
        ({"period": "days", "first_at": 100_000_000_000}, 19_662),
    ],
)
def test_turns_of_the_past_are_counted_as_they_will_be_taken(more: dict[str, Any], turns: int) -> None:
    """By the fold's own calendar."""
    schedule = Schedule("m", "ada", "credits", 5, **more)
    assert len(past_turns(schedule, YEAR_2027)) == turns


def test_many_past_turns_must_be_confirmed_in_every_door() -> None:
    """Unless they are fewer than a year of months."""
    now = datetime.now(UTC)
    long_ago = (now - timedelta(days=(MAX_PAST_TURNS + 5) * 31)).isoformat()
    fields = least("create_schedule", amount=100, first_at=long_ago)
    for name, door in DOORS.items():
        with pytest.raises(REFUSED) as refused:
            door("create_schedule", fields)
        assert "first_at must leave at most 12 turns in the past" in str(refused.value), name
        assert "of its turns lie in the past and grant 1," in str(refused.value), name
    made = CreateSchedule.confirmed(**{name: value for name, value in fields.items() if name != "type"})
    assert made == parse_command(fields, confirmed=True)
    assert decode(encode_command(made).value).fields["first_at"] == made.first_at
    few = (now - timedelta(days=(MAX_PAST_TURNS - 2) * 28)).isoformat()
    assert parse_command(least("create_schedule", first_at=few))


@pytest.mark.parametrize(
    ("type", "more", "says"),
    [
        ("grant", {"expires_at": YEAR_2027}, "the credits expire at once"),
        ("grant", {"expires_at": YEAR_2027 + 1}, None),
        ("grant", {}, None),
        ("refund", {"expires_at": YEAR_2027, "reissue": True}, "what it reissues expires at once"),
        ("create_schedule", {"first_at": YEAR_2027}, "its first turn lies in the past and grant"),
        ("create_schedule", {"first_at": YEAR_2027 + 1}, None),
        (
            "create_schedule",
            {"period": "days", "first_at": YEAR_2027 - 2 * DAY_MS, "expires_after_ms": DAY_MS},
            "3 of its turns lie in the past and grant 3 credits at once, 2 of which expire at once",
        ),
        ("create_schedule", {"first_at": YEAR_2027, "cap": 2}, "grant at most 1 credits at once"),
        (
            "batch",
            {"steps": [step("grant", "s-1"), step("grant", "s-2", expires_at=YEAR_2027)]},
            "steps[1]: expires_at",
        ),
        ("spend", {"effective_at": YEAR_2027}, None),
        ("unfreeze", {}, None),
    ],
)
def test_what_lies_in_the_past_is_foretold(type: str, more: dict[str, Any], says: str | None) -> None:
    """In a sentence, or not at all."""
    fields = least(type, **more)
    found = past_effect(type, parse_command(fields, confirmed=True).fields, YEAR_2027)
    assert (says is None) == (found is None)
    assert (says or "") in (found or "")


def test_the_command_line_says_what_comes_of_the_past_before_it_sends(cli: Cli, sent: list[Any]) -> None:
    """A note for few turns, a refusal for many, and the note again with --yes."""
    done = cli("grant", "ada", "5", "--expires-at", "2001-01-01", "--no-wait")
    assert (done.code, len(sent)) == (0, 1)
    assert done.err == "note: expires_at lies in the past, 2001-01-01T00:00:00Z: the credits expire at once\n"
    line = ("schedule", "create", "ada", "100", "--first-at", "2001-01-01", "--until", "2003-01-01", "--no-wait")
    done = cli(*line)
    assert (done.code, len(sent)) == (2, 1)
    assert "24 of its turns lie in the past and grant 2,400 credits at once" in done.err
    assert "add --yes" in done.err
    done = cli(*line, "--yes")
    assert (done.code, len(sent)) == (0, 2)
    assert "note: 24 of its turns" in done.err
    done = cli(*line, "--yes", "--json")
    assert done.err == ""
    assert "24 of its turns" in done.json["note"]


# What was written before, or by another door, is sent again as it was.


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ("Grant", {"expires_at": 1_893_456_000, "account": "ann\u200b", "asset": "credits", "amount": 5}),
        ("Capture", {"hold": "h\ufeff"}),
        ("Refund", {"spend": "s", "reissue": True, "expires_at": 5}),
        ("CreateSchedule", {"asset": "x", "amount": 5, "period": "days", "first_at": 1}),
        ("Batch", {"steps": [{"kind": "void_grant", "command_id": "v", "grant": "g"}]}),
    ],
)
def test_a_redrive_without_corrections_sends_what_was_there(record: str, fields: dict[str, Any]) -> None:
    """The doors have grown stricter than the fold, which decides what is in the log."""
    value = encode(record, {"command_id": "c-1", "account": "ada", **fields})
    letter = Letter(Position(0, 7), DeadLetterReason.KEY_MISMATCH, "", value)
    mended = mend(letter, Corrections(), 2)
    assert mended.record.value == value
    assert command_begun(value) == mended.command
    if record not in {"Capture", "Batch"}:
        with pytest.raises(RedriveRefusedError):
            mend(letter, Corrections({"reason": "x"}), 2)


def test_a_redrive_with_corrections_confirms_what_is_meant() -> None:
    """By --yes; it makes no instant of seconds good."""
    value = encode("Grant", {"command_id": "c-1", "account": "ann\u200b", "asset": "credits", "amount": 5})
    letter = Letter(Position(0, 7), DeadLetterReason.KEY_MISMATCH, "", value)
    with pytest.raises(RedriveRefusedError, match="add --yes"):
        mend(letter, Corrections({"reason": "x"}), 2)
    assert mend(letter, Corrections({"reason": "x"}, confirmed=True), 2).command.account == "ann\u200b"
    with pytest.raises(RedriveRefusedError, match="seconds"):
        mend(letter, Corrections({"expires_at": "1893456000"}, confirmed=True), 2)
