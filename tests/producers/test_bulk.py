"""Files of commands: what is read out of them, and what reaches the log when an import is killed or refused."""

import gzip
import io
import json
import random
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from creditfold.producers import (
    ImportFileError,
    ImportProgress,
    ImportStateError,
    ImportStoppedError,
    UnknownTopicError,
)
from creditfold.producers.import_head import format_of, open_lines
from creditfold.producers.import_records import MAX_RECORD_TEXT, RecordReader
from helpers.imports import Import, line, log_ids, read
from helpers.stack_under_test import StackUnderTest

pytestmark = pytest.mark.compiled_core

HEADER = "type,command_id,account,asset,amount,reason\n"


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        *((text, "not a JSON object") for text in (b"null", b"7", b'"x"', b"true")),
        (b'{"type": "grant", "type": "spend"}', "the key 'type' twice"),
        (b'{"type": "grant", "metadata": {"k": "1", "k": "2"}}', "the key 'k' twice"),
        (line(1).replace('"amount": 1', '"amount": NaN').strip().encode(), "not JSON: NaN"),
        (line(1).replace('"amount": 1', '"amount": -Infinity').strip().encode(), "not JSON: -Infinity"),
        (line(1, amount=1.0).strip().encode(), "amount must be a whole number"),
        (line(1).replace('"amount": 1', '"amount": 1e400').strip().encode(), "amount must be a whole number"),
        (line(1).replace('"amount": 1', '"amount": 1' + "0" * 400).strip().encode(), "amount must be a whole number"),
        (line(1).replace('"amount": 1', '"amount": 1' + "0" * 9_000).strip().encode(), "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not UTF-8 at byte 1"),
        (b'{"type": "gr\x00ant"}', "NUL"),
        (line(1, command_id="a\x00").strip().encode(), "command_id must be"),
        (line(1, command_id="\ud800").strip().encode(), "command_id must be"),
        (line(1, colour="red").strip().encode(), "'colour' is not a field"),
        (line(1).strip().encode() * 2, "not JSON"),
        (b"\xef\xbb\xbf" + line(1).strip().encode(), "not JSON"),
        (b'{"a": "' + b"x" * (MAX_RECORD_TEXT + 10) + b'"}', "longer than 1,048,576 bytes"),
        (b"x" * (3 * MAX_RECORD_TEXT), "longer than 1,048,576 bytes"),
    ],
    ids=count(),
)
def test_a_bad_json_line_is_one_bad_line(middle: bytes, reason: str) -> None:
    """The lines around it are read, whatever stands between them."""
    good, bad = read(line(0).encode() + middle + b"\n" + line(2).encode(), "jsonl")
    assert [command.command_id for command in good] == ["c-0", "c-2"]
    assert [(first, last) for first, last, _ in bad] == [(2, 2)]
    assert reason in bad[0][2]


def test_a_mark_at_the_start_and_a_missing_end_are_borne() -> None:
    """Windows writes a byte order mark and ends lines with two characters; many files lack the last line end."""
    data = b"\xef\xbb\xbf" + line(0).replace("\n", "\r\n").encode() + line(1).strip().encode()
    good, bad = read(data, "jsonl")
    assert [command.command_id for command in good] == ["c-0", "c-1"]
    assert not bad


@pytest.mark.parametrize(
    ("middle", "lines", "reason"),
    [
        ("grant,c-1,ada,x,1", (3, 3), "5 columns, and the header 6"),
        ("grant,c-1,ada,x,1,r,s", (3, 3), "7 columns, and the header 6"),
        ("grant,c-1,ada,x,1.0,r", (3, 3), "amount must be a whole number"),
        ("grant,c-1,ada,x,9007199254740992,r", (3, 3), "amount must be a whole number"),
        ("grant,c-1,ada,x," + "9" * 5_000 + ",r", (3, 3), "amount must be a whole number"),
        ("grant,c-1,ada,x,\u0661,r", (3, 3), "amount must be a whole number"),
        ("grant,c-1,ada,x,,r", (3, 3), "amount is missing"),
        ("loan,c-1,ada,x,1,r", (3, 3), "type must be"),
        ("batch,c-1,ada,x,1,r", (3, 3), "a batch can't stand in CSV"),
        ('grant,c-1,ada,x,1,"r"s', (3, 3), "not CSV"),
        ("grant,c-1,ada,x,1,a\rb", (3, 3), "not CSV"),
        ("grant,c-1,ada,x,1,a\0b", (3, 3), "NUL"),
        ('grant,c-1,ada,x,0,"two\ngrant,c-9,eve,x,1,\n"', (3, 5), "amount must be a whole number"),
        ('grant,c-1,ada,x,1,"' + "x" * MAX_RECORD_TEXT + '"', (3, 3), "longer than"),
        ('grant,c-1,ada,x,1,"' + "grant,c-9,eve,x,1,\n" * 60_000 + '"', (3, 60_003), "longer than"),
    ],
    ids=count(),
)
def test_a_bad_csv_record_is_one_bad_record(middle: str, lines: tuple[int, int], reason: str) -> None:
    """Nothing inside quotes is ever read as a command, not even when the record around it is bad."""
    good, bad = read((HEADER + "grant,c-0,ada,x,1,\n" + middle + "\ngrant,c-2,ada,x,1,\n").encode(), "csv")
    assert [command.command_id for command in good] == ["c-0", "c-2"]
    assert [(first, last) for first, last, _ in bad] == [lines]
    assert reason in bad[0][2]


