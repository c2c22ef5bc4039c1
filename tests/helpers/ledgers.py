"""Databases, topics and consumer groups that no other test knows, for the length of a block; and patience with all."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import ObjectInUse
from tenacity import stop_after_delay

from creditfold.common.position import Log
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.admin import KafkaAdmin, topic_id_text
from creditfold.log.topics import derived_config, topic_config, topic_names
from creditfold.processors.rebuild import steps as rebuilding
from creditfold.projections import connections, sessions
from creditfold.projections.generations import switch, views
from creditfold.projections.store import claim
from helpers.databases import server, with_dsn
from helpers.kept_sessions import end_sessions, kept_sessions, session
from helpers.support import HANG_S


@contextmanager
def patience() -> Iterator[None]:
    """Have nothing in this process give up for what PostgreSQL, or a worker, is only slow with.

    What a test has given up, it sets itself.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rebuilding._WHILE_BLOCKED, "stop", stop_after_delay(HANG_S))
        patched.setattr(views._WHILE_READ, "stop", stop_after_delay(HANG_S))
        patched.setattr(switch, "HALT_IDLE_MS", 600_000)
        patched.setattr(claim, "CLAIM_PATIENCE_S", HANG_S)
        patched.setattr(connections, "CONNECT_TIMEOUT_S", int(HANG_S))
        patched.setitem(connections.SESSION, "connect_timeout", int(HANG_S))
        patched.setitem(cast(dict[str, str], sessions.FOLD), "lock_timeout", "0")
        yield


@contextmanager
def new_database(settings: Settings, template: Settings | None = None) -> Iterator[Settings]:
    """The settings with a database and a consumer group of their own: an empty database, or a template's copy."""
    name = f"cf_{uuid.uuid4().hex[:12]}"
    source = "template1" if template is None else str(conninfo_to_dict(template.dsn)["dbname"])

    def is_made() -> bool:
        # A session that filled the template may still be on its way out.
        if template is not None:
            end_sessions(template.dsn)
        with suppress(ObjectInUse):
            # Its files as they are: by default each page of it goes through the log, which takes a quarter more.
            server(settings, "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", name, source)
            return True
        return False

    assert wait_until(is_made, HANG_S)
    made = with_dsn(settings, dbname=name).model_copy(update={"group": name})
    try:
        with kept_sessions(made.dsn):
            yield made
    finally:
        server(settings, "DROP DATABASE {} WITH (FORCE)", name)


@contextmanager
def filled_once(settings: Settings, fill: Callable[[Settings], object]) -> Iterator[Settings]:
    """A database that is filled, for others that are copies of it."""
    with new_database(settings) as database:
        _fill_to_copy(database, fill)
        yield database


def _fill_to_copy(settings: Settings, fill: Callable[[Settings], object]) -> None:
    """Fill a database, and have copies of it note in their own log what their sequences give.

    A sequence notes 32 values in advance, in the log of the database that it was copied from: a crash of PostgreSQL
    would have the copy give the same ones again.
    """
    with patience():
        fill(settings)
    with session(settings) as connection:
        connection.execute(
            """SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, last_value)
               FROM pg_sequences WHERE last_value IS NOT NULL"""
        )


def with_topics_of_its_own(settings: Settings) -> Settings:
    """The settings with topics, not made yet, that are named after the group."""
    kinds = ("commands", "outcomes", "dead_letters")
    names = {f"{kind}_topic": f"creditfold.{kind.replace('_', '-')}.{settings.group}" for kind in kinds}
    return settings.model_copy(update={**names, "partitions": 4})


@contextmanager
def topics_made(settings: Settings, *, are_bound: bool = False) -> Iterator[Settings]:
    """Make the settings' topics, and delete them afterwards, unless the test has left Kafka away.

    With those of sixty tests a broker took twice as long to start, and thrice after a kill.

    Args:
        settings: of the ledger.
        are_bound: whether to have a database whose tables are made be of this log.
    """
    admin = KafkaAdmin(settings)
    try:
        log = make_topics(admin, settings)
        if are_bound:
            with session(settings) as connection:
                connection.execute("UPDATE ledger_0001.source SET topic = %s, topic_id = %s, partitions = %s", log)
        yield settings
    finally:
        for answer in admin.client.delete_topics(list(topic_names(settings)), request_timeout=5).values():
            with suppress(KafkaException):
                answer.result()


def make_topics(admin: KafkaAdmin, settings: Settings) -> Log:
    """Make what `create_topics` makes, with a fifth of the requests: hundreds of tests have topics of their own."""
    commands, *derived = topic_names(settings)
    configs = {commands: topic_config(settings)}
    configs |= dict.fromkeys(derived, derived_config(settings, settings.max_message_bytes))
    wanted = [NewTopic(name, settings.partitions, settings.replication, config=own) for name, own in configs.items()]
    for answer in admin.client.create_topics(wanted, request_timeout=HANG_S).values():
        try:
            answer.result()
        except KafkaException as error:
            # The client asks again where an answer was lost.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    asked, found = TopicCollection([*configs]), {}

    def are_known() -> bool:
        with suppress(KafkaException):
            answers = admin.client.describe_topics(asked, request_timeout=HANG_S)
            found.update({name: answer.result() for name, answer in answers.items()})
            return all(partition.leader is not None for topic in found.values() for partition in topic.partitions)
        return False

    assert wait_until(are_known, HANG_S)
    return Log(commands, topic_id_text(found[commands].topic_id), settings.partitions)


@contextmanager
def ledger_to_copy(settings: Settings, fill: Callable[[Settings], object]) -> Iterator[Settings]:
    """A ledger with topics and a database of its own that is filled once, for tests that leave its log as it is."""
    with new_database(settings) as database, topics_made(with_topics_of_its_own(database)) as ledger:
        _fill_to_copy(ledger, fill)
        yield ledger
