"""What the producers refuse at their door, against the schema and against the ledger's own check."""

import json
import pickle
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from creditfold.ledger import limits
from creditfold.ledger.commands import KINDS, STEP_FIELDS, ReceiveTransfer, SettleTransfer, command_of
from creditfold.ledger.validity import check
from creditfold.producers import (
    Batch,
    CaptureStep,
    Command,
    Encoded,
    Grant,
    GrantStep,
    InvalidCommandError,
    RecordTooLargeError,
    Spend,
    Transfer,
    encode_command,
    parse_command,
)
from creditfold.producers.models.commands import MODELS, encode_activation
from creditfold.producers.models.fields import Instant
from creditfold.producers.models.steps import STEP_MODELS
from creditfold.schemas.registry import avsc_name
from creditfold.schemas.wire import decode
from helpers.commands import LEAST, SUM, YEAR_2100, least, step

pytestmark = pytest.mark.both_cores

GOOD: dict[str, Any] = {"command_id": "c-1", "account": "ada", "asset": "credits", "amount": 1}


def test_a_service_may_ask_for_every_command_but_the_derived_ones() -> None:
    """Under the names that readers see."""
    kinds = [name for kind, name in KINDS.items() if kind not in (ReceiveTransfer, SettleTransfer)]
    assert list(MODELS) == kinds == list(LEAST)


@pytest.mark.parametrize("type", LEAST)
def test_fields_are_those_of_the_schema(type: str) -> None:
    """A field added to the schema must be added to the model, in the same place and with the same default."""
    model, command = MODELS[type], parse_command(least(type))
    avsc = files("creditfold.schemas").joinpath(avsc_name(model.record_name))
    rows = json.loads(avsc.read_text("utf-8"))["fields"]
    assert [name for name in model.model_fields if name != "type"] == [row["name"] for row in rows]
    defaults = {row["name"]: row["default"] for row in rows if "default" in row}
    assert {name: command.fields[name] for name in defaults} == defaults | {
        name: value for name, value in LEAST[type].items() if name in defaults
    }
    # And without what it must say it is none.
    for name in ("command_id", "account", *LEAST[type]):
        with pytest.raises(InvalidCommandError, match=rf"^Invalid command: {name} is missing: it must be [^;]*$"):
            parse_command({key: value for key, value in least(type).items() if key != name})


