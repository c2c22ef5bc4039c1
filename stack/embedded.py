"""Owns the embedded stack as a whole: starts, stops and reports it.

Refuses to know how each server is run, and starts none where the settings name a server of yours.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

from creditfold.common.errors import ResourceError
from creditfold.common.files import locked
from creditfold.common.settings import FILE, PREFIX, Settings, source_of
from creditfold.log.admin import kafka_answers
from creditfold.log.topics import create_topics
from creditfold.stack.jars import FETCH_BOUND_S
from creditfold.stack.kafka import EmbeddedKafka, is_embeddable
from creditfold.stack.postgres import EmbeddedPostgres
from creditfold.stack.settings_file import remember

# Longer than the longest start, so that the second of two `up` at once waits for the first and finds all done.
LOCK_BOUND_S = FETCH_BOUND_S + 240.0

OnStep = Callable[[str], None]
State = Literal["running", "starting", "stopped"]


class DataFolderError(ResourceError):
    """The data folder can't be written."""


class ServiceStatus(NamedTuple):
    """The state of one server. `pid` and `log_path` are None for a server of yours."""

    name: str
    state: State
    pid: int | None
    address: str
    log_path: str | None


def up(settings: Settings, on_step: OnStep = lambda _: None) -> list[str]:
    """Start what doesn't run yet of Kafka and PostgreSQL, wait until both answer, and create the topics.

    Doing it again changes nothing. What this call started is stopped again if it fails or is interrupted. A server
    that the settings place elsewhere is left alone.

    Args:
        settings: where each server is, or is to be started.
        on_step: called with one sentence before each step that takes time.

    Returns: the names of what it started. Raises ResourceError, each with a remedy.
    """
    with data_folder_named(settings), contextlib.ExitStack() as undo:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with locked(settings.data_dir / "lock", LOCK_BOUND_S):
            return _up(settings, on_step, undo)


def _up(settings: Settings, on_step: OnStep, undo: contextlib.ExitStack) -> list[str]:
    kafka = EmbeddedKafka(settings) if is_embeddable(settings) else None
    postgres = EmbeddedPostgres(settings) if settings.postgres_dsn is None else None
    started = []
    # Before anything is fetched or started, which may take minutes.
    if kafka:
        kafka.check()
    if postgres:
        postgres.check()
    # Kafka takes longest, so PostgreSQL starts while Kafka does.
    if kafka and _launched(kafka, "Kafka", on_step, undo):
        started.append("Kafka")
    if postgres and _launched(postgres, "PostgreSQL", on_step, undo):
        started.append("PostgreSQL")
    for server in (postgres, kafka):
        if server:
            server.wait_ready()
    for name in create_topics(settings):
        on_step(f"Created the topic {name}")
    written = remember(settings, started)
    if written:
        on_step(f"Remembered the settings in {written}")
    undo.pop_all()
    return started


def _launched(server: EmbeddedKafka | EmbeddedPostgres, name: str, on_step: OnStep, undo: contextlib.ExitStack) -> bool:
    if server.pid is not None:
        return False
    on_step(f"Starting {name}")
    # Registered before the launch, which may be interrupted after the process began.
    undo.callback(server.stop)
    return server.launch(on_step)


def down(settings: Settings) -> list[str]:
    """Stop the embedded servers cleanly, or kill what doesn't end within its bound. The data stays.

    Returns: the names of what it stopped; empty if nothing ran. Raises ResourceError.
    """
    if not settings.data_dir.exists():
        return []
    with data_folder_named(settings), locked(settings.data_dir / "lock", LOCK_BOUND_S):
        servers: dict[str, EmbeddedKafka | EmbeddedPostgres] = {
            "Kafka": EmbeddedKafka(settings),
            "PostgreSQL": EmbeddedPostgres(settings),
        }
        return [name for name, server in servers.items() if server.stop()]


