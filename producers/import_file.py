"""The import of a command file into the log, to be killed and run again at any time. Owns the order of its steps.

Refuses to know how a record reads (import_commands.py) and how it reaches the log (the producer). A checkpoint is
written only when the log has confirmed everything before it, so a run that goes on after one skips nothing; what was
appended after it is appended twice, and counts once by its command id. What can't be sought (a pipe, a FIFO, process
substitution) is read from its start and leaves no progress.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from creditfold.common.position import Position
from creditfold.producers.client import CommandProducer
from creditfold.producers.deliveries import Outcome
from creditfold.producers.import_commands import EMPTY_CSV, CsvRecords, JsonLines, why_bad
from creditfold.producers.import_head import FileFormat, format_of, open_lines
from creditfold.producers.import_records import RawRecord, RecordReader
from creditfold.producers.import_report import BadRecordReport
from creditfold.producers.import_state import START_OVER, ImportState, load_state, refuse_other_import, save_state
from creditfold.producers.models.commands import Command, Encoded, encode_command
from creditfold.producers.models.errors import (
    AppendError,
    ImportFileError,
    ImportStateError,
    ImportStoppedError,
    InvalidCommandError,
    RecordTooLargeError,
    UndeliveredError,
)
from creditfold.producers.models.past_effects import past_effect
from creditfold.producers.strict_json import BadRecordError

CHECKPOINT_RECORDS = 20_000
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class ImportProgress:
    """How far an import is. Lines and bytes count from the start of the file; bytes are those on disk."""

    lines: int
    appended: int
    bad: int
    bytes_read: int
    bytes_total: int


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        lines: lines that this run read.
        appended: commands that this run appended, each confirmed by the log.
        bad: records that this run found bad; the report file has each.
        past: of those appended, how many take effect in the past: grants that had ended, schedules with turns to take.
        skipped: lines that earlier runs had done.
        bad_before: records that earlier runs found bad; they are in the report file too.
        positions: by partition, the position of the last command that this import, earlier runs included, appended.
        seconds: how long this run took.
        ended: whether the last line had its line end; without it, the file may have been cut off in its midst.
    """

    lines: int
    appended: int
    bad: int
    skipped: int
    bad_before: int
    positions: dict[int, Position]
    seconds: float
    past: int = 0
    ended: bool = True


def import_file(
    path: Path,
    producer: CommandProducer,
    *,
    format: FileFormat | None = None,
    state_path: Path,
    report_path: Path,
    on_progress: Callable[[ImportProgress], None] | None = None,
    start_over: bool = False,
    confirmed: bool = False,
    checkpoint_records: int = CHECKPOINT_RECORDS,
) -> ImportReport:
    """Append every good command of a file, and continue where an earlier run of the same import stopped.

    Blank lines, and in CSV rows of empty cells, are skipped.

    Args:
        path: JSON Lines or CSV in UTF-8, plain or gzip. It may grow between runs, and must not change otherwise. From a
            pipe, each run reads from the start.
        producer: appends them; its topic is the one that the import is of.
        format: `jsonl` or `csv`; by default by the name.
        state_path: where progress is kept; written atomically at each checkpoint.
        report_path: JSON Lines, one object for each bad record: line, last_line, reason, text (its start).
        on_progress: called at each checkpoint.
        start_over: forget earlier runs. Safe: a command that is in the log already counts once.
        confirmed: whether what DoubtfulCommandError refuses is meant: ids with invisible characters, schedules with
            many turns in the past. Without it such commands are bad records.
        checkpoint_records: how many records lie between two checkpoints.

    Returns:
        What this run did, and where the last command of each partition is.

    Raises:
        ImportFileError: the file is unreadable, its format unknown or its header bad.
        ImportStateError: another file, topic or cluster than before; a lost report; a log that lost what was appended;
            or the import runs already.
        ImportStoppedError: an append failed; run the import again.

    Example:
        >>> line = '{"type": "grant", "command_id": "g-3", "account": "erin", "asset": "credits", "amount": 5}'
        >>> _ = Path("grants.jsonl").write_text(line)
        >>> with CommandProducer(settings.kafka_client, settings.commands_topic) as producer:
        ...     report = import_file(
        ...         Path("grants.jsonl"), producer, state_path=Path("grants.state"), report_path=Path("bad.jsonl")
        ...     )
        >>> report.appended, report.bad
        (1, 0)
    """
    started = time.monotonic()
    _refuse_same_files(path, state_path, report_path)
    file_format = format or format_of(path)
    with ExitStack() as closing:
        raw = closing.enter_context(_open(path))
        can_go_on = raw.seekable()
        report = closing.enter_context(BadRecordReport(report_path))
        fresh = ImportState(producer.topic, producer.cluster_id(), file_format)
        state = None if start_over or not can_go_on else load_state(state_path)
        if state is not None:
            refuse_other_import(state, fresh, raw)
        kept = state_path if can_go_on else None
        run = _Import(raw, report, producer, state or fresh, kept, confirmed=confirmed)
        try:
            run.start()
            while run.step(checkpoint_records):
                if on_progress is not None:
                    on_progress(run.progress())
        except OSError as error:
            raise ImportFileError(
                f"Can't write the progress or the report: {error.strerror}.", "Make room, and run the import again."
            ) from error
        return run.summary(time.monotonic() - started)


