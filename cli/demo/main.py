"""`creditfold demo`: a real purchase history through the whole ledger, and the proof that nothing was lost.

Owns the order of the steps, and that nothing it started stays behind. Runs on the embedded stack only, because
it writes into the log, from which nothing is removed.
"""

import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType

from creditfold.cli.append.import_file import import_paths, import_with_progress
from creditfold.cli.append.submission import open_producer
from creditfold.cli.demo import audit
from creditfold.cli.demo.cdnow import SOURCE, convert, fetched_history, parse_history
from creditfold.cli.run.servers import compiled_core
from creditfold.cli.shared.output import print_table, say
from creditfold.cli.shared.progress import Steps, progress_bar
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.common.processes import last_lines
from creditfold.common.settings import Settings
from creditfold.ledger.reasons import REJECTED
from creditfold.log.offsets import start_offsets
from creditfold.processors import daemons
from creditfold.processors.startup import prepare_ledger
from creditfold.processors.status import Sample, take_sample
from creditfold.producers.client import CommandProducer
from creditfold.producers.import_commands import JsonLines
from creditfold.producers.models.commands import Encoded, encode_command
from creditfold.projections import queries
from creditfold.projections.connections import connected
from creditfold.stack import embedded
from creditfold.stack.kafka import EmbeddedKafka, is_embeddable
from creditfold.stack.postgres import EmbeddedPostgres

# The version in the name: a changed conversion makes another file, and an import goes on only with the same one.
COMMANDS_FILE = "cdnow-commands-v1.jsonl"
RESENT = 1_000
# Kafka, PostgreSQL and a worker.
EVERYTHING = 3
ACCOUNTS_SHOWN = 10
REJECTIONS_SHOWN = 3
STALL_BOUND_S = 60.0
POLL_S = 0.2


class DemoError(CreditfoldError):
    """The demo can't run, or its proof failed."""


def run_demo(settings: Settings, *, keep: bool = False) -> None:
    """Run the demo. Raises CreditfoldError. Stops what it started in any case, unless kept."""
    _refuse_servers_of_yours(settings)
    began = time.monotonic()
    steps = Steps()
    started: list[str] = []
    worker_before = daemons.daemon(settings, "worker").pid
    kept = False
    with _ended_by_signals():
        try:
            say("creditfold demo: a real purchase history through the whole ledger", "")
            with steps.step("Starting Kafka and PostgreSQL"):
                started += embedded.up(settings, on_step=steps.show)
            _fold_history(settings, steps)
            _show(settings)
            _prove(settings)
            kept = keep
        finally:
            # By its pid: an interrupted start doesn't return that it started one.
            worker = daemons.daemon(settings, "worker").pid
            own_worker = worker is not None and worker != worker_before
            if not kept and (started or own_worker):
                _stop(settings, steps, own_worker, bool(started))
        say("", f"Done in {time.monotonic() - began:.0f} s.")
        _print_next_steps(_still_running(settings))