def advice(settings: Settings, server: str) -> tuple[str, str] | None:
    """Why a server of ours, "Kafka" or "PostgreSQL", may not answer, and what to do.

    None where it isn't ours by the settings, or runs where they say: then the caller knows better.
    """
    ours = is_embeddable(settings) if server == "Kafka" else settings.postgres_dsn is None
    kafka = EmbeddedKafka(settings)
    running = kafka.pid if server == "Kafka" else EmbeddedPostgres(settings).pid
    if not ours or (running is not None and (server != "Kafka" or kafka.running_at == kafka.address)):
        return None
    folder = settings.data_dir.resolve()
    variable = f"{PREFIX}KAFKA_BOOTSTRAP" if server == "Kafka" else f"{PREFIX}POSTGRES_DSN"
    if running is not None:
        return (
            f"The Kafka of the data folder {folder} runs at {kafka.running_at}.",
            f"Correct {source_of('kafka_bootstrap')}; or unset it, if the environment has it.",
        )
    if has_stack(folder):
        return f"The {server} of the data folder {folder} doesn't run.", "Start it with `creditfold up`."
    above = "" if os.environ.get(f"{PREFIX}DATA_DIR") else ", nor a .creditfold in a folder above"
    return (
        f"There is no stack in the data folder {folder}{above}.",
        f"Go to the folder where `creditfold up` was run, or set {PREFIX}DATA_DIR to its data folder. "
        f"`creditfold up` makes a new stack here. For a server of yours set {variable}.",
    )


def has_stack(folder: Path) -> bool:
    """Whether a stack was ever made in this data folder, running or not."""
    return any((folder / name).exists() for name in (FILE, "kafka", "postgres"))


def service_status(settings: Settings) -> list[ServiceStatus]:
    """The state of Kafka and PostgreSQL, ours or yours. Takes a few seconds where one is away."""
    return [_kafka_status(settings), _postgres_status(settings)]


def _kafka_status(settings: Settings) -> ServiceStatus:
    kafka = EmbeddedKafka(settings)
    if not is_embeddable(settings):
        return _status_of_yours("Kafka", kafka_answers(settings, bound_s=3.0), settings.kafka_bootstrap)
    # A broker of Docker's may answer where ours would; then it runs, and has no pid that we know.
    state = _state(kafka) if kafka.pid is not None else "running" if kafka_answers(settings) else "stopped"
    address = kafka.address
    if kafka.running_at not in (None, address):
        state, address = "running", f"{kafka.running_at}, and the settings say {address}"
    return ServiceStatus("Kafka", state, kafka.pid, address, str(kafka.log_path))


def _postgres_status(settings: Settings) -> ServiceStatus:
    if settings.postgres_dsn is not None:
        return _status_of_yours("PostgreSQL", _answers(settings.dsn), _where(settings.dsn))
    postgres = EmbeddedPostgres(settings)
    return ServiceStatus("PostgreSQL", _state(postgres), postgres.pid, postgres.address, str(postgres.log_path))


def _status_of_yours(name: str, answers: bool, address: str) -> ServiceStatus:
    return ServiceStatus(name, "running" if answers else "stopped", None, address, None)


def _state(server: EmbeddedKafka | EmbeddedPostgres) -> State:
    if server.pid is None:
        return "stopped"
    return "running" if server.is_ready() else "starting"


def _answers(dsn: str) -> bool:
    with contextlib.suppress(psycopg.Error), psycopg.connect(dsn, connect_timeout=3, autocommit=True) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)
    return False


def _where(dsn: str) -> str:
    """The connection string's place, without what is secret in it."""
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "a connection string that can't be read"
    return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


@contextlib.contextmanager
def data_folder_named(settings: Settings) -> Iterator[None]:
    """Turn the system's errors about the data folder while a block runs into one with a remedy.

    Raises DataFolderError.
    """
    try:
        yield
    except OSError as error:
        folder = settings.data_dir.resolve()
        raise DataFolderError(
            f"The data folder {folder} can't be used: {error.strerror or error} ({error.filename or 'no file named'}).",
            _remedy(error),
        ) from error


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Make room on that disk, or set CREDITFOLD_DATA_DIR to a folder on another."
    user = f"the user {os.geteuid()}"
    return f"Give {user} the right to write there, or set CREDITFOLD_DATA_DIR to a folder that {user} owns."
