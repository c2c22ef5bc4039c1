"""The administration client of Kafka, and what its errors mean: each becomes one of ours, with a remedy.

Refuses to know what is requested: that is the business of topics.py and offsets.py.
"""

import contextlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

# The package says what it exports to people, in its documentation, but not to the type checker.
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from creditfold.common.errors import ResourceError
from creditfold.common.settings import Settings

#: How long Kafka may take, in seconds: to answer at all, to answer a request, to have each broker know of a change.
#: What isn't answered is asked again for as long as the last: where its broker died, another one leads by then. So long
#: the client tries to connect to the dead one without a pause, which takes a whole processor.
CONNECT_S = 5.0
REQUEST_S = 5.0
PROPAGATION_S = 15.0
#: How long one question may take of a client that asks once.
ONCE_S = 15.0

#: How long a client pauses at most before it tries again to connect, in milliseconds. One that is kept must find a
#: Kafka that is back before its next answer is given up: by itself it would pause for ten seconds.
RECONNECT_MS = 1_000

T = TypeVar("T")

_UNREACHABLE = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.SASL_AUTHENTICATION_FAILED,
}


# What passes, by Kafka's protocol. A partition that was just made or has just moved: the metadata names a leader that
# doesn't know of it yet, or none, or one that doesn't know yet how much of it is committed.
_MOVING = {
    KafkaError._NOENT,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.ELIGIBLE_LEADERS_NOT_AVAILABLE,
    # A group, and the cluster itself, are led by a broker too; and one whose disk fails leads nothing any more.
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_CONTROLLER,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.NETWORK_EXCEPTION,
    # The client had asked a broker by its address, and drops that when it hears of the same one by its id.
    KafkaError._DESTROY_BROKER,
}

# A request whose broker didn't answer it in time, or at all.
_LATE = {KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError.REQUEST_TIMED_OUT}

# Connections that a server refuses, by the client's message: it has no code for most of them.
_REFUSED_CONNECTIONS = (
    (
        r"sasl|authentication",
        "Kafka at {bootstrap} doesn't let this user in: {reason}.",
        "Check CREDITFOLD_KAFKA_USERNAME, CREDITFOLD_KAFKA_PASSWORD, CREDITFOLD_KAFKA_SASL_MECHANISM and "
        "CREDITFOLD_KAFKA_SECURITY_PROTOCOL.",
    ),
    (
        r"\bssl\b|\btls\b|certificate|security\.protocol|wrong version number|broker version",
        "Kafka at {bootstrap} is reached, but speaks otherwise than the settings say: {reason}.",
        "Check CREDITFOLD_KAFKA_SECURITY_PROTOCOL (is that port for TLS, or plain?) and CREDITFOLD_KAFKA_CA_FILE.",
    ),
)

_FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}

# A broker that is too old for the request, or doesn't answer it for this user.
_WITHHELD = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._UNSUPPORTED_FEATURE,
}