@pytest.mark.parametrize("type", LEAST)
def test_every_command_reaches_the_ledger_as_it_was_asked_for(type: str) -> None:
    """Through the log's bytes into what is decided."""
    command = parse_command(least(type, source="shop"))
    found = decode(encode_command(command).value)
    assert check(found.record, found.values) is None
    decided = command_of(found.record, found.values)
    assert KINDS[decided.__class__] == type  # type: ignore[index] # No control record.
    assert (decided.command_id, decided.source) == ("c-1", "shop")  # type: ignore[union-attr] # Nor a derived one.


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (least("grant", lot_class="gold"), "lot_class must be 'paid' or 'promo'"),
        (least("grant", priority=101), "priority must be a whole number from 0 to 100"),
        (least("grant", effective_at=-1), "effective_at must be an instant: a time in ISO 8601, or milliseconds since"),
        (least("grant", effective_at=YEAR_2100, expires_at=YEAR_2100), "expires_at must be after effective_at"),
        (least("grant", scope=" x"), "scope must be a text of 1 to 64"),
        (least("grant", command_id="~c"), "without ~ at its start"),
        (least("grant", partial=True), "'partial' is not a field of a command of type 'grant'"),
        (least("spend", use="x" * 65), "use must be a text of 1 to 64 characters"),
        (least("spend", partial=1), "partial must be true or false"),
        (least("spend", partial="true"), "partial must be true or false"),
        (least("hold", deadline=0), "deadline must be an instant"),
        (least("capture", hold=""), "hold must be a text of 1 to 64"),
        (
            least("capture", amount=-1),
            "amount must be a whole number from 1 to 9007199254740991; leave it out for all that is left",
        ),
        (least("release", final=True), "'final' is not a field of a command of type 'release'"),
        (least("refund", expires_at=YEAR_2100), "expires_at is for a new lot: say reissue too"),
        (least("void_grant", number=2**31), "number must be a whole number from 1 to 2147483647; leave it out for all"),
        (least("transfer", to="ada"), "to must be another account"),
        (least("transfer", to="x" * 129), "to must be a text of 1 to 128"),
        (least("freeze", scope="some"), "scope must be 'spending' or 'all'"),
        (least("close", forfeit=None), "forfeit must be true or false"),
        (least("set_credit_limit", limit=2**53), "limit must be a whole number from 0 to"),
        (least("create_schedule", period="weeks"), "period must be 'months' or 'days'"),
        (least("create_schedule", every=0), "every must be a whole number from 1 to 10000"),
        (least("create_schedule", every=10_001), "every must be a whole number from 1 to 10000"),
        (least("create_schedule", until=YEAR_2100), "until must be after first_at"),
        (least("create_schedule", cap=-1), "cap must be a whole number from 1 to"),
        (least("create_schedule", expires_after_ms=-1), "expires_after_ms must be a whole number of milliseconds"),
        (least("cancel_schedule", schedule=7), "schedule must be a text of 1 to 64"),
        (least("batch", steps=[]), "steps must be a list of 1 to 100 objects"),
        (least("batch", steps={}), "steps must be a list of 1 to 100 objects"),
        (least("batch", steps=[{"type": "unfreeze"}]), "steps[0].type must be 'grant', 'spend', 'hold'"),
        (least("batch", steps=[{"type": []}]), "steps[0].type must be 'grant', 'spend', 'hold'"),
        (least("batch", steps=[7]), "steps[0] must be an object of fields"),
        ({"type": "receive_transfer"}, "type must be 'grant', 'spend'"),
        ({"type": "activate_rules"}, "type must be 'grant', 'spend'"),
        ({}, "type is missing: it must be 'grant', 'spend'"),
    ],
)
def test_what_is_wrong_with_a_command_of_credits_is_reported(command: dict[str, Any], says: str) -> None:
    """One problem each, and by the name of its field."""
    with pytest.raises(InvalidCommandError) as refused:
        parse_command(command)
    assert says in refused.value.problems[0]
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize(
    ("steps", "problems"),
    [
        ([step("grant", "s-1"), step("grant", "s-1")], ["steps[1].command_id must be one that nothing else"]),
        ([step("grant", "c-1")], ["steps[0].command_id must be one that nothing else"]),
        ([step("grant", "~s")], ["steps[0].command_id must be a text"]),
        ([step("grant", "s-1", account="ada")], ["steps[0]: 'account' is not a field of a command of type 'grant'"]),
        ([step("refund", "s-1", expires_at=YEAR_2100)], ["steps[0].expires_at is for a new lot"]),
        (
            [
                step("grant", "s-0"),
                step("grant", "s-1", amount=0, scope=7),
                step("hold", "s-2"),
                step("hold", "", use=1),
            ],
            ["steps[1].amount must be", "steps[1].scope must be", "steps[3].command_id must", "steps[3].use must be"],
        ),
        ([step("grant", f"s-{i}") for i in range(101)], ["steps must be a list of 1 to 100"]),
    ],
)
def test_what_is_wrong_with_steps_is_reported_each(steps: list[dict[str, Any]], problems: list[str]) -> None:
    """By its index, and beside what is wrong with the batch itself."""
    for broken in ({}, {"source": 7}):
        with pytest.raises(InvalidCommandError) as refused:
            parse_command(least("batch", steps=steps, **broken))
        seen = [problem for problem in refused.value.problems if not problem.startswith("source")]
        if broken and "nothing else" in problems[0]:
            continue  # Reported when each field is good by itself.
        assert len(seen) == len(problems)
        assert all(problem.startswith(start) for problem, start in zip(seen, problems, strict=True))
        assert len(refused.value.problems) - len(seen) == len(broken)


