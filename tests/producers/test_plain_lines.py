"""The quick way of plain commands in files makes what Python's own does, byte by byte. In the compiled core only."""

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creditfold.common.instants import PLAIN
from creditfold.ledger import limits
from creditfold.producers import InvalidCommandError
from creditfold.producers.import_commands import CsvRecords, JsonLines, ids_of
from creditfold.producers.models.commands import Encoded, encode_command
from creditfold.producers.strict_json import BadRecordError
from helpers.support import IS_COMPILED

pytestmark = pytest.mark.both_cores

needs_quick = pytest.mark.skipif(not IS_COMPILED, reason="there is a quick way in the compiled core only")

PLAIN_FIELDS: dict[str, Any] = {
    "type": "grant",
    "command_id": "g-1",
    "account": "ada",
    "asset": "credits",
    "amount": 100,
    "occurred_at": 1_798_761_600_000,
    "source": "shop",
    "reason": "a gift, for once",
}
HEADER = [*PLAIN_FIELDS, "expires_at", ""]


def by_python(parser: JsonLines | CsvRecords, data: bytes) -> Encoded | None:
    """What Python's own way makes of a record, None where it refuses."""
    try:
        return encode_command(parser.parse(data))
    except (BadRecordError, InvalidCommandError):
        return None


def test_there_is_a_quick_way_in_the_compiled_core_and_only_there() -> None:
    """Or the tests below would pass for want of what they test."""
    assert (importlib.util.find_spec("creditfold.producers.plain_lines") is not None) == IS_COMPILED
    assert (JsonLines().fast(json.dumps(PLAIN_FIELDS).encode()) is not None) == IS_COMPILED


