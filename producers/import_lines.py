"""Command files, read piece by piece: JSON Lines and CSV. Owns where a record ends and what its text says.

Knows neither Kafka nor progress. Whatever the bytes are, a bad record is one bad record, in constant memory. What
stands inside a quoted CSV field is never read as a command, not even where the quote is left open: notes are
written by strangers, and a stranger must not be able to grant credits.
"""

import csv
import hashlib
import importlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, cast, get_args

from pydantic.fields import FieldInfo

from creditfold.producers.import_head import BOM, FileFormat
from creditfold.producers.models.commands import MODELS, Batch, Command, Encoded, parse_command
from creditfold.producers.models.errors import DoubtfulCommandError, ImportFileError, InvalidCommandError
from creditfold.producers.models.fields import Instant
from creditfold.schemas.registry import load_lock, versions
from creditfold.schemas.wire import HEADER, MAGIC

try:
    _plain_lines: Any = importlib.import_module("creditfold.producers.plain_lines")
except ImportError:  # Elsewhere than in the compiled core.
    _plain_lines = None

MAX_RECORD_TEXT = 1_048_576  # Bytes. A valid command's text is well under it, in whatever escapes.
SHOWN = 200  # Characters of a bad record that its report shows.

_SUFFIXES: dict[str, FileFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
_PACKED = (".gz", ".zst", ".bz2", ".xz", ".lz4", ".zip")
_BUFFER = 1 << 20
_DIGEST_BYTES = 1 << 18
_LINE_END = ord("\n")
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


class BadRecordError(ValueError):
    """A record of a file that is no command. Its text says why."""


#: Makes the log's record of a file's one, where it is a plain command and nothing about it needs a closer look.
QuickWay: TypeAlias = Callable[[bytes], Encoded | None]


def _quick_way(columns: Sequence[str] | None = None) -> QuickWay:
    """The quick way of JSON Lines, or of a CSV with these columns; in plain Python it makes nothing."""
    if _plain_lines is None:
        return lambda data: None
    oldest = {record: rows[0] for record, rows in versions(load_lock()).items()}
    headers = [HEADER.pack(MAGIC, oldest[record].id) for record in ("Grant", "Spend")]
    quick_way: QuickWay = _plain_lines.PlainLines(*headers, columns).encoded
    return quick_way


class RawRecord(NamedTuple):
    """One record's bytes and the lines that it spans, counted from 1. `problem` is set where the bytes are cut off."""

    first: int
    last: int
    data: bytes
    problem: str = ""


def format_of(path: Path) -> FileFormat:
    """Tell a file's format from its name: .jsonl, .ndjson or .csv, each with .gz or without. Raises ImportFileError."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    # Also where it can't be unpacked: that is told by what is in the file.
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    found = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if found is None:
        raise ImportFileError(
            f"The format of {path.name} can't be told from its name.", "Say whether it is jsonl or csv."
        )
    return found


class _Quoting(Enum):
    """Where in a CSV record a byte stands, as far as quotes matter."""

    FIELD_START = auto()
    PLAIN = auto()
    QUOTED = auto()
    QUOTE_SEEN = auto()


class RecordReader:
    """Cuts a stream into records and keeps account of what it has given out.

    Attributes (all of what was given out, or skipped, so far):
        lines: number of lines.
        offset: number of bytes, unpacked.
        ended: whether the last line had its line end.

    Iterating raises ImportFileError when the stream can't be read any further.
    """

    def __init__(self, stream: IO[bytes], file_format: FileFormat) -> None:
        self._stream = stream
        self._csv = file_format == "csv"
        self._digest = hashlib.sha256()  # Of everything: a file that changed anywhere before a checkpoint is seen.
        # What isn't in it yet. Many lines at once take a fifth of the time.
        self._fresh: list[bytes] = []
        self._digested = 0
        self.lines = 0
        self.offset = 0
        self.ended = True

    def digest(self) -> str:
        """SHA-256 of all bytes so far, in hex."""
        self._catch_up()
        return self._digest.copy().hexdigest()

    def _catch_up(self) -> None:
        self._digest.update(b"".join(self._fresh))
        self._fresh.clear()
        self._digested = self.offset

    def skip_to(self, offset: int, lines: int) -> bool:
        """Go on to where an earlier run stood. Returns whether the file reaches that far."""
        while self.offset < offset:
            block = self._read(self._stream.read, min(_BUFFER, offset - self.offset))
            if not block:
                return False
            self._count(block)
        self.lines = lines
        return True

    def finish_line(self) -> bool:
        """Take the line end that the last line lacked in an earlier run. Returns False if more text follows instead."""
        byte = self._piece(1)
        if byte == b"\r":
            byte = self._piece(1)
        return byte in (b"\n", b"")

    def __iter__(self) -> Iterator[RawRecord]:
        while (record := self._next()) is not None:
            yield record

    def _next(self) -> RawRecord | None:
        piece = self._read(self._stream.readline, MAX_RECORD_TEXT)
        if not piece:
            return None
        first = self.lines + 1
        if self.offset and piece[-1] == _LINE_END and not (self._csv and b'"' in piece):
            # As nearly all are: a line that nothing has to be looked for in.
            self._count(piece)
            self.lines = first
            return RawRecord(first, first, piece)
        text = piece.removeprefix(BOM) if self.offset == 0 else piece
        quoting = self._quoting_after(text, _Quoting.FIELD_START)
        is_whole = piece.endswith(b"\n") and quoting is not _Quoting.QUOTED
        if is_whole:
            self._count(piece)
            self.lines += 1
            return RawRecord(first, first, text)
        self._catch_up()
        before = self.lines, self.offset, self.ended, self._digest.copy()
        self._count(piece)
        try:
            return self._rest(first, text, quoting)
        except ImportFileError:
            # A record that couldn't be read to its end was not given out, and must not count as done.
            self._catch_up()
            self.lines, self.offset, self.ended, self._digest = before
            self._digested = self.offset
            raise

    def _rest(self, first: int, text: bytes, quoting: _Quoting) -> RawRecord:
        """Read on to the end of a record that is longer than a line or than a piece."""
        kept, size = [text], len(text)
        self.lines += self.ended
        while piece := self._piece(MAX_RECORD_TEXT):
            self.lines += self.ended
            quoting = self._quoting_after(piece, quoting)
            size += len(piece)
            if size <= MAX_RECORD_TEXT:
                kept.append(piece)
            if self.ended and quoting is not _Quoting.QUOTED:
                break
        self.lines += not self.ended
        return RawRecord(first, self.lines, b"".join(kept), self._problem(size, quoting, first))

    def _problem(self, size: int, quoting: _Quoting, first: int) -> str:
        if quoting is _Quoting.QUOTED:
            return f"a quote is opened and never closed: lines {first} to {self.lines} are one record"
        if size > MAX_RECORD_TEXT:
            return f"the record is longer than {MAX_RECORD_TEXT:,} bytes"
        return ""

    def _piece(self, most: int) -> bytes:
        piece = self._read(self._stream.readline, most)
        if piece:
            self._count(piece)
        return piece

    def _count(self, block: bytes) -> None:
        self._fresh.append(block)
        self.offset += len(block)
        self.ended = block[-1] == _LINE_END
        if self.offset - self._digested >= _DIGEST_BYTES:
            self._catch_up()

    def _read(self, read: Any, size: int) -> bytes:
        try:
            return cast(bytes, read(size))
        except (OSError, EOFError, zlib.error) as error:
            raise ImportFileError(
                f"The file can't be read after line {self.lines}: {error}.", "Mend the file and run the import again."
            ) from None

    def _quoting_after(self, data: bytes, quoting: _Quoting) -> _Quoting:
        if not self._csv or (quoting is not _Quoting.QUOTED and b'"' not in data and data.endswith(b"\n")):
            return _Quoting.PLAIN
        at = 0
        while at < len(data):
            if quoting is _Quoting.QUOTED:
                quote = data.find(b'"', at)
                if quote < 0:
                    return quoting
                quoting, at = _Quoting.QUOTE_SEEN, quote + 1
            elif quoting is _Quoting.PLAIN:
                comma = data.find(b",", at)
                if comma < 0:
                    return quoting
                quoting, at = _Quoting.FIELD_START, comma + 1
            elif data[at : at + 1] == b'"':
                quoting, at = _Quoting.QUOTED, at + 1
            else:
                quoting = _Quoting.PLAIN
        return quoting


class JsonLines:
    """Makes commands of JSON Lines records. `confirmed` is parse_command()'s.

    `quick` gives None, or what encode_command() makes of the command that parse() gives, in a fraction of the time.
    """

    def __init__(self, *, confirmed: bool = False) -> None:
        self._confirmed = confirmed
        self.quick = _quick_way()

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
    `quick` is as that of JsonLines.
    """

    def __init__(self, header: Sequence[str], *, confirmed: bool = False) -> None:
        self._header = header
        self._is_named = "" not in header
        self._confirmed = confirmed
        self.quick = _quick_way(header)

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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise BadRecordError(f"the JSON has the key {double[:40]!r} twice")
    return found


def _refuse_null(value: Any) -> None:
    """Where a sum or a date came to nothing, JavaScript writes null: it must not mean all, or for ever."""
    if isinstance(value, dict):
        for name, one in value.items():
            if one is None:
                raise BadRecordError(f"{name[:40]!r} is null: leave the field out where nothing is to be said")
            _refuse_null(one)
    elif isinstance(value, list):
        for one in value:
            _refuse_null(one)


def _no_constant(name: str) -> Any:
    raise BadRecordError(f"not JSON: {name}")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def parse_json(text: str, what: str = "the line is") -> Any:
    """Read JSON as strictly as commands want it: no key twice, no NaN, no null in a field. Raises BadRecordError."""
    try:
        found = _DECODER.decode(text)
        # Looked for only where the word stands anywhere, as it hardly ever does.
        if "null" in text:
            _refuse_null(found)
        return found
    except BadRecordError:
        raise
    except RecursionError:
        raise BadRecordError(f"{what} nested too deeply") from None
    except ValueError as error:
        if text.startswith("\ufeff"):
            raise BadRecordError(f"{what} not JSON: it begins with a byte order mark; were files joined?") from None
        # A whole number of thousands of digits lands here too: int() refuses it.
        raise BadRecordError(f"{what} not JSON: {str(error)[:100]}") from None
