"""The commands that keep the log: archive, restore. Owns their words and their progress bars, not their work."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.shared.arguments import JsonOption
from creditfold.cli.shared.output import counted, print_json, say
from creditfold.cli.shared.progress import progress_bar
from creditfold.common.errors import CreditfoldError

if TYPE_CHECKING:
    from creditfold.common.settings import Settings
    from creditfold.log.archive.folder import ArchivedPartition, ArchiveFile
    from creditfold.log.archive.restore import RestoreReport
    from creditfold.log.archive.writer import ArchiveReport

DAMAGED = 1

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The archive's folder.")]


def archive(
    folder: FolderArgument,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Compare every file with its checksum; needs no Kafka, writes nothing.")
    ] = False,
    offsets_per_file: Annotated[
        int, typer.Option(min=1, max=100_000_000, help="Offsets that one file holds.")
    ] = 50_000,
    json: JsonOption = False,
) -> None:
    """Write the log to a folder of Avro files; run again, add what is new. Go on after a stop in the same way.

    Exits with 1 if --check finds anything wrong. docs/archive.md describes the files.

    \b
    Examples:
      creditfold archive /backup/credits
      creditfold archive /backup/credits --check
    """
    if check:
        _check(folder, json)
        return
    from creditfold.common.settings import load_settings
    from creditfold.log.archive.writer import archive_topic

    settings = load_settings()
    with progress_bar("archiving", "records", quiet=json) as bar:
        done = archive_topic(settings, folder, offsets_per_file=offsets_per_file, on_progress=lambda now: bar(*now))
    for warning in (*done.warnings, *_noted(settings)):
        print(f"warning: {warning}", file=sys.stderr)
    if json:
        print_json({"folder": folder, **done._asdict()})
    else:
        _print_archived(folder, done)


def _noted(settings: "Settings") -> list[str]:
    """Note for the metrics that the log was archived; what kept it from that, where there is a ledger to watch."""
    from creditfold.projections.connections import pinned
    from creditfold.projections.failures import NotPreparedError
    from creditfold.projections.proof.dates import note_proof

    try:
        with pinned(settings.dsn, "creditfold archive") as connection:
            note_proof(connection, "archive")
    except NotPreparedError:
        return []
    except CreditfoldError as error:
        return [f"the metrics don't show this archive: {error.message}"]
    return []


def _print_archived(folder: Path, done: "ArchiveReport") -> None:
    say(f"archived {counted(done.records, 'record')} in {done.seconds:.1f} s ({_rate(done.records, done.seconds)})")
    say(f"  {folder} holds {_in_words(done.partitions)} of {done.topic}")


def _in_words(partitions: "list[ArchivedPartition]") -> str:
    records = counted(sum(each.records for each in partitions), "record")
    files = counted(sum(each.files for each in partitions), "file")
    return f"{records} in {files}, {sum(each.bytes for each in partitions):,} bytes"


def _check(folder: Path, json: bool) -> None:
    from creditfold.log.archive.folder import Archive

    opened = Archive(folder)
    with progress_bar("checking", "records", quiet=json) as bar:
        seen = [0, 0]

        def on_file(file: "ArchiveFile", total: int) -> None:
            seen[0] += file.bytes
            seen[1] += file.records
            bar(seen[0], total, seen[1])

        found = opened.check(on_file)
    if json:
        print_json({"folder": folder, "good": not found.problems, **found._asdict()})
    else:
        say(*(f"bad: {problem.path} {problem.what}" for problem in found.problems))
        say(f"{folder} is {'damaged' if found.problems else 'good'}: {_in_words(found.partitions)} of {found.topic}")
    if found.problems:
        raise typer.Exit(DAMAGED)


def restore(
    folder: FolderArgument,
    *,
    topic: Annotated[str | None, typer.Option(help="Default: the command topic of the settings.")] = None,
    json: JsonOption = False,
) -> None:
    """Bring an archive back into an empty topic, each record at its old offset with its old time.

    The topic is made if it is missing. Run it again after a stop: it compares what is there and goes on. Nothing else
    may write to the topic until it is done.

    \b
    Examples:
      creditfold restore /backup/credits
      creditfold restore /backup/credits --topic credits.restored
    """
    from creditfold.common.settings import load_settings
    from creditfold.log.archive.restore import restore_topic
    from creditfold.log.topics import check_topic

    settings = load_settings()
    if topic is not None:
        settings = settings.model_copy(update={"commands_topic": topic})
    with progress_bar("restoring", "records", quiet=json) as bar:
        done = restore_topic(settings, folder, on_progress=lambda now: bar(now.records, now.records_total, now.records))
    for problem in check_topic(settings):
        print(f"warning: {problem}", file=sys.stderr)
    if json:
        print_json({"folder": folder, **done._asdict()})
    else:
        _print_restored(done)


def _print_restored(done: "RestoreReport") -> None:
    say(f"restored {counted(done.records, 'record')} in {done.seconds:.1f} s ({_rate(done.records, done.seconds)})")
    found = sum(each.found for each in done.partitions)
    if found:
        verbs = ("was", "equals") if found == 1 else ("were", "equal")
        say(f"  {counted(found, 'record')} {verbs[0]} there already and {verbs[1]} the archive's")
    say(f"  the topic {done.topic} has the id {done.topic_id}; a projection of another topic refuses it")


def _rate(records: int, seconds: float) -> str:
    return f"{records / max(seconds, 1e-6):,.0f}/s"
