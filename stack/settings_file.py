"""Owns the file in which a data folder remembers what its stack was made with: writes it, and keeps it true.

common/settings.py reads it, after the environment. It never holds a password of ours.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from creditfold.common.settings import FILE, PASSWORD, PREFIX, Settings

#: Where the servers are and what they hold, written even where it is the default, which may be another one some day.
ALWAYS = (
    "kafka_bootstrap",
    "kafka_controller_port",
    "commands_topic",
    "outcomes_topic",
    "dead_letters_topic",
    "partitions",
    "group",
)
#: What each server is started with: the file follows it when it is started with something else.
OF_A_START = {
    "kafka_bootstrap": "Kafka",
    "kafka_controller_port": "Kafka",
    "kafka_heap": "Kafka",
    "jars_dir": "Kafka",
    "maven_url": "Kafka",
    "postgres_tcp_port": "PostgreSQL",
}

HEADER = f"""\
# What this stack was made with, so that each shell finds it. Variables of the environment ({PREFIX}...) win.
# Edit it as you like: `creditfold up` changes the lines of what it starts differently, and no others.
# docs/settings.md lists all names, here without {PREFIX} and in small letters. No password is ever written here.
"""


def remember(settings: Settings, started: Collection[str]) -> Path | None:
    """Write what the stack was made with where that isn't remembered yet; else what it was started with now.

    Args:
        settings: those that the stack was started with.
        started: the names of the servers that were started with these settings.

    Returns: the file if it was written. Raises OSError.
    """
    path = settings.data_dir.resolve() / FILE
    if not path.exists():
        _write(path, HEADER + "".join(_line(name, value) for name, value in _worth(settings).items()))
        return path
    before = path.read_text("utf-8")
    new = {name: value for name, value in _worth(settings).items() if OF_A_START.get(name) in started}
    after = _brought_up(before, new)
    if after == before:
        return None
    _write(path, after)
    return path


def _worth(settings: Settings) -> dict[str, Any]:
    """The settings that are to be remembered: those of ALWAYS, and what else was set, but for secrets."""
    found = {}
    for name, value in settings:
        wanted = name in ALWAYS or name in settings.model_fields_set
        if name == "postgres_dsn" and value is not None:
            value = _without_secrets(value.get_secret_value())  # noqa: PLW2901 - The same setting.
        if name == "maven_url" and PASSWORD.search(str(value)):
            continue
        if wanted and name != "data_dir" and value is not None and not isinstance(value, SecretStr):
            found[name] = str(value.absolute()) if isinstance(value, Path) else value
    return found


def _without_secrets(dsn: str) -> str | None:
    """The connection string if it holds no password."""
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return None
    return None if {"password", "sslpassword"} & parts.keys() else dsn


def _line(name: str, value: object) -> str:
    # A string of JSON is one of TOML too.
    return f"{name} = {json.dumps(value, ensure_ascii=False)}\n"


def _brought_up(text: str, values: Mapping[str, object]) -> str:
    """A file's text with the lines of these settings changed, and all else as a person left it."""
    for name, value in values.items():
        line = _line(name, value)
        text, found = re.subn(rf"^[ \t]*{name}[ \t]*=.*\n?", lambda _, line=line: line, text, flags=re.MULTILINE)  # type: ignore[misc]
        if not found:
            text = text.rstrip("\n") + "\n" + line
    return text


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    # For who made the stack alone: a person may add a password.
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)