@pytest.mark.parametrize("following", [1, 200_000])
def test_an_open_quote_never_grants_credits(following: int) -> None:
    """A cut-off file ends inside a note. What the note holds may look like commands, and must not become any."""
    text = HEADER + 'grant,c-0,ada,x,1,\ngrant,c-1,ada,x,1,"oops\n' + "grant,c-9,eve,x,1,\n" * following
    good, bad = read(text.encode(), "csv")
    assert [command.command_id for command in good] == ["c-0"]
    assert [(first, last) for first, last, _ in bad] == [(3, 3 + following)]
    assert "never closed" in bad[0][2]


def test_csv_reads_what_spreadsheets_write() -> None:
    """Quotes in quotes, commas and line breaks in quotes, inches, blank cells, metadata as JSON."""
    text = (
        "\ufeffamount,type,command_id,account,asset,reason,metadata,occurred_at\r\n"
        '5,spend,c-1,"Ada, the ""first""",x,"two\r\nlines","{""k"": ""v""}",1700000000000\r\n'
        '6,spend,c-2,ada,x,5" disk,,\r\n'
    )
    good, bad = read(text.encode(), "csv")
    assert not bad
    assert good[0].account == 'Ada, the "first"'
    assert good[0].reason == "two\r\nlines"
    assert good[0].metadata == {"k": "v"}
    assert good[0].occurred_at == 1_700_000_000_000
    assert (good[1].reason, good[1].metadata, good[1].occurred_at) == ('5" disk', {}, 0)


def test_csv_has_every_flat_command() -> None:
    """Its columns are the fields of all; an empty cell is an absent field, and flags are true or false."""
    text = (
        "type,command_id,account,asset,amount,hold,final,to,use,partial,deadline,scope,limit,metadata\n"
        "spend,c-1,ada,x,5,,,,boosts,true,,,,\n"
        "hold,c-2,ada,x,5,,,,,,20300101,,,\n"
        "capture,c-3,ada,,,c-2,false,,,,,,,\n"
        "transfer,c-4,ada,x,5,,,bob,,,,,,\n"
        "freeze,c-5,ada,,,,,,,,,all,,\n"
        'set_credit_limit,c-6,ada,x,,,,,,,,,0,"{""k"": ""v""}"\n'
        "unfreeze,c-7,ada,,,,,,,,,,,\n"
        "spend,c-8,ada,x,5,,,,,True,,,,\n"
        "unfreeze,c-9,ada,x,,,,,,,,,,\n"
    )
    good, bad = read(text.encode(), "csv")
    assert [(command.type, command.command_id) for command in good] == [
        ("spend", "c-1"),
        ("hold", "c-2"),
        ("capture", "c-3"),
        ("transfer", "c-4"),
        ("freeze", "c-5"),
        ("set_credit_limit", "c-6"),
        ("unfreeze", "c-7"),
    ]
    spend, hold, capture, _, _, limit, _ = (command.fields for command in good)
    assert (spend["use"], spend["partial"], hold["deadline"]) == ("boosts", True, 1_893_456_000_000)
    assert (capture["amount"], capture["final"], limit["limit"], limit["metadata"]) == (0, False, 0, {"k": "v"})
    assert [reason for _, _, reason in bad] == [
        "partial must be true or false",
        "'asset' is not a field of a command of type 'unfreeze'",
    ]


