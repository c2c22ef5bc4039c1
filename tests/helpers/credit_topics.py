"""Random histories of credits over the partitions of a topic, as records with the times at which they were appended.

What follows from a transfer is appended as a worker would: by folding along. One seed, one history.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from confluent_kafka import Producer

from creditfold.common.settings import Settings
from creditfold.ledger import Command, CreditBook
from creditfold.ledger.commands import ReceiveTransfer, SettleTransfer
from creditfold.ledger.facts import CreditOutcome
from creditfold.log.archive.target import RestoreTopic
from creditfold.log.partitioner import partition_of
from creditfold.processors.fold.chunk import Content, Later, Record, _Fold, read_records
from creditfold.schemas.wire import encode
from helpers.credit_histories import HOUR_MS, START_MS, Writer
from helpers.records import FakeRecord
from helpers.support import HANG_S, Raw
from helpers.transfers import following_command

PARTITIONS = 4
ACCOUNTS = (*(f"user-{number}" for number in range(12)), "é", "back\\slash", "\N{SNOWMAN} man", "x" * 128)
TEXTS = ("", "", "", "welcome bonus", "tab\there\nline\\", "\N{GRINNING FACE}")
DAY_MS = 24 * HOUR_MS


class Appended(NamedTuple):
    """A record of the topic."""

    partition: int
    record: FakeRecord


class _Along(_Fold):
    """The fold of a partition, which keeps what the last record came to."""

    last: CreditOutcome | None = None

    def _take(self, record: Record, command: Command, outcome: CreditOutcome) -> None:
        super()._take(record, command, outcome)
        self.last = outcome

    def follow(self, record: Record, content: Content | Later) -> ReceiveTransfer | SettleTransfer | None:
        """Fold one record; gives the command that follows from it."""
        self.last = None
        self.add(record, content)
        command: Any = content.content if isinstance(content, Later) else content
        return None if self.last is None else following_command(command, self.last)


class TopicWriter(Writer):
    """Writes records by chance, each to where it belongs."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.records: list[Appended] = []
        self._folds = [_Along(CreditBook()) for _ in range(PARTITIONS)]
        self._next = [0] * PARTITIONS
        self._to_come: list[ReceiveTransfer | SettleTransfer] = []

    def append(self, value: bytes | None, key: bytes | None, partition: int | None = None, **more: Any) -> Appended:
        """Append a record now, to its key's partition if no other is given."""
        place = partition_of(key or b"", PARTITIONS) if partition is None else partition
        record = FakeRecord(self._next[place], self.now, key, value, **more)
        self._next[place] += 1
        appended = Appended(place, record)
        self.records.append(appended)
        (read,) = read_records([record], place, PARTITIONS)
        follows = self._folds[place].follow(*read)
        if follows is not None:
            self._to_come.append(follows)
        return appended

    def send(self, record: str, fields: Mapping[str, Any]) -> Appended:
        """Append a command."""
        return self.append(encode(record, fields), fields["account"].encode())

    def everywhere(self, record: str, **fields: Any) -> None:
        """Append a control record to each partition."""
        for partition in range(PARTITIONS):
            self.append(encode(record, fields), None, partition)

    def arrive(self) -> None:
        """Append what follows from transfers, a while after them, now and then twice."""
        while self._to_come and self.chance.random() < 0.4:
            command = self._to_come.pop(0)
            fields = command._asdict()
            if isinstance(command, ReceiveTransfer):
                fields["parcels"] = [{"lot": lot, "amount": n, **terms._asdict()} for lot, n, terms in command.parcels]
            for _ in range(self.chance.choice((1, 1, 1, 2))):
                self.send(type(command).__name__, fields)

    def command(self) -> tuple[str, dict[str, Any]]:
        """A command of any account, with an origin now and then."""
        account = self.chance.choice((*ACCOUNTS[:3] * 4, *ACCOUNTS))
        kinds = self._makers()
        make = self.chance.choices([maker for maker, _ in kinds], [weight for _, weight in kinds])[0]
        record, fields = make(account)
        fields["account"] = account
        if record != "SettleTransfer" and self.chance.random() < 0.3:
            fields |= {"occurred_at": self.now - 5, "source": "shop", "reason": self.chance.choice(TEXTS)}
            fields["metadata"] = {"k": str(self.number)} if self.chance.random() < 0.3 else {}
        return record, fields

    def transfer(self, account: str) -> tuple[str, dict[str, Any]]:
        record, fields = super().transfer(account)
        return record, fields | {"to": self.chance.choice([other for other in ACCOUNTS if other != account])}

    def noise(self, sent: Appended) -> None:
        """Append a record that nothing comes of, or one more time what was appended."""
        value, key = sent.record.value or b"", sent.record.key
        other = (sent.partition + 1) % PARTITIONS
        if self.chance.random() < 0.1:
            self.append(b"not avro", b"k", 1, headers=[("trace", b"\xff\0"), ("redrive-of", b"0:1")])
        bad: list[tuple[bytes | None, bytes | None, int]] = [
            (None, b"k", 0),
            (b"", None, 2),
            (b"x" * 70_000, b"k", 0),
            (b"not avro", b"k", 1),
            (b"\0\0\0\0\1" + value[5:], key, sent.partition),
            (encode("CommandAccepted", OUTCOME), b"ann", 2),
            (value[:-1], key, sent.partition),
            (encode("Grant", {"command_id": "bad", "account": "ann", "asset": "c", "amount": 0}), b"ann", 3),
            (encode("Spend", {"command_id": "~x", "account": "user-1", "asset": "c", "amount": 1}), b"user-1", 3),
            (encode("Tick", {"command_id": "tick-keyed", "minute": 9}), b"key", 1),
            (encode("ActivateRules", {"command_id": "keyed", "rules": 1}), b"key", 1),
            (encode("ActivateRules", {"command_id": "old", "rules": 0}), None, 3),
            (value, b"somebody else", sent.partition),
            (value, key, other),
        ]
        value_now, key_now, partition = self.chance.choice(bad)
        self.append(value_now, key_now, partition)


