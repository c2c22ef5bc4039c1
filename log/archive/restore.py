"""Brings an archive back into an empty topic: the same records at the same offsets with the same append times.

Owns what may be restored into which topic, and in which order. While it runs, the topic keeps the times that it is
given; after it the broker sets them again. Refuses to write behind anything but a prefix of the same archive, so a
run that dies anywhere is finished by the next one.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import KafkaException

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.log.archive.folder import Archive, Index, Manifest
from creditfold.log.archive.target import AGAIN, GIVEN_TIMES, GapWriter, RestoreAppender, RestoreError, RestoreTopic
from creditfold.log.archive.writer import read_until
from creditfold.log.offsets import end_offsets, start_offsets
from creditfold.log.reader import LogReader
from creditfold.log.record import LogRecord
from creditfold.log.topics import FOREVER, TopicInfo, create_topics, describe_topic

#: Most offsets before the first record that are filled; a log that was cut further on needs another way back.
MAX_LEADING_GAP = 1_000_000
PROGRESS_RECORDS = 1_000

_ELSEWHERE = "Name a topic that is empty or isn't there yet, by --topic or CREDITFOLD_COMMANDS_TOPIC."


class RestoreProgress(NamedTuple):
    """How far a restore is, in records of all partitions: those compared and written, of how many."""

    records: int
    records_total: int


class RestoredPartition(NamedTuple):
    """A partition: where it begins and ends now, its records, and those that were there before this run."""

    partition: int
    first: int
    next: int
    records: int
    found: int


class RestoreReport(NamedTuple):
    """What a run did. `records` are those that it wrote."""

    topic: str
    topic_id: str
    records: int
    seconds: float
    partitions: list[RestoredPartition]


def restore_topic(
    settings: Settings, folder: Path, *, on_progress: Callable[[RestoreProgress], None] | None = None
) -> RestoreReport:
    """Bring an archive into the command topic, which is made if it is missing; finish what an earlier run began.

    Records that are there already are compared with the archive's. Each new one is confirmed at its old offset.

    Args:
        settings: where Kafka is, and which topic is restored.
        folder: of the archive.
        on_progress: called after every thousand records or so.

    Raises RestoreError (a topic that holds anything else, Kafka refuses, a record landed elsewhere), ArchiveError,
    ArchiveDamagedError, and what describe_topic raises.
    """
    started = time.monotonic()
    archive = Archive(folder)
    indexes = archive.indexes()
    _refuse_long_gaps(indexes)
    # Kafka may take the first records after a crash by settings that were in force before the last change of them: a
    # topic that has never set the times by itself keeps those of the archive all the same.
    create_topics(settings.model_copy(update={"partitions": archive.manifest.partitions}), GIVEN_TIMES)
    info = describe_topic(settings)
    _refuse_unfit(info, archive.manifest)
    try:
        with _Restore(settings, archive, indexes, info, on_progress) as run:
            run.restore()
            return RestoreReport(info.name, info.topic_id, run.written, time.monotonic() - started, run.partitions)
    except KafkaException as error:
        raise RestoreError(f"Kafka refused a step of the restore: {error.args[0].str()}.", AGAIN) from error


class _Restore:
    """One run: partition by partition, by one producer, so that the order is the archive's."""

    def __init__(
        self,
        settings: Settings,
        archive: Archive,
        indexes: list[Index],
        info: TopicInfo,
        on_progress: Callable[[RestoreProgress], None] | None,
    ) -> None:
        self._settings = settings
        self._archive = archive
        self._indexes = indexes
        self._info = info
        self._on_progress = on_progress
        self._topic = RestoreTopic(settings)
        self.written = 0
        self._found = {index.partition: 0 for index in indexes}
        self._wanted = {index.partition: index.next for index in indexes}
        self._total = sum(index.records for index in indexes)
        self._gaps: GapWriter | None = None
        self._appender: RestoreAppender | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._gaps is not None:
            self._gaps.close()
        if self._appender is not None:
            self._appender.close()

    def restore(self) -> None:
        """Make the topic equal to the archive. Raises what restore_topic raises."""
        if self._info.timestamp_type == "CreateTime" and any(index.has_holes for index in self._indexes):
            # Ends what an earlier run left open, which hides itself and what comes behind it.
            self._gap_writer()
        ends = self._ends()
        if any(ends.values()):
            self._compare_all(ends)
        if ends != self._wanted:
            self._topic.keep_given_times()
        for index in self._indexes:
            self._restore(index, ends[index.partition])
        self._refuse_other_ends(self._ends())
        self._topic.set_own_times()

    @property
    def partitions(self) -> list[RestoredPartition]:
        """What the topic holds now."""
        return [
            RestoredPartition(index.partition, index.first, index.next, index.records, self._found[index.partition])
            for index in self._indexes
        ]

    def _ends(self) -> dict[int, int]:
        return end_offsets(self._settings, self._info.name, range(self._info.partitions))

    def _compare_all(self, ends: Mapping[int, int]) -> None:
        """Refuse a topic whose content isn't the archive's as far as it goes. Raises RestoreError."""
        # One that sets the times by itself wasn't left in the middle of a restore: it's whole, or another log.
        if self._info.timestamp_type != "CreateTime" or any(end > self._wanted[place] for place, end in ends.items()):
            self._refuse_other_ends(ends)
        for index in self._indexes:
            self._compare(index, ends[index.partition])

    def _compare(self, index: Index, end: int) -> None:
        start = self._start(index)
        if start not in (0, index.first):
            raise RestoreError(
                f"The topic {self._info.name} isn't empty: partition {index.partition} begins at {start}, and the "
                f"archive at {index.first}.",
                _ELSEWHERE,
            )
        ours = self._archive.records(index)
        if start < end:
            with LogReader(self._settings.kafka_client, self._info.name, index.partition, start) as reader:
                for chunk in read_until(self._settings, self._info.name, index.partition, reader, end):
                    for found in chunk:
                        _refuse_other(self._info.name, index.partition, found, next(ours, None))
                    self._found[index.partition] += len(chunk)
                    self._report_progress()
        following = next(ours, None)
        if following is not None and following.offset < end:
            _refuse_other(self._info.name, index.partition, None, following)

    def _start(self, index: Index) -> int:
        return start_offsets(self._settings, self._info.name, [index.partition])[index.partition]

    def _restore(self, index: Index, end: int) -> None:
        if end < index.first:
            self._gap_writer().fill(index.partition, end, index.first)
            end = index.first
        if self._start(index) < index.first:
            # A fold must refuse it as it refuses the log that was archived: its beginning is missing.
            self._topic.cut(index.partition, index.first)
        if end < index.next:
            self._append(index, end)
        self._report_progress()

    def _append(self, index: Index, start: int) -> None:
        appender = self._appender = self._appender or RestoreAppender(self._settings, self._topic.max_message_bytes())
        appender.begin(index.partition, start)
        for record in self._archive.records(index, start):
            if record.offset > appender.next:
                self._fill(appender, index.partition, record.offset)
            appender.append(record)
            self.written += 1
            if self.written % PROGRESS_RECORDS == 0:
                self._report_progress()
        appender.flush()
        if appender.next < index.next:
            self._fill(appender, index.partition, index.next)

    def _fill(self, appender: "RestoreAppender", partition: int, to: int) -> None:
        appender.flush()
        self._gap_writer().fill(partition, appender.next, to)
        appender.begin(partition, to)

    def _gap_writer(self) -> "GapWriter":
        if self._gaps is None:
            self._gaps = GapWriter(self._settings, self._topic.max_message_bytes())
        return self._gaps

    def _report_progress(self) -> None:
        if self._on_progress is not None:
            self._on_progress(RestoreProgress(sum(self._found.values()) + self.written, self._total))

    def _refuse_other_ends(self, ends: Mapping[int, int]) -> None:
        for partition in sorted(ends, key=lambda place: not ends[place]):
            if ends[partition] != self._wanted[partition]:
                raise RestoreError(
                    f"The topic {self._info.name} isn't empty: partition {partition} ends at {ends[partition]}, and "
                    f"the archive at {self._wanted[partition]}.",
                    _ELSEWHERE,
                )


