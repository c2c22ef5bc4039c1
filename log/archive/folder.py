"""Owns what an archive is: a folder with a topic's committed records in Avro object container files.

Reads it back, and reports what is wrong with it.

Refuses to know what the records mean, how they got there (writer.py does) and how they get back into a topic
(restore.py does). A file counts only when the index of its partition names it. Needs no Kafka.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

from fastavro import reader as read_container
from fastavro.schema import parse_schema
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from creditfold.common.errors import ResourceError
from creditfold.log.record import LogRecord

FORMAT = 1
MANIFEST = "manifest.json"
INDEX = "index.json"
READ_BYTES = 1 << 20

#: Of a record in a file.
SCHEMA = parse_schema(
    {
        "type": "record",
        "namespace": "creditfold.archive",
        "name": "Record",
        "doc": "A record of the log. The timestamp is in milliseconds UTC.",
        "fields": [
            {"name": "offset", "type": "long"},
            {"name": "timestamp", "type": "long"},
            {"name": "key", "type": ["null", "bytes"]},
            {"name": "value", "type": ["null", "bytes"]},
            {
                "name": "headers",
                "type": {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "Header",
                        "fields": [{"name": "name", "type": "string"}, {"name": "value", "type": ["null", "bytes"]}],
                    },
                },
            },
        ],
    }
)


class ArchiveProblem(NamedTuple):
    """Something wrong with an archive: the path of the file within it, and what is wrong."""

    path: str
    what: str


class ArchiveError(ResourceError):
    """The archive can't be written or read, or belongs to another log."""


class ArchiveDamagedError(ArchiveError):
    """What is in the archive is not what was written to it: the path of the file within it, and what is wrong."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path} {what}.", "Get it back from another copy of the archive; see docs/archive.md.")
        self.problem = ArchiveProblem(path, what)


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


Offset = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(_Stored):
    """Which log an archive holds. The id is Kafka's own of the topic, the same on no other cluster."""

    format: int
    topic: str
    topic_id: str
    partitions: Annotated[int, Field(ge=1)]


class ArchiveFile(_Stored):
    """One file of a partition: its range of offsets, both ends within, and what it must look like.

    `chain` is the SHA-256 of the chain of the file before it and of its own `sha256`, both in hexadecimal.
    """

    name: str
    first: Offset
    last: Offset
    records: Offset
    bytes: Offset
    sha256: Digest
    chain: Digest


class Index(_Stored):
    """The files of one partition in their order. `first` is where the log began when its archive did."""

    topic_id: str
    partition: Offset
    first: Offset
    files: tuple[ArchiveFile, ...] = ()

    @property
    def next(self) -> int:
        """The offset after the last one that is archived."""
        return self.files[-1].last + 1 if self.files else self.first

    @property
    def records(self) -> int:
        """How many records the files hold."""
        return sum(file.records for file in self.files)

    @property
    def has_holes(self) -> bool:
        """Whether there are offsets without a record, those before the log's beginning included."""
        return self.records < self.next

    @property
    def chain(self) -> str:
        """The last file's chain, which stands for all of them; empty where there are none."""
        return self.files[-1].chain if self.files else ""


class ArchivedPartition(NamedTuple):
    """How far a partition's archive goes. `next` is the offset after its last one, `chain` stands for its content."""

    partition: int
    first: int
    next: int
    records: int
    files: int
    bytes: int
    chain: str


class CheckReport(NamedTuple):
    """What a check found. The archive is good if there are no problems."""

    topic: str
    topic_id: str
    partitions: list[ArchivedPartition]
    problems: list[ArchiveProblem]