def test_a_batch_is_made_of_steps_or_of_objects() -> None:
    """And its record holds the account once."""
    made = Batch(
        command_id="b",
        account="ada",
        steps=(GrantStep(command_id="s-1", asset="x", amount=5), CaptureStep(command_id="s-2", hold="h", final=True)),
    )
    steps = [
        {"type": "grant", "command_id": "s-1", "asset": "x", "amount": 5},
        {"type": "capture", "command_id": "s-2", "hold": "h", "final": True},
    ]
    assert made == parse_command({"type": "batch", "command_id": "b", "account": "ada", "steps": steps})
    found = decode(encode_command(made).value).fields["steps"]
    assert [{name: row[name] for name in ("kind", "command_id", "hold", "final")} for row in found] == [
        {"kind": "grant", "command_id": "s-1", "hold": "", "final": False},
        {"kind": "capture", "command_id": "s-2", "hold": "h", "final": True},
    ]


def test_a_command_is_no_step() -> None:
    """It names an account, which may be another one."""
    with pytest.raises(InvalidCommandError, match=r"steps\[0\] must be an object"):
        Batch(command_id="b", account="ada", steps=(Grant(**GOOD),))  # type: ignore[arg-type] # The point.


def test_a_control_record_names_its_partition() -> None:
    """The same one again is a duplicate; one that can't be is refused here."""
    activation: Encoded = encode_activation(2, 1, source="ops")
    assert (activation.key, activation.partition) == (None, 1)
    assert decode(activation.value).values[:2] == ("rules-2", 2)
    assert activation == encode_activation(2, 1, source="ops")
    with pytest.raises(InvalidCommandError, match="rules"):
        encode_activation(0, 1)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("command_id", "", "command_id must be a text of 1 to 64"),
        ("command_id", "x" * 65, "command_id must be a text of 1 to 64"),
        ("command_id", 7, "command_id must be a text of 1 to 64"),
        ("command_id", "a\x00b", "without control characters"),
        ("command_id", "\ud800", "command_id must be a text"),
        ("account", "x" * 129, "account must be a text of 1 to 128"),
        ("account", " ada", "without spaces at its ends"),
        ("account", None, "account must be a text of 1 to 128"),
        ("asset", "x" * 65, "asset must be a text of 1 to 64"),
        ("asset", "a\n", "asset must be a text of 1 to 64"),
        ("amount", 0, "amount must be a whole number from 1 to 9007199254740991"),
        ("amount", -1, "amount must be a whole number from 1 to 9007199254740991"),
        ("amount", 2**53, "amount must be a whole number from 1 to 9007199254740991"),
        ("amount", 2**9_000, "amount must be a whole number from 1 to 9007199254740991"),
        ("amount", True, "amount must be a whole number"),
        ("amount", 1.0, "amount must be a whole number"),
        ("amount", "1", "amount must be a whole number"),
        ("occurred_at", -1, "occurred_at must be an instant"),
        (
            "occurred_at",
            253_402_300_800_000,
            "from 100000000000 to 253402300799999 (0 for unknown); 253402300800000 lies",
        ),
        ("source", "x" * 129, "source must be a text of at most 128"),
        ("source", "\x00", "source must be a text of at most 128 characters without NUL"),
        ("reason", "x" * 1025, "reason must be a text of at most 1,024"),
        ("metadata", [], "metadata must be at most 32 entries"),
        ("metadata", {str(i): "" for i in range(33)}, "metadata must be at most 32 entries"),
        ("metadata", {"": ""}, "each key a text of 1 to 64"),
        ("metadata", {"k": "x" * 1025}, "each value a text of at most 1,024"),
        ("metadata", {"k": 1}, "each value a text of at most 1,024"),
        ("colour", "red", "'colour' is not a field of a command of type 'grant'"),
        ("type", "loan", "type must be 'grant', 'spend', 'hold'"),
        ("type", [], "type must be 'grant', 'spend', 'hold'"),
    ],
)
def test_refusals_name_the_field_and_its_bound(field: str, value: object, says: str) -> None:
    """One bad field in a command that is good otherwise."""
    with pytest.raises(InvalidCommandError) as refused:
        parse_command({"type": "grant", **GOOD, field: value})
    assert says in refused.value.message
    assert len(refused.value.problems) == 1
    assert refused.value.remedy
    assert not refused.value.maybe_written


