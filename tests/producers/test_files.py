"""Files of commands as people have them: read, or refused with the cause named, and never by half without a word."""

import gzip
import io
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from creditfold.common.settings import Settings
from creditfold.producers import CommandProducer, ImportFileError, ImportStoppedError, import_file
from creditfold.producers.import_head import FileFormat
from creditfold.producers.import_records import MAX_RECORD_TEXT
from helpers.fork_server import Process
from helpers.imports import Import, line, log_ids, read
from helpers.support import HANG_S, environment

pytestmark = pytest.mark.compiled_core


HEAD, ROW = "type,command_id,account,asset,amount", "grant,g-1,ann,credits,100"
CSV = f"{HEAD}\n{ROW}\n"
JSON = line(1)


# What the whole of a file is.


@pytest.mark.parametrize(
    ("data", "file_format", "says"),
    [
        (CSV.replace("\n", "\r").encode(), "csv", "carriage return alone"),
        ((line(1) + line(2)).replace("\n", "\r").encode(), "jsonl", "carriage return alone"),
        (CSV.encode("utf-16"), "csv", "UTF-16"),
        (CSV.encode("utf-16-le"), "csv", "UTF-16, without a mark"),
        (CSV.encode("utf-16-be"), "csv", "UTF-16, without a mark"),
        (b"\xfe\xff" + CSV.encode("utf-16-be"), "csv", "UTF-16"),
        (JSON.encode("utf-16"), "jsonl", "UTF-16"),
        (JSON.encode("utf-16-le"), "jsonl", "UTF-16"),
        (CSV.encode("utf-32"), "csv", "UTF-32"),
        (CSV.replace(",", ";").encode(), "csv", "separated by semicolons"),
        (CSV.replace(",", "\t").encode(), "csv", "separated by tabs"),
        (CSV.replace(",", "|").encode(), "csv", "separated by bars"),
        (f"sep=,\n{CSV}".encode(), "csv", "Excel's own `sep=`"),
        (f"\ufeffSEP=;\r\n{CSV}".encode(), "csv", "Excel's own `sep=`"),
        (JSON.encode(), "csv", "holds JSON, and not CSV"),
        (f"[{JSON.strip()}]".encode(), "jsonl", "one JSON array"),
        (f"[\n{JSON}]".encode(), "jsonl", "one JSON array"),
        (json.dumps(json.loads(JSON), indent=2).encode(), "jsonl", "spread over several lines"),
        (b"\x28\xb5\x2f\xfd" + bytes(40), "csv", "packed with zstd"),
        (b"BZh91AY&SY" + bytes(40), "csv", "packed with bzip2"),
        (b"\xfd7zXZ\x00\x00", "jsonl", "packed with xz"),
        (b"PK\x03\x04" + bytes(40), "csv", "a zip archive or an Excel workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "csv", "an old Excel workbook"),
        (b"PAR1" + bytes(40), "csv", "a Parquet file"),
        (b"type,command_id,account,asset,amount,\xff\n", "csv", "not UTF-8 at byte"),
        (f"{HEAD},amount\n".encode(), "csv", "a column twice"),
        (f"{HEAD},Amount\n".encode(), "csv", "unknown columns: 'Amount'"),
        (f"{HEAD}, use\n".encode(), "csv", "unknown columns: ' use'"),
        (f"{HEAD}\r{ROW}\r\n".encode(), "csv", "not CSV"),
        (b"type," + b"x" * (2 * MAX_RECORD_TEXT) + b"\n", "csv", "longer than 1,048,576 bytes"),
        (b"type,command_id\0,account\n", "csv", "NUL byte"),
    ],
)
@pytest.mark.parametrize("way", ["file", "gzip", "pipe", "gzip in a pipe"])
def test_what_cannot_be_read_is_refused_as_a_whole(data: bytes, file_format: FileFormat, says: str, way: str) -> None:
    """With its cause and what to do, before anything of it is imported; packed or not, from a file or a pipe."""
    packed = gzip.compress(data) if "gzip" in way else data
    with pytest.raises(ImportFileError, match=says.replace("`", ".")) as refused, opened(packed, "pipe" in way) as file:
        read(file, file_format)
    assert refused.value.remedy


@contextmanager
def opened(data: bytes, as_pipe: bool) -> Iterator[IO[bytes]]:
    """A file that can be sought, or a pipe that somebody writes into."""
    if not as_pipe:
        yield io.BytesIO(data)
        return
    end, start = os.pipe()
    writer = threading.Thread(target=written, args=(start, data))
    writer.start()
    with open(end, "rb") as file:
        yield file
    writer.join()


def written(to: int, data: bytes) -> None:
    # A few bytes first: what is distinguished from them must not hang on how they come.
    with open(to, "wb", buffering=0) as file:
        for piece in (data[:1], data[1:3], data[3:]):
            try:
                file.write(piece)
            except BrokenPipeError:
                return


@pytest.mark.parametrize(
    ("data", "file_format"),
    [
        (CSV.encode(), "csv"),
        (("\ufeff" + CSV).replace("\n", "\r\n").encode(), "csv"),
        (CSV.strip().encode(), "csv"),
        (CSV.replace("\n", ",\n").encode(), "csv"),
        (CSV.replace("\n", ",,,\n").encode(), "csv"),
        (f"{HEAD}\n{ROW},,\n".encode(), "csv"),
        (
            CSV.replace(",", '","').replace("\n", '"\n').replace("type", '"type').replace("grant", '"grant').encode(),
            "csv",
        ),
        (JSON.encode(), "jsonl"),
        (("\ufeff" + JSON).replace("\n", "\r\n").encode(), "jsonl"),
        (JSON.strip().encode(), "jsonl"),
        ((" " + JSON).encode(), "jsonl"),
    ],
)
@pytest.mark.parametrize("way", ["file", "gzip", "pipe", "gzip in a pipe"])
def test_what_can_be_meant_is_read(data: bytes, file_format: FileFormat, way: str) -> None:
    """With marks, line ends and commas as spreadsheets write them."""
    packed = gzip.compress(data) if "gzip" in way else data
    with opened(packed, "pipe" in way) as file:
        good, bad = read(file, file_format)
    assert (len(good), bad) == (1, [])


@pytest.mark.parametrize("as_pipe", [False, True])
def test_a_long_file_is_read_alike_from_a_pipe(as_pipe: bool) -> None:
    """Of a million bytes and records longer than a read."""
    data = (
        "".join(line(i, reason="x" * (i % 1_000)) for i in range(2_000)).encode() + b"y" * (MAX_RECORD_TEXT + 5) + b"\n"
    )
    with opened(data, as_pipe) as file:
        good, bad = read(file, "jsonl")
    assert (len(good), [why for _, _, why in bad]) == (2_000, ["the record is longer than 1,048,576 bytes"])


def test_gzip_that_is_cut_off_in_a_pipe_is_an_error() -> None:
    """Not an end."""
    packed = gzip.compress((JSON + os.urandom(200_000).hex()).encode())
    for size in (5, 50_000):
        with pytest.raises(ImportFileError, match="can't be read after line"), opened(packed[:size], True) as file:
            read(file, "jsonl")


# What one record is.


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("grant,g-1,ann,credits,1E+05", "amount must be a whole number from 1 to 9007199254740991; '1E+05' is not in"),
        ("grant,g-1,ann,credits,100.0", "'100.0' is not in plain digits"),
        ('grant,g-1,ann,credits,"1,000"', "'1,000' is not in plain digits"),
        ("grant,g-1,ann,credits,#REF!", "'#REF!' is not in plain digits"),
        ("grant,g-1,1.23457E+11,credits,5", "account '1.23457E+11' is a number that a spreadsheet rounded"),
        ('grant,"1,2E+05",ann,credits,5', "command_id '1,2E+05' is a number that a spreadsheet rounded"),
        (HEAD, "the header stands here again"),
        (f"\ufeff{ROW}", "begins with a byte order mark: were files joined?"),
        (f"{ROW},x", "6 columns, and the header 5"),
        ("grant;g-1;ann;credits;100", "1 columns, and the header 5"),
        ("grant,g-1,ann,credits", "4 columns, and the header 5"),
    ],
)
def test_a_spreadsheets_way_with_a_record_is_named(row: str, says: str) -> None:
    """And the next one is read."""
    good, bad = read(f"{HEAD}\n{row}\n{ROW}\n".encode(), "csv")
    assert [command.command_id for command in good] == ["g-1"]
    assert len(bad) == 1
    assert says in bad[0][2]


