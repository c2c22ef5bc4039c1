"""What the benchmarks append, and how: commands drawn from a seed, the same for the same arguments."""

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias

from rich.progress import track
from rig import console

from creditfold.common.settings import Settings
from creditfold.producers import Command, CommandProducer, Grant, Spend
from creditfold.producers.models.commands import Capture, Hold, Refund, Release, encode_command

DAY_MS = 86_400_000

#: Spends take up to this much, one credit at least.
MOST_SPENT = 25
#: Grants bring up to this much, one credit at least.
MOST_GRANTED = 50
GRANTS = 0.2


class Record(NamedTuple):
    """A record as a Kafka client gives it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[()] = ()


def draw(chance: random.Random, accounts: int) -> tuple[int, int]:
    """Number of an account, and what to grant it, or what to spend as less than nothing: 80% spends."""
    account = chance.randrange(accounts)
    if chance.random() < GRANTS:
        return account, chance.randint(1, MOST_GRANTED)
    return account, -chance.randint(1, MOST_SPENT)


def plain(count: int, accounts: int, seed: int) -> Iterator[Command]:
    """80% spends and 20% grants of random accounts, nothing else said of them."""
    chance = random.Random(seed)
    for number in range(count):
        account, amount = draw(chance, accounts)
        id, name = f"{seed}-{number}", f"user-{account}"
        if amount > 0:
            yield Grant(command_id=id, account=name, asset="credits", amount=amount)
        else:
            yield Spend(command_id=id, account=name, asset="credits", amount=-amount)


def credits_mix(count: int, accounts: int, seed: int) -> Iterator[Command]:
    """The same, with lots of several kinds, holds, captures, releases and refunds."""
    chance, now = random.Random(seed), int(time.time() * 1000)
    holds: deque[tuple[str, str]] = deque()
    spends: deque[tuple[str, str]] = deque(maxlen=1_000)
    for number in range(count):
        account, id, dice = f"user-{chance.randrange(accounts)}", f"{seed}-{number}", chance.random()
        amount, use = chance.randint(1, 25), chance.choice(("", "ads"))
        if dice < 0.2:
            ends = now + chance.randint(1, 365) * DAY_MS if chance.random() < 0.5 else 0
            lot_class: Literal["paid", "promo"] = "paid" if chance.random() < 0.5 else "promo"
            scope = chance.choice(("", "", "", "ads"))
            yield Grant(
                command_id=id,
                account=account,
                asset="credits",
                amount=2 * amount,
                lot_class=lot_class,
                expires_at=ends,
                scope=scope,
            )
        elif dice < 0.3:
            holds.append((account, id))
            yield Hold(command_id=id, account=account, asset="credits", amount=amount, deadline=now + DAY_MS)
        elif dice < 0.38 and len(holds) > 100:
            account, hold = holds.popleft()
            if dice < 0.35:
                yield Capture(command_id=id, account=account, hold=hold)
            else:
                yield Release(command_id=id, account=account, hold=hold)
        elif dice < 0.4 and spends:
            account, spend = chance.choice(spends)
            yield Refund(command_id=id, account=account, spend=spend, amount=1)
        else:
            spends.append((account, id))
            yield Spend(command_id=id, account=account, asset="credits", amount=amount, use=use)


#: Makes a log's commands of a count, a number of accounts and a seed.
Make: TypeAlias = Callable[[int, int, int], Iterator[Command]]

PLAIN, CREDITS = "plain", "credits"

#: The kinds of log, by name.
LOGS: Mapping[str, Make] = {PLAIN: plain, CREDITS: credits_mix}


def produce(settings: Settings, log: str, count: int, accounts: int, seed: int) -> float:
    """Append the commands; gives back commands per second, pydantic and encoding included."""
    start = time.perf_counter()
    with CommandProducer(settings.kafka_client, settings.commands_topic) as producer:
        stream = track(LOGS[log](count, accounts, seed), f"appending {log}", count, console=console)
        producer.append_many(stream)
        producer.flush()
    return count / (time.perf_counter() - start)


def bytes_needed(log: str, count: int, accounts: int, seed: int) -> float:
    """Bytes of keys and values per command, of the first 10,000 of a log."""
    records = [encode_command(command) for command in islice(LOGS[log](count, accounts, seed), 10_000)]
    return sum(len(record.key or b"") + len(record.value) for record in records) / len(records)
