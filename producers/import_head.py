"""The name and the first bytes of a command file: its format, what it is packed with, or why it can't be read as it is.

Owns the causes and their remedies; of a file that is refused here nothing was imported. How records are cut is in
import_records.py, what they say in import_commands.py.
"""

import gzip
import io
import re
import zlib
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, cast

from creditfold.producers.models.errors import ImportFileError

FileFormat: TypeAlias = Literal["jsonl", "csv"]

BOM = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
#: Of the first line. Whatever is wrong with the whole of a file is seen in them.
_HEAD_BYTES = 65_536
_UNPACKED_BYTES = 1 << 18

#: What isn't text, by its first bytes: what it is, and what to do.
_NO_TEXT: tuple[tuple[bytes, str, str], ...] = (
    (b"\x28\xb5\x2f\xfd", "is packed with zstd", "Unpack it into the import: zstd -dc FILE | creditfold import -"),
    (b"BZh", "is packed with bzip2", "Unpack it into the import: bzip2 -dc FILE | creditfold import -"),
    (b"\xfd7zXZ\x00", "is packed with xz", "Unpack it into the import: xz -dc FILE | creditfold import -"),
    (b"\x04\x22\x4d\x18", "is packed with lz4", "Unpack it into the import: lz4 -dc FILE | creditfold import -"),
    (b"PK\x03\x04", "is a zip archive or an Excel workbook", "Unpack it, or save the sheet as CSV UTF-8."),
    (b"\xd0\xcf\x11\xe0", "is an old Excel workbook", "Save the sheet as CSV UTF-8."),
    (b"PAR1", "is a Parquet file", "Write it as JSON Lines or CSV."),
    (b"Obj\x01", "is an Avro file", "Write it as JSON Lines or CSV."),
    (b"\xff\xfe\x00\x00", "is in the encoding UTF-32", "Save it in UTF-8."),
    (b"\x00\x00\xfe\xff", "is in the encoding UTF-32", "Save it in UTF-8."),
    (b"\xff\xfe", "is in the encoding UTF-16, as Excel's 'Unicode text' is", "Save it as CSV UTF-8."),
    (b"\xfe\xff", "is in the encoding UTF-16", "Save it in UTF-8."),
)
_LONE_CR = re.compile(rb"\r(?!\n|\Z)").search


_SUFFIXES: dict[str, FileFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
_PACKED = (".gz", ".zst", ".bz2", ".xz", ".lz4", ".zip")


def format_of(path: Path) -> FileFormat:
    """A file's format by its name: .jsonl, .ndjson or .csv, each with .gz or without. Raises ImportFileError."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    # Also of what can't be unpacked: that is refused by the file's content.
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    found = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if found is None:
        raise ImportFileError(f"The name {path.name} shows no format.", "Say whether it is jsonl or csv.")
    return found


class _Rejoined:
    """A stream that can't be set back, with what was read of it already. Has what RecordReader needs, no more."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self._head = head
        self._stream = stream

    def readline(self, size: int) -> bytes:
        if not self._head:
            return self._stream.readline(size)
        cut = self._head.find(b"\n", 0, size) + 1 or size
        piece, self._head = self._head[:cut], self._head[cut:]
        is_whole = piece.endswith(b"\n") or len(piece) == size
        return piece if is_whole else piece + self._stream.readline(size - len(piece))

    def read(self, size: int) -> bytes:
        if not self._head:
            return self._stream.read(size)
        piece, self._head = self._head[:size], self._head[size:]
        return piece


class _Unpacked(io.RawIOBase):
    """A gzip file's content, for a buffer that finds its lines: GzipFile's own search for a line is slow."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._gzip = gzip.GzipFile(fileobj=cast(Any, packed))
        # Whatever GzipFile says of itself.
        self._can_seek = not isinstance(packed, _Rejoined) and packed.seekable()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._can_seek

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._gzip.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        # One piece at a time: what is read before the one that can't be unpacked is not lost.
        piece = self._gzip.read1(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def open_lines(raw: IO[bytes], file_format: FileFormat) -> IO[bytes]:
    """Wrap an open file, or a pipe, so that its lines can be read; unpacked if it is gzip.

    Raises ImportFileError for what can't be read as lines of the format, naming the cause.
    """
    magic = raw.read(len(_GZIP_MAGIC))
    stream = _set_back(raw, magic)
    if magic == _GZIP_MAGIC:
        stream = io.BufferedReader(_Unpacked(stream), _UNPACKED_BYTES)
    try:
        head = stream.readline(_HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise ImportFileError(
            f"The file can't be read after line 0: {error}.", "Mend the file and run the import again."
        ) from None
    _refuse_no_text(head)
    _refuse_no_lines(head.removeprefix(BOM), file_format)
    return _set_back(stream, head)


def _set_back(stream: IO[bytes], head: bytes) -> IO[bytes]:
    if isinstance(stream, _Rejoined) or not stream.seekable():
        return cast(IO[bytes], _Rejoined(head, stream))
    stream.seek(0)
    return stream


def _refuse_no_text(head: bytes) -> None:
    for magic, what, remedy in _NO_TEXT:
        if head.startswith(magic):
            raise ImportFileError(f"The file {what}.", remedy)
    if b"\0" in head[:4]:
        raise ImportFileError("The file is in the encoding UTF-16, without a mark that says so.", "Save it in UTF-8.")


def _refuse_no_lines(head: bytes, file_format: FileFormat) -> None:
    if b"\n" not in head and _LONE_CR(head):
        raise ImportFileError(
            "The file's lines end with a carriage return alone, as on old Macs.",
            "Write line ends of Unix or Windows: tr '\\r' '\\n' <FILE >NEW",
        )
    line = head.strip()
    if file_format == "csv":
        _refuse_no_csv(line)
    elif line.startswith(b"["):
        raise ImportFileError(
            "The file holds one JSON array, and not an object a line.",
            "Write JSON Lines: jq -c '.[]' FILE >NEW.jsonl",
        )
    elif line == b"{":
        raise ImportFileError(
            "The file's JSON objects are spread over several lines.", "Write JSON Lines: jq -c . FILE >NEW.jsonl"
        )


_SEPARATORS = {b";": "semicolons", b"\t": "tabs", b"|": "bars"}


def _refuse_no_csv(line: bytes) -> None:
    if line[:4].lower() == b"sep=":
        raise ImportFileError(
            "The file's first line is Excel's own `sep=`, and not a header.",
            "Remove that line; the columns are separated by commas.",
        )
    if line.startswith((b"{", b"[")):
        raise ImportFileError("The file holds JSON, and not CSV.", "Import it as jsonl.")
    if b"," not in line:
        for separator, name in _SEPARATORS.items():
            if separator in line:
                raise ImportFileError(
                    f"The CSV's separator is not the comma: its columns are separated by {name}.",
                    "Save it with commas; cells that hold commas in quotes.",
                )
