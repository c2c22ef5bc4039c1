"""What worker and publisher begin with: they wait for Kafka and PostgreSQL, and bind the projection to the topic."""

from collections.abc import Callable
from types import FrameType
from typing import TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential, wait_random

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Log
from creditfold.common.settings import Settings
from creditfold.log.admin import KafkaAdmin, KafkaUnavailableError, LeaderMissingError
from creditfold.log.origin import refuse_old_log
from creditfold.log.topics import TopicInfo, describe_topic, topic_problems
from creditfold.processors.heartbeat import Signs
from creditfold.projections.failures import PostgresUnavailableError
from creditfold.projections.tables.setup import prepare

T = TypeVar("T")

log = structlog.get_logger()


def wait_until_ready(settings: Settings, signs: Signs) -> Log:
    """Wait for Kafka and PostgreSQL, and bind the projection to the topic, making its tables where they are missing.

    Raises OldLogError, or what prepare raises, where the topic and the projection aren't to be folded.
    """
    return when_available(settings, lambda: _bind(settings), signs)


def when_available(settings: Settings, question: Callable[[], T], signs: Signs) -> T:
    """Ask again, with growing pauses, for as long as Kafka, a leader in it or PostgreSQL is away; the signs show it."""
    of_kafka = (KafkaUnavailableError, LeaderMissingError)

    def say_why(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        why = error.message if isinstance(error, CreditfoldError) else str(error)
        signs.waits_for("Kafka" if isinstance(error, of_kafka) else "PostgreSQL", why)
        log.warning("waiting", why=why)

    retrying = Retrying(
        wait=wait_exponential(multiplier=0.2, max=settings.retry_max_s) + wait_random(0, 0.1),
        retry=retry_if_exception_type((*of_kafka, PostgresUnavailableError)),
        before_sleep=say_why,
        reraise=True,
    )
    answer = retrying(question)
    signs.found("Kafka")
    signs.found("PostgreSQL")
    return answer


def prepare_ledger(settings: Settings) -> bool:
    """Bind the projection to the topic, making its tables where they are missing.

    Returns:
        Whether any table was made.

    Raises what wait_until_ready raises, and KafkaUnavailableError or PostgresUnavailableError.
    """
    return _prepared(settings, _described(settings).log)


def _prepared(settings: Settings, log: Log) -> bool:
    return prepare(settings.dsn, log, settings.searchable_keys, by_balance=settings.searchable_balances)


def _described(settings: Settings) -> TopicInfo:
    """Describe the topic. Raises OldLogError, before anything is made that would be bound to it."""
    admin = KafkaAdmin(settings)
    topic = describe_topic(settings, admin=admin)
    led = [state.partition for state in topic.layout if state.leader is not None]
    refuse_old_log(settings, topic.name, led, admin)
    return topic


def _bind(settings: Settings) -> Log:
    topic = _described(settings)
    for problem in topic_problems(topic, settings.model_copy(update={"partitions": topic.partitions})):
        log.warning("the topic is unsafe", topic=topic.name, problem=problem)
    _prepared(settings, topic.log)
    return topic.log


def leave(signum: int, frame: FrameType | None) -> None:
    """End a process that has nothing under way yet; a signal's handler."""
    raise SystemExit(0)
