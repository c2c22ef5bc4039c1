"""Random histories of credits, as records of one partition: what tests fold in several ways and compare.

Few accounts, assets and amounts, so that commands meet; ids are mostly of things that there are. One seed, one history.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from creditfold.schemas.wire import encode
from helpers.records import FakeRecord

ACCOUNTS = ("ann", "bob", "back\\slash", "é")
# Those of plain commands: some of the same, and some that have few others.
PLAIN_ACCOUNTS = ("ann", "bob", "cyd", "dan", "eve", "a", *(f"user-{number:010}" for number in range(14)))
ASSETS = ("credits", "credits", "credits", "gold")
USES = ("", "", "ads", "proposals")
START_MS = 1_706_572_800_000
HOUR_MS = 3_600_000


class Writer:
    """Writes commands by chance, as the fields of their records."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.number = 0
        self.now = START_MS
        self.ids: dict[str, list[str]] = {}

    def name(self, kind: str, account: str) -> str:
        """A new id, remembered as that of a thing of some kind."""
        self.number += 1
        name = f"c{self.number}"
        self.ids.setdefault(f"{kind} {account}", []).append(name)
        return name

    def known(self, kind: str, account: str) -> str:
        """The id of a thing that there is or was; now and then of none."""
        names = self.ids.get(f"{kind} {account}", [])
        return self.chance.choice([*names[-4:], *names[-3:], *names[:1]] * 2 + ["nobody"])

    def soon(self, most_hours: int = 60) -> int:
        """An instant ahead."""
        return self.now + self.chance.randint(1, most_hours) * HOUR_MS

    def command(self) -> tuple[str, dict[str, Any]]:
        """A record's name and its fields."""
        account = self.chance.choice(ACCOUNTS[:2] * 3 + ACCOUNTS)
        kinds = self._makers()
        make = self.chance.choices([maker for maker, _ in kinds], [weight for _, weight in kinds])[0]
        record, fields = make(account)
        return record, {"account": account, **fields}

    def plain(self) -> tuple[str, dict[str, Any]]:
        """A grant or a spend of which hardly anything else is said, mostly of accounts that have little else."""
        account = self.chance.choice(PLAIN_ACCOUNTS)
        asset = "credits" if self.chance.random() < 0.97 else "gold"
        kind, most = self.chance.choice((("Grant", 20), ("Spend", 12), ("Spend", 12)))
        name = self.name(kind.lower(), account)
        if self.chance.random() < 0.02:
            name += self.chance.choice(('"', "\\", " x", "é", "~"))
        amount = 2**53 - 1 if self.chance.random() < 0.02 else self.amount(most)
        fields: dict[str, Any] = {"command_id": name, "account": account, "asset": asset, "amount": amount}
        if self.chance.random() < 0.3:
            fields["occurred_at"] = self.now - self.chance.randint(0, 10**6)
            fields["source"] = self.chance.choice(("", "web", "a b", 'say "x"'))
            fields["reason"] = self.chance.choice(("", "because", "x" * 200))
            fields["metadata"] = self.chance.choice(({}, {"order": "7"}, {"b": "ä\t€", "a": "", "é": "n"}))
        if self.chance.random() < 0.03:
            fields["source"] = self.chance.choice(("tab\there", "é", "web"))
            fields["reason"] = self.chance.choice(("back\\slash", "\\x41", "\\N", "line\nend"))
            fields["metadata"] = self.chance.choice(({}, {"order": "7"}))
        return kind, fields

    def _makers(self) -> Sequence[tuple[Any, int]]:
        return (
            (self.grant, 16),
            (self.spend, 14),
            (self.hold, 8),
            (self.capture, 4),
            (self.release, 3),
            (self.refund, 5),
            (self.void, 2),
            (self.transfer, 2),
            (self.settle, 1),
            (self.freeze, 1),
            (self.unfreeze, 4),
            (self.limit, 1),
            (self.schedule, 1),
            (self.cancel, 1),
            (self.batch, 2),
            (self.close, 1),
        )

    def asset(self) -> str:
        return self.chance.choice(ASSETS)

    def amount(self, most: int = 12) -> int:
        return self.chance.randint(1, most)

    def maybe(self, value: Any) -> Any:
        """The value now and then, else 0."""
        return value if self.chance.random() < 0.4 else 0

    def grant(self, account: str) -> tuple[str, dict[str, Any]]:
        more: dict[str, Any] = {}
        if self.chance.random() < 0.7:
            begins = self.maybe(self.now + self.chance.randint(-30, 30) * HOUR_MS)
            ends = self.maybe(max(begins, self.now) + self.chance.randint(1, 50) * HOUR_MS)
            more = {"effective_at": begins, "expires_at": ends, "scope": self.chance.choice(USES)}
            more |= {"priority": self.chance.choice((50, 50, 10)), "lot_class": self.chance.choice(("paid", "promo"))}
        name = self.name("grant", account)
        return "Grant", {"command_id": name, "asset": self.asset(), "amount": self.amount(20), **more}

    def spend(self, account: str) -> tuple[str, dict[str, Any]]:
        more = {"use": self.chance.choice(USES), "partial": self.chance.random() < 0.2}
        more |= {"effective_at": self.maybe(self.maybe(self.now + self.chance.randint(-40, 2) * HOUR_MS))}
        name = self.name("spend", account)
        return "Spend", {"command_id": name, "asset": self.asset(), "amount": self.amount(), **more}

    def hold(self, account: str) -> tuple[str, dict[str, Any]]:
        more = {"deadline": self.soon(20) - self.maybe(self.maybe(40 * HOUR_MS)), "use": self.chance.choice(USES)}
        name = self.name("hold", account)
        return "Hold", {"command_id": name, "asset": self.asset(), "amount": self.amount(), **more}

    def capture(self, account: str) -> tuple[str, dict[str, Any]]:
        more = {"amount": self.maybe(self.amount(5)), "final": self.chance.random() < 0.3}
        return "Capture", {"hold": self.known("hold", account), "command_id": self.name("spend", account), **more}

    def release(self, account: str) -> tuple[str, dict[str, Any]]:
        more = {"amount": self.maybe(self.amount(5)), "hold": self.known("hold", account)}
        return "Release", {"command_id": self.name("release", account), **more}

    def refund(self, account: str) -> tuple[str, dict[str, Any]]:
        reissue = self.chance.random() < 0.4
        more = {"amount": self.maybe(self.amount(5)), "reissue": reissue, "spend": self.known("spend", account)}
        return "Refund", {"command_id": self.name("grant", account), **more, "expires_at": reissue * self.soon()}

    def void(self, account: str) -> tuple[str, dict[str, Any]]:
        kind = self.chance.choice(("grant", "grant", "schedule"))
        more = {"grant": self.known(kind, account), "number": self.maybe(1)}
        return "VoidGrant", {"command_id": self.name("void", account), **more}

    def transfer(self, account: str) -> tuple[str, dict[str, Any]]:
        to = self.chance.choice([other for other in ACCOUNTS if other != account])
        more = {"asset": self.asset(), "amount": self.amount(6), "to": to}
        return "Transfer", {"command_id": self.name("transfer", account), **more}

    def settle(self, account: str) -> tuple[str, dict[str, Any]]:
        self.number += 1
        returned = self.chance.choice(("", "account_closed"))
        more = {"transfer": self.known("transfer", account), "returned": returned}
        return "SettleTransfer", {"command_id": f"~out:{self.number}", **more}

    def freeze(self, account: str) -> tuple[str, dict[str, Any]]:
        return "Freeze", {
            "command_id": self.name("f", account),
            "scope": self.chance.choice(("spending", "spending", "all")),
        }

    def unfreeze(self, account: str) -> tuple[str, dict[str, Any]]:
        return "Unfreeze", {"command_id": self.name("f", account)}

    def limit(self, account: str) -> tuple[str, dict[str, Any]]:
        more = {"asset": self.asset(), "limit": self.chance.choice((0, 10, 30))}
        return "SetCreditLimit", {"command_id": self.name("f", account), **more}

    def schedule(self, account: str) -> tuple[str, dict[str, Any]]:
        more = {"asset": self.asset(), "amount": self.amount(5), "period": "days", "cap": self.maybe(12)}
        more |= {"first_at": self.now + self.chance.randint(-90, 30) * HOUR_MS, "until": self.maybe(self.soon(90))}
        more |= {"expires_after_ms": self.maybe(30 * HOUR_MS)}
        if more["until"] and more["until"] <= more["first_at"]:
            more["until"] = 0
        return "CreateSchedule", {"command_id": self.name("schedule", account), **more}

    def cancel(self, account: str) -> tuple[str, dict[str, Any]]:
        more = {"schedule": self.known("schedule", account)}
        return "CancelSchedule", {"command_id": self.name("f", account), **more}

    def close(self, account: str) -> tuple[str, dict[str, Any]]:
        # Rarely to an end, or nothing would be left to do.
        return "Close", {"command_id": self.name("f", account), "forfeit": self.chance.random() < 0.1}

    def batch(self, account: str) -> tuple[str, dict[str, Any]]:
        kinds = {"Grant": "grant", "Spend": "spend", "Hold": "hold", "Capture": "capture", "Refund": "refund"}
        makers = [self.grant, self.spend, self.hold, self.capture, self.refund, self.release, self.void]
        kinds |= {"Release": "release", "VoidGrant": "void_grant"}
        made = [self.chance.choice(makers)(account) for _ in range(self.chance.randint(1, 4))]
        steps = [{"kind": kinds[record], **fields} for record, fields in made]
        return "Batch", {"command_id": self.name("batch", account), "steps": steps}