def test_json_lines_have_every_command() -> None:
    """A batch among them, whose steps say what is wrong with them."""
    step = {"type": "spend", "command_id": "s-1", "asset": "x", "amount": 1}
    whole = {"type": "batch", "command_id": "b-1", "account": "ada", "steps": [step]}
    broken = {**whole, "steps": [step, {**step, "command_id": "s-2", "amount": 0}]}
    good, bad = read("".join(json.dumps(row) + "\n" for row in (whole, broken)).encode(), "jsonl")
    assert [command.command_id for command in good] == ["b-1"]
    assert bad == [(2, 2, "steps[1].amount must be a whole number from 1 to 9007199254740991")]


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("type,command_id,asset,amount", "lacks columns: 'account'"),
        ("type,command_id,account,steps", "a column 'steps'. Write batches as JSON Lines"),
        ("type,command_id,account,asset,amount,colour", "unknown columns: 'colour'"),
        ("type,command_id,account,asset,amount,amount", "a column twice"),
        ('"type', "never closed"),
    ],
)
def test_a_bad_csv_header_ends_the_import(header: str, says: str) -> None:
    """Without names nothing in the file can be read."""
    with pytest.raises(ImportFileError, match=says):
        read((header + "\n").encode(), "csv")


@pytest.mark.parametrize("seed", range(20))
def test_records_cover_every_byte_and_line_once(seed: int) -> None:
    """Seeded noise of the characters that matter: no byte and no line is lost between records, or counted twice."""
    rng = random.Random(seed)
    data = HEADER.encode() + "".join(rng.choice(',"\n\r ax') for _ in range(3_000)).encode()
    reader = RecordReader(open_lines(io.BytesIO(data), "csv"), "csv")
    records = list(reader)
    assert b"".join(record.data for record in records) == data
    assert [record.first for record in records[1:]] == [record.last + 1 for record in records[:-1]]
    assert reader.lines == data.count(b"\n") + (not data.endswith(b"\n"))


@pytest.mark.parametrize(
    ("name", "found"),
    [("a.jsonl", "jsonl"), ("a.NDJSON", "jsonl"), ("a.csv", "csv"), ("a.csv.gz", "csv"), ("a.b.jsonl.GZ", "jsonl")],
)
def test_the_name_reports_the_format(name: str, found: str) -> None:
    """Case and further dots don't matter."""
    assert format_of(Path(name)) == found


@pytest.mark.parametrize("name", ["a", "a.txt", "a.gz", ".gz"])
def test_an_unknown_name_is_refused(name: str) -> None:
    """Guessing would report every line as bad."""
    with pytest.raises(ImportFileError, match="Say whether"):
        format_of(Path(name))


def test_an_import_into_a_log_that_lost_its_end_must_start_over(work: Import) -> None:
    """A command lands before what an earlier run had appended: the log lost that. The next run still knows of it."""
    work.path.write_text("".join(line(i) for i in range(20)))
    work.run()
    state = json.loads((work.folder / "state.json").read_bytes())
    # As if the log had held more when the first run ended.
    state["positions"] = {partition: offset + 100 for partition, offset in state["positions"].items()}
    (work.folder / "state.json").write_text(json.dumps(state))
    with work.path.open("a") as more:
        more.writelines(line(i) for i in range(20, 30))
    for _ in range(2):
        with pytest.raises(ImportStateError, match="The log has lost its end: a command landed at") as refused:
            work.run()
        assert "Start over" in refused.value.remedy
    assert work.run(start_over=True).appended == 30
    assert work.run().appended == 0


def test_an_import_appends_once_and_a_second_run_nothing(work: Import) -> None:
    """The same file again adds nothing; start_over appends it again, which the fold counts once."""
    work.path.write_text("".join("oops\n" if i % 10 == 3 else line(i) for i in range(1_000)))
    seen: list[ImportProgress] = []
    first = work.run(checkpoint_records=300, on_progress=seen.append)
    assert (first.lines, first.appended, first.bad, first.skipped) == (1_000, 900, 100, 0)
    assert [progress.lines for progress in seen] == [300, 600, 900, 1_000]
    assert seen[-1].bytes_read == seen[-1].bytes_total == work.path.stat().st_size
    second = work.run()
    assert (second.lines, second.appended, second.bad, second.skipped, second.bad_before) == (0, 0, 0, 1_000, 100)
    assert second.positions == first.positions
    assert sorted(log_ids(work.settings)) == sorted(f"c-{i}" for i in range(1_000) if i % 10 != 3)
    assert sum(place.offset + 1 for place in first.positions.values()) == 900
    assert work.reported() == [i + 1 for i in range(1_000) if i % 10 == 3]
    assert work.run(start_over=True).appended == 900
    assert len(work.reported()) == 100


