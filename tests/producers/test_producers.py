"""The appenders on a real Kafka: where a command lands, and what its caller hears when Kafka fails."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait

import pytest
from aiokafka.partitioner import murmur2
from confluent_kafka import KafkaError, Message, Producer

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.ledger import limits
from creditfold.producers import (
    AppendError,
    AsyncCommandProducer,
    BrokerUnavailableError,
    Command,
    CommandProducer,
    DeliveryFailedError,
    ForkedProducerError,
    Grant,
    Hold,
    Outcome,
    OutcomeTimeoutError,
    ProducerBrokenError,
    ProducerClosedError,
    ProducerSettingError,
    QueueFullError,
    RecordTooLargeError,
    Spend,
    UndeliveredError,
    UnknownTopicError,
    encode_command,
)
from creditfold.producers.deliveries import BatchDelivery
from creditfold.projections.queries.outcomes import ProjectedOutcomes
from creditfold.schemas.wire import decode
from creditfold.stack.kafka import EmbeddedKafka
from helpers.forgetful_kafka import FORGETTING, ForgetfulKafka
from helpers.forks import said_by_child
from helpers.stack_under_test import StackUnderTest, free_port
from helpers.support import HANG_S, alter, read_log

SHORT_S = 1.0  # A delivery timeout for the test that waits for it to pass with Kafka gone.
NO_S = 0.1  # One for those that have no Kafka at all; librdkafka looks once a second what has run out of time.
LONG_S = 10 * HANG_S  # One that no test waits for.


def grant(number: int, account: str | None = None, **other: object) -> Grant:
    """Make a grant of a given number."""
    fields: dict[str, object] = {
        "command_id": f"c-{number}",
        "account": account or f"a-{number}",
        "asset": "x",
        "amount": 1,
    }
    return Grant.model_validate(fields | other)


def log(settings: Settings) -> dict[Position, tuple[bytes | None, str, dict[str, object]]]:
    """Read the whole topic: by position, the key, the record's name and its fields."""
    found = {}
    for entry in read_log(settings):
        read = decode(entry.value or b"")
        found[Position(entry.partition, entry.offset)] = (entry.key, read.record, read.fields)
    return found


def ids(settings: Settings, numbers: range) -> list[str]:
    """The command ids of these numbers that the topic has, in order, each as often as it has it."""
    wanted, found = set(named(*numbers)), [str(fields["command_id"]) for _, _, fields in log(settings).values()]
    return sorted(id for id in found if id in wanted)


def named(*numbers: int) -> list[str]:
    """The command ids of these numbers, in order."""
    return sorted(grant(number).command_id for number in numbers)


def no_broker() -> dict[str, str]:
    """Settings of a Kafka that isn't there."""
    return {"bootstrap.servers": f"127.0.0.1:{free_port()}"}


@pytest.fixture
def producer(log_settings: Settings) -> Iterator[CommandProducer]:
    """A producer on a topic of its own."""
    with patient(log_settings) as made:
        yield made


def patient(settings: Settings, **other: int) -> CommandProducer:
    """A producer that fails for no slowness of Kafka's or of the machine."""
    return CommandProducer(settings.kafka_client, settings.commands_topic, delivery_timeout_s=LONG_S, **other)


def test_an_append_returns_where_the_command_stands(producer: CommandProducer, log_settings: Settings) -> None:
    """What a consumer reads at the position is the command, keyed by its account."""
    commands: list[Command] = [
        grant(1, "ada"),
        Spend(command_id="c-2", account="zoë", asset="x", amount=1, partial=True),
        grant(3, "🜁" * 128, reason="a\nb", lot_class="promo"),
        Hold(command_id="c-4", account="ada", asset="x", amount=1, deadline=4_102_444_800_000),
    ]
    positions = [producer.append(command) for command in commands]
    found = log(log_settings)
    assert len(found) == len(commands)
    for command, position in zip(commands, positions, strict=True):
        assert found[position] == (command.account.encode(), command.record_name, command.fields)


