"""Records of transfers among accounts of known partitions, and what must have become of them."""

import json
from typing import Any

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.partitioner import partition_of
from creditfold.schemas.wire import encode
from helpers.credit_topics import LONG_AGO_MS
from helpers.support import HANG_S, Raw, query, wait_until_folded


def of(kind: str, account: str, command_id: str, **fields: Any) -> Raw:
    """A command's record."""
    return Raw(encode(kind, {"command_id": command_id, "account": account, **fields}), account.encode())


def grant(account: str, command_id: str, amount: int, **fields: Any) -> Raw:
    return of("Grant", account, command_id, asset="credits", amount=amount, **fields)


def transfer(account: str, command_id: str, amount: int, to: str) -> Raw:
    return of("Transfer", account, command_id, asset="credits", amount=amount, to=to)


def account_in(partition: int, name: str = "user") -> str:
    """A name that lies in a partition of four."""
    return next(f"{name}-{n}" for n in range(1_000) if partition_of(f"{name}-{n}".encode(), 4) == partition)


ANN, BOB, EVE = account_in(0, "ann"), account_in(1, "bob"), account_in(2, "eve")


def in_transit(settings: Settings) -> int:
    return len(query(settings, "SELECT FROM ledger_0001.transfers WHERE is_open"))


def wait_until_settled(settings: Settings, transfers: int, bound_s: float = HANG_S) -> None:
    """Wait until so many transfers were sent and none is on its way."""

    def settled() -> bool:
        rows = query(settings, "SELECT count(*), count(*) FILTER (WHERE is_open) FROM ledger_0001.transfers")
        return rows == [(transfers, 0)]

    assert wait_until(settled, bound_s), query(settings, "SELECT * FROM ledger_0001.transfers WHERE is_open LIMIT 9")
    wait_until_folded(settings)


def ending(account: str, command_id: str, amount: int) -> Raw:
    """A grant that ends a minute after LONG_AGO_MS."""
    return grant(account, command_id, amount, expires_at=LONG_AGO_MS + 60_000)


def check_ends(settings: Settings, number: int = 1) -> int:
    """Each transfer has arrived once and come to one end, and there are both ends; gives how many there are."""
    schema = f"ledger_{number:04}"
    sent = query(
        settings,
        f"""SELECT j.account_id, j.command_id, t.is_open FROM {schema}.journal j
            LEFT JOIN {schema}.transfers t USING (account_id, command_id)
            WHERE kind = 'transfer' AND rejection IS NULL""",
    )
    assert {is_open for _, _, is_open in sent} == {False}
    ends: dict[tuple[str, str], list[str]] = {(account, command_id): [] for account, command_id, _ in sent}
    rows = query(
        settings, f"SELECT account_id, details, facts, rejection FROM {schema}.journal WHERE kind = 'settle_transfer'"
    )
    for account, details, facts, rejection in rows:
        assert rejection is None
        ends[account, json.loads(details)["transfer"]].append(json.loads(facts)[0]["kind"])
    assert {len(end) for end in ends.values()} == {1}
    assert {end[0] for end in ends.values()} == {"completed", "returned"}
    arrived = query(settings, f"SELECT count(*) FROM {schema}.journal WHERE kind = 'receive_transfer'")
    assert arrived == [(len(sent),)]
    assert query(settings, "SELECT sum(dead_letters) FROM ledger.progress") == [(0,)]
    return len(sent)


def spend(account: str, command_id: str, amount: int) -> Raw:
    return of("Spend", account, command_id, asset="credits", amount=amount)
