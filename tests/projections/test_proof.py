"""Verify names what was tampered with, in PostgreSQL and in the log; diff tries out rules; as-of looks back.

The history is that of tests/projections/test_generations.py.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.ledger import RULESETS
from creditfold.log.partitioner import partition_of
from creditfold.processors.rebuild.steps import Request, rebuild
from creditfold.processors.rebuild.verify import verify
from creditfold.projections.connections import connected
from creditfold.projections.generations.removal import drop_leftovers, leftovers
from creditfold.projections.proof.dates import proofs
from creditfold.schemas.wire import encode
from helpers.command_line import run
from helpers.generations import WATCH, history, rows_of, states
from helpers.log_surgery import rewrite_value
from helpers.stack_under_test import EmbeddedStack, StackUnderTest
from helpers.support import (
    HANG_S,
    ROOT,
    Raw,
    WorkerProcess,
    alter,
    append,
    environment,
    execute,
    fold_log,
    query,
    read_log,
    record,
    wait_until_folded,
    worker,
)
from programs.rules_two import decide_two


def test_an_untouched_ledger_is_equal_to_a_fresh_fold(copied: Settings) -> None:
    """Exit code 0; the fresh fold is dropped again; when that was is kept for the metrics, and of nothing else."""
    run(copied, "rebuild")
    run(copied, "verify", "2")
    with connected(copied.dsn) as connection:
        assert proofs(connection) == {}
    run(copied, "drop", "2")
    done = run(copied, "verify", "--json")
    with connected(copied.dsn) as connection:
        assert set(proofs(connection)) == {"verify"}
    verdict = json.loads(done.stdout)
    assert verdict["equal"] is True
    assert verdict["right_is_fresh"] is True
    assert all(row["left_chain"] == row["right_chain"] for row in verdict["partitions"])
    assert states(copied) == {1: "live"}
    assert "Equal" in run(copied, "verify").stdout


def test_what_a_killed_verify_left_is_shown_and_dropped(copied: Settings) -> None:
    """While it runs its generation is its own; left behind, it is named, and dropped by the next one."""
    # It waits behind its fold, before it compares.
    program = (
        "import sys; from creditfold.cli.main import main; from creditfold.processors.rebuild import verify as proof;"
        " proof._compare = lambda *_, **__: sys.stdin.read(); sys.argv = ['creditfold', 'verify']; main()"
    )
    command = [sys.executable, "-c", program]
    comparing = subprocess.Popen(command, env=environment(copied), stdin=subprocess.PIPE)
    with connected(copied.dsn) as looking:
        assert wait_until(lambda: states(copied) == {1: "live", 2: "ready"}, HANG_S)
        assert leftovers(looking) == drop_leftovers(looking) == []
        comparing.kill()
        comparing.communicate()
        assert wait_until(lambda: leftovers(looking) == [2], HANG_S)
    assert "Generation 2 was left by a run that was killed" in run(copied, "generations").stdout
    assert [row["is_leftover"] for row in json.loads(run(copied, "generations", "--json").stdout)] == [False, True]
    checks = json.loads(run(copied, "doctor", "--json", check=False).stdout)["checks"]
    (found,) = [row for row in checks if row["name"] == "left-over generations"]
    assert (found["state"], found["seen"]) == ("warning", "generation 2")
    done = run(copied, "verify")
    assert "Dropped generation 2" in done.stderr
    assert states(copied) == {1: "live"}
    # What is kept on purpose isn't a leftover.
    run(copied, "verify", "--keep")
    assert "Dropped" not in run(copied, "diff").stderr
    assert states(copied) == {1: "live", 4: "ready"}


#: A grant of a million that nobody made, where no record of the log is.
FORGED = """INSERT INTO ledger_0001.journal
        (log_partition, log_offset, account_id, version, command_id, kind, asset, amount, change, balance, rejection,
         rules, clock_ms, occurred_at_ms, source, note, extra, pending, held, debt, details, facts)
    SELECT {}, {}, account_id, 1000, 'forged', 'grant', asset, 1000000, 1000000, balance + 1000000, NULL, rules,
           clock_ms, occurred_at_ms, source, note, extra, pending, held, debt, '', '[]' FROM ledger_0001.journal"""

BALANCE = "INSERT INTO ledger_0001.balances (account_id, asset, available, version, log_partition, log_offset)"

A_LETTER = "(SELECT min(ctid) FROM ledger_0001.dead_letters)"

# what is done to a row                                                                    | what must be named
TAMPERINGS = [
    ("UPDATE ledger_0001.balances SET available = available + 1 WHERE account_id = 'user-7'", "balance"),
    ("DELETE FROM ledger_0001.balances WHERE account_id = 'user-7'", "balance"),
    (f"{BALANCE} VALUES ('user-7', 'gold', 9, 1, 0, 1)", "balance"),
    ("UPDATE ledger_0001.balances SET version = version + 1 WHERE account_id = 'user-7'", "balance"),
    ("UPDATE ledger_0001.balances SET log_offset = log_offset + 1 WHERE account_id = 'user-7'", "balance"),
    ("UPDATE ledger_0001.journal SET amount = amount + 1 WHERE account_id = 'user-7' AND version = 3", "record"),
    ("UPDATE ledger_0001.journal SET source = 'x' WHERE account_id = 'user-7' AND version = 3", "record"),
    ("UPDATE ledger_0001.journal SET note = note || ' ' WHERE account_id = 'user-7' AND version = 3", "record"),
    ("UPDATE ledger_0001.journal SET command_id = 'z' WHERE account_id = 'user-7' AND version = 3", "record"),
    ("UPDATE ledger_0001.journal SET extra = '\\x00' WHERE account_id = 'user-7' AND version = 3", "record"),
    ("UPDATE ledger_0001.journal SET clock_ms = clock_ms + 1 WHERE account_id = 'user-7' AND version = 3", "record"),
    ("DELETE FROM ledger_0001.journal WHERE account_id = 'user-7' AND version = 3", "record"),
    (f"{FORGED.format('log_partition', 900_000_000)} WHERE account_id = 'user-7' AND version = 3", "stray"),
    (f"{FORGED.format('log_partition', -5)} WHERE account_id = 'user-7' AND version = 3", "stray"),
    (f"{FORGED.format(99, 'log_offset')} WHERE account_id = 'user-7' AND version = 3", "stray"),
    (f"UPDATE ledger_0001.dead_letters SET value = 'y' WHERE ctid = {A_LETTER}", "dead letter"),
    ("INSERT INTO ledger_0001.dead_letters VALUES (2, 900000001, 'x', 'y', 0, NULL, NULL, '[]')", "stray"),
    ("INSERT INTO ledger_0001.checkpoints VALUES (1, 7, '\\x00')", "checkpoint"),
]

# What is kept outside the decisions is in no chain: a fresh fold alone says whose it is that was changed.
UNCHAINED = [
    "INSERT INTO ledger_0001.redrives VALUES (2, 1, 2, 0, 'x', 'y')",
    f"UPDATE ledger_0001.dead_letters SET headers = '[[]]' WHERE ctid = {A_LETTER}",
    "UPDATE ledger_0001.progress SET clock_ms = clock_ms + 1 WHERE log_partition = 1",
    "UPDATE ledger_0001.progress SET duplicates = duplicates + 1 WHERE log_partition = 3",
]


def test_a_tampered_row_is_found_and_named(copied: Settings) -> None:
    """Whichever column of it; the chain says that the row was changed, and not the log. Each is undone for the next."""
    rebuild(copied, Request(), WATCH)
    tables = ("balances", "journal", "dead_letters", "checkpoints")
    for table in tables:
        execute(copied, f"CREATE TABLE public.{table} AS SELECT * FROM ledger_0001.{table}")
    shown = set()
    for text, named in TAMPERINGS:
        assert execute(copied, text) == 1, text
        assert_found(copied, text, named)
        if named not in shown:
            assert_shown(copied, named)
            shown.add(named)
        table = text.partition("ledger_0001.")[2].split()[0]
        execute(copied, f"DELETE FROM ledger_0001.{table}")
        execute(copied, f"INSERT INTO ledger_0001.{table} SELECT * FROM public.{table}")
    assert verify(copied, 1, 2, 20, WATCH).equal
    for text in UNCHAINED:
        assert execute(copied, text) == 1, text
    verdict = json.loads(run(copied, "verify", "--json", check=False).stdout)
    assert "What generation 1 keeps outside the decisions was changed after" in verdict["conclusion"]
    assert len(verdict["side_differences"]) == len({*map(str, verdict["side_differences"])}) == len(UNCHAINED)


def assert_found(settings: Settings, text: str, named: str) -> None:
    """What was done to a row of generation 1 is found, by comparing it with generation 2."""
    verdict = verify(settings, 1, 2, 20, WATCH)
    assert verdict.conclusion == "Rows of generation 1 were changed after they were written.", text
    altered = [row.partition for row in verdict.partitions if not row.left_intact]
    if named == "stray":
        assert len(verdict.left_strays) == 1, text
    elif named == "checkpoint":
        assert altered == [1], text
    elif named == "balance":
        assert {row.account_id for row in verdict.left_wrong_balances} == {"user-7"}, text
    elif named == "dead letter":
        place = "SELECT log_partition, log_offset FROM ledger_0001.dead_letters WHERE value = 'y'"
        assert [row.first[:2] for row in verdict.accounts] == query(settings, place)
    else:
        (account,) = verdict.accounts
        assert (account.account, account.records) == ("user-7", 1), text
        assert altered == [OF_USER_7], text


def assert_shown(settings: Settings, named: str) -> None:
    """The command says it too, as JSON and as text."""
    done = run(settings, "verify", "1", "2", "--json", check=False)
    assert done.returncode == 5
    assert json.loads(done.stdout)["conclusion"] == "Rows of generation 1 were changed after they were written."
    shown = run(settings, "verify", "1", "2", check=False).stdout
    assert ("user-7" in shown) >= (named in ("balance", "record"))
    assert ("should be" in shown) >= (named == "balance")


ODD_TEXTS = [
    "".join(map(chr, range(1, 160))),
    "\\N",
    "\\.",
    "\\",
    "\\x41",
    "\u2028\u0085",
    "\N{PILE OF POO}" * 9,
    "'\"",
    "\ufeff",
]


def test_every_text_that_the_ledger_takes_gives_its_chain(ledger_settings: Settings) -> None:
    """The line that is hashed when a row is written is the one that PostgreSQL reports of it later, to the byte."""
    ids = ["a\\b", "\\N", "\\.", "x\u2028y", "é", "\N{PILE OF POO}" * 30]
    append(
        ledger_settings,
        [
            record("Grant", f"{n}{id}", f"acc {id}", 5, reason=text, source=text[:128], asset=id, metadata={"m": text})
            for n, text in enumerate(ODD_TEXTS)
            for id in ids
        ],
    )
    fold_log(ledger_settings)
    verdict = verify(ledger_settings, None, None, 20, WATCH)
    assert verdict.equal, verdict
    assert query(ledger_settings, "SELECT count(*) FROM ledger.journal") == [(len(ODD_TEXTS) * len(ids),)]


def test_two_generations_are_compared_where_both_have_been(folded: Settings) -> None:
    """One is ahead of the other: they are equal up to where the one behind stands."""
    rebuild(folded, Request(), WATCH)
    append(folded, history(500, 8, 3_000))
    fold_log(folded)
    assert run(folded, "verify", "2").returncode == 0
    assert run(folded, "verify", "1", "2").returncode == 0
    execute(folded, "UPDATE ledger_0002.journal SET balance = 1 WHERE account_id = 'user-7' AND version = 5")
    verdict = json.loads(run(folded, "verify", "2", "1", "--json", check=False).stdout)
    assert verdict["conclusion"] == "Rows of generation 2 were changed after they were written."
    assert verdict["accounts"][0]["first"]["left"]["balance"] == 1


def test_a_tampered_record_of_the_log_is_found(folded: Settings, stack: StackUnderTest) -> None:
    """Bytes of a command changed on the broker's disk, its checksum mended: the chain says that it was the log."""
    if not isinstance(stack, EmbeddedStack):
        pytest.skip("the broker's files can be reached in the embedded stack only")
    append(folded, [record("Grant", "target", "user-7", 50, reason="before!")], **{"compression.type": "none"})
    fold_log(folded)
    assert verify(folded, None, None, 20, WATCH).equal
    stack.stop_kafka()
    try:
        rewrite_value(folded.data_dir, folded.commands_topic, OF_USER_7, b"before!", b"after!!")
    finally:
        stack.start_kafka()
    done = run(folded, "verify", "--json", check=False)
    verdict = json.loads(done.stdout)
    assert done.returncode == 5
    assert "the topic was changed since" in verdict["conclusion"]
    (account,) = verdict["accounts"]
    assert (account["account"], account["records"]) == ("user-7", 1)
    assert [row["partition"] for row in verdict["partitions"] if not row["equal"]] == [OF_USER_7]