def _is_moving(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in _MOVING


def _is_late(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in _LATE


#: Calls again what a partition answers that was just made or has just moved.
WHILE_MOVING = Retrying(
    stop=stop_after_delay(PROPAGATION_S), wait=wait_fixed(0.1), retry=retry_if_exception(_is_moving), reraise=True
)


class TopicError(ResourceError):
    """Kafka answered, and refused."""


class TopicMissingError(TopicError):
    """There is no such topic."""


class LeaderMissingError(TopicError):
    """What is asked about has no leader yet, or the broker that leads it has only just come up."""


class KafkaUnavailableError(ResourceError):
    """No broker answers."""

    away = "Kafka"


class _LastError:
    """The last reason why a client couldn't connect."""

    def __init__(self) -> None:
        self.reason = ""

    def record(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self.reason = error.str()


class KafkaAdmin:
    """An administration client that logs nothing while Kafka is away, and remembers why it is.

    Its threads and connections go with the last reference to it, and with them the answer to a future of its client:
    keep it until that is there. It may be kept for as long as a process runs, and be asked by several threads: it
    connects again by itself when Kafka was away.
    """

    def __init__(self, settings: Settings) -> None:
        self._bootstrap = settings.kafka_bootstrap
        self.topics: set[str] = set()
        # Not a method of this object: the client would keep alive who keeps it, and the garbage collector may come so
        # seldom that a process runs out of what it has for a thousand clients.
        self._last_error = _LastError()
        # librdkafka prints each failed connection to standard error; the reason goes into our error instead.
        quiet: dict[str, Any] = {"log_level": 0, "error_cb": self._last_error.record}
        # By default a question to a broker that is gone has librdkafka connect again and again, without its pauses: a
        # core's whole time until another leads. Not so where it keeps a connection to each.
        quiet |= {"reconnect.backoff.max.ms": RECONNECT_MS, "enable.sparse.connections": False}
        self.client = AdminClient({**settings.kafka_client, **quiet})

    def ask(self, question: Callable[[], T], topic: str = "") -> T:
        """Return the answer to a question, which must do no harm where it is asked again.

        Raises KafkaUnavailableError, TopicMissingError, LeaderMissingError or another TopicError.
        """
        is_there = False

        def asked() -> T:
            nonlocal is_there
            is_there = False
            # Where no broker answers, a metadata request fails sooner than one that waits for a controller. In each
            # try: the client keeps the leaders, and names one of before a restart again and again.
            self.topics = set(self.client.list_topics(timeout=CONNECT_S).topics)
            # Why it couldn't connect before says nothing of what comes now.
            self.client.poll(0)
            self._last_error.reason = ""
            is_there = True
            return question()

        try:
            # Of a Kafka that is away as a whole it is said at once.
            retry = retry_if_exception(lambda error: _is_moving(error) or (is_there and _is_late(error)))
            return WHILE_MOVING.copy(retry=retry)(asked)
        except KafkaException as error:
            # The errors while it tried to connect say more than the timeout.
            self.client.poll(0)
            # What retries keeps the error and is in its traceback: with that, all here would wait for the collector.
            cause = error.with_traceback(None)
            raise explained(error.args[0], self._bootstrap, topic, self._last_error.reason) from cause


def explained(error: KafkaError, bootstrap: str, topic: str = "", heard: str = "") -> ResourceError:
    """What an error of Kafka's client means, with a remedy.

    Args:
        error: what the client raised.
        bootstrap: the servers that were asked.
        topic: what was asked about.
        heard: why the client couldn't connect, if it said so.
    """
    reason = (heard or error.str()).rstrip(".")
    if error.code() in _UNREACHABLE:
        for pattern, message, remedy in _REFUSED_CONNECTIONS:
            if re.search(pattern, reason, re.IGNORECASE):
                reached = KafkaUnavailableError(message.format(bootstrap=bootstrap, reason=reason), remedy)
                reached.away = ""
                return reached
        return KafkaUnavailableError(
            f"Kafka doesn't answer at {bootstrap}: {reason}.",
            "Start it with `creditfold up`, or set CREDITFOLD_KAFKA_BOOTSTRAP to where it is.",
        )
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
        return TopicMissingError(
            f"Kafka at {bootstrap} has no such topic or partition{f': {topic}' if topic else ''}.",
            "Create it with `creditfold up` or `creditfold init`, or name the right one: CREDITFOLD_COMMANDS_TOPIC, "
            "CREDITFOLD_OUTCOMES_TOPIC, CREDITFOLD_DEAD_LETTERS_TOPIC.",
        )
    kind = LeaderMissingError if error.code() in _MOVING else TopicError
    return kind(
        f"Kafka at {bootstrap} refused a request{f' about the topic {topic}' if topic else ''}: "
        f"{error.str().rstrip('.')}.",
        _remedy(error),
    )


def _remedy(error: KafkaError) -> str:
    if error.code() in _FORBIDDEN:
        return (
            "Give the user in CREDITFOLD_KAFKA_USERNAME its rights (kafka-acls.sh; docs/operating.md lists them), or "
            "name another user."
        )
    return "See the broker's log, and `creditfold doctor`."


def kafka_answers(settings: Settings, bound_s: float = 1.0, cluster_id: str | None = None) -> bool:
    """Whether Kafka, or the cluster of that id, answers a metadata request within `bound_s` seconds."""
    with contextlib.suppress(KafkaException):
        answer = KafkaAdmin(settings).client.list_topics(timeout=bound_s)
        return cluster_id is None or answer.cluster_id == cluster_id
    return False


def topic_id_text(topic_id: object) -> str:
    """A topic's id as Kafka's own tools write it, in base64 for URLs."""
    return str(topic_id).translate(str.maketrans("+/", "-_"))


def read_config(client: AdminClient, resource: ConfigResource) -> dict[str, str]:
    """Return the settings of a topic or broker; empty where Kafka doesn't show them to this user.

    Raises KafkaException.
    """
    try:
        entries = client.describe_configs([resource], request_timeout=REQUEST_S)[resource].result()
    except KafkaException as error:
        if error.args[0].code() in _WITHHELD:
            return {}
        raise
    return {name: entry.value for name, entry in entries.items() if entry.value is not None}


def kafka_tool(settings: Settings, script: str, arguments: str) -> str:
    """How one of Kafka's own tools is called against the broker of these settings."""
    secured = "" if settings.kafka_security_protocol == "PLAINTEXT" else " --command-config client.properties"
    return f"{script} --bootstrap-server {settings.kafka_bootstrap}{secured} {arguments}"
