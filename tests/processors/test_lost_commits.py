"""A projection that stands earlier than running workers and publishers left it: noticed without a new command."""

from collections.abc import Mapping
from pathlib import Path

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.projections.connections import connected
from creditfold.projections.proof.chain import chain_at
from helpers.command_line import run
from helpers.credit_topics import append_long_ago
from helpers.projection_copy import copy_of
from helpers.published import decided, published, wait_until_published
from helpers.support import HANG_S, Raw, publisher, query, wait_until_folded, worker
from helpers.transfer_records import ANN, BOB, EVE, account_in, ending, grant, spend, transfer, wait_until_settled

DAN = account_in(3, "dan")


def standing(settings: Settings) -> Mapping[int, tuple[int, bytes]]:
    """Where each partition stands, and the chain over what was decided before."""
    rows = query(settings, "SELECT log_partition, next_offset, chain FROM ledger.progress")
    return {partition: (offset, bytes(chain)) for partition, offset, chain in rows}


def refolded(settings: Settings, before: Mapping[int, tuple[int, bytes]]) -> bool:
    """Whether each partition has come at least to where it stood."""
    now = standing(settings)
    return all(now[partition][0] >= offset for partition, (offset, _) in before.items())


def assert_same(settings: Settings, before: Mapping[int, tuple[int, bytes]]) -> None:
    """What was decided is what had been decided. Ticks may have come behind it."""
    with connected(settings.dsn) as connection:
        again = {partition: chain_at(connection, 1, partition, offset) for partition, (offset, _) in before.items()}
    assert again == {partition: chain for partition, (_, chain) in before.items()}


def test_a_projection_set_back_under_a_worker_is_folded_again(ledger_settings: Settings, tmp_path: Path) -> None:
    """To before the worker's claims, and to behind them; ticks, transfers and outcomes go on where they belong."""
    settings = ledger_settings.model_copy(update={"tick_seconds": 0.5, "retry_max_s": 1.0})
    first = [grant(name, f"g-{name}", 100) for name in (ANN, BOB, EVE)]
    soon = ("processors.worker.app.COMPARE_EVERY_S=0.5",)
    with (
        copy_of(settings) as copy,
        worker(settings, tmp_path, constants=soon) as running,
        publisher(settings, tmp_path),
    ):
        append_long_ago(settings, [*first, ending(DAN, "soon", 7)])
        append_long_ago(settings, [Raw(b"poison", b"k", partition) for partition in range(4)])
        assert wait_until(lambda: expired(settings, DAN), HANG_S)
        wait_until_folded(settings)
        before = standing(settings)

        # A backup of before this worker came.
        copy.put_back()
        assert wait_until(lambda: refolded(settings, before), HANG_S), running.text()
        assert_same(settings, before)
        wait_until_published(settings)

        # A standby without the last commits. What is known from before, and what was in them, comes again.
        copy.take()
        more = [spend(ANN, "s", 30), transfer(ANN, "t", 20, BOB), spend(EVE, "s", 1_000), first[0]]
        append_long_ago(settings, [*more, *more, spend(ANN, "s", 31), Raw(b"poison", b"k", 3)])
        wait_until_folded(settings)
        wait_until_settled(settings, 1)
        wait_until_published(settings)
        before = standing(settings)
        copy.empty()
        assert wait_until(lambda: "The database holds no ledger" in running.text(), HANG_S), running.text()
        copy.put_back()
        assert wait_until(lambda: refolded(settings, before), HANG_S), running.text()
        assert_same(settings, before)

        append_long_ago(settings, [ending(EVE, "soon", 7)])
        assert wait_until(lambda: expired(settings, EVE), HANG_S)
        wait_until_folded(settings)
        wait_until_published(settings)
        lost = [line["why"] for line in running.lines() if line["event"] == "partition lost"]
        assert any("PostgreSQL has nothing of it" in why for why in lost), lost
        assert any("PostgreSQL has 1 at" in why for why in lost), lost
        assert running.stop() == 0
    rows = query(settings, "SELECT account_id, available FROM ledger.balances WHERE available > 0 ORDER BY 1")
    assert rows == sorted({ANN: 50, BOB: 120, EVE: 100}.items())
    # Each outcome and each dead letter is in its topic once, in order.
    assert published(settings) == decided(settings)
    assert run(settings, "verify").returncode == 0


def expired(settings: Settings, account: str) -> bool:
    """Whether the account's credits that end were found to have ended."""
    text = "SELECT expired FROM ledger_0001.lots WHERE command_id = 'soon' AND account_id = %s"
    return query(settings, text, (account,)) == [(7,)]