def test_a_file_may_grow(work: Import) -> None:
    """Only what was added is read; a last line without its end may get it later."""
    work.path.write_text(line(0) + line(1).strip())
    assert work.run().appended == 2
    with work.path.open("a") as more:
        more.write("\n" + line(2) + "oops\n" + line(4))
    report = work.run()
    assert (report.lines, report.appended, report.skipped) == (3, 2, 2)
    assert work.reported() == [4]
    assert sorted(log_ids(work.settings)) == ["c-0", "c-1", "c-2", "c-4"]


def test_what_lies_in_the_past_is_counted_and_what_is_doubtful_confirmed(work: Import) -> None:
    """Credits that end at once, and a schedule that would take hundreds of turns."""
    turns = {"type": "create_schedule", "period": "days", "first_at": "2001-01-01", "until": "2001-12-31"}
    lines = [
        line(0, expires_at="2001-01-01"),
        line(1, **turns),
        line(2, expires_at="2100-01-01"),
        line(3, account="\u200ba"),
    ]
    work.path.write_text("".join(lines))
    first = work.run()
    assert (first.appended, first.past, first.bad) == (2, 1, 2)
    reasons = [json.loads(row)["reason"] for row in (work.folder / "bad.jsonl").read_text().splitlines()]
    assert reasons[0].startswith("first_at must leave at most 12 turns in the past; 364 of its turns")
    assert (
        reasons[1] == "account must not have U+200B (ZERO WIDTH SPACE) as its character 1 (confirm it if it is meant)"
    )
    again = work.run(start_over=True, confirmed=True)
    assert (again.appended, again.past, again.bad) == (4, 2, 0)


def test_a_changed_file_is_refused(work: Import) -> None:
    """In the first bytes, far behind them, shorter, or with a longer last line than was imported."""
    lines = [line(i) for i in range(2_000)]
    work.path.write_text("".join(lines).rstrip())
    work.run()
    changed = [line(9_999), *lines[1:]], [*lines[:1_500], line(9_999), *lines[1_501:]], lines[:-1]
    for other in changed:
        work.path.write_text("".join(other).rstrip())
        with pytest.raises(ImportStateError) as refused:
            work.run()
        assert "Start over" in refused.value.remedy
    work.path.write_text("".join(lines).rstrip() + " and more")
    with pytest.raises(ImportStateError, match="has grown since"):
        work.run()
    assert len(log_ids(work.settings)) == 2_000


def test_another_topic_or_a_lost_report_is_refused(work: Import) -> None:
    """Progress belongs to one log, and what was found bad must stay found."""
    work.path.write_text(line(0) + "oops\n")
    work.run()
    elsewhere = work._replace(settings=work.settings.model_copy(update={"commands_topic": "creditfold.other"}))
    with pytest.raises(ImportStateError, match=r"creditfold\.other"):
        elsewhere.run()
    (work.folder / "bad.jsonl").unlink()
    with pytest.raises(ImportStateError, match="report of earlier runs"):
        work.run()
    (work.folder / "state.json").write_text("{")
    with pytest.raises(ImportStateError, match="progress"):
        work.run()
    assert work.run(start_over=True).bad == 1


def test_gzip_and_its_truncation(work: Import) -> None:
    """What can be unpacked is imported and not read again; the mended file goes on from there."""
    packed = gzip.compress("".join(line(i, reason=random.Random(i).randbytes(40).hex()) for i in range(5_000)).encode())
    zipped = work._replace(path=work.folder / "commands.jsonl.gz")
    zipped.path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ImportFileError, match="can't be read after line"):
        zipped.run()
    with pytest.raises(ImportFileError, match="can't be read after line"):
        zipped.run()
    zipped.path.write_bytes(packed)
    report = zipped.run()
    assert 0 < report.skipped < 5_000
    assert not report.bad_before
    ids = log_ids(work.settings)
    assert len(ids) == len(set(ids)) == 5_000


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_no_error(work: Import, text: str) -> None:
    """Nothing to do is done at once."""
    work.path.write_text(text)
    report = work.run()
    assert (report.appended, report.bad) == (0, 0)


