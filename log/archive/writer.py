"""Writes an archive: brings a folder up to where the command topic ends, to be killed and run again at will.

Owns the order of the writing: a file is whole and on the disk before its partition's index names it, and the index is
replaced as a whole; so a run that dies anywhere leaves an archive that the next run goes on with. Refuses to know what
the records mean.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from confluent_kafka import TopicCollection
from fastavro.write import Writer

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.common.whole_files import sync, sync_folder, write_whole
from creditfold.log.admin import KafkaAdmin, topic_id_text
from creditfold.log.archive.folder import (
    FORMAT,
    INDEX,
    MANIFEST,
    READ_BYTES,
    SCHEMA,
    Archive,
    ArchivedPartition,
    ArchiveError,
    ArchiveFile,
    Index,
    Manifest,
    chained,
    file_name,
    folder_name,
    summary_of,
)
from creditfold.log.bookmark import Bookmark, last_record
from creditfold.log.continuity import refusals
from creditfold.log.offsets import end_offsets, log_ends, start_offsets
from creditfold.log.reader import LogReader, UnreadableError
from creditfold.log.record import LogRecord
from creditfold.log.topics import describe_topic

OFFSETS_PER_FILE = 50_000
# Bytes after which a file ends early, or a killed run would have to write very much again.
FILE_BYTES = 256 << 20
# Records taken at once. Few, because each may be as large as the topic allows, and all of them are in memory.
TAKE_RECORDS = 256
TAKE_S = 1.0
STALLED_S = 60.0
# The one codec besides none that each implementation of Avro must have. Higher levels save 7% and take a third longer.
CODEC, LEVEL = "deflate", 1

_UNFINISHED = "unfinished.avro.tmp"


class ArchiveProgress(NamedTuple):
    """How far a run is, in offsets of all partitions and in records."""

    offsets: int
    offsets_total: int
    records: int


class ArchiveReport(NamedTuple):
    """What a run did: the records and bytes that it added, and what the archive holds now."""

    topic: str
    topic_id: str
    records: int
    bytes: int
    seconds: float
    partitions: list[ArchivedPartition]
    warnings: list[str]


def archive_topic(
    settings: Settings,
    folder: Path,
    *,
    offsets_per_file: int = OFFSETS_PER_FILE,
    on_progress: Callable[[ArchiveProgress], None] | None = None,
) -> ArchiveReport:
    """Bring an archive up to where the command topic ended when the call began; write on with what is there already.

    Args:
        settings: where Kafka is, and which topic is archived.
        folder: made if it is missing.
        offsets_per_file: a file ends before each offset that is a multiple of it, and at the end of the log.
        on_progress: called after every few hundred records.

    Raises ArchiveError (the folder holds another log or something else, can't be written, or another run is at it;
    the log lost records), ArchiveDamagedError, UnreadableError, and what describe_topic raises.
    """
    started = time.monotonic()
    info = describe_topic(settings)
    wanted = Manifest(format=FORMAT, topic=info.name, topic_id=info.topic_id, partitions=info.partitions)
    with _exclusive(folder):
        run = _ArchiveRun(settings, _open_archive(folder, wanted), offsets_per_file, on_progress)
        run.write()
        return run.report(time.monotonic() - started)


class _ArchiveRun:
    """One run: partition by partition, file by file."""

    def __init__(
        self,
        settings: Settings,
        archive: Archive,
        offsets_per_file: int,
        on_progress: Callable[[ArchiveProgress], None] | None,
    ) -> None:
        self._settings = settings
        self._archive = archive
        self._topic = archive.manifest.topic
        self._offsets_per_file = offsets_per_file
        self._on_progress = on_progress
        self._admin = KafkaAdmin(settings)
        partitions = range(archive.manifest.partitions)
        both = log_ends(settings, self._topic, partitions, self._admin)
        self._ends = {partition: end.stable for partition, end in both.items()}
        self._hidden = {partition: end.high - end.stable for partition, end in both.items() if end.stable < end.high}
        starts = start_offsets(settings, self._topic, partitions)
        self._indexes = [self._initial_index(partition, starts[partition]) for partition in partitions]
        for index in self._indexes:
            self._refuse_other_log(index, starts[index.partition])
        # Compares sizes only: reading a whole archive before each run could take an hour.
        self._archive.indexes()
        self._refuse_other_history()
        self._total = sum(self._ends[index.partition] - index.next for index in self._indexes)
        self._offsets = self._records = self._bytes = 0

    def write(self) -> None:
        """Archive what isn't. Raises what archive_topic raises."""
        for index in self._indexes:
            if index.next < self._ends[index.partition]:
                self._continue(index)

    def report(self, seconds: float) -> ArchiveReport:
        """Return what the run did."""
        warnings = [
            f"The log of partition {index.partition} began at {index.first} when it was first archived; "
            "what was before isn't in the archive."
            for index in self._indexes
            if index.first
        ]
        warnings += [
            f"{hidden:,} records at the end of partition {partition} are behind a transaction that was open; the next "
            "run archives them. `creditfold doctor` shows since when it is open, and how to end it."
            for partition, hidden in self._hidden.items()
        ]
        return ArchiveReport(
            topic=self._topic,
            topic_id=self._archive.manifest.topic_id,
            records=self._records,
            bytes=self._bytes,
            seconds=seconds,
            partitions=[summary_of(index) for index in self._indexes],
            warnings=warnings,
        )

    def _initial_index(self, partition: int, start: int) -> Index:
        folder = self._archive.folder / folder_name(partition)
        if not folder.exists():
            folder.mkdir()
            sync_folder(folder.parent)
        # A folder without an index was left by a run that died between the two.
        if not any(path.suffix != ".tmp" for path in folder.iterdir()):
            fresh = Index(topic_id=self._archive.manifest.topic_id, partition=partition, first=start)
            write_whole(folder / INDEX, fresh.model_dump_json().encode())
        return self._archive.index(partition)

    def _refuse_other_log(self, index: Index, start: int) -> None:
        end = self._ends[index.partition]
        if end < index.next:
            raise ArchiveError(
                f"Partition {index.partition} of {self._topic} ends at {end}, before the end of the archive at "
                f"{index.next}.",
                "The log lost records that the archive has. Restore it into another topic; see docs/archive.md.",
            )
        if start > index.next:
            raise ArchiveError(
                f"Partition {index.partition} of {self._topic} begins at {start}, behind the end of the archive at "
                f"{index.next}.",
                "The records between are lost. Keep this archive, and begin another one in an empty folder.",
            )

    def _refuse_other_history(self) -> None:
        """The log must still hold each partition's last archived record where it was, or two histories would be one."""
        bookmarks: dict[int, Bookmark] = {}
        for index in self._indexes:
            last = self._archive.last_record(index)
            if last is not None:
                bookmarks[index.partition] = Bookmark(index.next, last_record(*last[:4]), last.timestamp)
        for error in refusals(self._settings, self._topic, bookmarks, "archived").values():
            raise ArchiveError(
                error.message,
                "Keep this archive, which has what the log lost: restore it into another topic (docs/archive.md). To "
                "write on with the log as it is, archive it into an empty folder.",
            )

    def _continue(self, index: Index) -> None:
        place = index.partition
        # They are what a killed run left; the one that isn't in the index begins where this run does.
        left = self._archive.unknown_files(index)
        if any(not path.name.startswith(f"{index.next:020}-") for path in left) or len(left) > 1:
            raise ArchiveError(
                f"{left[-1].name} in {left[-1].parent} isn't in the index.",
                "Move it away, or get the index back from another copy; see `creditfold archive --check`.",
            )
        with LogReader(self._settings.kafka_client, self._topic, place, index.next) as reader:
            chunks = read_until(self._settings, self._topic, place, reader, self._ends[place])
            records = _Lookahead(self._with_progress(index.next, chunks))
            while index.next < self._ends[place]:
                index = self._add_file(index, records)
                self._indexes[place] = index
        for path in left:
            if path.name not in {file.name for file in index.files}:
                path.unlink()

    def _with_progress(self, start: int, chunks: Iterator[list[LogRecord]]) -> Iterator[LogRecord]:
        before = self._offsets
        for chunk in chunks:
            yield from chunk
            self._records += len(chunk)
            if chunk and self._on_progress is not None:
                self._offsets = before + chunk[-1].offset + 1 - start
                self._on_progress(ArchiveProgress(self._offsets, self._total, self._records))

    def _add_file(self, index: Index, records: "_Lookahead") -> Index:
        folder = self._archive.folder / folder_name(index.partition)
        first = index.next
        limit = min(first - first % self._offsets_per_file + self._offsets_per_file, self._ends[index.partition])
        unfinished = folder / _UNFINISHED
        mark = hashlib.sha256(f"{index.topic_id} {index.partition}:{first}".encode()).digest()[:16]
        with unfinished.open("wb", buffering=READ_BYTES) as stream:
            hashed = _HashingStream(stream)
            # All that the writer does with a stream is to write, and to ask whether it can append.
            target: Any = hashed
            # A sync marker of its own, instead of a random one, makes equal archives equal byte by byte.
            writer = Writer(target, SCHEMA, CODEC, compression_level=LEVEL, sync_marker=mark)
            count, limit = _fill(writer, hashed, records, limit)
            writer.flush()
            sync(stream)
        # Only now it is known that all of them came from the log that the archive belongs to.
        self._refuse_new_topic()
        file = ArchiveFile(
            name=file_name(first, limit - 1),
            first=first,
            last=limit - 1,
            records=count,
            bytes=hashed.bytes,
            sha256=(digest := hashed.sha256.hexdigest()),
            chain=chained(index.chain, digest),
        )
        unfinished.replace(folder / file.name)
        sync_folder(folder)
        grown = index.model_copy(update={"files": (*index.files, file)})
        write_whole(folder / INDEX, grown.model_dump_json(indent=1).encode())
        self._bytes += file.bytes
        return grown

    def _refuse_new_topic(self) -> None:
        def asked() -> str:
            topic = self._admin.client.describe_topics(TopicCollection([self._topic]))[self._topic].result()
            return topic_id_text(topic.topic_id)

        if self._admin.ask(asked, self._topic) != self._archive.manifest.topic_id:
            raise ArchiveError(
                f"The topic {self._topic} was deleted and made anew in the middle of the run.",
                "The archive holds the old one. Begin another one in an empty folder.",
            )


