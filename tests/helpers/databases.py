"""Databases, roles and settings of a test besides those that the fixtures give it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from creditfold.common.settings import Settings
from creditfold.projections.connections import connected
from helpers.kept_sessions import administrator
from helpers.support import query


def with_dsn(settings: Settings, **changed: str) -> Settings:
    """The same settings with parts of the connection string changed."""
    return settings.model_copy(update={"postgres_dsn": SecretStr(make_conninfo(settings.dsn, **changed))})


def server(settings: Settings, statement: str, *names: str) -> None:
    """Run a statement as the superuser, in another database than the test's, which may refuse."""
    with administrator(settings) as connection:
        connection.execute(SQL(statement).format(*map(Identifier, names)))  # type: ignore[arg-type]


@contextmanager
def role(settings: Settings, options: str = "") -> Iterator[Settings]:
    """A user of its own, who may log in, with a password where the server asks for one."""
    name = f"{settings.group}_user"
    server(settings, f"CREATE ROLE {{}} LOGIN PASSWORD 'right' {options}", name)
    try:
        yield with_dsn(settings, user=name, password="right")  # noqa: S106 - It guards a role that lives for a test.
    finally:
        server(settings, "DROP ROLE {}", name)


@contextmanager
def without_the_readers_role(settings: Settings) -> Iterator[Settings]:
    """The server as it is after a dump was restored on another one: roles don't come with it."""
    server(settings, "ALTER ROLE creditfold_reader RENAME TO creditfold_gone")
    try:
        yield settings
    finally:
        if query(settings, "SELECT FROM pg_roles WHERE rolname = 'creditfold_reader'"):
            with psycopg.connect(settings.dsn, autocommit=True) as connection:
                connection.execute("DROP OWNED BY creditfold_reader")
            server(settings, "DROP ROLE creditfold_reader")
        server(settings, "ALTER ROLE creditfold_gone RENAME TO creditfold_reader")


@contextmanager
def planned_once(settings: Settings) -> Iterator[Connection[Any]]:
    """A reader that prepares what it asks: to plan a query of ours anew takes up to ten times as long as to run it."""
    with connected(settings.dsn) as connection:
        connection.prepare_threshold = 0
        connection.execute("SET plan_cache_mode = force_generic_plan")
        yield connection


def other_topic(settings: Settings, name: str = "restored") -> Settings:
    return settings.model_copy(update={"commands_topic": f"{settings.commands_topic}.{name}"})
