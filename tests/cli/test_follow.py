"""`creditfold follow`, on a real Kafka with outcomes that the tests write."""

import io
import json
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import Producer

from creditfold.cli.main import _run
from creditfold.cli.read.follow import document, line
from creditfold.common.position import Position
from creditfold.common.settings import Settings, load_settings
from creditfold.log import reader as log
from creditfold.log.partitioner import partition_of
from creditfold.log.reader import LogReader
from creditfold.processors.publisher import follower as following
from creditfold.processors.publisher.follower import Follower
from creditfold.processors.publisher.messages import outcome_message, read_outcome
from creditfold.projections.queries.windows import JournalRow
from helpers.command_line import started, use
from helpers.forgetful_kafka import FORGETTING, ForgetfulKafka
from helpers.support import HANG_S

#: An instant and its text.
DECIDED, DECIDED_TEXT = 1_700_000_000_123, "2023-11-14T22:13:20.123Z"


def grant(account: str, version: int, offset: int, **other: Any) -> JournalRow:
    """A journal row of a grant of 5."""
    row = JournalRow(
        offset, account, version, f"c{version}", "grant", "credits", 5, 5 * version, None, 1, DECIDED, 0, "shop", "why"
    )
    return row._replace(**{"details": "", "facts": "[]", **other})


def publish(settings: Settings, rows: list[JournalRow], *garbage: bytes) -> None:
    """Write outcomes to where they belong, and garbage before them."""
    producer = Producer(settings.kafka_client)
    for row in rows:
        partition = partition_of(row.account.encode(), settings.partitions)
        for junk in garbage:
            producer.produce(settings.outcomes_topic, junk, row.account.encode(), partition=partition)
        message = outcome_message(partition, row)
        producer.produce(
            settings.outcomes_topic, message.value, message.key, partition=partition, headers=message.headers
        )
        producer.poll(0)
    assert producer.flush(HANG_S) == 0