def _refuse_long_gaps(indexes: list[Index]) -> None:
    for index in indexes:
        if index.first > MAX_LEADING_GAP:
            raise RestoreError(
                f"Partition {index.partition} of the archived log began at {index.first:,}; up to "
                f"{MAX_LEADING_GAP:,} offsets before the first record can be made again.",
                "Restore an archive of the log that was begun earlier.",
            )


def _refuse_unfit(info: TopicInfo, manifest: Manifest) -> None:
    if info.topic_id == manifest.topic_id:
        raise RestoreError(
            f"The topic {info.name} is the one that was archived.",
            _ELSEWHERE,
        )
    if info.partitions != manifest.partitions:
        raise RestoreError(
            f"The topic {info.name} has {info.partitions} partitions, and the archive {manifest.partitions}.",
            "Delete the topic and let the restore make it, or name another one by --topic.",
        )
    if info.cleanup_policy != "delete" or (info.retention_ms, info.retention_bytes) != (FOREVER, FOREVER):
        raise RestoreError(
            f"The topic {info.name} doesn't keep its records for ever, and old ones would be removed at once.",
            "Delete the topic and let the restore make it, or see docs/operating.md for the settings that it needs.",
        )


def _refuse_other(topic: str, partition: int, found: LogRecord | None, archived: LogRecord | None) -> None:
    if found is None or archived is None or found[:4] != archived[:4] or [*found.headers] != [*archived.headers]:
        offset = min(record.offset for record in (found, archived) if record is not None)
        raise RestoreError(
            f"The topic {topic} isn't empty, and what it has at {Position(partition, offset)} isn't the archive's.",
            _ELSEWHERE,
        )