def json_line(**other: Any) -> bytes:
    """A plain command with other fields; what is None is left out."""
    fields = {name: value for name, value in {**PLAIN_FIELDS, **other}.items() if value is not None}
    return json.dumps(fields, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"


def csv_row(**other: Any) -> bytes:
    """The same as a row of HEADER."""
    fields = {**PLAIN_FIELDS, "reason": "a gift", **other}
    cells = ("" if fields.get(name) is None else str(fields[name]) for name in HEADER)
    return ",".join(cells).encode(errors="surrogatepass") + b"\n"


#: Fields that the quick way takes in both formats, and such as are left to Python, good or bad.
TAKEN: list[dict[str, Any]] = [
    {},
    {"type": "spend"},
    {"occurred_at": None, "source": None, "reason": None},
    {"command_id": "x" * limits.MAX_COMMAND_ID, "account": "x" * limits.MAX_ACCOUNT, "asset": "x" * limits.MAX_ASSET},
    {"source": "x" * limits.MAX_SOURCE, "reason": "x" * limits.MAX_REASON},
    {"command_id": "}", "account": "{:a b:}", "asset": "!~"},
    *({"amount": amount} for amount in (1, 63, 64, 8_191, 8_192, 2**31, limits.MAX_AMOUNT)),
    *({"occurred_at": instant} for instant in (0, PLAIN[0], PLAIN[1] - 1)),
    *({"occurred_at": instant} for instant in ("0", "2027-01-01", "2027-01-01T12:00:00.5+01:00")),
]
LEFT: list[dict[str, Any]] = [
    {"type": None},
    {"type": "hold"},
    {"type": "grants"},
    {"type": "Grant"},
    {"command_id": None},
    {"command_id": ""},
    {"command_id": "~x"},
    {"command_id": " x"},
    {"command_id": "x "},
    {"command_id": "x" * (limits.MAX_COMMAND_ID + 1)},
    {"command_id": "\x7f"},
    {"account": "x" * (limits.MAX_ACCOUNT + 1)},
    {"account": "\u00e4da"},
    {"account": "a\u200bb"},
    {"account": "\ud800"},
    {"asset": "x" * (limits.MAX_ASSET + 1)},
    {"asset": "a\tb"},
    {"amount": None},
    {"amount": 0},
    {"amount": -1},
    {"amount": 1.0},
    {"amount": 1e5},
    {"amount": limits.MAX_AMOUNT + 1},
    {"amount": 10**16},
    {"amount": 10**400},
    {"amount": "a"},
    {"occurred_at": 1},
    {"occurred_at": -1},
    {"occurred_at": PLAIN[0] - 1},
    {"occurred_at": PLAIN[1]},
    {"occurred_at": "00"},
    {"occurred_at": "20270101"},
    {"occurred_at": "2027-13-01"},
    {"occurred_at": "1969-12-31T23:59Z"},
    {"occurred_at": "2027-01-01T12:00:00." + "0" * 40},
    {"occurred_at": "now"},
    {"source": "x" * (limits.MAX_SOURCE + 1)},
    {"reason": "x" * (limits.MAX_REASON + 1)},
    {"reason": "two\u2028lines"},
    {"expires_at": 1_893_456_000_000},
]


@pytest.mark.parametrize("kind", ["grant", "spend"])
@pytest.mark.parametrize(
    ("account", "command_id"),
    [("ada", "g-1"), ("\u00e4da/\U0001f600", "\u00e9" * 64), ("a" * limits.MAX_ACCOUNT, "x" * limits.MAX_COMMAND_ID)],
)
def test_a_record_has_the_ids_of_its_command(kind: str, account: str, command_id: str) -> None:
    """However long they are, in bytes too."""
    line = json_line(type=kind, account=account, command_id=command_id)
    assert ids_of(encode_command(JsonLines().parse(line))) == (account, command_id)


@needs_quick
@pytest.mark.parametrize(("made", "parser"), [(json_line, JsonLines()), (csv_row, CsvRecords(HEADER))])
def test_which_commands_are_taken(made: Callable[..., bytes], parser: JsonLines | CsvRecords) -> None:
    """Each bound from both of its sides, and what is taken is what Python makes of it."""
    for other in TAKEN:
        record = made(**other)
        assert parser.fast(record) == by_python(parser, record), other
        assert parser.fast(record) is not None, other
    for other in LEFT:
        assert parser.fast(made(**other)) is None, other


@needs_quick
@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}",
        b"[]",
        b"{",
        b'{"type"',
        b'{"type":',
        b'{"type":"grant"',
        b'{"type":"grant",',
        b'{"type":"grant",}',
        json_line()[:-2],
        json_line() + b"x",
        json_line() + json_line(),
        b"\xef\xbb\xbf" + json_line(),
        b"\0" + json_line(),
        b"\x0b" + json_line(),
        json_line()[:-2] + b"\0}\n",
        json_line()[:-2] + b',"type":"grant"}\n',
        json_line()[:-2] + b',"amount":100}\n',
        json_line()[:-2] + b',"metadata":{}}\n',
        json_line()[:-2] + b',"lot_class":"paid"}\n',
        json_line()[:-2] + b',"":""}\n',
        json_line().replace(b"100", b"0100"),
        json_line(occurred_at=20_270_101),
        json_line(occurred_at=""),
        json_line().replace(b"100", b"100.0"),
        json_line().replace(b"100", b"1e2"),
        json_line().replace(b"100", b"+100"),
        json_line().replace(b"100", b'"100"'),
        json_line().replace(b"100", b"null"),
        json_line().replace(b"100", b"100 0"),
        json_line().replace(b"ada", b"a\\u0064a"),
        json_line().replace(b"ada", b'a\\"a'),
        json_line().replace(b'"ada"', b"7"),
        json_line().replace(b'"account"', b"account"),
        json_line().replace(b'"account": ', b'"account" '),
        json_line().replace(b", ", b" "),
    ],
)
def test_json_that_is_otherwise_in_the_least_is_left_to_python(line: bytes) -> None:
    """What is cut off or has something twice, beside or behind itself, is nothing that the quick way knows."""
    assert JsonLines().fast(line) is None