def test_an_amount_with_a_letter_e_is_an_id_elsewhere() -> None:
    """JSON says what is a text; and in a note anything may stand."""
    good, bad = read(line(1, account="1E+05").encode(), "jsonl")
    assert (len(good), bad) == (1, [])
    good, bad = read(f"{HEAD},reason\n{ROW},1E+05\n".encode(), "csv")
    assert (good[0].reason, bad) == ("1E+05", [])


def test_a_column_without_a_name_is_passed_over_while_it_is_empty() -> None:
    """What stands in it could be anything."""
    good, bad = read(f"{HEAD},,\n{ROW},,\n{ROW},,5\n".encode(), "csv")
    assert (len(good), [why for _, _, why in bad]) == (1, ["something stands in a column without a name"])


def test_joined_json_lines_are_named() -> None:
    """Each file's own mark stands in the midst of the whole."""
    good, bad = read((JSON + "\ufeff" + line(2)).encode(), "jsonl")
    assert len(good) == 1
    assert "were files joined?" in bad[0][2]


# Whole imports. They need the stack.


def test_an_import_from_a_pipe_appends_all_and_leaves_no_progress(work: Import) -> None:
    """A second run begins with the first line: what is there twice counts once."""
    fifo = work._replace(path=work.folder / "commands.jsonl.fifo")
    os.mkfifo(fifo.path)
    text = "".join("oops\n" if i % 10 == 3 else line(i) for i in range(1_000)).encode()
    for run in (1, 2):
        with piped(fifo.path, text):
            report = fifo.run(format="jsonl", checkpoint_records=300)
        assert (report.lines, report.appended, report.bad, report.skipped, report.ended) == (1_000, 900, 100, 0, True)
        assert not (work.folder / "state.json").exists()
        assert len(work.reported()) == 100
        assert len(log_ids(work.settings)) == 900 * run
    with piped(fifo.path, gzip.compress(text[:-1])):
        assert not fifo.run(format="jsonl").ended


