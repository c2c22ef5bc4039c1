"""Makes commands of a real purchase history, the CDNOW data set. Owns the fetch and the conversion, nothing else.

The data: all 69,659 purchases, January 1997 to June 1998, of the 23,570 customers who first bought at CDNOW, an
online shop for music, in the first quarter of 1997. It comes with the PyPI package `lifetimes` (MIT licence),
lifetimes/datasets/CDNOW_master.txt: customer, date, number of CDs, dollars. Only the package's wheel is fetched,
since installing it would bring pandas and scipy along; the data isn't redistributed here.

The commands, in the order of their days, grants before spends on the same day:

- Each customer is an account, `cdnow-` and the customer's number.
- Each gets a grant of 3,000 credits (cents) a month, from the first purchase's month to the last's: on the first of
  the month, and in the first month on the day of that purchase. The history holds no grants, so this is made up; with
  3,000 a quarter of the purchases are rejected. Later grants would change none of that, and make a longer demo.
- Each purchase is a spend of its price in cents, with the number of CDs in its metadata. The 80 purchases of zero
  dollars are left out, since an amount is at least 1; a customer who bought nothing else gets no account.
- Ids are made of the month, or of the purchase's number within its customer: converting again gives the same file.

    python -m creditfold.cli.demo.cdnow CDNOW_master.txt commands.jsonl
"""

import hashlib
import json
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from creditfold.common.errors import CreditfoldError
from creditfold.common.processes import run, tail

WHEEL = "Lifetimes-0.11.3-py3-none-any.whl"
WHEEL_SHA256 = "261e3dc89977c2b60767ca6728aaa29d429de0c814635070a749c36555895da8"
REQUIREMENT = f"lifetimes==0.11.3 --hash=sha256:{WHEEL_SHA256}\n"
MEMBER = "lifetimes/datasets/CDNOW_master.txt"
FETCH_BOUND_S = 300.0

SOURCE = "cdnow"
ASSET = "credits"
ALLOWANCE = 3_000


class DemoDataError(CreditfoldError):
    """The purchase history can't be fetched or read."""


class Purchase(NamedTuple):
    """One purchase. `cents` may be zero."""

    customer: str
    day: date
    cds: int
    cents: int


class Conversion(NamedTuple):
    """What the purchases became. `skipped` counts those of zero dollars."""

    accounts: int
    grants: int
    spends: int
    skipped: int


class _Event(NamedTuple):
    """A command before it is written; sorts by day, grants first, then customer, then number."""

    day: date
    is_spend: bool
    customer: str
    number: int
    amount: int
    cds: int


def fetched_history(folder: Path) -> str:
    """Return the purchase history's text; the wheel is fetched into `folder` once. Raises DemoDataError."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / WHEEL
    if not _is_the_wheel(wheel):
        _fetch(folder)
    if not _is_the_wheel(wheel):
        raise DemoDataError(f"{wheel} is not the file that was asked for.", "Remove it and try again.")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(MEMBER).decode()


def _is_the_wheel(wheel: Path) -> bool:
    return wheel.exists() and hashlib.sha256(wheel.read_bytes()).hexdigest() == WHEEL_SHA256


def _fetch(folder: Path) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(REQUIREMENT, "utf-8")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(requirements), "-d", str(folder)]
    done = run(command, bound_s=FETCH_BOUND_S)
    if done.code != 0:
        raise DemoDataError(
            f"pip couldn't fetch the purchase history. Its last words:\n{tail(done.said, 5)}",
            f"It needs pip and PyPI or a mirror of it. Or put {WHEEL} into {folder} yourself.",
        )


def parse_history(text: str) -> Iterator[Purchase]:
    """Read the purchases: columns by spaces after a line of names. Raises DemoDataError for a line that is none."""
    for number, line in enumerate(text.splitlines()[1:], start=2):
        if not line.strip():
            continue
        try:
            customer, day, cds, dollars = line.split()
            yield Purchase(customer, datetime.strptime(day, "%Y%m%d").date(), int(cds), int(Decimal(dollars) * 100))
        except (ValueError, ArithmeticError):
            raise DemoDataError(f"Line {number} is no purchase: {line[:60]!r}.", "Is it CDNOW_master.txt?") from None


def convert(purchases: Iterable[Purchase], target: Path) -> Conversion:
    """Write the commands of a purchase history as JSON Lines, whole or not at all."""
    events, skipped = _events(purchases)
    events.sort()
    fresh = target.with_name(target.name + ".new")
    with fresh.open("w", encoding="utf-8") as file:
        # One encoder for all: json.dumps would make one for each line.
        encode = json.JSONEncoder(separators=(",", ":")).encode
        file.writelines(encode(_command(event)) + "\n" for event in events)
    fresh.replace(target)
    spends = sum(event.is_spend for event in events)
    return Conversion(len({event.customer for event in events}), len(events) - spends, spends, skipped)


def _events(purchases: Iterable[Purchase]) -> tuple[list[_Event], int]:
    skipped = 0
    by_customer: dict[str, list[Purchase]] = defaultdict(list)
    for purchase in purchases:
        if purchase.cents:
            by_customer[purchase.customer].append(purchase)
        else:
            skipped += 1
    events: list[_Event] = []
    for customer, bought in by_customer.items():
        first, last = min(purchase.day for purchase in bought), max(purchase.day for purchase in bought)
        days = [first, *_month_starts(first, last)]
        events += [_Event(day, False, customer, number, ALLOWANCE, 0) for number, day in enumerate(days, 1)]
        events += [_Event(p.day, True, customer, number, p.cents, p.cds) for number, p in enumerate(bought, 1)]
    return events, skipped


def _month_starts(after: date, until: date) -> Iterator[date]:
    month = after.replace(day=1)
    while month < until.replace(day=1):
        month = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
        yield month


def _command(event: _Event) -> dict[str, Any]:
    command: dict[str, Any] = {
        "type": "spend" if event.is_spend else "grant",
        "command_id": f"purchase-{event.number}" if event.is_spend else f"allowance-{event.day:%Y-%m}",
        "account": f"cdnow-{event.customer}",
        "asset": ASSET,
        "amount": event.amount,
        "occurred_at": _midnight_ms(event.day),
        "source": SOURCE,
        "reason": "purchase" if event.is_spend else "monthly allowance",
    }
    return {**command, "metadata": {"number_of_cds": str(event.cds)}} if event.is_spend else command


@lru_cache
def _midnight_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def main() -> None:
    """Convert a file named on the command line."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m creditfold.cli.demo.cdnow CDNOW_master.txt commands.jsonl")
    done = convert(parse_history(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2]))
    print(f"{done.accounts:,} accounts, {done.grants:,} grants, {done.spends:,} spends, {done.skipped:,} left out.")


if __name__ == "__main__":
    main()
