"""The commands of a file's records: what the text of JSON Lines and CSV says. Owns the words for what is wrong with it.

Knows neither Kafka nor progress, nor where a record ends.
"""

import csv
import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, get_args

from pydantic.fields import FieldInfo

from creditfold.common.errors import CreditfoldError
from creditfold.producers.import_records import RawRecord
from creditfold.producers.models.commands import MODELS, Batch, Command, Encoded, parse_command
from creditfold.producers.models.errors import DoubtfulCommandError, ImportFileError, InvalidCommandError
from creditfold.producers.models.fields import Instant
from creditfold.producers.strict_json import BadRecordError, parse_json
from creditfold.schemas.reader import read_long
from creditfold.schemas.registry import load_lock, versions
from creditfold.schemas.wire import HEADER, MAGIC

try:
    _plain_lines: Any = importlib.import_module("creditfold.producers.plain_lines")
except ImportError:  # Elsewhere than in the compiled core.
    _plain_lines = None

_REQUIRED = ("type", "command_id", "account")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}", re.ASCII).fullmatch


def _read_as(field: FieldInfo) -> type:
    """What a field's text is read as: a whole number, a flag, or the text itself, which an instant's field reads."""
    if any(isinstance(mark, Instant) for mark in field.metadata):
        return str
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in (bool, int) if kind in kinds), str)


#: The fields of all commands but batches, and what their text is read as.
FLAT_FIELDS: dict[str, type] = {
    name: _read_as(field)
    for model in MODELS.values()
    if model is not Batch
    for name, field in model.model_fields.items()
}
_FLAGS = {"true": True, "false": False}
_IDS = {"command_id", "account", "to", "asset", "hold", "spend", "grant", "schedule"}


_NO_BATCH = "Write batches as JSON Lines."


#: Makes the log's record of a file's record that is a plain command; None for any other, which `parse()` reads.
FastPath: TypeAlias = Callable[[bytes], Encoded | None]


def _fast_path(columns: Sequence[str] | None = None) -> FastPath:
    """The fast path of JSON Lines, or of a CSV with these columns; in plain Python it returns None for each record."""
    if _plain_lines is None:
        return lambda data: None
    oldest = {record: rows[0] for record, rows in versions(load_lock()).items()}
    headers = [HEADER.pack(MAGIC, oldest[record].id) for record in ("Grant", "Spend")]
    fast_path: FastPath = _plain_lines.PlainLines(*headers, columns).encoded
    return fast_path


def ids_of(record: Encoded) -> tuple[str, str]:
    """The account and the command id of a command's record, of which the id is the first field."""
    size, at = read_long(record.value, HEADER.size)
    return (record.key or b"").decode(), record.value[at : at + size].decode()


class CorrectionError(CreditfoldError):
    """A correction that is none of a command's field."""

    exit_code = 2


class JsonLines:
    """Makes commands of JSON Lines records. `confirmed` is parse_command()'s.

    `fast` gives None, or what encode_command() makes of the command that parse() gives, in a fraction of the time.
    """

    def __init__(self, *, confirmed: bool = False) -> None:
        self._confirmed = confirmed
        self.fast = _fast_path()

    def parse(self, data: bytes) -> Command:
        """Read one record. Raises BadRecordError or InvalidCommandError."""
        fields = parse_json(_text(data))
        if not isinstance(fields, dict):
            raise BadRecordError("the line is not a JSON object")
        return parse_command(fields, confirmed=self._confirmed)


#: What a record of CSV consists of that says nothing: a spreadsheet's empty row.
EMPTY_CSV = b', "\t\r\n'
# As spreadsheets write long numbers that they took an id for, rounded to six digits or so.
_ROUNDED = re.compile(r"[0-9](?:[.,][0-9]+)?E\+[0-9]{2,3}", re.ASCII).fullmatch