class _Import:
    """One run: a reader before the producer, a checkpoint after it."""

    def __init__(
        self,
        raw: IO[bytes],
        report: BadRecordReport,
        producer: CommandProducer,
        state: ImportState,
        state_path: Path | None,
        *,
        confirmed: bool,
    ) -> None:
        self._raw = raw
        self._report = report
        self._producer = producer
        self._state = state
        self._state_path = state_path
        file_format: FileFormat = "csv" if state.format == "csv" else "jsonl"
        self._reader = RecordReader(open_lines(raw, file_format), file_format)
        # The bytes of an empty record: white space, which is None to bytes.strip(), and in CSV commas.
        self._empty = EMPTY_CSV if file_format == "csv" else None
        self._records = iter(self._reader)
        self._confirmed = confirmed
        self._parser: JsonLines | CsvRecords = JsonLines(confirmed=confirmed)
        self._failure: AppendError | None = None
        self._unreadable: ImportFileError | None = None
        self._ended = False
        self._skipped = state.lines
        self._bad_before = state.bad
        self._appended = 0
        self._past = 0
        self._now_ms = time.time_ns() // 1_000_000

    def start(self) -> None:
        """Go to the last checkpoint, in the file and in the report. Raises ImportStateError."""
        self._report.cut(self._state.report_bytes)
        if self._state.format == "csv" and (header := next(filter(self._is_filled, self._records), None)):
            self._parser = CsvRecords.with_header(header, confirmed=self._confirmed)
        if not self._state.offset:
            return
        if (
            not self._reader.skip_to(self._state.offset, self._state.lines)
            or self._reader.digest() != self._state.digest
        ):
            raise ImportStateError("The file has changed in the part that was imported already.", START_OVER)
        if not self._state.ended and not self._reader.finish_line():
            raise ImportStateError(
                f"Line {self._state.lines} was cut off when it was imported, and has grown since.", START_OVER
            )

    def step(self, records: int) -> bool:
        """Import at most `records` records and write a checkpoint. Returns whether there was anything to do."""
        if self._ended:
            return False
        try:
            count = self._producer.append_encoded(self._chunk(records), self._delivered)
            self._producer.flush()
        except (AppendError, UndeliveredError) as error:
            self._failure = self._failure or _as_failure(error)
        if self._failure is not None:
            can_go_on = self._state_path is not None
            raise ImportStoppedError(self._state.lines, self._failure.message, can_go_on) from self._failure
        if self._state.lost:
            if self._state_path is not None:
                # Kept for the next run, in which the log's end may lie after this again.
                save_state(self._state_path, self._state)
            raise ImportStateError(self._state.lost, START_OVER)
        self._appended += count
        self._checkpoint()
        if self._unreadable is not None:
            raise self._unreadable
        return True

    def progress(self) -> ImportProgress:
        """How far the run is."""
        found = self._state.bad - self._bad_before
        if self._state_path is None:
            return ImportProgress(self._state.lines, self._appended, found, self._reader.offset, 0)
        total = os.fstat(self._raw.fileno()).st_size
        return ImportProgress(self._state.lines, self._appended, found, min(self._raw.tell(), total), total)

    def summary(self, seconds: float) -> ImportReport:
        """What the run did."""
        return ImportReport(
            lines=self._state.lines - self._skipped,
            appended=self._appended,
            bad=self._state.bad - self._bad_before,
            skipped=self._skipped,
            bad_before=self._bad_before,
            positions={int(part): Position(int(part), offset) for part, offset in self._state.positions.items()},
            seconds=seconds,
            past=self._past,
            ended=self._state.ended,
        )

    def _chunk(self, records: int) -> Iterator[Encoded]:
        taken = 0
        try:
            for record in islice(self._records, records):
                taken += 1
                if self._failure is not None:
                    return
                encoded = None if record.problem else self._parser.fast(record.data)
                if encoded is None:
                    encoded = self._encoded(record)
                if encoded is not None:
                    yield encoded
        except ImportFileError as error:
            # Raised only when what was read before it is in the log and in the checkpoint.
            self._unreadable = error
        self._ended = taken < records

    def _is_filled(self, record: RawRecord) -> bool:
        return bool(record.data.strip(self._empty) or record.problem)

    def _encoded(self, record: RawRecord) -> Encoded | None:
        if not self._is_filled(record):
            return None
        try:
            if record.problem:
                raise BadRecordError(record.problem)
            command = self._parser.parse(record.data)
            encoded = encode_command(command)
        except (BadRecordError, InvalidCommandError) as error:
            self._add_bad(record, why_bad(error))
        except RecordTooLargeError as error:
            self._add_bad(record, error.message)
        else:
            self._past += _may_be_past(command) and bool(past_effect(command.type, command.fields, self._now_ms))
            return encoded
        return None

    def _add_bad(self, record: RawRecord, reason: str) -> None:
        self._report.add(record, reason)
        self._state.bad += 1

    def _delivered(self, outcome: Outcome) -> None:
        # Called in the producer's thread, in the order of offsets within a partition; read after flush().
        if isinstance(outcome, Position):
            name = str(outcome.partition)
            if (before := self._state.positions.get(name, -1)) >= outcome.offset:
                self._state.lost = (
                    f"The log has lost its end: a command landed at {outcome}, and this import had appended up to "
                    f"{Position(outcome.partition, before)}."
                )
            self._state.positions[name] = outcome.offset
        elif self._failure is None:
            self._failure = outcome

    def _checkpoint(self) -> None:
        state, reader = self._state, self._reader
        state.report_bytes = self._report.sync()
        state.lines, state.offset = reader.lines, reader.offset
        state.digest, state.ended = reader.digest(), reader.ended
        if self._state_path is None:
            return
        state.record_head(self._raw)
        save_state(self._state_path, state)


def _may_be_past(command: Command) -> bool:
    """Whether a command may take effect in the past, by the fields that most commands leave out."""
    return bool(getattr(command, "expires_at", 0)) or command.type in ("create_schedule", "batch")


def _as_failure(error: AppendError | UndeliveredError) -> AppendError:
    return error if isinstance(error, AppendError) else AppendError(error.message, error.remedy)


def _refuse_same_files(*paths: Path) -> None:
    if len({path.resolve() for path in paths}) < len(paths):
        raise ImportFileError("The file, its progress and its report must be three files.", "Give them other names.")


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb", buffering=READ_BYTES)
    except OSError as error:
        raise ImportFileError(f"Can't open {path}: {error.strerror}.", "Check the path and the rights.") from None