@contextmanager
def cleaned_at_once(settings: Settings) -> Iterator[None]:
    """Have the broker look for what it can compact all the time, and not every 15 s."""
    admin = AdminClient(settings.kafka_client)

    def pause(**how: Any) -> None:
        entry = ConfigEntry("log.cleaner.backoff.ms", **how)
        resource = ConfigResource(ConfigResource.Type.BROKER, "1", incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(HANG_S)

    pause(value="100", incremental_operation=AlterConfigOpType.SET)
    try:
        yield
    finally:
        pause(value=None, incremental_operation=AlterConfigOpType.DELETE)


def test_records_that_are_gone_from_the_middle_of_the_log_are_found(folded: Settings) -> None:
    """Somebody has Kafka compact the topic: of each account the last records stay, and it begins where it did."""
    before = read_log(folded)
    for name, value in (("segment.ms", "1"), ("min.cleanable.dirty.ratio", "0.0"), ("cleanup.policy", "compact")):
        alter(folded, folded.commands_topic, **{name: value})
    # The newest segment is never compacted, so another one has to begin in each partition.
    begin = [record("Spend", f"late{turn}-{number}", f"user-{number}", 1) for turn in range(2) for number in range(20)]
    append(folded, begin)
    with cleaned_at_once(folded):
        assert wait_until(lambda: len(read_log(folded)) < len(before), HANG_S)
    verdict = verify(folded, None, None, 1_000, WATCH)
    assert not verdict.equal
    assert "the topic was changed since" in verdict.conclusion
    # Read afterwards, since Kafka goes on compacting.
    left = {(entry.partition, entry.offset) for entry in read_log(folded)}
    gone = {(entry.partition, entry.offset) for entry in before} - left
    # Only what was decided by it is anybody's first difference: of duplicates nothing is kept.
    first = {(row.first.log_partition, row.first.log_offset) for row in verdict.accounts if row.first.right is None}
    assert first
    assert first <= gone


def test_what_differs_beside_other_decisions_is_not_blamed(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold that rejects what was accepted counts otherwise too; the conclusion is about the log all the same."""
    monkeypatch.setitem(RULESETS, 1, decide_two)
    verdict = verify(copied, None, None, 20, WATCH)
    assert (verdict.equal, bool(verdict.side_differences)) == (False, True)
    assert "the topic was changed since, or this release decides otherwise" in verdict.conclusion


def test_a_record_that_is_gone_from_the_start_of_the_log_is_reported(folded: Settings) -> None:
    """A fresh fold of what is left would be another ledger; it isn't begun."""
    from confluent_kafka import TopicPartition

    from creditfold.log.admin import KafkaAdmin

    place = TopicPartition(folded.commands_topic, 2, 5)
    admin = KafkaAdmin(folded)
    admin.client.delete_records([place])[place].result()
    done = run(folded, "verify", check=False)
    assert done.returncode == 1
    assert "begins at 2:5" in done.stderr
    refused = run(folded, "rebuild", check=False)
    assert (refused.returncode, "begins at 2:5" in refused.stderr) == (1, True)
    # Nothing was begun that would remind of itself for ever.
    assert states(folded) == {1: "live"}


# As of.


def test_as_of_on_the_command_line(copied: Settings) -> None:
    """At the position of a record, and before there were any."""
    one = "SELECT log_offset, balance FROM ledger.journal WHERE account_id = 'user-7' AND version = 1"
    (first,) = query(copied, one)
    said = json.loads(run(copied, "balance", "user-7", "--as-of", f"{OF_USER_7}:{first[0]}", "--json").stdout)
    assert [(row["available"], row["version"]) for row in said] == [(first[1], 1)]
    before = run(copied, "balance", "user-7", "--as-of", "1999-01-01")
    assert "had no decisions then" in before.stdout


OF_USER_7 = partition_of(b"user-7", 4)
AS_OF = ("balance", "user-7", "--as-of")

# a command that can't be meant                         | its exit code | what it says
REFUSED = [
    (("verify", "1"), 2, ""),
    (("verify", "9"), 2, ""),
    (("verify", "1", "2", "3"), 2, ""),
    ((*AS_OF, "yesterday"), 2, ""),
    ((*AS_OF, "2999-01-01"), 2, ""),
    ((*AS_OF, f"{(OF_USER_7 + 1) % 4}:1"), 2, ""),
    ((*AS_OF, f"{OF_USER_7}:99999999"), 4, ""),
    (("diff", "--rules", "2"), 2, ""),
    (("rules", "activate", "2"), 2, "workers of this release would stop"),
]


def test_what_can_t_be_meant_is_refused(copied: Settings) -> None:
    """Arguments that fit nothing that there is; all workers of a release would stop at rules that it lacks."""
    for words, code, said in REFUSED:
        done = run(copied, *words, check=False)
        assert (done.returncode, said in done.stderr) == (code, True), words
    assert "This release has rules 1." in run(copied, "rules", "list").stdout
    assert states(copied) == {1: "live"}


# Rules.


TWO = str(ROOT / "tests" / "programs" / "rules_two.py")


def activation(partition: int, version: int) -> Raw:
    """The control record, whatever this release knows of it."""
    return Raw(encode("ActivateRules", {"command_id": f"rules-{version}", "rules": version}), None, partition)


def test_diff_finds_nothing_where_nothing_changes(copied: Settings) -> None:
    """The same code by the log's own rules, or by the only version there is."""
    before = rows_of(copied, 1)
    assert "come to the same" in run(copied, "diff").stdout
    assert json.loads(run(copied, "diff", "--rules", "1", "--json").stdout)["changed"] == 0
    assert (rows_of(copied, 1), states(copied)) == (before, {1: "live"})


def test_diff_lists_each_command_that_other_rules_would_decide_otherwise(copied: Settings) -> None:
    """Against a computation of its own; nothing is written to the live generation, and the scratch one is dropped."""
    before = rows_of(copied, 1)
    done = run_two(copied, "diff", "--rules", "2", "--json", "--limit", "10000", code=5)
    changes = json.loads(done)
    assert (rows_of(copied, 1), states(copied)) == (before, {1: "live"})
    answers = {
        (row["position"], row["left"]["command_id"])
        for row in changes["changes"]
        if (row["left"]["what"], row["left"]["reason"]) != (row["right"]["what"], row["right"]["reason"])
    }
    assert answers == expected_changes(copied)
    totals = dict(changes["totals"])
    assert changes["changed"] == sum(totals.values()) == len(changes["changes"])
    # What is accepted both times takes other lots.
    assert totals.pop("accepted -> accepted") == changes["changed"] - len(answers)
    assert set(totals) <= {"accepted -> rejected insufficient_credits", "rejected insufficient_credits -> accepted"}
    table = run_two(copied, "diff", "--rules", "2", code=5)
    assert "would be decided otherwise" in table


def expected_changes(settings: Settings) -> set[tuple[str, str]]:
    """What rules 2 of the tests decide otherwise than the journal says, by plain dictionaries."""
    rows = query(
        settings,
        """SELECT log_partition, log_offset, account_id, command_id, kind, amount, accepted FROM ledger.journal
           ORDER BY log_partition, log_offset""",
    )
    balances: dict[str, int] = {}
    changed = set()
    for partition, offset, account, command_id, kind, amount, accepted in rows:
        have = balances.get(account, 0)
        fine = kind == "grant" or (amount <= have and amount <= 10)
        balances[account] = have + (amount if kind == "grant" else -amount) * fine
        if fine != accepted:
            changed.add((f"{partition}:{offset}", command_id))
    return changed


def run_two(settings: Settings, *arguments: str, code: int = 0) -> str:
    """Run the command line of a release that has rules 2."""
    done = run(settings, *arguments, check=False, program=(TWO,))
    assert done.returncode == code, done.stderr
    return done.stdout


class LaterWorker(WorkerProcess):
    """A worker of a release that has rules 2."""

    program = (TWO,)


def test_after_an_upgrade_old_records_are_decided_by_the_old_rules(folded: Settings, tmp_path: Path) -> None:
    """Rules 2 come into force by a record in the log; a rebuild afterwards decides what was before it as ever."""
    with worker(folded, tmp_path, "later", LaterWorker):
        said = run_two(folded, "rules", "activate", "2", "--reason", "release 2", "--source", "ann")
        assert "Rules 2 are in force from" in said
        append(folded, history(600, 6, 3_000))
        wait_until_folded(folded)
        assert "in force already" in run_two(folded, "rules", "activate", "2")
    by_rules = query(folded, "SELECT rules, count(*) FROM ledger.journal GROUP BY 1 ORDER BY 1")
    assert [rules for rules, _ in by_rules] == [1, 2]
    large = "SELECT count(*) FROM ledger.journal WHERE rules = %s AND kind = 'spend' AND amount > 10 AND accepted"
    assert query(folded, large, (1,))[0][0] > 0
    assert query(folded, large, (2,)) == [(0,)]
    run_two(folded, "rebuild")
    assert rows_of(folded, 2) == rows_of(folded, 1)
    run_two(folded, "verify")
    run_two(folded, "diff")
    listed = json.loads(run_two(folded, "rules", "list", "--json"))
    assert listed["in_force"] == {"0": 2, "1": 2, "2": 2, "3": 2}
    assert {(row["source"], row["note"]) for row in listed["activations"]} == {("ann", "release 2")}


def test_a_worker_of_older_rules_stops_and_a_newer_one_goes_on(folded: Settings, tmp_path: Path) -> None:
    """It folds nothing behind the record, says what it lacks, and ends; others of its partitions' records wait."""
    with worker(folded, tmp_path, "old") as old:
        append(folded, [activation(partition, 2) for partition in range(4)])
        append(folded, history(400, 7, 3_000))
        assert wait_until(lambda: old.process.poll() is not None, HANG_S)
        assert old.process.returncode == 1
        assert "goes over to rules 2" in old.text()
    assert query(folded, "SELECT count(*) FROM ledger.journal WHERE rules = 2") == [(0,)]
    refused = run(folded, "rebuild", check=False)
    assert refused.returncode == 1
    assert "rules 2" in refused.stderr
    with worker(folded, tmp_path, "later", LaterWorker):
        wait_until_folded(folded)
    assert query(folded, "SELECT DISTINCT rules FROM ledger.progress") == [(2,)]
    assert query(folded, "SELECT count(*) > 0 FROM ledger.journal WHERE rules = 2") == [(True,)]


def test_a_worker_of_older_rules_in_a_group_with_newer_ones(folded: Settings, tmp_path: Path) -> None:
    """It ends where the log goes over, the newer one takes its partitions, and started again it ends again.

    Whoever folded what: all of it is decided by the rules of its place in the log.
    """
    owners = "SELECT count(DISTINCT owner) FROM ledger.progress WHERE owner <> ''"
    with worker(folded, tmp_path, "old") as old, worker(folded, tmp_path, "later", LaterWorker) as later:
        assert wait_until(lambda: query(folded, owners) == [(2,)], HANG_S)
        append(folded, history(400, 7, 3_000))
        append(folded, [activation(partition, 2) for partition in range(4)])
        append(folded, history(400, 8, 3_400))
        assert wait_until(lambda: old.process.poll() is not None, HANG_S)
        wait_until_folded(folded)
        old.restart()
        turns = itertools.count()

        def ends() -> bool:
            # Records for whatever partition it is given.
            turn = next(turns)
            append(folded, history(40, 9 + turn, 3_800 + 40 * turn))
            return wait_until(lambda: old.process.poll() is not None, 1)

        assert wait_until(ends, HANG_S), old.latest()
        assert (old.process.returncode, "goes over to rules 2" in old.latest()) == (1, True)
        wait_until_folded(folded)
        assert later.process.poll() is None
    assert query(folded, "SELECT DISTINCT rules FROM ledger.progress") == [(2,)]
    run_two(folded, "verify")