class CsvRecords:
    """Makes commands of CSV records (RFC 4180) by a header of field names.

    A column without a name is passed over as long as nothing stands in it: spreadsheets end each line with a comma.
    `fast` is as that of JsonLines.
    """

    def __init__(self, header: Sequence[str], *, confirmed: bool = False) -> None:
        self._header = header
        self._is_named = "" not in header
        self._confirmed = confirmed
        self.fast = _fast_path(header)

    @classmethod
    def with_header(cls, record: RawRecord, *, confirmed: bool = False) -> "CsvRecords":
        """Read the header: field names of commands, `type` among them, in any order. Raises ImportFileError."""
        try:
            if record.problem:
                raise BadRecordError(record.problem)
            header = _cells(record.data)
        except BadRecordError as error:
            raise ImportFileError(
                f"The CSV header is bad: {error}.", "Write field names into the first line."
            ) from None
        if "steps" in header:
            raise ImportFileError("The CSV header has a column 'steps'.", _NO_BATCH)
        names = [name for name in header if name]
        unknown = [name for name in names if name not in FLAT_FIELDS]
        missing = [name for name in _REQUIRED if name not in names]
        if unknown or missing or len(set(names)) < len(names):
            shown = ", ".join(repr(name[:40]) for name in (unknown or missing or names)[:10])
            fault = "has unknown columns" if unknown else "lacks columns" if missing else "has a column twice"
            raise ImportFileError(
                f"The CSV header {fault}: {shown}.", f"The columns are {', '.join(sorted(FLAT_FIELDS))}."
            )
        return cls(header, confirmed=confirmed)

    def parse(self, data: bytes) -> Command:
        """Read one record. An empty cell is an absent field. Raises BadRecordError or InvalidCommandError."""
        cells = _cells(data)
        if len(cells) != len(self._header):
            cells = self._fitted(cells)
        if not self._is_named and any(cell for name, cell in zip(self._header, cells, strict=True) if not name):
            raise BadRecordError("something stands in a column without a name")
        if b"E+" in data:
            self._refuse_rounded(cells)
        try:
            return self._command(cells)
        except InvalidCommandError as error:
            raise self._explained(error, cells) from None

    def _fitted(self, cells: list[str]) -> list[str]:
        fitting, beyond = cells[: len(self._header)], cells[len(self._header) :]
        if len(cells) < len(self._header) or any(beyond):
            raise BadRecordError(f"the record has {len(cells)} columns, and the header {len(self._header)}")
        return fitting

    def _refuse_rounded(self, cells: list[str]) -> None:
        for name, cell in zip(self._header, cells, strict=True):
            # Different ids are the same one then.
            if name in _IDS and _ROUNDED(cell):
                raise BadRecordError(f"{name} {cell!r} is a number that a spreadsheet rounded: make its column text")

    def _explained(self, error: InvalidCommandError, cells: list[str]) -> BadRecordError | InvalidCommandError:
        """The refusal with what a file alone can have to do with it."""
        if cells == self._header:
            return BadRecordError("the header stands here again: were files joined?")
        if cells[0].startswith("\ufeff"):
            return BadRecordError("it begins with a byte order mark: were files joined?")
        named = dict(zip(self._header, cells, strict=True))
        problems = []
        for problem in error.problems:
            cell = named.get(problem.partition(" ")[0], "")
            is_number = FLAT_FIELDS.get(problem.partition(" ")[0]) is int
            plain = is_number and cell and not _WHOLE_NUMBER(cell)
            problems.append(f"{problem}; {cell[:40]!r} is not in plain digits" if plain else problem)
        return type(error)(tuple(problems))

    def _command(self, cells: list[str]) -> Command:
        fields: dict[str, Any] = {name: cell for name, cell in zip(self._header, cells, strict=True) if cell}
        if fields.get("type") == "batch":
            raise BadRecordError(f"a batch can't stand in CSV. {_NO_BATCH}")
        fields = {name: field_of(name, cell) for name, cell in fields.items()}
        if "metadata" in fields:
            fields["metadata"] = parse_json(fields["metadata"], "metadata is")
        return parse_command(fields, confirmed=self._confirmed)


def field_of(name: str, text: str) -> int | bool | str:
    """Read a field of FLAT_FIELDS from its text. What isn't of its type stays text, which the command then refuses."""
    if FLAT_FIELDS[name] is int and _WHOLE_NUMBER(text):
        return int(text)
    return _FLAGS.get(text, text) if FLAT_FIELDS[name] is bool else text


def corrected(pairs: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields and the metadata that people correct by FIELD=VALUE, and by metadata.NAME=VALUE.

    Raises CorrectionError for what is no such pair, or is given twice.
    """
    known = [name for name in FLAT_FIELDS if name not in ("type", "metadata")]
    fields: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        within = name.removeprefix("metadata.")
        target: dict[str, Any] = fields if within == name else metadata
        if not equals or (target is fields and name not in known) or within in target:
            fault = "is given twice" if within in target else "is no FIELD=VALUE"
            names = ", ".join((*known, "metadata.NAME"))
            raise CorrectionError(f"{pair[:60]!r} {fault}.", f"Set each field once; the fields are: {names}.")
        target[within] = field_of(name, value) if target is fields else value
    return fields, metadata


def why_bad(error: BadRecordError | InvalidCommandError) -> str:
    """What a report says of a bad record."""
    said = "; ".join(error.problems) if isinstance(error, InvalidCommandError) else str(error)
    return f"{said} (confirm it if it is meant)" if isinstance(error, DoubtfulCommandError) else said


def _text(data: bytes) -> str:
    if b"\0" in data:
        raise BadRecordError("the record holds a NUL byte")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadRecordError(f"the record is not UTF-8 at byte {error.start + 1}") from None


def _cells(data: bytes) -> list[str]:
    text = _text(data).removesuffix("\n").removesuffix("\r")
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise BadRecordError(f"not CSV: {error}") from None
    if len(rows) != 1:
        raise BadRecordError("not CSV: a line break outside quotes")
    return rows[0]