def test_the_constructor_refuses_in_the_same_words() -> None:
    """There is one error for a bad command, however it is made."""
    with pytest.raises(InvalidCommandError, match="amount must be"):
        Grant(**{**GOOD, "amount": 0})


def test_every_bad_field_is_named_at_once() -> None:
    """Nobody should have to mend a command one field at a time."""
    with pytest.raises(InvalidCommandError) as refused:
        parse_command({"type": "spend", "amount": 0, "colour": "red"})
    assert [problem.split()[0] for problem in refused.value.problems] == [
        "command_id",
        "account",
        "asset",
        "amount",
        "'colour'",
    ]


@pytest.mark.parametrize("nothing", [None, 1, "grant", [], [("type", "grant")]])
def test_what_is_no_mapping_is_refused(nothing: Any) -> None:
    """JSON holds more than objects."""
    with pytest.raises(InvalidCommandError, match="an object of fields"):
        parse_command(nothing)


def test_lengths_count_code_points() -> None:
    """The bounds are the same for every alphabet; a key of 128 of these has 512 bytes."""
    assert Grant(**{**GOOD, "account": "🜁" * 128}).account == "🜁" * 128
    with pytest.raises(InvalidCommandError):
        Grant(**{**GOOD, "account": "🜁" * 129})


def test_a_command_cannot_be_changed() -> None:
    """What was checked is what is sent."""
    with pytest.raises(ValidationError, match="frozen"):
        Grant(**GOOD).amount = 0  # type: ignore[misc] # That it is refused is the point.


def test_an_error_survives_a_process_pool() -> None:
    """Errors that carry more than their message must say how they are pickled."""
    error = InvalidCommandError(("amount is odd",))
    assert pickle.loads(pickle.dumps(error)).problems == error.problems  # noqa: S301 - Our own bytes.


def test_the_record_is_the_command() -> None:
    """Key: the account in UTF-8. Value: the framed Avro record, with every field."""
    command = Spend(**{**GOOD, "account": "zoë", "metadata": {"k": "v"}, "reason": "boost\nof a day", "partial": True})
    record = encode_command(command)
    assert record.key == "zoë".encode()
    assert (decode(record.value).record, decode(record.value).fields) == ("Spend", command.fields)


def test_a_record_over_the_bound_is_refused_before_the_queue() -> None:
    """Each note is within its own bound, and all together are not."""
    command = Grant(**{**GOOD, "metadata": {str(i): "🜁" * 1024 for i in range(32)}})
    with pytest.raises(RecordTooLargeError, match="65,536"):
        encode_command(command)


