"""The records of a command file: where each begins and ends, in constant memory. Owns the count of what was read.

Knows neither Kafka nor what a record says. A bad record is one bad record, whatever its bytes are. What stands inside a
quoted CSV field is never read as a command, not even where the quote is left open: notes are written by strangers, and
a stranger must not be able to grant credits.
"""

import hashlib
import zlib
from collections.abc import Iterator
from enum import Enum, auto
from typing import IO, Any, NamedTuple, cast

from creditfold.producers.import_head import BOM, FileFormat
from creditfold.producers.models.errors import ImportFileError

MAX_RECORD_TEXT = 1_048_576  # Bytes. A valid command's text is well under it, in whatever escapes.

_BUFFER = 1 << 20
_DIGEST_BYTES = 1 << 18
_LINE_END = ord("\n")


class RawRecord(NamedTuple):
    """One record's bytes and the lines that it spans, counted from 1. `problem` is set where the bytes are cut off."""

    first: int
    last: int
    data: bytes
    problem: str = ""


class _Quoting(Enum):
    """Where in a CSV record a byte stands, as far as quotes matter."""

    FIELD_START = auto()
    PLAIN = auto()
    QUOTED = auto()
    QUOTE_SEEN = auto()


class RecordReader:
    """Cuts a stream into records and counts what it has returned.

    Attributes (all of what was returned or skipped so far):
        lines: number of lines.
        offset: number of bytes, unpacked.
        ended: whether the last line had its line end.

    Iterating raises ImportFileError when the stream can't be read any further.
    """

    def __init__(self, stream: IO[bytes], file_format: FileFormat) -> None:
        self._stream = stream
        self._csv = file_format == "csv"
        self._digest = hashlib.sha256()  # Of everything: a file that changed anywhere before a checkpoint is seen.
        # What the digest doesn't cover yet. Many lines at once take a fifth of the time.
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
        """Skip to where an earlier run stopped. Returns whether the file reaches that far."""
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
            # As nearly all are: a line in which nothing has to be looked for.
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
            # A record that couldn't be read to its end was not returned, and must not count as done.
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
