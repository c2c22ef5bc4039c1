"""The `import` command: appends the commands of a file. Owns its options and its words, not its work."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from creditfold.cli.append.submission import REJECTED, InterruptedAppendError, open_producer
from creditfold.cli.shared.arguments import ArgumentError, JsonOption
from creditfold.cli.shared.output import counted, print_json, say
from creditfold.cli.shared.progress import progress_bar
from creditfold.common.errors import CreditfoldError

if TYPE_CHECKING:
    from creditfold.common.settings import Settings
    from creditfold.producers.client import CommandProducer
    from creditfold.producers.import_file import ImportProgress, ImportReport


def import_(
    file: Annotated[
        Path, typer.Argument(help="JSON Lines or CSV, plain or gzip, one command a line; - reads the input.")
    ],
    *,
    format: Annotated[Literal["jsonl", "csv"] | None, typer.Option(help="Default: by the file's name.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where bad lines are listed. Default: in the data folder, printed.")
    ] = None,
    start_over: Annotated[
        bool, typer.Option("--start-over", help="From the first line again; what is in the log counts once.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Append doubtful commands too; the report names each.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Append the commands of a file. Run it again after a stop: it goes on where it was.

    Bad lines are listed in a report, the good ones are appended; then it exits with 3.
    docs/producing.md describes the file.

    \b
    Examples:
      creditfold import commands.jsonl
      creditfold import grants.csv --report bad-lines.jsonl
      zstd -dc grants.csv.zst | creditfold import - --format csv
    """
    from creditfold.common.settings import load_settings

    file = Path("/dev/stdin") if file == Path("-") else file
    _refuse_unreadable(file, format)
    settings = load_settings()
    state_path, default_report = import_paths(settings, file)
    report_path = report or default_report
    with _with_resume_remedy(), open_producer(settings) as producer:
        done = import_with_progress(
            file,
            producer,
            format=format,
            state_path=state_path,
            report_path=report_path,
            start_over=start_over,
            confirmed=yes,
            quiet=json,
        )
    bad = done.bad + done.bad_before
    if report is None and not (bad or file.is_file()):
        # By the name of a pipe nobody would find it again.
        report_path.unlink(missing_ok=True)
    if json:
        print_json({**vars(done), "report": report_path})
    else:
        _print_report(done, report_path)
    if bad:
        raise typer.Exit(REJECTED)


def _refuse_unreadable(file: Path, format: str | None) -> None:
    from creditfold.producers.import_head import format_of
    from creditfold.producers.models.errors import ImportFileError

    if file.is_dir():
        raise ArgumentError(f"{file} is a folder.", "Name a file in it: one command a line, JSON Lines or CSV.")
    try:
        _ = format or format_of(file)
    except ImportFileError as error:
        raise ArgumentError(error.message, "Say which it is: --format jsonl or --format csv.") from None


@contextmanager
def _with_resume_remedy() -> Iterator[None]:
    """Word the remedy of a stopped or refused import for the command line."""
    from creditfold.producers.models.errors import ImportStateError

    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedAppendError(
            "Interrupted.", "Run it again: it goes on where it was, and resent commands count once."
        ) from None
    except ImportStateError as error:
        remedy = error.remedy.replace("Use another progress file. ", "")
        raise ImportStateError(error.message, remedy.replace("Start over to", "Add --start-over to")) from None


def import_paths(settings: "Settings", file: Path) -> tuple[Path, Path]:
    """Where an import's progress and its list of bad lines are kept: by the file's full path."""
    from hashlib import sha256

    folder = settings.data_dir / "imports"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CreditfoldError(
            f"An import keeps its progress in the data folder, and {folder} can't be made: {error.strerror}.",
            "Set CREDITFOLD_DATA_DIR to a folder that can be written and is there when the import is run again.",
        ) from None
    stem = f"{file.name[:80]}-{sha256(str(file.resolve()).encode(errors='surrogateescape')).hexdigest()[:12]}"
    return folder / f"{stem}.state.json", folder / f"{stem}.bad.jsonl"


def import_with_progress(
    file: Path, producer: "CommandProducer", *, quiet: bool = False, **options: Any
) -> "ImportReport":
    """Import a file, with a progress bar on standard error if that is a terminal; options are those of import_file."""
    from creditfold.producers.import_file import import_file

    with progress_bar("importing", "lines", quiet=quiet) as bar:

        def on_progress(progress: "ImportProgress") -> None:
            bar(progress.bytes_read, progress.bytes_total, progress.lines, progress.appended)

        return import_file(file, producer, on_progress=on_progress, **options)


def _print_report(done: "ImportReport", report_path: Path) -> None:
    rate = done.appended / done.seconds if done.seconds else 0
    say(f"appended {counted(done.appended, 'command')} in {done.seconds:.1f} s ({rate:,.0f}/s)")
    if done.skipped:
        say(f"  {counted(done.skipped, 'line')} done by earlier runs; --start-over imports again from the first")
    if not (done.appended or done.bad or done.skipped):
        say("  there are no commands in it")
    if not done.ended:
        say("  the last line has no line end: if the file was cut off, its end is missing")
    if done.past:
        said = "takes" if done.past == 1 else "take"
        say(f"  {done.past:,} of them {said} effect in the past: credits that expire, or turns that are taken, at once")
    if done.bad + done.bad_before:
        say(f"  {counted(done.bad + done.bad_before, 'bad line')}, listed in {report_path}")
        say(*(f"  line {line}: {reason}" for line, reason in _first_bad_lines(report_path)))


def _first_bad_lines(report_path: Path, count: int = 5) -> list[tuple[int, str]]:
    import json
    from itertools import islice

    with report_path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, count)]
    return [(row["line"], row["reason"]) for row in rows]