TEXTS = ["", " ", "a ", "\u3000a", "a\u0085", "a\tb", "a\nb", "\x00", "\x7f", "\ud800", "\u200b", "a b"]
TEXTS += [unit * count for unit in "aé🜁" for count in (1, 63, 64, 65, 127, 128, 129, 1_024, 1_025)]
TEXTS += ["~c", "paid", "promo", "spending", "all", "months", "days"]
NUMBERS = [-1, 0, 1, 2, 99, 100, 101, 9_999, 10_000, 10_001, 2**31 - 1, 2**31, YEAR_2100 - 1, YEAR_2100, YEAR_2100 + 1]
NUMBERS += [most + more for most in (limits.MAX_AMOUNT, limits.MAX_OCCURRED_AT) for more in (0, 1)]
MAPS = [{}, {"k": "v"}, {"": ""}, {"k": 1}, {1: "v"}, {"a" * 65: ""}, {"k": "v" * 1_025}, {"k": "\x00"}]
MAPS += [{str(number): "" for number in range(count)} for count in (32, 33)]
#: What any field may be.
VALUES = [*TEXTS, *NUMBERS, *MAPS, None, True, False, 1.0, 5.5, b"x", [], [1]]
texts = st.one_of(st.text(max_size=5), st.sampled_from(TEXTS))
numbers = st.one_of(st.integers(), st.sampled_from(NUMBERS))
anything = st.one_of(st.none(), st.booleans(), st.floats(), st.binary(max_size=3), st.lists(st.integers(), max_size=2))
metadata = st.one_of(
    st.dictionaries(texts, texts, max_size=3),
    st.sampled_from(MAPS),
    st.dictionaries(st.one_of(texts, st.integers()), st.one_of(texts, st.integers()), max_size=2),
)
wild = st.one_of(texts, numbers, anything, metadata)

#: Values of each field that are likely to be good, and to be bad together with another's.
TAME: dict[str, tuple[Any, ...]] = {
    "command_id": ("c-1", "c-2", "~c"),
    **dict.fromkeys(("account", "to"), ("ada", "bob")),
    **dict.fromkeys(("asset", "hold", "spend", "grant", "schedule"), ("c-1", "~c")),
    **dict.fromkeys(("amount", "limit", "cap", "every", "number", "expires_after_ms"), (0, 1)),
    **dict.fromkeys(
        ("effective_at", "expires_at", "first_at", "until", "deadline", "occurred_at"),
        (0, 1, 1_893_456_000, YEAR_2100, YEAR_2100 + 1, YEAR_2100 + 2),
    ),
    **dict.fromkeys(("source", "reason", "use"), ("", "x")),
    **dict.fromkeys(("partial", "final", "reissue", "forfeit"), (True, False)),
    "priority": (0, 50, 100),
    "scope": ("", "boosts", "spending", "all"),
    "lot_class": ("paid", "promo"),
    "period": ("months", "days"),
    "metadata": ({}, {"k": "v"}),
}