class Archive:
    """An archive that exists. Raises ArchiveError or ArchiveDamagedError where there is none that can be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder)

    def index(self, partition: int) -> Index:
        """The index of a partition, sound in itself. Raises ArchiveDamagedError."""
        path = self._folder_of(partition) / INDEX
        try:
            index = Index.model_validate_json(_content(path))
        except FileNotFoundError:
            raise self._damaged(path, "is missing") from None
        except (ValidationError, ValueError) as error:
            raise self._damaged(path, f"is no index: {_first_line(error)}") from None
        for problem in self._problems_of(index, partition):
            raise self._damaged(path, problem)
        return index

    def indexes(self) -> list[Index]:
        """The indexes of all partitions, whose files are all there and as long as they must be.

        Raises ArchiveDamagedError.
        """
        found = [self.index(partition) for partition in range(self.manifest.partitions)]
        for index in found:
            for file in index.files:
                if problem := _size_problem(path := self._path(index, file), file):
                    raise self._damaged(path, problem)
        return found

    def records(self, index: Index, start: int = 0) -> Iterator[LogRecord]:
        """The records of a partition from an offset on, each file's checksum compared before its first record.

        Raises ArchiveDamagedError.
        """
        for file in index.files:
            if file.first >= start:
                yield from self._records_of(index, file)
            elif file.last >= start:
                yield from (record for record in self._records_of(index, file) if record.offset >= start)

    def last_record(self, index: Index) -> LogRecord | None:
        """The last record of a partition, whose file is read whole, if there is any. Raises ArchiveDamagedError."""
        file = next((file for file in reversed(index.files) if file.records), None)
        if file is None:
            return None
        (last,) = deque(self._records_of(index, file), maxlen=1)
        return last

    def check(self, on_file: Callable[[ArchiveFile, int], None] | None = None) -> CheckReport:
        """Read every byte and compare it with the indexes, and these with themselves.

        Args:
            on_file: called after each file, with it and the bytes of all files.
        """
        problems: list[ArchiveProblem] = []
        indexes: list[Index] = []
        for partition in range(self.manifest.partitions):
            try:
                indexes.append(self.index(partition))
            except ArchiveDamagedError as error:
                problems.append(error.problem)
        total = sum(file.bytes for index in indexes for file in index.files)
        for index in indexes:
            for file in index.files:
                problems += self._problems_in(index, file)
                if on_file is not None:
                    on_file(file, total)
            unknown = self.unknown_files(index)
            problems += (ArchiveProblem(self._relative(path), "isn't in the index") for path in unknown)
        problems += (
            ArchiveProblem(self._relative(path), "isn't part of the archive") for path in self._unknown_entries()
        )
        return CheckReport(self.manifest.topic, self.manifest.topic_id, [*map(summary_of, indexes)], problems)

    def _problems_in(self, index: Index, file: ArchiveFile) -> list[ArchiveProblem]:
        try:
            for _ in self._records_of(index, file):
                pass
        except ArchiveDamagedError as error:
            return [error.problem]
        return []

    def unknown_files(self, index: Index) -> list[Path]:
        """The files in a partition's folder that its index doesn't name; a killed run may leave one."""
        known = {INDEX, *(file.name for file in index.files)}
        folder = self._folder_of(index.partition)
        return sorted(path for path in folder.iterdir() if path.name not in known and path.suffix != ".tmp")

    def _unknown_entries(self) -> list[Path]:
        known = {MANIFEST, *(folder_name(partition) for partition in range(self.manifest.partitions))}
        return sorted(path for path in self.folder.iterdir() if path.name not in known and path.suffix != ".tmp")

    def _problems_of(self, index: Index, partition: int) -> Iterator[str]:
        if index.partition != partition or index.topic_id != self.manifest.topic_id:
            yield f"belongs to partition {index.partition} of the topic with the id {index.topic_id}"
        expected, chain = index.first, ""
        for file in index.files:
            chain = chained(chain, file.sha256)
            if file.first != expected or file.name != file_name(file.first, file.last) or file.last < file.first:
                yield f"names {file.name} where the range from {expected} on must come"
            if file.chain != chain:
                yield f"has a broken chain at {file.name}: a file or its line was removed or exchanged"
            expected = file.last + 1

    def _records_of(self, index: Index, file: ArchiveFile) -> Iterator[LogRecord]:
        path = self._path(index, file)
        if problem := _file_problem(path, file):
            raise self._damaged(path, problem)
        count, expected = 0, file.first
        with path.open("rb", buffering=READ_BYTES) as stream:
            rows = self._rows(path, stream)
            for record in rows:
                if not expected <= record.offset <= file.last:
                    raise self._damaged(path, f"holds the offset {record.offset} out of its place")
                expected = record.offset + 1
                count += 1
                yield record
        if count != file.records:
            raise self._damaged(path, f"holds {count:,} records, and the index says {file.records:,}")

    def _rows(self, path: Path, stream: IO[bytes]) -> Iterator[LogRecord]:
        try:
            rows: Iterator[Any] = iter(read_container(stream))
            for row in rows:
                listed = row["headers"]
                headers = tuple((header["name"], header["value"]) for header in listed) if listed else ()
                yield LogRecord(row["offset"], row["timestamp"], row["key"], row["value"], headers)
        # fastavro raises whatever error bytes that are no Avro happen to cause.
        except Exception as error:
            raise self._damaged(path, f"can't be read as Avro: {_first_line(error)}") from error

    def _folder_of(self, partition: int) -> Path:
        return self.folder / folder_name(partition)

    def _path(self, index: Index, file: ArchiveFile) -> Path:
        return self._folder_of(index.partition) / file.name

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.folder))

    def _damaged(self, path: Path, what: str) -> ArchiveDamagedError:
        return ArchiveDamagedError(self._relative(path), what)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        content = _content(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ArchiveError(
            f"{folder} is no archive: it has no {MANIFEST}.", "Name the folder that `creditfold archive` wrote."
        ) from None
    try:
        version = json.loads(content)["format"]
        if version != FORMAT:
            raise ArchiveError(
                f"{path} is of format {version}, and this version of creditfold reads format {FORMAT}.",
                "Use the version that wrote it, or a newer one.",
            )
        return Manifest.model_validate_json(content)
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise ArchiveDamagedError(MANIFEST, f"is no manifest: {_first_line(error)}") from None


def summary_of(index: Index) -> ArchivedPartition:
    """How far a partition's archive goes."""
    size = sum(file.bytes for file in index.files)
    return ArchivedPartition(
        index.partition, index.first, index.next, index.records, len(index.files), size, index.chain
    )


def _file_problem(path: Path, file: ArchiveFile) -> str:
    """What is wrong with a file's bytes; empty if nothing is."""
    if problem := _size_problem(path, file):
        return problem
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return f"can't be read: {error.strerror}"
    return "" if digest == file.sha256 else "has another checksum than the index says"


def _size_problem(path: Path, file: ArchiveFile) -> str:
    try:
        size = path.stat().st_size
    except OSError as error:
        return "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
    return "" if size == file.bytes else f"has {size:,} bytes, and the index says {file.bytes:,}"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise ArchiveError(f"Can't read {path}: {error.strerror}.", "Check the path and the rights.") from None


def folder_name(partition: int) -> str:
    """The name of a partition's folder."""
    return f"partition-{partition:05}"


def file_name(first: int, last: int) -> str:
    """The name of a file, by the ends of its range of offsets."""
    return f"{first:020}-{last:020}.avro"


def chained(chain: str, sha256: str) -> str:
    """The chain of a file after the file whose chain is given; that of the first comes after an empty one."""
    return hashlib.sha256(f"{chain}{sha256}".encode()).hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(".")
