"""Imports of files of commands, and what they left in the log."""

import io
import json
from pathlib import Path
from typing import IO, Any, NamedTuple

from creditfold.common.settings import Settings
from creditfold.producers import Command, CommandProducer, ImportReport, InvalidCommandError, import_file
from creditfold.producers.import_commands import CsvRecords, JsonLines, why_bad
from creditfold.producers.import_head import FileFormat, open_lines
from creditfold.producers.import_records import RecordReader
from creditfold.producers.strict_json import BadRecordError
from creditfold.schemas.wire import decode
from helpers.support import HANG_S, read_log


def line(number: int, **other: Any) -> str:
    """Write a good JSON line."""
    fields = {"type": "grant", "command_id": f"c-{number}", "account": f"a-{number % 7}", "asset": "x", "amount": 1}
    return json.dumps(fields | other) + "\n"


def read(source: bytes | IO[bytes], file_format: FileFormat) -> tuple[list[Command], list[tuple[int, int, str]]]:
    """Read a file, or its bytes; returns its commands, and (first line, last line, reason) of the bad records."""
    good: list[Command] = []
    bad: list[tuple[int, int, str]] = []
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    records = iter(RecordReader(open_lines(file, file_format), file_format))
    parser = CsvRecords.with_header(next(records)) if file_format == "csv" else JsonLines()
    for record in records:
        try:
            if record.problem:
                raise BadRecordError(record.problem)
            good.append(parser.parse(record.data))
        except (BadRecordError, InvalidCommandError) as error:
            bad.append((record.first, record.last, why_bad(error)))
    return good, bad


def log_ids(settings: Settings) -> list[str]:
    """Read the command ids of the whole topic, in each partition's order."""
    return [decode(entry.value or b"").fields["command_id"] for entry in read_log(settings)]


class Import(NamedTuple):
    """An import with its three files, run as often as a test likes."""

    settings: Settings
    folder: Path
    path: Path

    def run(self, timeout_s: float = HANG_S, **other: Any) -> ImportReport:
        """Run it once, with a producer of its own."""
        conf, topic = self.settings.kafka_client, self.settings.commands_topic
        state, report = self.folder / "state.json", self.folder / "bad.jsonl"
        with CommandProducer(conf, topic, delivery_timeout_s=timeout_s) as producer:
            return import_file(self.path, producer, state_path=state, report_path=report, **other)

    def reported(self) -> list[int]:
        """Line numbers in the report, in its order."""
        return [json.loads(row)["line"] for row in (self.folder / "bad.jsonl").read_text().splitlines()]