@cache
def bodies(model: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Tame fields of a command or a step, a few of which are wild."""
    names = own_fields(model)
    tame = st.fixed_dictionaries({name: st.sampled_from(TAME[name]) for name in names})
    return st.builds(lambda good, bad: {**good, **bad}, tame, st.dictionaries(st.sampled_from(names), wild, max_size=2))


NO_ORIGIN: dict[str, Any] = {"occurred_at": 0, "source": "", "reason": "", "metadata": {}}


def own_fields(model: Any) -> list[str]:
    """The fields of a command or a step, in the order of its schema."""
    return [name for name in model.model_fields if name not in ("type", "steps")]


def is_taken(model: type[Command], body: dict[str, Any]) -> bool:
    """Whether a producer takes it, once what is doubtful is confirmed."""
    try:
        model.confirmed(**body)
    except InvalidCommandError:
        return False
    return True


def cannot_be_meant(model: Any, body: dict[str, Any]) -> bool:
    """Whether the doors alone refuse it: an instant in another unit, or a 0 in place of leaving a field out."""
    return any(is_of_1970(model.model_fields[name], value) for name, value in body.items()) or any(
        body[name] == 0 for name in model.unsaid
    )


def is_of_1970(field: Any, value: Any) -> bool:
    is_instant = any(isinstance(mark, Instant) for mark in field.metadata)
    return is_instant and isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**11


def is_sound(model: type[Command], values: list[Any]) -> bool:
    """Whether the fold takes it. Rules 1 know no derived commands, and let a plain grant or spend have any id."""
    return check(model.record_name, tuple(values)) is None and not values[0].startswith("~")


@given(
    st.sampled_from([model for model in MODELS.values() if model is not Batch]).flatmap(
        lambda model: st.tuples(st.just(model), bodies(model))
    )
)
@example((Grant, Grant(**GOOD).fields))
@example((Transfer, {**SUM, "command_id": "c-1", "account": "ada", "to": "ada", "use": "", **NO_ORIGIN}))
@settings(max_examples=200, derandomize=True)
def test_the_door_and_the_ledger_agree(made: tuple[type[Command], dict[str, Any]]) -> None:
    """What a producer takes the fold takes, and what it refuses would have been a dead letter or can't be meant."""
    model, body = made
    assume(do_agree(model, body))


@pytest.mark.parametrize("type", [type for type in LEAST if type != "batch"])
def test_the_door_and_the_ledger_agree_on_each_field(type: str) -> None:
    """At all of its bounds and beyond them, and whatever else it may be."""
    model = MODELS[type]
    defaults = {name: model.model_fields[name].get_default(call_default_factory=True) for name in own_fields(model)}
    sound = {name: value for name, value in {**defaults, **least(type)}.items() if name != "type"}
    assert do_agree(model, sound)
    assert is_taken(model, {name: value for name, value in sound.items() if value is not None})
    for name in own_fields(model):
        assert sum(do_agree(model, {**sound, name: value}) for value in VALUES) >= 2


def do_agree(model: type[Command], body: dict[str, Any]) -> bool:
    """Whether the log may have such a record, of which both must say the same."""
    # To leave a field out is not to give a 0.
    body = {name: value for name, value in body.items() if not (name in model.unsaid and value is None)}
    # What Avro has decoded is never 0 for false, or 50.0 for 50; the fold doesn't look. Nor is it ever anything but
    # true or false, which the fold does look at elsewhere.
    if any(is_other_default(model, name, value) for name, value in body.items()):
        return False
    if not isinstance(body.get("forfeit", False), bool):
        return False
    said = {**dict.fromkeys(model.unsaid, 0), **body}
    sound = is_sound(model, [said[name] for name in own_fields(model)])
    meant = not cannot_be_meant(model, {**dict.fromkeys(model.unsaid), **body})
    assert is_taken(model, body) == (sound and meant), body
    return True


def is_other_default(model: type[Command], name: str, value: Any) -> bool:
    """Whether a value is equal to its field's default, and is of another type."""
    default = model.model_fields[name].default
    return bool(value == default) and type(value) is not type(default)


steps = st.lists(
    st.sampled_from(sorted(STEP_MODELS)).flatmap(lambda type: st.tuples(st.just(type), bodies(STEP_MODELS[type]))),
    max_size=3,
)


@given(bodies(Batch), steps)
@settings(max_examples=150, derandomize=True)
def test_the_door_and_the_ledger_agree_on_batches(
    body: dict[str, Any], steps: list[tuple[str, dict[str, Any]]]
) -> None:
    """Step by step."""
    # What Avro has decoded can be looked up among ids; the fold doesn't look.
    assume(all(isinstance(fields["command_id"], str) for _, fields in steps))
    steps = [(type, {name: value for name, value in fields.items() if value is not None}) for type, fields in steps]
    taken = is_taken(Batch, {**body, "steps": [{"type": type, **fields} for type, fields in steps]})
    rows = tuple(tuple({**STEP_FIELDS, **fields, "kind": type}.values()) for type, fields in steps)
    values = [body["command_id"], body["account"], rows, *(body[name] for name in own_fields(Batch)[2:])]
    beyond = cannot_be_meant(Batch, body) or any(
        cannot_be_meant(STEP_MODELS[type], {**dict.fromkeys(STEP_MODELS[type].unsaid), **fields})
        for type, fields in steps
    )
    assert taken == (is_sound(Batch, values) and not beyond)