def history(seed: int, count: int, *, plain: float = 0.0) -> list[FakeRecord]:
    """Records of one partition, with duplicates, reused ids, garbage and ticks.

    `plain` is the share of plain commands among them.
    """
    writer, records = Writer(seed), []
    chance = writer.chance

    def add(record: str, fields: Mapping[str, Any]) -> None:
        key = None if record == "Tick" else fields["account"].encode()
        records.append(FakeRecord(len(records), writer.now, key, encode(record, fields)))

    while len(records) < count:
        writer.now += chance.choice((0, 0, 0, 1, HOUR_MS // 7, HOUR_MS // 7, HOUR_MS, 4 * HOUR_MS))
        record, fields = writer.plain() if plain and chance.random() < plain else writer.command()
        add(record, fields)
        if plain and chance.random() < 0.05 * plain:
            headers = [("redrive-of", b"0:1")] if chance.random() < 0.3 else [("trace", b"x")]
            records[-1] = records[-1]._replace(headers=headers)
        if chance.random() < 0.05:
            again = chance.choice(records)
            records.append(again._replace(offset=len(records), timestamp=writer.now))
        if chance.random() < 0.03:
            add(
                "Spend",
                {**fields, "asset": "credits", "amount": 99}
                if record == "Spend"
                else writer.spend("ann")[1] | {"account": "ann"},
            )
        if chance.random() < 0.02:
            records.append(FakeRecord(len(records), writer.now, b"ann", b"garbage"))
        if chance.random() < 0.05:
            minute = writer.now // 60_000
            add("Tick", {"command_id": f"tick-0-{minute}", "minute": minute})
    return records
