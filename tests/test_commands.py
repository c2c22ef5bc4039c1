"""What the producers refuse at their door, against the schema and against the ledger's own check."""

import json
import pickle
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from creditfold.ledger import limits
from creditfold.ledger.validity import check
from creditfold.producers import (
    Command,
    Grant,
    InvalidCommandError,
    RecordTooLargeError,
    Spend,
    encode_command,
    parse_command,
)
from creditfold.schemas.wire import decode

GOOD: dict[str, Any] = {"command_id": "c-1", "account": "ada", "asset": "credits", "amount": 1}


@pytest.mark.parametrize(("model", "avsc"), [(Grant, "grant.avsc"), (Spend, "spend.avsc")])
def test_fields_are_those_of_the_schema(model: type[Command], avsc: str) -> None:
    """A field added to the schema must be added to the model, in the same place and with the same default."""
    schema = json.loads(files("creditfold.schemas").joinpath(avsc).read_text("utf-8"))
    command = model(**GOOD)
    assert [name for name in model.model_fields if name != "type"] == [row["name"] for row in schema["fields"]]
    assert command.record_name == schema["name"]
    assert {**GOOD, **{row["name"]: row["default"] for row in schema["fields"] if "default" in row}} == command.fields


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
        ("occurred_at", -1, "occurred_at must be a whole number of milliseconds since 1970, from 0 to 253402300799999"),
        ("occurred_at", 253_402_300_800_000, "occurred_at must be a whole number of milliseconds"),
        ("source", "x" * 129, "source must be a text of at most 128"),
        ("source", "\x00", "source must be a text of at most 128 characters without NUL"),
        ("reason", "x" * 1025, "reason must be a text of at most 1,024"),
        ("metadata", [], "metadata must be at most 32 entries"),
        ("metadata", {str(i): "" for i in range(33)}, "metadata must be at most 32 entries"),
        ("metadata", {"": ""}, "each key a text of 1 to 64"),
        ("metadata", {"k": "x" * 1025}, "each value a text of at most 1,024"),
        ("metadata", {"k": 1}, "each value a text of at most 1,024"),
        ("colour", "red", "'colour' is not a field of a command"),
        ("type", "loan", "type must be 'grant' or 'spend'"),
        ("type", [], "type must be 'grant' or 'spend'"),
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
    command = Spend(**{**GOOD, "account": "zoë", "metadata": {"k": "v"}, "reason": "boost\nof a day"})
    record = encode_command(command)
    assert record.key == "zoë".encode()
    assert (decode(record.value).record, decode(record.value).fields) == ("Spend", command.fields)


def test_a_record_over_the_bound_is_refused_before_the_queue() -> None:
    """Each note is within its own bound, and all together are not."""
    command = Grant(**{**GOOD, "metadata": {str(i): "🜁" * 1024 for i in range(32)}})
    with pytest.raises(RecordTooLargeError, match="65,536"):
        encode_command(command)


texts = st.one_of(
    st.text(max_size=5),
    st.sampled_from(
        ["", " ", "a ", "\u3000a", "a\u0085", "a\tb", "a\nb", "\x00", "\x7f", "\ud800", "\u200b", "🜁", "a b"]
    ),
    st.builds(
        lambda unit, count: unit * count,
        st.sampled_from("aé🜁"),
        st.sampled_from([1, 63, 64, 65, 127, 128, 129, 1024, 1025]),
    ),
)
numbers = st.one_of(
    st.integers(),
    st.sampled_from(
        [0, 1, limits.MAX_AMOUNT, limits.MAX_AMOUNT + 1, limits.MAX_OCCURRED_AT, limits.MAX_OCCURRED_AT + 1]
    ),
)
anything = st.one_of(st.none(), st.booleans(), st.floats(), st.binary(max_size=3), st.lists(st.integers(), max_size=2))
bodies = st.fixed_dictionaries(
    {
        "command_id": st.one_of(st.just("c-1"), texts, anything),
        "account": st.one_of(st.just("ada"), texts, anything),
        "asset": st.one_of(st.just("credits"), texts, anything),
        "amount": st.one_of(st.just(1), numbers, texts, anything),
        "occurred_at": st.one_of(st.just(0), numbers, anything),
        "source": st.one_of(st.just(""), texts, anything),
        "reason": st.one_of(st.just(""), texts, anything),
        "metadata": st.one_of(
            st.just({}),
            st.dictionaries(texts, texts, max_size=3),
            st.integers(30, 34).map(lambda count: {str(i): "" for i in range(count)}),
            st.dictionaries(st.one_of(texts, st.integers()), st.one_of(texts, st.integers()), max_size=2),
            anything,
        ),
    }
)


@given(st.sampled_from([Grant, Spend]), bodies)
@example(Grant, {**GOOD, "occurred_at": 0, "source": "", "reason": "", "metadata": {}})
@settings(max_examples=1_000, derandomize=True)
def test_the_door_and_the_ledger_agree(model: type[Command], body: dict[str, Any]) -> None:
    """What a producer takes the fold takes, and what it refuses would have been a dead letter."""
    try:
        model(**body)
    except InvalidCommandError:
        taken = False
    else:
        taken = True
    assert taken == (check(model.__name__, [*body.values()]) is None)
