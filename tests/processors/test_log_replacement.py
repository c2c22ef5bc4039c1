"""The log was restored into another topic: what was published of it stays published once, whatever is switched."""

from pathlib import Path

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.log.archive.restore import restore_topic
from creditfold.log.archive.writer import archive_topic
from creditfold.processors.rebuild.steps import ActivationOptions, Request, activate, rebuild
from creditfold.projections.connections import connected
from creditfold.projections.queries.decisions import NewDecision, live_log, record_decision
from helpers.databases import other_topic
from helpers.ledgers import new_database
from helpers.published import decided, mixed, published, wait_until_published
from helpers.support import HANG_S, Quiet, Raw, append, publisher, query, read_topic, wait_until_folded, worker


def test_each_is_published_once_when_the_log_is_replaced(ledger_settings: Settings, tmp_path: Path) -> None:
    """By a generation of it in the same database, and in an empty one. Publishers and workers of the old topic stop."""
    large = [Raw(b"\0" * 200_000, b"k", partition) for partition in range(4)]
    compares, checks = ("processors.worker.app.COMPARE_EVERY_S=0.5",), ("processors.publisher.main.CHECK_EVERY_S=0.5",)
    with (
        worker(ledger_settings, tmp_path, constants=compares) as folding,
        publisher(ledger_settings, tmp_path, constants=checks) as publishing,
    ):
        append(ledger_settings, [*mixed(400), *large])
        wait_until_folded(ledger_settings)
        wait_until_published(ledger_settings)
        before = published(ledger_settings)
        archive_topic(ledger_settings, tmp_path / "archive")
        target = other_topic(ledger_settings)
        restore_topic(target, tmp_path / "archive")
        with connected(ledger_settings.dsn) as connection:
            topic_id, discarded = live_log(connection).topic_id, Position(*before[1][0])
            assert record_decision(connection, topic_id, discarded, NewDecision("discard", "ann", "noise"))
        rebuild(target, Request(), Quiet())
        activate(target, 2, ActivationOptions(other_log=True), Quiet())
        states = "SELECT log_partition, log_offset, decided_by FROM ledger.dead_letter_states WHERE state <> 'open'"
        assert query(target, states) == [(*discarded, "ann")]
        # No command comes to either topic.
        assert publishing.process.wait(HANG_S) == 1, publishing.text()
        assert f"CREDITFOLD_COMMANDS_TOPIC={target.commands_topic}" in publishing.text().replace("\n", " ")
        assert folding.process.wait(HANG_S) == 1, folding.text()
        assert published(target) == before == decided(target)

    # Into an empty database, whose fold begins anew while the publisher runs already.
    with new_database(other_topic(ledger_settings)) as anew, publisher(anew, tmp_path, "anew") as running:
        with worker(anew, tmp_path, "worker-anew"):
            wait_until_folded(anew)
            wait_until_published(anew)
        assert running.stop() == 0
        assert published(anew) == before == decided(anew)

    with worker(target, tmp_path, "worker-next"), publisher(target, tmp_path, "next"):
        append(target, [*mixed(100, seed=2), *large])
        wait_until_folded(target)
        wait_until_published(target)
    assert published(target) == decided(target)
    names = {seen.header("creditfold-topic") for seen in read_topic(target, target.dead_letters_topic)}
    assert names == {ledger_settings.commands_topic.encode(), target.commands_topic.encode()}