def _refuse_servers_of_yours(settings: Settings) -> None:
    if settings.postgres_dsn is not None or not is_embeddable(settings):
        raise DemoError(
            "The demo writes its commands into the log, so it runs on the embedded stack only.",
            "Unset CREDITFOLD_KAFKA_BOOTSTRAP and CREDITFOLD_POSTGRES_DSN.",
        )


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and a closed terminal end the demo as Ctrl-C does, with its clean-up."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(settings: Settings, steps: Steps, with_worker: bool, with_servers: bool) -> None:
    """Stop the worker and the servers where this demo started them. A second Ctrl-C changes nothing."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        with steps.step("Stopping what was started"):
            if with_worker:
                daemons.stop(settings, "worker")
            if with_servers:
                embedded.down(settings)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fold_history(settings: Settings, steps: Steps) -> None:
    prepare_ledger(settings)
    commands = _converted_history(settings, steps)
    with open_producer(settings) as producer:
        with steps.step("Importing the commands into the log", with_spinner=False) as note:
            state_path, report_path = import_paths(settings, commands)
            done = import_with_progress(commands, producer, state_path=state_path, report_path=report_path)
            note(f"{done.appended:,} appended, {done.skipped:,} were there")
        with steps.step("Sending what goes wrong in real life") as note:
            _send_trouble(producer, commands)
            note(f"{RESENT:,} commands twice, a reused id, random bytes")
    core = compiled_core(steps)
    with steps.step("Starting a worker") as note:
        daemons.start(settings, "worker")
        note(f"on {core.name}")
    began, before = time.time(), _records(take_sample(settings))
    with steps.step("Folding the log into balances", with_spinner=False) as note:
        last = _await_fold(settings)
        folded = _records(last) - before
        ended = max((row.folded_at.timestamp() for row in last.progress.values() if row.folded_at), default=began)
        note(f"{folded:,} records, {folded / (ended - began):,.0f}/s" if ended > began else "the worker was faster")
    if core.warning:
        say(f"  {core.warning}")


def _converted_history(settings: Settings, steps: Steps) -> Path:
    folder = settings.data_dir / "demo"
    commands = folder / COMMANDS_FILE
    if not commands.exists():
        with embedded.data_folder_named(settings):
            with steps.step("Fetching the CDNOW purchases (0.6 MB, once)"):
                text = fetched_history(folder)
            with steps.step("Making commands of them") as note:
                made = convert(parse_history(text), commands)
                note(f"{made.grants:,} grants, {made.spends:,} spends, {made.accounts:,} accounts")
    return commands


def _send_trouble(producer: CommandProducer, commands: Path) -> None:
    """Send the first commands again, one of them with another amount, and a record that is none."""
    with commands.open("rb") as file:
        again = [JsonLines().parse(line) for line in islice(file, RESENT)]
    reused = again[0].model_copy(update={"amount": again[0].fields["amount"] + 1})
    # Seeded, so that every demo shows the same record.
    noise = Encoded(b"cdnow-noise", random.Random(1).randbytes(40))  # noqa: S311 - It is to be seen, not to be secret.
    failures: list[object] = []

    def settle(outcome: object) -> None:
        if not isinstance(outcome, Position):
            failures.append(outcome)

    producer.append_encoded([*map(encode_command, again), encode_command(reused), noise], settle)
    producer.flush()
    if failures:
        raise DemoError(f"{len(failures):,} records didn't reach the log: {failures[0]}", "Run the demo again.")


def _records(sample: Sample) -> int:
    return sum(row.records for row in sample.progress.values())


def _left(sample: Sample) -> int:
    return sum(sample.ends[partition].high - row.next_offset for partition, row in sample.progress.items())


def _await_fold(settings: Settings) -> Sample:
    """Wait until nothing is left to fold, with a bar; returns what was seen then.

    Raises DemoError when the worker dies or stands still.
    """
    with progress_bar("folding", "records", quiet=False) as bar:
        sample = take_sample(settings)
        moved_at, total = time.monotonic(), _left(sample)
        while left := _left(sample):
            bar(total - left, total, total - left)
            _refuse_stall(settings, moved_at)
            time.sleep(POLL_S)
            sample = take_sample(settings)
            moved_at = time.monotonic() if _left(sample) != left else moved_at
    return sample


def _refuse_stall(settings: Settings, moved_at: float) -> None:
    daemon = daemons.daemon(settings, "worker")
    if daemon.pid is None or time.monotonic() - moved_at > STALL_BOUND_S:
        raise DemoError(
            f"The worker {'has ended' if daemon.pid is None else 'stands still'}. The end of its log:\n"
            f"{last_lines(daemon.log_path)}",
            f"The whole log is {daemon.log_path}.",
        )


def _show(settings: Settings) -> None:
    with connected(settings.dsn) as connection:
        say("")
        lines = audit.account_lines(connection, SOURCE, ACCOUNTS_SHOWN)
        print_table(audit.AccountLine._fields, lines, f"The {ACCOUNTS_SHOWN} busiest accounts")
        say("")
        totals = queries.rejection_totals(connection)
        rows = [(reason, count, REJECTED.get(reason, "")) for reason, count in totals.items()]
        print_table(("reason", "commands", "meaning"), rows, "What was rejected, and why")
        for row in queries.rejections(connection, REJECTIONS_SHOWN):
            say(
                f"  {row.account_id} asked for {row.amount:,} {row.asset} ({row.command_id})"
                f" and had {row.balance:,}: {row.rejection}"
            )
        say("")
        letters = [
            (Position(row.log_partition, row.log_offset), row.reason, row.detail)
            for row in queries.dead_letters(connection, REJECTIONS_SHOWN)
        ]
        print_table(("position", "reason", "detail"), letters, "Dead letters: records that can't be folded, the newest")


def _prove(settings: Settings) -> None:
    sample = take_sample(settings)
    starts = start_offsets(settings, settings.commands_topic, sample.ends)
    in_log = sum(end.high - starts[partition] for partition, end in sample.ends.items())
    commands = settings.data_dir / "demo" / COMMANDS_FILE
    say("", "The proof")
    with connected(settings.dsn) as connection:
        checks = []
        for check in (
            audit.check_nothing_lost(connection, in_log),
            audit.check_outcomes(connection, commands, SOURCE),
            audit.check_balances(connection),
        ):
            say(f"  {'ok  ' if check.holds else 'FAIL'} {check.claim}", f"       {check.figures}")
            checks.append(check)
    failed = [check.claim for check in checks if not check.holds]
    if failed:
        raise DemoError(f"The proof failed: {'; '.join(failed)}.", "Please report it, with the data folder.")


def _still_running(settings: Settings) -> list[str]:
    pids = {
        "Kafka": EmbeddedKafka(settings).pid,
        "PostgreSQL": EmbeddedPostgres(settings).pid,
        "a worker": daemons.daemon(settings, "worker").pid,
    }
    return [name for name, pid in pids.items() if pid is not None]


def _print_next_steps(running: list[str]) -> None:
    command = _own_command()
    say("", "Try next")
    if len(running) < EVERYTHING:
        say(f"  {command} up --worker          start {'what is missing' if running else 'it again'}, on the same data")
    say(
        f"  {command} grant alice 500      give credits, and see the new balance",
        f"  {command} spend alice 800      ask for too much",
        f"  {command} history alice        see what was decided",
        f"  {command} status               see how far the fold is",
        f"  {command} down                 stop everything; the data stays",
        "",
        f"Still running: {', '.join(running)}; `down` stops it." if running else "Nothing was left running.",
    )


def _own_command() -> str:
    """The command as this user can type it: `make demo` puts it into a virtual environment that isn't on PATH."""
    script = Path(sys.argv[0])
    if shutil.which("creditfold") or script.name != "creditfold":
        return "creditfold"
    return str(script)