@pytest.fixture
def settings(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings that the commands of this process read."""
    use(ledger_settings, monkeypatch)
    yield ledger_settings
    load_settings.cache_clear()


def neighbours(settings: Settings) -> tuple[str, str]:
    """Two accounts of one partition."""
    wanted = partition_of(b"alice", settings.partitions)
    names = (f"user-{number}" for number in range(1_000))
    return "alice", next(name for name in names if partition_of(name.encode(), settings.partitions) == wanted)


def test_an_account_s_outcomes_from_the_start(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Accepted and rejected ones, its own only, whatever else is in the topic; as JSON, one object a line."""
    alice, other = neighbours(settings)
    rejected = grant(
        alice, 3, 9, kind="spend", amount=80, rejection="insufficient_credits", balance=5, occurred_at_ms=1
    )
    spent = json.dumps([fact("spent", 5)])
    rows = [grant(alice, 1, 3), grant(other, 1, 4), grant(alice, 2, 7, kind="spend", balance=0, facts=spent), rejected]
    publish(settings, rows, b"", b"garbage", b"\0\0\0\0\1garbage")
    assert _run(["follow", alice, "--since", "start", "--limit", "3", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    partition = partition_of(alice.encode(), 4)
    assert [one["position"] for one in found] == [f"{partition}:{offset}" for offset in (3, 7, 9)]
    first = {"position": f"{partition}:3", "record": "CommandAccepted", "account": alice, "version": 1}
    first |= {"command_id": "c1", "kind": "grant", "asset": "credits", "amount": 5, "balance": 5, "change": 0}
    first |= {"decided_at": DECIDED_TEXT, "occurred_at": None, "source": "shop", "reason": "why", "rules": 1}
    assert found[0] == first | {"pending": 0, "held": 0, "debt": 0, "details": None, "facts": []}
    assert found[2]["record"] == "Rejected"
    assert (found[2]["kind"], found[2]["rejection"]) == ("spend", "insufficient_credits")
    assert found[2]["occurred_at"] == "1970-01-01T00:00:00.001Z"
    assert _run(["follow", alice, "--since", f"{partition}:4", "--limit", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{DECIDED_TEXT}  accepted  spend of 5: spent 5; balance 0 credits  {partition}:7  c2",
        f"{DECIDED_TEXT}  rejected  insufficient_credits: spend of 80; balance 5 credits  {partition}:9  c3",
    ]


def credit(account: str, version: int, kind: str, facts: str, **other: Any) -> JournalRow:
    """A row of any kind, at the position of a single record."""
    row = grant(account, version, 7, kind=kind, facts=facts, balance=9)
    return row._replace(**{"command_id": None, "amount": 0, **other})


def fact(kind: str, *amounts: int, **other: Any) -> dict[str, Any]:
    moves = [["lot", number, "remaining", kind, amount] for number, amount in enumerate(amounts, 1)]
    return {"kind": kind, "at": DECIDED, "ref": "x", "moves": moves, **other}


SHOWN = [
    (credit("alice", 1, "settled", json.dumps([fact("expired", 3), fact("expired", 4), fact("lapsed", 1)])),
     "settled   expired 7 (2 times), lapsed 1; balance 9 credits", ""),
    (credit("alice", 2, "spend", json.dumps([fact("spent", 2, 3)]), command_id="c2", amount=8, held=4, debt=1_000),
     "accepted  spend of 8: spent 5; balance 9 credits, 4 held, 1,000 debt", "  c2"),
    (credit("alice", 3, "grant", json.dumps([fact("granted", 5)]), command_id="c3", amount=5, pending=5),
     "accepted  grant of 5: granted 5; balance 9 credits, 5 pending", "  c3"),
    (credit("alice", 4, "freeze", json.dumps([fact("frozen", detail="all")]), command_id="c4", asset=""),
     "accepted  freeze: frozen", "  c4"),
    (credit("alice", 5, "close", json.dumps([fact("forfeited", *range(1, 101))])),
     "accepted  close: forfeited 5,050; balance 9 credits", ""),
    (credit("alice", 6, "batch", "[]", command_id="c6", asset="", rejection="hold_not_found", step=2),
     "rejected  hold_not_found in step 2: batch", "  c6"),
    (credit("alice", 7, "batch", "[]", command_id="c7", asset=""), "accepted  batch", "  c7"),
]  # fmt: skip


def test_outcomes_of_credits_are_reported_in_words(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Several of one position: what time did, what was decided, and of further assets; as JSON with all fields."""
    publish(settings, [row for row, _, _ in SHOWN])
    partition = partition_of(b"alice", 4)
    assert _run(["follow", "alice", "--since", f"{partition}:7", "--limit", str(len(SHOWN))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{DECIDED_TEXT}  {reported}  {partition}:7{end}" for _, reported, end in SHOWN]
    assert _run(["follow", "alice", "--since", "start", "--limit", "2", "--json"]) == 0
    settled, spent = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert settled.keys() == {
        "position", "record", "account", "version", "asset", "balance", "pending", "held", "debt", "change", "rules",
        "decided_at", "facts",
    }  # fmt: skip
    assert (spent["record"], spent["held"], spent["details"]) == ("CommandAccepted", 4, None)
    moves = [
        {"lot": "lot", "number": number, "source": "remaining", "target": "spent", "amount": number + 1}
        for number in (1, 2)
    ]
    terms = {"lot_class": "", "priority": 0, "effective_at": None, "expires_at": None, "scope": ""}
    assert spent["facts"] == [{"kind": "spent", "at": DECIDED_TEXT, "ref": "x", "detail": "", "moves": moves, **terms}]


def test_what_a_topic_had_no_room_for_is_reported() -> None:
    """In the line and in the document; details are an object there."""
    row = credit("alice", 5, "close", json.dumps([fact("forfeited", *[1] * 3_000)]), details='{"forfeit":true}')
    message = outcome_message(3, row, 2_000)
    headers = [(name, value if isinstance(value, bytes) else None) for name, value in message.headers]
    outcome = read_outcome(message.value, headers, 3)
    assert outcome is not None
    assert line(outcome).endswith("accepted  close: forfeited; balance 9 credits; left out 3,000 moves  3:7")
    reported = document(outcome)
    assert reported["left_out"] == {"moves": 3_000}
    assert reported["details"] == {"forfeit": True}


def test_what_comes_is_shown_at_once(settings: Settings) -> None:
    """Without --since only what is published from now on; each line is there when its outcome is. Ctrl-C ends it."""
    alice, other = neighbours(settings)
    publish(settings, [grant(alice, 1, 1)])
    following_alice = started(settings, "follow", alice, "--json")
    try:
        assert isinstance(following_alice.stdout, io.TextIOBase)
        assert isinstance(following_alice.stderr, io.TextIOBase)
        # Before and after that, the client of Kafka may complain of a slow machine.
        while following_alice.stderr.readline() != "following alice from now on\n":
            assert following_alice.poll() is None
        for version in (2, 3):
            publish(settings, [grant(other, version, 10 * version), grant(alice, version, 10 * version + 1)])
            assert json.loads(following_alice.stdout.readline())["version"] == version
        following_alice.send_signal(signal.SIGINT)
        out, err = following_alice.communicate(timeout=HANG_S)
        assert (following_alice.returncode, out, err.splitlines()[-1]) == (130, "", "interrupted")
        assert "Traceback" not in err
    finally:
        following_alice.kill()


def test_a_reader_that_lost_kafka_for_ever_goes_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another client, behind what it has read."""
    monkeypatch.setattr(log, "_SILENCE_S", 0.5)
    rows = [grant("carol", version, version) for version in range(1, 6)]
    partition = partition_of(b"carol", settings.partitions)
    publish(settings, rows[:2])
    with (
        ForgetfulKafka(settings) as kafka,
        closing(LogReader({**kafka.settings.kafka_client, **FORGETTING}, settings.outcomes_topic, partition, 0)) as one,
    ):
        offsets: list[int] = []
        for more, expected in (([], 2), (rows[2:], 5)):
            publish(settings, more)
            deadline = time.monotonic() + HANG_S
            while len(offsets) < expected and time.monotonic() < deadline:
                offsets += [record.offset for record in one.take(100, 1.0).records]
            assert offsets == list(range(expected))
            if not more:
                lost = one._consumer
                kafka.forget()
                while one._consumer is lost and time.monotonic() < deadline:
                    one.take(1, 1.0)


@pytest.mark.parametrize(
    ("arguments", "code", "reported"),
    [
        (["--since", "yesterday"], 2, "--since start"),
        (["--since", "3"], 2, "--since start"),
        (["--since", "9:1"], 2, "lies in partition"),
        (["--since", "start", "--limit", "1", "--timeout", "0.5"], 4, "0 of 1 outcomes came within 0.5 s"),
        (["--since", "start", "--timeout", "0.5"], 0, ""),
    ],
)
def test_the_ends_of_following(
    settings: Settings, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, reported: str
) -> None:
    """Wrong places are refused; a time that is over is an error only where something was waited for."""
    assert _run(["follow", "alice", *arguments]) == code
    assert reported in capsys.readouterr().err


def test_without_the_topic_there_is_a_remedy(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody has made it: how to."""
    use(settings.model_copy(update={"outcomes_topic": "nobody-made-this"}), monkeypatch)
    assert _run(["follow", "alice"]) == 1
    assert "Run `creditfold init`, and start a `creditfold publisher`." in capsys.readouterr().err


def test_a_position_s_place_is_found_by_halving(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every position leads to the first outcome of it or of a later one, in a topic with gaps and garbage."""
    monkeypatch.setattr(following, "NEAR_OFFSETS", 4)
    monkeypatch.setattr(following, "_PROBE_S", HANG_S)
    publish(settings, [grant("alice", number + 1, 3 * number) for number in range(30)], b"garbage")
    follower = Follower(settings, "alice")
    # The first, the last, one in the middle, and what lies before each.
    for wanted, number in ((0, 0), (1, 1), (3, 1), (41, 14), (42, 14), (86, 29), (87, 29)):
        # Before each outcome there is garbage.
        assert follower.place_of(Position(follower.partition, wanted)) == 2 * number + 1
    assert next(follower.follow(2 * 14 + 1, HANG_S)).position.offset == 42
    assert follower.place_of(Position(follower.partition, 88)) == follower.end()