@needs_quick
@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"\n",
        csv_row()[:-2],
        csv_row()[:-1] + b",\n",
        csv_row()[:-1] + b",x\n",
        csv_row()[:-1] + b"x\n",
        csv_row()[:-1] + b"\n\n",
        csv_row()[:-1] + b"\r\r\n",
        csv_row().replace(b"ada", b'"ada"'),
        csv_row().replace(b"ada", b'a"a'),
        csv_row().replace(b"ada", b"1E+05"),
        csv_row().replace(b"ada", b"a\\a"),
        csv_row().replace(b"100", b" 100"),
        csv_row().replace(b"100", b"1_00"),
        csv_row(occurred_at="00"),
        csv_row(occurred_at=" 1798761600000"),
        csv_row(type="batch"),
    ],
)
def test_csv_that_is_otherwise_in_the_least_is_left_to_python(row: bytes) -> None:
    """A quote, a column too many or too few, what a spreadsheet did to a cell."""
    assert CsvRecords(HEADER).fast(row) is None


values = st.one_of(
    st.sampled_from(list(PLAIN_FIELDS.values())),
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.text('~ gx\\",\r\n\x7f\u00e4', max_size=3),
    st.integers(-(2**60), 2**60),
    st.integers(0, 70),
    st.sampled_from(
        ["2027-01-01", "2027-01-01T12:00:00Z", "20270101", "1798761600000", "01798761600000", "0", "1798761600"]
    ),
    st.floats(),
    st.none(),
    st.booleans(),
    st.just({}),
)
names = st.one_of(st.sampled_from([*PLAIN_FIELDS, "metadata", "expires_at", "partial", "use"]), st.text(max_size=3))
pieces = st.sampled_from(
    [b'"', b",", b"{", b"}", b" ", b"\r", b"\n", b"\\", b"0", b"E+", b"~", b"\x00", b"\xc3\xa4", b""]
)


@st.composite
def records(draw: st.DrawFn, written: Callable[[dict[str, Any]], bytes]) -> bytes:
    """A record of plain fields, some of them changed, taken out or put in, and some of its bytes too."""
    fields = {**PLAIN_FIELDS, "type": draw(st.sampled_from(["grant", "spend"]))}
    for name in draw(st.lists(st.sampled_from(list(fields)), max_size=2)):
        fields.pop(name, None)
    fields |= draw(st.dictionaries(names, values, max_size=2))
    order = draw(st.permutations(list(fields)))
    record = written({name: fields[name] for name in order})
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(record)))
        record = record[:at] + draw(pieces) + record[at + draw(st.integers(0, 2)) :]
    return record


def as_json(fields: dict[str, Any]) -> bytes:
    """A line of JSON."""
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def as_csv(fields: dict[str, Any]) -> bytes:
    """A row of the columns of PLAIN_FIELDS, `expires_at` and `metadata`, without any quoting."""
    return ",".join(str(fields.get(name, "")) for name in CSV_HEADER).encode() + b"\n"


CSV_HEADER = [*PLAIN_FIELDS, "expires_at", "metadata"]


@needs_quick
@settings(max_examples=2_000)
@given(records(as_json))
def test_what_the_quick_way_takes_of_json_is_what_python_makes(record: bytes) -> None:
    """Whatever the bytes are: it takes nothing that Python refuses, and makes nothing else of the rest."""
    quick = JsonLines().fast(record)
    assert quick is None or quick == by_python(JsonLines(), record)


@needs_quick
@settings(max_examples=2_000)
@given(records(as_csv))
def test_what_the_quick_way_takes_of_csv_is_what_python_makes(record: bytes) -> None:
    """The same."""
    parser = CsvRecords(CSV_HEADER)
    quick = parser.fast(record)
    assert quick is None or quick == by_python(parser, record)


@needs_quick
@given(st.permutations(HEADER))
def test_columns_may_stand_in_any_order(header: list[str]) -> None:
    """Each cell belongs to its column's name."""
    cells = dict(zip(HEADER, csv_row()[:-1].decode().split(","), strict=True))
    row = ",".join(cells[name] for name in header).encode() + b"\r\n"
    parser = CsvRecords(header)
    quick = parser.fast(row)
    assert quick is not None
    assert quick == by_python(parser, row)
