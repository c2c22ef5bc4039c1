"""A log that was made before version 1 of the rules is refused at the start, before anything of it is folded."""

from pathlib import Path

import pytest
from confluent_kafka import Producer

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.log import origin
from creditfold.log.admin import KafkaAdmin, LeaderMissingError
from creditfold.log.offsets import bounds
from creditfold.log.origin import OldLogError, old_positions
from creditfold.processors.doctor import examine
from creditfold.processors.rebuild.steps import Request, rebuild
from creditfold.processors.startup import prepare_ledger
from creditfold.schemas.wire import HEADER
from helpers.command_line import use
from helpers.support import HANG_S, Cli, Quiet, Raw, WorkerProcess, append, delete_before, fold_log, query, record

OLD = HEADER.pack(0, 10_001) + b"\x06g-1\x06ada"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kafka has to return comes, however long a busy machine takes."""
    monkeypatch.setattr(origin, "READ_S", HANG_S)


def old_of(settings: Settings) -> list[Position]:
    starts_and_ends = bounds(KafkaAdmin(settings), settings.commands_topic, range(settings.partitions))
    return old_positions(settings, settings.commands_topic, *starts_and_ends)


@pytest.mark.unprepared
def test_whoever_meets_an_old_log_refuses_it(
    bare: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With 1, the record that shows it and the remedy; nothing is written, no dead letter and no table."""
    use(ledger_settings, monkeypatch)
    append(ledger_settings, [Raw(OLD, b"ada", 2), Raw(OLD, b"ada", 2)])
    message = (
        f"The log {ledger_settings.commands_topic} was made before version 1 of the rules, as its record 2:0 shows."
    )
    for command in ("worker", "publisher"):
        running = WorkerProcess(ledger_settings, tmp_path, command, command)
        assert running.process.wait(HANG_S) == 1
        assert message in running.text()
        assert "CREDITFOLD_COMMANDS_TOPIC" in running.text()
    for refusing in (lambda: rebuild(ledger_settings, Request(), Quiet()), lambda: prepare_ledger(ledger_settings)):
        with pytest.raises(OldLogError, match="Begin a new topic") as raised:
            refusing()
        assert raised.value.message == message
    for arguments in (("status",), ("status", "--check"), ("init",), ("rebuild",)):
        done = bare(*arguments)
        assert (done.code, message in done.err) == (1, True), done
    (check,) = [check for check in examine(ledger_settings) if check.name == "first records"]
    assert (check.state, check.seen) == ("danger", "2:0 was written before version 1 of the rules")
    assert query(ledger_settings, "SELECT to_regclass('ledger.generations') IS NULL") == [(True,)]


def test_only_the_first_record_that_is_kept_shows_an_old_log(ledger_settings: Settings) -> None:
    """Not one behind others, nor one that was aborted or deleted, nor a stray beside a record of version 1."""
    settings, topic = ledger_settings, ledger_settings.commands_topic
    assert old_of(settings) == []
    producer = Producer({**settings.kafka_client, "transactional.id": f"open-{topic}"})
    producer.init_transactions(HANG_S)
    producer.begin_transaction()
    producer.produce(topic, OLD, b"ada", partition=3)
    assert producer.flush(HANG_S) == 0
    append(
        settings,
        [Raw(b"noise", b"ada", 0), Raw(OLD, b"ada", 0), Raw(OLD, b"ada", 2), Raw(b"x" * 100_000, None, 2)],
    )
    assert old_of(settings) == [Position(2, 0)]
    delete_before(settings, topic, 2, 1)
    assert old_of(settings) == []
    producer.abort_transaction(HANG_S)
    assert old_of(settings) == []
    append(settings, [Raw(OLD, b"ada", 3)])
    assert old_of(settings) == [Position(3, 2)]
    append(settings, [record("Grant", "g-1", "ada", 5)._replace(partition=1), Raw(OLD, b"ada", 1)])
    assert old_of(settings) == []


def test_a_single_old_record_is_a_dead_letter(ledger_settings: Settings) -> None:
    """Its detail says where it is from."""
    append(ledger_settings, [record("Grant", "g-1", "ada", 5)._replace(partition=1), Raw(OLD, b"ada", 1)])
    fold_log(ledger_settings)
    found = query(ledger_settings, "SELECT log_offset, reason, detail FROM ledger.dead_letters ORDER BY log_offset")
    assert found[-1][:2] == (1, "unknown_schema_id")
    assert "is of a log that was made before version 1: begin a new topic" in found[-1][2]


@pytest.mark.unprepared
def test_first_records_that_do_not_come_are_no_obstacle(
    ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once their time is up, what has come counts; nor is a partition without a leader."""
    append(ledger_settings, [Raw(OLD, b"ada", 2)])
    with monkeypatch.context() as patched:
        patched.setattr(origin, "READ_S", 0.0)
        assert old_of(ledger_settings) == []
        assert prepare_ledger(ledger_settings)

    def leaderless(*_: object) -> None:
        raise LeaderMissingError("There is no leader.")

    with pytest.raises(OldLogError):
        prepare_ledger(ledger_settings)
    monkeypatch.setattr(origin, "bounds", leaderless)
    assert not prepare_ledger(ledger_settings)