def test_the_partition_is_murmur2_of_the_account(producer: CommandProducer, log_settings: Settings) -> None:
    """Java and aiokafka clients choose the same, so that all commands of an account stand in one order."""
    commands = [grant(i, account) for i, account in enumerate(["a", "zoë", "🜁", "x" * 128, *map(str, range(500))])]
    for delivery, command in [(producer.submit(command), command) for command in commands]:
        # The sign bit is dropped, as Java's partitioner does.
        expected = (murmur2(command.account.encode()) & 0x7FFFFFFF) % log_settings.partitions
        assert delivery.result(HANG_S).partition == expected


def test_many_are_delivered_once_each_with_their_positions(producer: CommandProducer, log_settings: Settings) -> None:
    """Through a queue that is far too small for all of them."""
    outcomes: dict[str, Outcome] = {}
    with patient(log_settings, queue_records=100) as small:
        count = small.append_many(
            (grant(i) for i in range(5_000)), lambda command, outcome: outcomes.update({command.command_id: outcome})
        )
        small.flush()
        assert count == len(outcomes) == 5_000
    found = log(log_settings)
    assert {found[position][2]["command_id"]: position for position in found} == outcomes


def test_many_threads_share_a_producer(producer: CommandProducer, log_settings: Settings) -> None:
    """Each command stands once, at the position that its own thread was given."""
    reported: dict[str, Position] = {}

    def work(start: int) -> None:
        reported.update({f"c-{i}": producer.append(grant(i)) for i in range(start, start + 50)})

    threads = [threading.Thread(target=work, args=(1_000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {fields["command_id"]: place for place, (_, _, fields) in log(log_settings).items()} == reported


def test_a_fatal_error_ends_what_is_pending_at_once(stack: StackUnderTest) -> None:
    """A KRaft controller isn't a broker. The first append hears why, long before its timeout; so does the next."""
    if not EmbeddedKafka(stack.settings).pid:
        pytest.skip("the controller's port is reached in the embedded stack only")
    kafka = {"bootstrap.servers": f"127.0.0.1:{stack.settings.kafka_controller_port}"}
    with CommandProducer(kafka, "any", delivery_timeout_s=LONG_S) as producer:
        for number in (1, 2):
            with pytest.raises(ProducerBrokenError, match=r"can't go on: .+"):
                producer.append(grant(number))


def full_queue(settings: Settings) -> Iterator[None]:
    """It refuses, and then takes again. Nothing in it is lost: all is delivered when Kafka is back."""
    with patient(settings, queue_records=10) as small:
        small.append(grant(0))
        yield
        deliveries = [small.submit(grant(i)) for i in range(1, 11)]
        with pytest.raises(QueueFullError) as refused:
            small.submit(grant(11), wait=False)
        assert not refused.value.maybe_written
        yield
        small.submit(grant(12))
        small.flush()
        assert all(delivery.exception() is None for delivery in deliveries)
    assert ids(settings, range(50)) == named(*range(11), 12)


def failed_delivery(settings: Settings) -> Iterator[None]:
    """The caller hears that it may be written; the same producer goes on, and resending the same id is the remedy."""
    with CommandProducer(settings.kafka_client, settings.commands_topic, delivery_timeout_s=SHORT_S) as producer:
        until_appended(producer, grant(50))
        yield
        with pytest.raises(DeliveryFailedError) as failed:
            producer.append(grant(51))
        assert failed.value.maybe_written
        assert "same command id" in failed.value.remedy
        yield
        position = until_appended(producer, grant(51))
    assert log(settings)[position][2]["command_id"] == "c-51"


def interrupted_append(settings: Settings) -> Iterator[None]:
    """Ctrl-C while Kafka is away: the command stays on its way, and the next append works."""
    with patient(settings) as producer:
        producer.append(grant(60))
        yield
        interrupt_an_append(producer, grant(61))
        yield
        assert producer.append(grant(62))
        reported = False
        try:
            producer.flush()
        except DeliveryFailedError:
            reported = True
        assert producer.append(grant(63))
        producer.flush()
    there = ids(settings, range(60, 70))
    assert {*named(60, 62, 63)} <= {*there}
    assert reported or named(61)[0] in there, "the interrupted command is neither in the log nor reported"


def unconfirmed_outcome(settings: Settings) -> Iterator[None]:
    """Who waits for an outcome hears that the log didn't confirm the command, and may send it again."""
    outcomes = ProjectedOutcomes(settings.dsn)
    with CommandProducer(settings.kafka_client, settings.commands_topic, outcomes=outcomes) as producer:
        until_appended(producer, grant(80))
        yield
        with pytest.raises(OutcomeTimeoutError, match="didn't confirm the command within 1 s") as unsent:
            producer.append_and_wait(grant(81), 1)
        assert unsent.value.position is None
        assert unsent.value.maybe_written
        yield
        assert until_appended(producer, grant(81))


def kept_client(settings: Settings) -> Iterator[None]:
    """Another one would find Kafka no sooner, and what is under way would be said to need sending again."""
    with patient(settings) as producer:
        check = producer._queue.lost_client
        made, make = list[Producer](), check._make
        check._make = lambda: (made.append(client := make()), client)[1]
        producer.append(grant(70))
        kept = producer._queue.client
        yield
        # Away, Kafka is found in no time.
        check.silence_s, check.find_s = 0.2, 0.2
        delivery = producer.submit(grant(71))
        # The first is made to see whether it finds Kafka, the second after it didn't.
        assert wait_until(lambda: len(made) >= 2, HANG_S)
        # From here on each finds Kafka, however slow the machine is.
        check.find_s = HANG_S
        yield
        assert delivery.result(HANG_S).offset >= 0
        assert producer._queue.client is kept


def long_delivery(settings: Settings) -> Iterator[None]:
    """Within the delivery timeout the client retries by itself: each command once, and none lost."""
    with patient(settings) as producer:
        producer.append(grant(1_000))
        deliveries = [producer.submit(grant(i)) for i in range(1_001, 1_500)]
        yield
        deliveries += [producer.submit(grant(i)) for i in range(1_500, 2_000)]
        yield
        reported = {delivery.result(HANG_S) for delivery in deliveries}
    assert reported < set(log(settings))
    assert ids(settings, range(1_000, 2_000)) == named(*range(1_000, 2_000))


def test_kafka_goes_away_and_comes_back(log_settings: Settings, stack: StackUnderTest) -> None:
    """What each producer does before, meanwhile and afterwards. The last one is in the middle of it when Kafka dies."""
    cases = [
        case(log_settings)
        for case in (full_queue, failed_delivery, interrupted_append, unconfirmed_outcome, kept_client, long_delivery)
    ]
    for case in cases:
        next(case)
    stack.stop_kafka(kill=True)
    try:
        for case in cases:
            next(case)
    finally:
        stack.start_kafka()
    for case in cases:
        assert list(case) == []


def test_a_full_queue_is_awaited_no_longer_than_the_timeout() -> None:
    """The waiting submit gets room when the first command runs out of time, or a refusal: never a hang."""
    producer = CommandProducer(no_broker(), "t", delivery_timeout_s=NO_S, queue_records=1)
    first = producer.submit(grant(1))
    try:
        second: Future[Position] | None = producer.submit(grant(2))
    except QueueFullError:
        second = None
    assert isinstance(first.exception(HANG_S), BrokerUnavailableError)
    if second is not None:
        assert isinstance(second.exception(HANG_S), BrokerUnavailableError)
    producer.close()


def test_no_broker_is_named_as_such() -> None:
    """Certain not to be in the log, since no connection was ever made; the message says what was tried."""
    with CommandProducer(no_broker(), "t", delivery_timeout_s=NO_S) as producer:
        assert wait_until(lambda: "Connection refused" in producer._queue.diagnosis.last_trouble(), HANG_S)
        with pytest.raises(BrokerUnavailableError, match="Connection refused") as refused:
            producer.append(grant(1))
        assert not refused.value.maybe_written
        assert refused.value.remedy
        with pytest.raises(BrokerUnavailableError):
            producer.cluster_id()


def until_appended(producer: CommandProducer, command: Command) -> Position:
    """Resend until the log confirms, as a service would: Kafka was just started and may need a few tries."""
    found: list[Position] = []

    def is_appended() -> bool:
        with contextlib.suppress(AppendError):
            found.append(producer.append(command))
        return bool(found)

    assert wait_until(is_appended, HANG_S)
    return found[0]


def test_a_client_that_lost_kafka_for_ever_is_replaced(log_settings: Settings) -> None:
    """What it held is said to need sending again, and who waits for that hears of it; what comes then is appended.

    A flush ends when the last answer is there, and not only when its time is out, which no test lives to see.
    """
    topic = log_settings.commands_topic
    with (
        ForgetfulKafka(log_settings) as kafka,
        CommandProducer({**kafka.settings.kafka_client, **FORGETTING}, topic, delivery_timeout_s=LONG_S) as producer,
    ):
        producer.append(grant(1))
        kafka.forget(HANG_S)
        check, own = producer._queue.lost_client, producer._queue.client
        assert own is not None
        assert wait_until(lambda: not check.finds_kafka(own), HANG_S)
        check.silence_s = 0.5
        deliveries = [producer.submit(grant(number)) for number in range(2, 50)]
        with pytest.raises(DeliveryFailedError, match="48 commands"):
            producer.flush(LONG_S)
        assert all(delivery.done() for delivery in deliveries)
        assert all("Send it again" in str(delivery.exception()) for delivery in deliveries)
        assert producer._queue.client is not own
        # The new one needn't be quick.
        check.silence_s = HANG_S
        again = [producer.submit(grant(number)) for number in range(2, 50)]
        assert all(delivery.result(HANG_S).offset >= 0 for delivery in again)


def test_a_record_over_the_bound_is_refused_before_the_queue(producer: CommandProducer) -> None:
    """The bound is the log's, not a broker's setting."""
    big = grant(1, metadata={str(i): "🜁" * limits.MAX_METADATA_VALUE for i in range(32)})
    with pytest.raises(RecordTooLargeError, match="65,536"):
        producer.submit(big)
    with pytest.raises(RecordTooLargeError):
        producer.append_many([big])


def test_a_topic_with_a_lower_bound_is_named_as_such(producer: CommandProducer, log_settings: Settings) -> None:
    """Kafka's own refusal is the same error, with the remedy that fits; smaller commands still pass."""
    alter(log_settings, log_settings.commands_topic, max_message_bytes="2000")
    noise = {str(i): os.urandom(400).hex() for i in range(10)}
    with pytest.raises(RecordTooLargeError, match="Kafka refused") as refused:
        producer.append(grant(1, metadata=noise))
    assert "max.message.bytes" in refused.value.remedy
    assert producer.append(grant(2)).offset == 0


def test_an_unknown_topic_is_named_as_such(log_settings: Settings) -> None:
    """Well before the delivery timeout, and again for each command."""
    with nowhere(log_settings) as producer:
        for number in range(2):
            with pytest.raises(UnknownTopicError, match=r"creditfold\.nowhere"):
                producer.append(grant(number))


def nowhere(settings: Settings) -> CommandProducer:
    """A producer on a topic that isn't there, which isn't waited for as long as for one that was just made."""
    kafka = {**settings.kafka_client, "topic.metadata.propagation.max.ms": "500"}
    return CommandProducer(kafka, "creditfold.nowhere", delivery_timeout_s=LONG_S)


def test_a_close_with_undelivered_commands_names_how_many() -> None:
    """And each of their futures fails, so that nobody waits for ever."""
    producer = CommandProducer(no_broker(), "t")
    deliveries = [producer.submit(grant(i)) for i in range(3)]
    with pytest.raises(UndeliveredError, match="3 commands") as left:
        producer.close(timeout=0)
    assert left.value.count == 3
    assert not wait(deliveries, timeout=HANG_S).not_done
    assert all(isinstance(delivery.exception(), AppendError) for delivery in deliveries)
    producer.close()
    for refused in (lambda: producer.submit(grant(9)), producer.flush, lambda: producer.append_many([grant(9)])):
        with pytest.raises(ProducerClosedError):
            refused()


def test_a_flush_out_of_time_names_how_many() -> None:
    """The commands stay on their way."""
    producer = CommandProducer(no_broker(), "t", delivery_timeout_s=LONG_S)
    delivery = producer.submit(grant(1))
    with pytest.raises(UndeliveredError, match="1 command"):
        producer.flush(timeout=0)
    assert not delivery.done()
    with pytest.raises(UndeliveredError, match="1 command"):
        producer.close(timeout=0)


def test_a_failure_that_nobody_looked_at_is_raised_by_the_flush() -> None:
    """One that was looked at is not: it has reached its caller."""
    producer = CommandProducer(no_broker(), "t", delivery_timeout_s=NO_S)
    seen = producer.submit(grant(1))
    producer.append_many([grant(2), grant(3)])
    assert isinstance(seen.exception(HANG_S), BrokerUnavailableError)
    with pytest.raises(DeliveryFailedError, match="2 commands were not confirmed"):
        producer.flush()
    producer.flush()
    producer.submit(grant(4))
    with pytest.raises(BrokerUnavailableError):
        producer.close()


def test_an_error_in_the_block_is_not_hidden_by_the_close() -> None:
    """What the close finds is noted on it."""

    def work() -> None:
        with CommandProducer(no_broker(), "t", delivery_timeout_s=NO_S) as producer:
            producer.submit(grant(1))
            raise KeyError("the caller's own")

    with pytest.raises(KeyError) as raised:
        work()
    assert "closing the producer failed" in raised.value.__notes__[0]


def test_a_callback_that_raises_harms_no_other_delivery(producer: CommandProducer) -> None:
    """What it raised comes out of the next flush, once."""
    outcomes: list[Outcome] = []

    def odd(command: Command, outcome: Outcome) -> None:
        outcomes.append(outcome)
        if command.command_id == "c-3":
            raise ValueError("the callback's own")

    producer.append_many([grant(i) for i in range(10)], odd)
    with pytest.raises(ValueError, match="the callback's own"):
        producer.flush()
    assert len(outcomes) == 10
    producer.flush()


def test_failures_reach_their_own_callers(log_settings: Settings) -> None:
    """Two topics, one missing, appended to in turn: each command hears its own fate."""
    kafka, topic = log_settings.kafka_client, log_settings.commands_topic
    with (
        CommandProducer(kafka, topic, delivery_timeout_s=LONG_S) as good,
        nowhere(log_settings) as bad,
    ):
        deliveries = [(good if i % 2 else bad).submit(grant(i)) for i in range(200)]
        results = [delivery.exception(HANG_S) for delivery in deliveries]
    assert all((error is None) if i % 2 else isinstance(error, UnknownTopicError) for i, error in enumerate(results))


def test_a_fatal_error_is_reported_and_nothing_more_is_taken(producer: CommandProducer) -> None:
    """librdkafka can't be made to fail fatally on demand, so its error callback is called with such an error."""
    producer.append(grant(0))
    producer._queue.diagnosis.record(KafkaError(KafkaError._FENCED, "fenced by a newer one", True))
    for refused in (lambda: producer.submit(grant(1)), lambda: producer.append_many([grant(1)]), producer.flush):
        with pytest.raises(ProducerBrokenError, match="fenced by a newer one") as broken:
            refused()
    assert "new producer" in broken.value.remedy
    assert broken.value.maybe_written


def interrupt_an_append(producer: CommandProducer, command: Command) -> None:
    """Press Ctrl-C in the middle of an append, with Kafka away."""
    interrupted, main = threading.Event(), threading.get_ident()

    def end(*_: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def interrupt() -> None:
        # By then the append has handed the command over and waits.
        wait_until(lambda: producer._queue.unanswered > 0, HANG_S, 0.001)
        # A signal that comes just before Python begins to wait is looked at behind the wait, or with the next one.
        while not interrupted.wait(0.05):
            signal.pthread_kill(main, signal.SIGINT)

    previous = signal.signal(signal.SIGINT, end)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            producer.append(command)
    finally:
        interrupted.set()
        thread.join()
        signal.signal(signal.SIGINT, previous)


def test_a_forked_child_is_refused_and_ends_cleanly(producer: CommandProducer) -> None:
    """Its parent's producer goes on, and what the child does at its end harms neither."""

    def refused() -> str:
        with pytest.raises(ForkedProducerError) as error:
            producer.append(grant(1))
        producer.close()
        return str(error.value)

    producer.append(grant(0))
    assert "after the fork" in said_by_child(refused)
    assert producer.append(grant(2))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("enable.idempotence", "false"), ("acks", "1"), ("partitioner", "random"), ("delivery.timeout.ms", 1)],
)
def test_settings_that_the_log_needs_cannot_be_changed(setting: str, value: str | int) -> None:
    """An override in silence would surprise whoever set it."""
    with pytest.raises(ProducerSettingError, match=setting):
        CommandProducer({**no_broker(), setting: value}, "t")


@pytest.mark.parametrize(("setting", "value"), [("no.such.thing", 1), ("linger.ms", "soon"), ("linger.ms", 10**9)])
def test_settings_that_the_client_refuses_are_reported(setting: str, value: str | int) -> None:
    """In the client's words, which name the setting."""
    with pytest.raises(ProducerSettingError):
        CommandProducer({**no_broker(), setting: value}, "t")


async def test_a_thousand_appends_at_once(log_settings: Settings) -> None:
    """Through a queue of fifty: each task hears its own position, and the loop is never blocked for long."""
    kafka, topic = log_settings.kafka_client, log_settings.commands_topic
    async with AsyncCommandProducer(kafka, topic, queue_records=50, delivery_timeout_s=LONG_S) as producer:
        positions = await asyncio.gather(*(producer.append(grant(i)) for i in range(1_000)))
    found = await asyncio.to_thread(log, log_settings)
    assert [found[position][2]["command_id"] for position in positions] == [f"c-{i}" for i in range(1_000)]


async def test_async_failures_reach_their_tasks() -> None:
    """No broker; a cancelled task, whose command fails unseen and is raised by the close."""
    producer = AsyncCommandProducer(no_broker(), "t", delivery_timeout_s=NO_S, queue_records=2)
    first = await producer.submit(grant(1))
    cancelled = await producer.submit(grant(2))
    cancelled.cancel()
    with pytest.raises(AppendError):
        await producer.append(grant(4))
    with pytest.raises(BrokerUnavailableError):
        await first
    with pytest.raises(BrokerUnavailableError):
        await producer.close()
    with pytest.raises(ProducerClosedError):
        await producer.append(grant(5))


def test_a_loop_that_has_ended_keeps_no_answer_from_the_next() -> None:
    """Its own failures are raised by the close; the futures of the loop that runs hear theirs."""

    async def leave_one() -> AsyncCommandProducer:
        producer = AsyncCommandProducer(no_broker(), "t", delivery_timeout_s=NO_S)
        await producer.submit(grant(1))
        return producer

    async def go_on(producer: AsyncCommandProducer) -> None:
        outcomes = await asyncio.gather(*(producer.append(grant(i)) for i in (2, 3, 4)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BrokerUnavailableError] * 3
        with pytest.raises(BrokerUnavailableError):
            await producer.close()

    asyncio.run(go_on(asyncio.run(leave_one())))


def test_a_failure_that_came_for_a_loop_that_was_closed_before_it_heard_is_raised_by_the_close() -> None:
    """The loop stands still while the answer comes, and is closed with it."""

    async def leave_one() -> AsyncCommandProducer:
        producer = AsyncCommandProducer(no_broker(), "t", delivery_timeout_s=NO_S)
        await producer.submit(grant(1))
        return producer

    loop = asyncio.new_event_loop()
    producer = loop.run_until_complete(leave_one())
    assert wait_until(lambda: not producer._producer._queue.unanswered, HANG_S)
    loop.close()
    with pytest.raises(BrokerUnavailableError):
        asyncio.run(producer.close())


async def test_a_future_that_its_owner_settled_keeps_no_answer_from_the_others() -> None:
    """All of them come at once; what failed for the one is raised by the close."""
    producer = AsyncCommandProducer(no_broker(), "t", delivery_timeout_s=NO_S)
    settled, *others = [await producer.submit(grant(i)) for i in range(5)]
    asyncio.get_running_loop().call_soon(wait_until, lambda: not producer._producer._queue.unanswered, HANG_S)
    await asyncio.sleep(0)
    settled.set_result(Position(0, 0))
    done, _ = await asyncio.wait(others, timeout=HANG_S)
    assert [type(future.exception()) for future in done] == [BrokerUnavailableError] * 4
    with pytest.raises(BrokerUnavailableError):
        await producer.close()


async def test_a_full_queue_refuses_a_task_that_would_not_wait() -> None:
    """At once; what is in it is under way."""
    producer = AsyncCommandProducer(no_broker(), "t", delivery_timeout_s=LONG_S, queue_records=2)
    first = await producer.submit(grant(1))
    await producer.submit(grant(2))
    with pytest.raises(QueueFullError):
        await producer.submit(grant(3), wait=False)
    assert not first.done()
    with pytest.raises(UndeliveredError, match="2 commands"):
        await producer.close(timeout=0)


async def test_the_async_block_keeps_the_callers_error(log_settings: Settings) -> None:
    """As in the sync twin."""

    async def work() -> None:
        kafka, topic = log_settings.kafka_client, log_settings.commands_topic
        async with AsyncCommandProducer(kafka, topic, delivery_timeout_s=LONG_S) as producer:
            await producer.append(grant(1))
            raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        await work()


def test_what_another_client_writes_lands_beside(log_settings: Settings) -> None:
    """docs/producing.md reports other languages this recipe: key, partitioner, framed value."""

    record = encode_command(grant(1, "ada"))
    placed: list[int | None] = []

    def keep(error: KafkaError | None, message: Message) -> None:
        assert error is None
        placed.append(message.partition())

    other = Producer({**log_settings.kafka_client, "partitioner": "murmur2_random"})
    other.produce(log_settings.commands_topic, record.value, record.key, on_delivery=keep)
    other.flush(HANG_S)
    with patient(log_settings) as ours:
        assert [ours.append(grant(2, "ada")).partition] == placed


async def test_a_batch_has_an_answer_for_each_record_in_order(log_settings: Settings) -> None:
    """A record that is too large concerns itself only; those of one account are in the log as they stand."""
    records = [encode_command(grant(number, "ada")) for number in range(1, 6)]
    records[2] = records[2]._replace(value=b"x" * 2_000_000)
    async with AsyncCommandProducer(
        log_settings.kafka_client, log_settings.commands_topic, delivery_timeout_s=LONG_S
    ) as producer:
        delivered, refusal = await producer.submit_batch(records)
        answers = await asyncio.wait_for(delivered, HANG_S)
    assert refusal is None
    assert isinstance(answers[2], RecordTooLargeError)
    positions = [answer for answer in answers if isinstance(answer, Position)]
    assert positions == sorted(positions)
    found = log(log_settings)
    assert [found[position][2]["command_id"] for position in positions] == ["c-1", "c-2", "c-4", "c-5"]


async def test_a_batch_that_is_not_confirmed_in_time_may_be_in_the_log() -> None:
    """Long before the delivery timeout; what finds no room in the queue until then is surely not there."""
    producer = AsyncCommandProducer(no_broker(), "t", delivery_timeout_s=LONG_S, queue_records=2)
    records = [encode_command(grant(number)) for number in (1, 2, 3, 4)]
    delivered, refusal = await producer.submit_batch(records, confirm_s=0.1)
    answers = await asyncio.wait_for(delivered, LONG_S / 2)
    assert isinstance(refusal, QueueFullError)
    assert [type(one) for one in answers] == [OutcomeTimeoutError] * 2 + [QueueFullError] * 2
    assert [one.maybe_written for one in answers if isinstance(one, AppendError)] == [True, True, False, False]
    # They are under way all the same.
    with pytest.raises(UndeliveredError, match="2 commands"):
        await producer.close(timeout=0)


def test_of_a_batch_that_is_given_up_what_is_known_stays() -> None:
    """And what comes later reaches nobody: the answers are given once."""
    given: list[Sequence[Outcome]] = []
    batch, late = BatchDelivery(3, given.append), OutcomeTimeoutError("Late.", "Wait.")
    batch.settle(1, Position(0, 7))
    assert given == []
    batch.give_up(late)
    for number, offset in ((0, 8), (2, 9)):
        batch.settle(number, Position(0, offset))
    batch.give_up(OutcomeTimeoutError("Later.", "Wait."))
    assert [list(answers) for answers in given] == [[late, Position(0, 7), late]]


async def test_a_batch_that_is_refused_ends_with_its_first_refusal() -> None:
    """Each record has it: what follows in an account isn't appended without what came before."""
    producer = AsyncCommandProducer(no_broker(), "t", delivery_timeout_s=LONG_S, queue_records=2)
    await producer.close()
    delivered, refusal = await producer.submit_batch([encode_command(grant(number)) for number in (2, 3)])
    assert isinstance(refusal, ProducerClosedError)
    assert await asyncio.wait_for(delivered, HANG_S) == [refusal, refusal]