class _Lookahead:
    """Records of which the next one is known before it is consumed."""

    def __init__(self, records: Iterator[LogRecord]) -> None:
        self.records = records
        self.next = next(records, None)


class _HashingStream:
    """A stream to write to, which counts and digests the bytes written."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()

    def seekable(self) -> bool:
        return False


def _fill(writer: Any, hashed: _HashingStream, ahead: _Lookahead, limit: int) -> tuple[int, int]:
    """Write the records before an offset. Returns their number and the offset behind the range, which bytes may cut."""
    count, write, rest = 0, writer.write, ahead.records
    record = ahead.next
    while record is not None and record.offset < limit:
        offset, timestamp, key, value, headers = record
        noted = [{"name": name, "value": content} for name, content in headers] if headers else ()
        write({"offset": offset, "timestamp": timestamp, "key": key, "value": value, "headers": noted})
        count += 1
        record = next(rest, None)
        if hashed.bytes >= FILE_BYTES:
            limit = offset + 1
    ahead.next = record
    return count, limit


def read_until(
    settings: Settings, topic: str, partition: int, reader: LogReader, end: int
) -> Iterator[list[LogRecord]]:
    """Read on to an offset, in lists of moderate length.

    Raises UnreadableError when nothing can be read for a minute, and what end_offsets raises.
    """
    moved = time.monotonic()
    while (position := reader.position) < end:
        taken = reader.take(TAKE_RECORDS, TAKE_S)
        if reader.position > position:
            moved = time.monotonic()
            last = taken.records[-1].offset if taken.records else -1
            yield list(taken.records) if last < end else [record for record in taken.records if record.offset < end]
        elif time.monotonic() - moved < STALLED_S:
            # Says what is wrong if Kafka is away or the topic is gone; the reader itself would wait on.
            end_offsets(settings, topic, [partition])
        else:
            raise UnreadableError(
                f"{topic} {Position(partition, position)} wasn't given for {STALLED_S:.0f} s.",
                "See `creditfold status`; run it again when Kafka is well.",
            )


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Make the folder, lock out other runs, and turn the system's errors about its files into ArchiveError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Locked as the folder that it is: a lock file would be one more thing in an archive. The system unlocks it.
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(handle)
    except BlockingIOError:
        raise ArchiveError(f"Another run writes to {folder}.", "Wait for it, or stop it.") from None
    except OSError as error:
        _remove_unfinished(folder)
        raise ArchiveError(
            f"Can't write the archive {folder}: {error.strerror}.",
            "Make room or correct the rights, and run it again: it goes on where it was.",
        ) from error


def _remove_unfinished(folder: Path) -> None:
    with suppress(OSError):
        for path in folder.rglob("*.tmp"):
            path.unlink()


def _open_archive(folder: Path, wanted: Manifest) -> Archive:
    if not (folder / MANIFEST).exists():
        if any(path.suffix != ".tmp" for path in folder.iterdir()):
            raise ArchiveError(f"{folder} isn't empty, and is no archive.", "Name another folder, or an archive.")
        write_whole(folder / MANIFEST, wanted.model_dump_json(indent=1).encode())
    archive = Archive(folder)
    found = archive.manifest
    if found.topic_id != wanted.topic_id:
        raise ArchiveError(
            f"{folder} holds the topic {found.topic} with the id {found.topic_id}, and {wanted.topic} has the id "
            f"{wanted.topic_id}: another log, even if its name is the same.",
            "Archive it into a folder of its own.",
        )
    if found != wanted:
        raise ArchiveError(
            f"{folder} holds {found.partitions} partitions of {found.topic}, and {wanted.topic} has "
            f"{wanted.partitions}.",
            "A log's partitions never change; see docs/operating.md. Archive it into a folder of its own.",
        )
    return archive