def test_files_that_cannot_be_used(work: Import) -> None:
    """A missing file, a folder, and a report that would overwrite its own source."""
    with pytest.raises(ImportFileError, match="Can't open"):
        work.run()
    with pytest.raises(ImportFileError, match="Can't open"):
        work._replace(path=work.folder).run(format="jsonl")
    with pytest.raises(ImportFileError, match="three files"):
        work._replace(path=work.folder / "bad.jsonl").run()


def test_a_record_over_the_bound_is_a_bad_line(work: Import) -> None:
    """Each field is within its bound; the record is not, and stands in the report."""
    too_long = line(1).strip() + " " * MAX_RECORD_TEXT + "\n"
    work.path.write_text(line(0) + line(1, metadata={str(i): "🜁" * 1024 for i in range(32)}) + too_long + line(2))
    report = work.run()
    assert (report.appended, report.bad) == (2, 2)
    assert work.reported() == [2, 3]


def test_a_failed_append_stops_the_import_where_it_can_go_on(work: Import, stack: StackUnderTest) -> None:
    """Kafka goes away after the second checkpoint and comes back: nothing lost, and the report holds each line once."""
    work.path.write_text("".join("oops\n" if i % 10 == 3 else line(i) for i in range(3_000)))

    def stop_kafka(progress: ImportProgress) -> None:
        if progress.lines == 1_000:
            stack.stop_kafka(kill=True)

    try:
        with pytest.raises(ImportStoppedError) as stopped:
            work.run(timeout_s=2, on_progress=stop_kafka, checkpoint_records=500)
    finally:
        stack.start_kafka()
    # Earlier where the log took longer than that for what came before.
    assert stopped.value.line in (0, 500, 1_000)
    assert "Run it again" in stopped.value.remedy
    report = work.run()
    assert (report.skipped, report.appended) == (stopped.value.line, 2_700 - stopped.value.line // 10 * 9)
    assert set(log_ids(work.settings)) == {f"c-{i}" for i in range(3_000) if i % 10 != 3}
    assert work.reported() == [i + 1 for i in range(3_000) if i % 10 == 3]


def test_a_missing_topic_stops_the_import(work: Import) -> None:
    """With the cause's own error behind it."""
    work.path.write_text(line(0))
    nowhere = work._replace(settings=work.settings.model_copy(update={"commands_topic": "creditfold.nowhere"}))
    with pytest.raises(ImportStoppedError, match="no topic") as stopped:
        nowhere.run()
    assert isinstance(stopped.value.__cause__, UnknownTopicError)


KILLED = """
import json, sys
from pathlib import Path
from creditfold.producers import CommandProducer, import_file
conf, topic, folder, last = json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
with CommandProducer(conf, topic) as producer:
    import_file(
        folder / "commands.jsonl", producer, state_path=folder / "state.json", report_path=folder / "bad.jsonl",
        checkpoint_records=250,
        # Behind that it goes on a while, and then stands until it is killed.
        on_progress=lambda progress: (print(progress.lines, flush=True), progress.lines < last or sys.stdin.read()),
    )
"""


@pytest.mark.chaos
def test_a_killed_import_goes_on(work: Import) -> None:
    """Three runs are killed at seeded checkpoints; in the end every line is in the log, once by its command id."""
    total, rng = 20_000, random.Random(7)
    work.path.write_text("".join("oops\n" if i % 100 == 3 else line(i) for i in range(total)))
    command = [sys.executable, "-c", KILLED, json.dumps(work.settings.kafka_client), work.settings.commands_topic]
    done = 0
    for _ in range(3):
        goal = done + rng.randrange(1_000, 4_000)
        process = subprocess.Popen(
            [*command, str(work.folder), str(goal + 2_000)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        while done < goal:
            done = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
    report = work.run()
    assert done <= report.skipped < total
    assert set(log_ids(work.settings)) == {f"c-{i}" for i in range(total) if i % 100 != 3}
    assert work.reported() == [i + 1 for i in range(total) if i % 100 == 3]


def test_two_runs_at_once_are_refused(work: Import) -> None:
    """Both would write the same progress and the same report."""
    work.path.write_text(line(0))

    def again(_: ImportProgress) -> None:
        with pytest.raises(ImportStateError, match="runs already"):
            work.run()

    assert work.run(on_progress=again).appended == 1