OUTCOME = {"log_partition": 0, "log_offset": 0, "account": "ann", "version": 1, "command_id": "1", "kind": "grant"}
OUTCOME |= {"asset": "credits", "amount": 1, "balance": 1, "rules": 1, "decided_at": 0}


def topic(seed: int, count: int, *, next_rules: int | None = None) -> list[Appended]:
    """`count` records and some more; in their middle the next rules, if any, come in, partition after partition."""
    writer = TopicWriter(seed)
    chance, switched = writer.chance, 0
    while len(writer.records) < count:
        writer.now += chance.choice((0, 0, 0, 1, HOUR_MS // 7, HOUR_MS // 7, HOUR_MS))
        while next_rules and switched < PARTITIONS and len(writer.records) > (switched + 6) * count // 15:
            fields = {"command_id": f"rules-{next_rules}", "rules": next_rules, "source": "golden"}
            writer.append(encode("ActivateRules", fields), None, switched)
            switched += 1
        sent = writer.send(*writer.command())
        writer.arrive()
        if chance.random() < 0.04:
            again = chance.choice(writer.records)
            writer.append(again.record.value, again.record.key, again.partition)
        if chance.random() < 0.02:
            account = chance.choice(ACCOUNTS)
            fields = {"command_id": "c1", "account": account, "asset": "gold", "amount": chance.randint(1, 9)}
            writer.send("Grant", fields)
        if chance.random() < 0.04:
            writer.noise(sent)
        if chance.random() < 0.02:
            minute = writer.now // 60_000
            writer.everywhere("Tick", command_id=f"tick-{minute}", minute=minute)
        if chance.random() < 0.004:
            writer.everywhere("ActivateRules", command_id="again", rules=1)
        if chance.random() < 0.01:
            _fill(writer)
    return writer.records


def _fill(writer: TopicWriter) -> None:
    """What hardly comes about by chance: an account that is as full as one can be, and one that is closed."""
    name, number = writer.chance.choice(("full", "gone", "owing")), len(writer.records)
    if name == "full":
        more = {"amount": 2**53 - 1, "period": "days", "first_at": START_MS - 520 * DAY_MS, "until": START_MS}
        writer.send("CreateSchedule", {"command_id": "fill", "account": name, "asset": "gold", **more})
        writer.send("Grant", {"command_id": f"more-{number}", "account": name, "asset": "gold", "amount": 9})
        to_full = {"command_id": f"t-{number}", "account": "user-1", "asset": "gold", "amount": 1, "to": name}
        writer.send("Transfer", to_full)
    elif name == "gone":
        writer.send("Grant", {"command_id": "first", "account": name, "asset": "gold", "amount": 9})
        writer.send("Transfer", {"command_id": "t", "account": name, "asset": "gold", "amount": 2, "to": "user-2"})
        writer.send("Close", {"command_id": f"c-{number}", "account": name, "forfeit": number % 2 == 0})
        to_gone = {"command_id": f"t-{number}", "account": "user-2", "asset": "gold", "amount": 1, "to": name}
        writer.send("Transfer", to_gone)
    else:
        writer.send("SetCreditLimit", {"command_id": f"l-{number}", "account": name, "asset": "gold", "limit": 9})
        writer.send("Spend", {"command_id": f"s-{number}", "account": name, "asset": "gold", "amount": 3})
        writer.send("Close", {"command_id": f"c-{number}", "account": name})
        writer.send("Grant", {"command_id": f"g-{number}", "account": name, "asset": "gold", "amount": 1})


#: An instant long past.
LONG_AGO_MS = 1_700_000_000_000


def append_long_ago(settings: Settings, records: Iterable[Raw]) -> None:
    """Append records as of LONG_AGO_MS to the topic, which keeps given times from then on.

    What ends soon after it is overdue by the clock, and not yet by the log's: no test has to wait for that.
    """
    RestoreTopic(settings).keep_given_times()
    producer = Producer({**settings.kafka_client, "enable.idempotence": True, "partitioner": "murmur2_random"})
    for raw in records:
        place = {} if raw.partition < 0 else {"partition": raw.partition}
        producer.produce(settings.commands_topic, raw.value, raw.key, timestamp=LONG_AGO_MS, **place)
    assert producer.flush(HANG_S) == 0


def append_all(settings: Settings, records: Iterable[Appended]) -> None:
    """Append records with their times to the topic, which keeps given times from then on."""
    RestoreTopic(settings).keep_given_times()
    # Not by a key of the client's: some are in a wrong partition.
    producer = Producer({**settings.kafka_client, "enable.idempotence": True, "linger.ms": 5})
    for partition, (_, timestamp, key, value, headers) in records:
        named = list(headers)
        producer.produce(settings.commands_topic, value, key, partition, timestamp=timestamp, headers=named)
        producer.poll(0)
    assert producer.flush(HANG_S) == 0