@contextmanager
def piped(path: Path, data: bytes) -> Iterator[None]:
    writer = threading.Thread(target=lambda: written(os.open(path, os.O_WRONLY), data))
    writer.start()
    yield
    writer.join()


def test_a_stopped_import_from_a_pipe_says_how_it_goes_on(work: Import) -> None:
    """From the start."""
    fifo = work._replace(
        path=work.folder / "fifo", settings=work.settings.model_copy(update={"commands_topic": "creditfold.nowhere"})
    )
    os.mkfifo(fifo.path)
    with piped(fifo.path, JSON.encode()), pytest.raises(ImportStoppedError) as stopped:
        fifo.run(format="jsonl", timeout_s=HANG_S)
    assert "from a pipe it begins with the first line" in stopped.value.remedy


def test_what_says_nothing_is_skipped(work: Import) -> None:
    """Blank lines before the header, rows of commas, a header alone, nothing at all."""
    table = work._replace(path=work.folder / "commands.csv")
    table.path.write_text(f'\n,,\n{HEAD}\n,,,,\n{ROW}\n"","",,,\n\n')
    report = table.run()
    assert (report.appended, report.bad) == (1, 0)
    for text in (f"{HEAD}\n", HEAD, "", "\ufeff", "\n,,\n"):
        table.path.write_text(text)
        report = table.run(start_over=True)
        assert (report.appended, report.bad) == (0, 0), text


@pytest.mark.parametrize("target", ["/dev/null", "fifo", "/dev/stdout"])
def test_a_report_is_a_file_of_its_own(work: Import, target: str) -> None:
    """A later run goes on with it, and what is printed isn't it."""
    work.path.write_text("oops\n")
    path = Path(target)
    if target == "fifo":
        path = work.folder / "fifo"
        os.mkfifo(path)
    with (
        CommandProducer(work.settings.kafka_client, work.settings.commands_topic) as producer,
        pytest.raises(ImportFileError, match="must be a file of its own"),
    ):
        import_file(work.path, producer, state_path=work.folder / "s", report_path=path)


@pytest.mark.parametrize("way", ["-", "/dev/stdin"])
def test_the_command_line_reads_its_input(log_settings: Settings, way: str, tmp_path: Path) -> None:
    """In a pipe, whose format its name doesn't say."""
    # Of its own, since other tests leave reports in the servers' folder.
    settings = log_settings.model_copy(update={"data_dir": tmp_path})

    def run(*more: str) -> tuple[int, bytes, bytes]:
        command, pipe = ["-m", "creditfold.cli.main", "import", way, *more], subprocess.PIPE
        process = Process(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment(settings))
        out, err = process.communicate(CSV.encode())
        return process.returncode, out, err

    assert b"Say which it is: --format" in run()[2]
    code, out, err = run("--format", "csv")
    assert (code, err) == (0, b"")
    assert out.startswith(b"appended 1 command in ")
    assert log_ids(log_settings) == ["g-1"]
    assert list((settings.data_dir / "imports").glob("*.bad.jsonl")) == []
