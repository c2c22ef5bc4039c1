"""Dead letters are redriven once, corrected or not, whoever tries and whatever is killed; each decision is kept."""

import base64
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

from creditfold.cli.append import redrive as command
from creditfold.cli.main import _run
from creditfold.cli.shared.arguments import ArgumentError, author_of
from creditfold.common.position import Position
from creditfold.common.settings import Settings, load_settings
from creditfold.ledger import CreditBook, Spend
from creditfold.log.partitioner import partition_of
from creditfold.processors.fold.chunk import MAX_DEAD_BYTES, fold, read_records
from creditfold.processors.letters import LetterResult
from creditfold.processors.redrive import Redriven, Redriver
from creditfold.producers import redrive
from creditfold.producers.client import CommandProducer
from creditfold.producers.models.commands import MODELS
from creditfold.producers.models.errors import AppendError
from creditfold.producers.redrive import (
    Corrections,
    Letter,
    RedriveRefusedError,
    command_of,
    mend,
    next_attempt,
    redrive_headers,
)
from creditfold.projections.queries import decisions
from creditfold.projections.queries.dead_letters import dead_letter
from creditfold.projections.queries.decisions import RedriveUnderWayError
from creditfold.projections.store.results import DeadLetter
from creditfold.schemas.wire import decode, encode
from helpers.command_line import use
from helpers.databases import role
from helpers.fork_server import run
from helpers.records import FakeRecord
from helpers.support import (
    HANG_S,
    ROOT,
    Cli,
    Done,
    Raw,
    append,
    assert_equals_second_fold,
    environment,
    fold_log,
    query,
    read_log,
    record,
    wait_until_folded,
    worker,
)
from programs.redrive_killed import STEPS

AT = Position(2, 7)
OUTCOME = {"log_partition": 0, "log_offset": 0, "account": "ann", "version": 1, "command_id": "1", "asset": "c"}


def G(amount: Any = 5, command_id: str = "g1", account: str = "ann", **more: Any) -> bytes:  # noqa: N802 - as in a ledger
    """A grant's bytes, valid or not."""
    return encode("Grant", {"command_id": command_id, "account": account, "asset": "credits", "amount": amount, **more})


ACTIVATION = encode("ActivateRules", {"command_id": "r2", "rules": 2})
DECIDED = {"kind": "grant", "amount": 1, "balance": 1, "rules": 1, "decided_at": 0}
ACCEPTED = encode("CommandAccepted", {**OUTCOME, **DECIDED})
WHOLE = {"type": "spend", "command_id": "s1", "account": "bob", "asset": "credits", "amount": 9}
UNKNOWN = b"\0\0\1\x86\x9f" + G()[5:]
LONG = {f"{n}": "é" * 1_024 for n in range(32)}


def fields(**more: Any) -> Corrections:
    return Corrections(fields=more)


AS_IT_WAS = Corrections()
AS_WHOLE = Corrections(command=WHOLE)

# What a redrive appends: its command id, account and amount; or the words of its refusal.
JUDGED: list[tuple[str, bytes | None, Corrections, tuple[str, str, int] | str]] = [
    # reason              value             corrections                    appended, or why not
    ("empty_value", None, AS_IT_WAS, "2:7 holds no command: its bytes are no record (empty_value"),
    ("empty_value", None, fields(amount=5), "--type TYPE and each field by --set"),
    ("empty_value", None, AS_WHOLE, ("s1", "bob", 9)),
    ("empty_value", None, Corrections(WHOLE | {"type": "grant"}, {}, "spend"), ("s1", "bob", 9)),
    ("empty_value", None, Corrections({"account": "bob"}, {}, "spend"), "command_id is missing"),
    ("oversize", G(reason="x" * 70_000), AS_IT_WAS, "2:7 is too large"),
    ("oversize", G(reason="x" * 70_000), fields(amount=6), "reason must be a text of at most"),
    ("oversize", G(reason="x" * 70_000), fields(reason="x"), ("g1", "ann", 5)),
    ("oversize", G(metadata=LONG), fields(amount=6), "the log takes 65,536"),
    ("not_framed", b"noise", AS_IT_WAS, "no zero byte"),
    ("not_framed", b"noise", AS_WHOLE, ("s1", "bob", 9)),
    ("unknown_schema_id", UNKNOWN, AS_IT_WAS, "schema id 99999"),
    ("unknown_schema_id", UNKNOWN, AS_WHOLE, ("s1", "bob", 9)),
    ("unknown_schema_id", G(), AS_IT_WAS, ("g1", "ann", 5)),
    ("unknown_schema_id", ACCEPTED, AS_IT_WAS, "it is a CommandAccepted"),
    ("unknown_schema_id", ACTIVATION, AS_IT_WAS, "creditfold rules activate"),
    ("not_avro", G() + b"x", AS_IT_WAS, "bytes left over"),
    ("not_avro", G() + b"x", AS_WHOLE, ("s1", "bob", 9)),
    ("invalid_command", G(-5), AS_IT_WAS, "amount must be a whole number from 1"),
    ("invalid_command", G(-5), fields(amount=0), "amount must be a whole number from 1"),
    ("invalid_command", G(-5), fields(amount=5), ("g1", "ann", 5)),
    ("invalid_command", G(-5), Corrections(command={"type": "grant"}), "command_id is missing"),
    ("invalid_command", ACTIVATION, AS_WHOLE, "creditfold rules activate"),
    ("key_mismatch", G(), AS_IT_WAS, ("g1", "ann", 5)),
    ("key_mismatch", G(), fields(account="bob"), ("g1", "bob", 5)),
    ("key_mismatch", ACTIVATION, AS_IT_WAS, "creditfold rules activate"),
    ("wrong_partition", G(), AS_IT_WAS, ("g1", "ann", 5)),
    ("command_id_reused", G(), AS_IT_WAS, "--set command_id=NEW-ID"),
    ("command_id_reused", G(), fields(amount=6), "--set command_id=NEW-ID"),
    (
        "command_id_reused",
        G(),
        Corrections(command={**WHOLE, "account": "ann", "command_id": "g1"}),
        "--set command_id",
    ),
    ("command_id_reused", G(), fields(command_id="g2"), ("g2", "ann", 5)),
    ("command_id_reused", G(), fields(account="bob"), ("g1", "bob", 5)),
    ("rules_not_newer", ACTIVATION, AS_IT_WAS, "creditfold rules activate"),
]


def letter(reason: str, value: bytes | None, detail: str = "") -> Letter:
    return Letter(AT, reason, detail, value)


@pytest.mark.parametrize(("reason", "value", "corrections", "expected"), JUDGED)
def test_what_a_redrive_appends_or_why_it_refuses(
    reason: str, value: bytes | None, corrections: Corrections, expected: tuple[str, str, int] | str
) -> None:
    """By the letter's reason: what would only be a dead letter again isn't appended."""
    if isinstance(expected, str):
        with pytest.raises(RedriveRefusedError) as refused:
            mend(letter(reason, value), corrections, rules=1)
        assert expected in str(refused.value)
        assert str(AT) in refused.value.message
        assert refused.value.remedy
        return
    mended = mend(letter(reason, value), corrections, rules=1)
    found = decode(mended.record.value).fields
    assert (found["command_id"], found["account"], found["amount"]) == expected
    assert mended == mend(letter(reason, value), corrections, rules=1)
    # The fold takes it where the partitioner puts it.
    assert mended.record.key is not None
    entry = FakeRecord(0, 0, mended.record.key, mended.record.value)
    ((_, content),) = read_records([entry], partition_of(mended.record.key, 8), 8)
    assert not isinstance(content, DeadLetter)


def test_corrections_change_what_they_name_and_nothing_else() -> None:
    """A field, a note among others, the type."""
    value = G(-5, occurred_at=1_700_000_000_000, source="shop", metadata={"a": "1", "b": "2"})
    mended = mend(letter("invalid_command", value), Corrections({"amount": 5}, {"b": "3", "c": "4"}, "spend"), 1)
    found = decode(mended.record.value)
    assert found.record == "Spend"
    was = decode(value).fields
    new = was | {"amount": 5, "metadata": {"a": "1", "b": "3", "c": "4"}}
    assert found.fields == {name: new.get(name, Spend._field_defaults.get(name)) for name in found.fields}


def test_a_type_is_corrected_but_not_what_the_other_command_would_not_say() -> None:
    """A field at its default goes unsaid; one that says something is not dropped in silence."""
    promo = G(-5, lot_class="promo")
    with pytest.raises(RedriveRefusedError, match="'lot_class' is not a field of a command of type 'spend'"):
        mend(letter("invalid_command", promo), Corrections({"amount": 5}, type="spend"), 2)


def test_every_flat_command_can_be_said_by_its_type_and_fields() -> None:
    """As docs/operating.md has it."""
    assert list(get_args(command.FlatType)) == [name for name in MODELS if name != "batch"]
    said = command._corrections(["hold=h", "final=true", "amount=05", "metadata.k=v"], "capture", None)
    assert said == Corrections({"hold": "h", "final": True, "amount": 5}, {"k": "v"}, "capture")


def test_a_batch_is_mended_with_its_steps_as_they_were() -> None:
    """Each is written as its type and its own fields."""
    body = {"command_id": "b", "account": "ada", "steps": [{"kind": "hold", "command_id": "h", "asset": "x"}]}
    fields = {**body, "steps": [{**body["steps"][0], "amount": 3, "deadline": 9}]}  # type: ignore[dict-item, index]
    mended = mend(letter("key_mismatch", encode("Batch", fields)), Corrections(), 2)
    assert mended.record.value == encode("Batch", fields)


@pytest.mark.parametrize(
    ("record", "fields", "says"),
    [
        ("Tick", {"command_id": "tick-0-1", "minute": 1}, "no command but a tick"),
        ("SettleTransfer", {"command_id": "~t", "account": "ada", "transfer": "t"}, "only workers write"),
    ],
)
def test_what_only_workers_write_is_not_redriven(record: str, fields: dict[str, Any], says: str) -> None:
    """Not even in another's name."""
    with pytest.raises(RedriveRefusedError, match=says):
        mend(letter("key_mismatch", encode(record, fields)), Corrections(), 2)


def test_a_schema_of_later_rules_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the letter had it or its re-encoding would bring it."""
    monkeypatch.setattr(redrive, "decode", lambda value: decode(value)._replace(rules=2))
    with pytest.raises(RedriveRefusedError, match="creditfold rules activate 2"):
        mend(letter("unknown_schema_id", G()), AS_IT_WAS, rules=1)
    assert mend(letter("unknown_schema_id", G()), AS_IT_WAS, rules=2).command.amount == 5


@pytest.mark.parametrize("key", [b"ann", b"k" * MAX_DEAD_BYTES])
@pytest.mark.parametrize("value", [G(account="bob"), G() + b"x" * MAX_DEAD_BYTES])
def test_a_letter_that_is_kept_in_part_needs_a_whole_command(key: bytes, value: bytes) -> None:
    """Its bytes may end anywhere, even where a record could end."""
    ((_, dead),) = read_records([FakeRecord(7, 0, key, value)], 0, 1)
    assert isinstance(dead, DeadLetter)
    if len(key) + len(value) < MAX_DEAD_BYTES:
        assert mend(Letter(AT, dead.reason, dead.detail, dead.value), AS_IT_WAS, 1).command.account == "bob"
        return
    for corrections in (AS_IT_WAS, fields(amount=6), Corrections(type="grant")):
        with pytest.raises(RedriveRefusedError, match="kept in part only"):
            mend(Letter(AT, dead.reason, dead.detail, dead.value), corrections, 1)
    assert mend(Letter(AT, dead.reason, dead.detail, dead.value), AS_WHOLE, 1).command.amount == 9


@pytest.mark.parametrize(
    ("headers", "attempt"),
    [
        ([], 1),
        ([("redrive-attempt", "1")], 2),
        ([("redrive-attempt", "1"), ("redrive-attempt", "41")], 42),
        ([("redrive-attempt", None)], 1),
        ([("redrive-attempt", "-5")], 1),
        ([("redrive-attempt", "²")], 1),
        ([("redrive-attempt", "9" * 18)], 10**9 + 1),
        ([("redrive-attempt", "9" * 5_000)], 1),
        ([("attempt", "7")], 1),
    ],
)
def test_attempts_are_counted(headers: list[tuple[str, str | None]], attempt: int) -> None:
    """By the dead record's own header, which anyone may have written."""
    coded = [(name, text and base64.b64encode(text.encode()).decode()) for name, text in headers]
    assert next_attempt(letter("not_framed", b"")._replace(headers=coded)) == attempt


def test_a_header_that_is_not_base64_counts_for_nothing() -> None:
    """The projection writes base64; a table may have been edited."""
    assert next_attempt(letter("not_framed", b"")._replace(headers=[("redrive-attempt", "é%")])) == 1


def test_the_fold_reads_the_headers_that_a_redrive_writes() -> None:
    """Position, name and reason, in any script."""
    headers = redrive_headers(AT, "Zoë", "señal ✓", 3)
    result = fold(read_records([FakeRecord(9, 0, b"ann", G(), headers)], 0, 1), CreditBook(), 10)
    assert [tuple(row) for row in result.redrives] == [(9, AT, "Zoë", "señal ✓")]
    assert headers[-1] == ("redrive-attempt", b"3")


def test_what_a_letter_holds_can_be_shown() -> None:
    """The fields of a command, valid or not; nothing for anything else."""
    assert command_of(G(-5)) == {"type": "grant", **decode(G(-5)).fields}
    assert [command_of(value) for value in (None, b"noise", ACTIVATION, ACCEPTED)] == [None] * 4


# Arguments.


WHY = ("--why", "a test", "--by", "ann")


@pytest.fixture
def bare(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Runs `creditfold dead-letters ...` in this process."""
    monkeypatch.setattr(sys, "stdin", None)

    def run(*arguments: str) -> Done:
        load_settings.cache_clear()
        capsys.readouterr()
        # The default is too short for a slow machine.
        waits = arguments[:1] == ("redrive",) and "--timeout" not in arguments
        code = _run(["dead-letters", *arguments, *(("--timeout", str(HANG_S)) if waits else ())])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    yield run
    load_settings.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["redrive"], "Missing option '--why'"),
        (["redrive", *WHY], "Which dead letters?"),
        (["discard", *WHY], "Which dead letters?"),
        (["redrive", "2:0", "--all", *WHY], "exclude each other"),
        (["redrive", "2:0", "--reason", "not_avro", *WHY], "exclude each other"),
        (["discard", "--all", "--account", "ann", *WHY], "exclude each other"),
        (["redrive", "here", *WHY], "partition:offset"),
        (["redrive", "--reason", "whatever", *WHY], "not_framed"),
        (["redrive", "--account", " ann", *WHY], "no account id"),
        (["redrive", "--since", "yesterday", *WHY], "no time"),
        (["redrive", "--since", "0001-01-01T00:00+23:59", *WHY], "no time"),
        (["redrive", "2:0", "--why", " "], "--why has no text"),
        (["redrive", "2:0", "--why", "x" * 1_025], "1 to 1,024"),
        (["redrive", "2:0", "--why", "\udcff"], "--why has no text"),
        (["redrive", "2:0", "--why", "x", "--by", ""], "--by NAME"),
        (["discard", "2:0", "--why", "x", "--by", "x\ny"], "--by NAME"),
        (["discard", "2:0", "--why", "x", "--by", "x" * 129], "--by NAME"),
        (["redrive", "2:0", "--set", "amount", *WHY], "no FIELD=VALUE"),
        (["redrive", "2:0", "--set", "balance=5", *WHY], "no FIELD=VALUE"),
        (["redrive", "2:0", "--set", "metadata=5", *WHY], "no FIELD=VALUE"),
        (["redrive", "2:0", "--set", "type=grant", *WHY], "no FIELD=VALUE"),
        (["redrive", "2:0", "--set", "amount=1", "--set", "amount=2", *WHY], "given twice"),
        (["redrive", "2:0", "--set", "metadata.a=1", "--set", "metadata.a=2", *WHY], "given twice"),
        (["redrive", "2:0", "--type", "take", *WHY], "--type"),
        (["redrive", "2:0", "--command", "{}", "--set", "amount=1", *WHY], "the whole command"),
        (["redrive", "2:0", "--command", "{", *WHY], "not JSON"),
        (["redrive", "2:0", "--command", "[" * 100_000, *WHY], "nested too deeply"),
        (["redrive", "2:0", "--command", '{"amount": ' + "9" * 5_000 + "}", *WHY], "not JSON"),
        (["redrive", "2:0", "--command", "[]", *WHY], "not a JSON object"),
        (["redrive", "2:0", "--command", '{"type": "grant", "amount": 1, "amount": 2}', *WHY], "'amount' twice"),
        (["redrive", "2:0", "--command", '{"type": "refund", "amount": null}', *WHY], "'amount' is null"),
        (["redrive", "--since", "1893456000", *WHY], "is in seconds?"),
        (["redrive", "2:0", "--command", "@no-such-file", *WHY], "no-such-file"),
        (["redrive", "2:0", "--command", "@/dev/zero", *WHY], "has more than 1,000,000 bytes"),
        (["redrive", "2:0", "--command", "@.", *WHY], "Can't read"),
        (["redrive", "2:0", "2:1", "--command", "{}", *WHY], "one command id"),
        (["redrive", "--all", "--set", "command_id=x", *WHY], "one command id"),
        (["redrive", "2:0", "--timeout", "0", *WHY], "--timeout"),
    ],
)
def test_a_wrong_argument_is_refused_before_any_server_is_asked(bare: Cli, arguments: list[str], said: str) -> None:
    """Exit code 2, what is wrong, what to try."""
    done = bare(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert "\ntry: " in done.err
    assert said in done.err


def test_the_author_is_the_user_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment; where it names nobody, --by must."""
    monkeypatch.setenv("USER", "zoe")
    assert (author_of(None), author_of("ann")) == ("zoe", "ann")

    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.delenv("USER")
    monkeypatch.setattr("getpass.getuser", nobody)
    with pytest.raises(ArgumentError, match="--by NAME"):
        author_of(None)


# On the real stack.


@pytest.fixture
def cli(bare: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cli]:
    """Runs a command on a ledger of its own, with a worker folding."""
    use(ledger_settings, monkeypatch)
    with worker(ledger_settings, tmp_path):
        yield bare


def dead(settings: Settings, *records: Raw) -> list[str]:
    """Append records that become dead letters; their positions, in the order of the log."""
    before = set(query(settings, "SELECT log_partition, log_offset FROM ledger.dead_letters"))
    append(settings, records)
    wait_until_folded(settings)
    after = query(settings, "SELECT log_partition, log_offset FROM ledger.dead_letters ORDER BY 1, 2")
    return [f"{row[0]}:{row[1]}" for row in after if row not in before]


def wrong_key(command_id: str, amount: int = 5) -> Raw:
    """A grant to ann under another's key, in partition 0."""
    return record("Grant", command_id, "ann", amount)._replace(key=b"other", partition=0)


def states(cli: Cli) -> dict[str, tuple[str, str | None]]:
    return {row["position"]: (row["state"], row["to"]) for row in cli("list", "--json").json}


def balance(settings: Settings, account: str = "ann") -> int:
    rows = query(settings, "SELECT available FROM ledger.balances WHERE account_id = %s", (account,))
    return int(rows[0][0]) if rows else 0


def granted(command_id: str, amount: int) -> tuple[str, ...]:
    """A whole grant to ann, field by field."""
    fields = (f"command_id={command_id}", "account=ann", "asset=credits", f"amount={amount}")
    return ("--type", "grant", *(word for field in fields for word in ("--set", field)))


def test_letters_of_every_reason(cli: Cli, ledger_settings: Settings) -> None:
    """Each is refused as it is or taken, then corrected; the balances are those of what was meant."""
    wrong = (partition_of(b"ann", 4) + 1) % 4
    ok = record("Grant", "ok", "ann", 100)
    append(ledger_settings, [ok])
    spend = json.dumps(WHOLE | {"account": "ann", "amount": 100})
    cases = [
        (record("Grant", "a", "ann", 1)._replace(partition=wrong), False, ()),
        (wrong_key("b", 10), False, ()),
        (record("Grant", "c", "ann", -100), True, ("--set", "amount=100")),
        (record("Grant", "d", "ann", 1_000, reason="x" * 70_000), True, ("--set", "reason=short")),
        (Raw(b"noise", b"ann"), True, ("--command", spend)),
        (Raw(UNKNOWN, b"ann"), True, granted("u", 10_000)),
        (Raw(G(100_000) + b"x", b"ann"), True, granted("e", 100_000)),
        (Raw(None, b"ann"), True, granted("f", 1_000_000)),
        (record("Grant", "ok", "ann", 10_000_000), True, ("--set", "command_id=ok-2")),
    ]
    dead(ledger_settings, *(raw for raw, _, _ in cases))
    letters = query(ledger_settings, "SELECT value, log_partition, log_offset FROM ledger.dead_letters")
    positions = {value: f"{partition}:{offset}" for value, partition, offset in letters}
    for raw, refused, corrections in cases:
        position = positions[raw.value]
        if refused:
            done = cli("redrive", position, *WHY)
            assert (done.code, done.out) == (3, ""), done
            assert done.err.startswith(f"error: {position} ")
            assert states(cli)[position] == ("open", None)
        done = cli("redrive", position, *WHY, *corrections)
        assert done.code == 0, done
        assert f"redriven: {position} as " in done.out
        assert "\naccepted: " in done.out
    assert balance(ledger_settings) == 100 + 1 + 10 + 100 + 1_000 - 100 + 10_000 + 100_000 + 1_000_000 + 10_000_000
    assert {state for state, _ in states(cli).values()} == {"redriven"}
    assert cli("list", "--open").out == "There are no open dead letters.\n"
    assert [row[-1] for row in redriven_rows(ledger_settings)] == [True] * len(cases)


def test_a_letter_is_redriven_once_and_the_decision_is_reported(cli: Cli, ledger_settings: Settings) -> None:
    """By whom, when, why, and where to; in words and in JSON."""
    (position,) = dead(ledger_settings, wrong_key("g1"))
    first = cli("redrive", position, "--why", "wrong client", "--by", "Zoë", "--json").json
    to = first["position"]
    assert (first["outcome"], first["redrive_of"], first["decision"]["amount"]) == ("accepted", position, 5)
    again = cli("redrive", position, *WHY, "--set", "command_id=g2")
    assert (again.code, again.out) == (3, "")
    assert again.err.startswith(f"error: {position} was redriven already, to {to}, by Zoë at 2")
    assert ": wrong client.\ntry: " in again.err
    assert cli("discard", position, *WHY).err.startswith(f"error: {position} was redriven already, to {to}, by Zoë")
    shown = cli("show", position).out
    assert f"state        redriven to {to}\n" in shown
    assert " by Zoë: wrong client\n" in shown
    assert "command      amount = 5\n" in shown
    as_json = cli("show", position, "--json").json
    assert (as_json["command"]["type"], as_json["to"], as_json["corrected"]) == ("grant", to, False)
    assert query(ledger_settings, "SELECT decided_by, note FROM ledger.redrives") == [("Zoë", "wrong client")]
    assert balance(ledger_settings) == 5
    assert cli("redrive", "3:999", *WHY).code == 2
    # Decisions go with their database; what was appended is in the log, and is refused a second time.
    assert len(query(ledger_settings, "DELETE FROM ledger.dead_letter_decisions RETURNING 1")) == 1
    assert states(cli)[position] == ("redriven", to)
    done = cli("redrive", position, *WHY, "--set", "command_id=g2")
    assert done.code == 3
    assert done.err.startswith(
        f"error: {position} was redriven already, to {to}, by Zoë: wrong client. The decision was lost"
    )
    assert cli("discard", position, *WHY).code == 3
    assert balance(ledger_settings) == 5


def test_a_redriven_command_may_be_rejected_or_a_duplicate(cli: Cli, ledger_settings: Settings) -> None:
    """The outcome is reported in the words and codes of `grant` and `spend`."""
    spend = record("Spend", "s", "ann", 5)._replace(key=b"other", partition=0)
    positions = dead(ledger_settings, spend, wrong_key("g1"), wrong_key("g1"))
    rejected = cli("redrive", positions[0], *WHY)
    assert rejected.code == 3
    assert "rejected: insufficient_credits: spend of 5 credits; ann has 0 credits" in rejected.out
    assert cli("redrive", positions[1], *WHY).code == 0
    duplicate = cli("redrive", positions[2], *WHY)
    assert (duplicate.code, "duplicate: " in duplicate.out) == (0, True)
    (late,) = dead(ledger_settings, wrong_key("g2"))
    assert cli("redrive", late, *WHY, "--no-wait").out.startswith(f"redriven: {late} as ")
    wait_until_folded(ledger_settings)
    assert balance(ledger_settings) == 10


def test_a_letter_that_is_dead_again_is_redriven_in_its_turn(cli: Cli, ledger_settings: Settings) -> None:
    """As an attempt more, and with each step shown."""
    append(ledger_settings, [record("Grant", "taken", "ann", 1), record("Grant", "taken-2", "ann", 1)])
    (first,) = dead(ledger_settings, record("Grant", "taken", "ann", 5))
    again = cli("redrive", first, *WHY, "--set", "command_id=taken-2", "--json")
    assert (again.code, again.json["outcome"], again.json["reason"]) == (3, "dead_letter", "command_id_reused")
    second = again.json["position"]
    assert states(cli) == {first: ("redriven", second), second: ("open", None)}
    assert f"and {second} is a dead letter again: command_id_reused" in cli("show", first).out
    shown = cli("show", second, "--json").json
    assert shown["mends"] == first
    assert ["redrive-attempt", base64.b64encode(b"1").decode()] in shown["headers"]
    assert f"mends        {first}, by ann: a test" in cli("show", second).out
    third = cli("redrive", second, *WHY, "--set", "command_id=taken", "--json").json["position"]
    assert ["redrive-attempt", base64.b64encode(b"2").decode()] in cli("show", third, "--json").json["headers"]
    assert cli("redrive", third, *WHY, "--set", "command_id=free").code == 0
    assert balance(ledger_settings) == 7
    assert_equals_second_fold(ledger_settings)


def test_a_filter_or_all_need_a_yes(cli: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts by reason are shown first. Without a terminal --yes must be said; a no does nothing."""
    dead(ledger_settings, wrong_key("g1"), wrong_key("g2"), Raw(b"noise", b"ann", 1))
    refused = cli("redrive", "--all", *WHY)
    assert refused.code == 2
    assert [line.split() for line in refused.out.splitlines()] == [
        ["reason", "dead", "letters"],
        ["key_mismatch", "2"],
        ["not_framed", "1"],
    ]
    assert "Add --yes" in refused.err
    asked = []

    def no(question: str, **_: Any) -> bool:
        asked.append(question)
        return False

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("typer.confirm", no)
    assert cli("redrive", "--all", *WHY).code == 1
    assert cli("discard", "--reason", "not_framed", *WHY).code == 1
    assert asked == ["Redrive 3 dead letters?", "Discard 1 dead letter?"]
    assert {state for state, _ in states(cli).values()} == {"open"}
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    assert cli("discard", "--reason", "not_framed", *WHY).code == 0


def test_many_are_redriven_and_refusals_stop_nothing(cli: Cli, ledger_settings: Settings) -> None:
    """By reason, by key, since a time, all; each letter's result, and 3 if one was refused."""
    dead(ledger_settings, *(wrong_key(f"g{n}") for n in range(30)))
    (noise,) = dead(ledger_settings, Raw(b"noise", b"ann", 1))
    (poor,) = dead(ledger_settings, record("Spend", "s", "bob", 1)._replace(key=b"third", partition=3))
    dry = cli("redrive", "--all", *WHY, "--dry-run", "--json")
    assert dry.code == 3
    assert [row["result"] for row in dry.json].count("would_be_redriven") == 31
    assert dry.json[0]["command"]["command_id"] == "g0"
    assert len(read_log(ledger_settings)) == 32
    assert query(ledger_settings, "SELECT * FROM ledger.dead_letter_decisions") == []
    assert cli("redrive", "--since", "9999-01-01", *WHY).out == "There are no such dead letters.\n"
    third = cli("redrive", "--account", "third", *WHY, "--yes")
    assert third.code == 3
    assert "rejected" in third.out
    some = cli("redrive", "--reason", "key_mismatch", *WHY, "--yes", "--json")
    assert (some.code, {row["result"] for row in some.json}, len(some.json)) == (0, {"accepted"}, 30)
    # In the order of the log.
    assert [row["position"] for row in some.json] == sorted((row["position"] for row in some.json), key=_place)
    assert balance(ledger_settings) == 150
    rest = cli("redrive", "--all", *WHY, "--yes")
    assert rest.code == 3
    assert "holds no command" in rest.out
    named = cli("redrive", noise, poor, *WHY, "--json")
    assert (named.code, [row["result"] for row in named.json]) == (3, ["refused", "refused"])
    assert cli("redrive", noise, "3:999", *WHY).code == 2
    assert_equals_second_fold(ledger_settings)


def _place(text: str) -> Position:
    return Position.parse(text)


def test_a_summary_of_many_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    """What went well is counted; what didn't is named, the first twenty."""
    fine = [LetterResult(Position(0, n), "key_mismatch", "accepted", Position(1, n)) for n in range(50)]
    bad = [LetterResult(Position(0, n), "not_framed", "refused", detail=f"{n} is noise") for n in range(50, 75)]
    command._print_results(fine + bad, json=False)
    out = capsys.readouterr().out
    assert (out.count("is noise"), out.count("key_mismatch")) == (20, 0)
    assert "and 5 more; --json shows all" in out
    assert [line.split() for line in out.splitlines()[-2:]] == [["accepted", "50"], ["refused", "25"]]
    command._print_results(fine, json=False)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["result", "dead", "letters"],
        ["accepted", "50"],
    ]


def test_what_failed_leaves_the_rest_reported(
    cli: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka goes away after the second of three: two are reported, the third is finished later."""
    positions = dead(ledger_settings, *(wrong_key(f"g{n}") for n in range(3)))
    real, calls = CommandProducer.append_record, []

    def failing(*arguments: Any) -> Position:
        calls.append(arguments)
        if len(calls) == 3:
            raise AppendError("Kafka is away.", "Wait.")
        return real(*arguments)

    monkeypatch.setattr(CommandProducer, "append_record", failing)
    done = cli("redrive", *positions, *WHY, "--json")
    assert (done.code, [row["result"] for row in done.json]) == (1, ["appended", "appended"])
    assert f"The decision about {positions[2]} is recorded; redrive it again" in json.loads(done.err)["try"]
    wait_until_folded(ledger_settings)
    assert (states(cli)[positions[2]], balance(ledger_settings)) == (("redriving", None), 10)
    refused = cli("redrive", positions[2], *WHY, "--set", "amount=6")
    assert (refused.code, "is being redriven with another command, by ann" in refused.err) == (3, True)
    assert cli("discard", positions[2], *WHY).code == 3
    assert cli("redrive", "--all", *WHY, "--yes").code == 0
    assert balance(ledger_settings) == 15


def test_discarded_letters_stay_and_are_not_redriven(cli: Cli, ledger_settings: Settings) -> None:
    """The decision is kept beside the letter."""
    one, two = dead(ledger_settings, wrong_key("g1"), wrong_key("g2"))
    assert cli("discard", one, *WHY, "--dry-run").code == 0
    assert states(cli)[one] == ("open", None)
    assert cli("discard", one, "--why", "noise", "--by", "zoe").code == 0
    assert states(cli) == {one: ("discarded", None), two: ("open", None)}
    for verb in ("redrive", "discard"):
        done = cli(verb, one, *WHY)
        assert done.code == 3
        assert done.err.startswith(f"error: {one} was discarded by zoe at 2")
    assert "noise" in cli("show", one).out
    many = cli("discard", "--all", *WHY, "--yes", "--json")
    assert [(row["position"], row["result"]) for row in many.json] == [(two, "discarded")]
    assert cli("redrive", "--all", *WHY).out == "There are no such dead letters.\n"
    assert len(read_log(ledger_settings)) == 2


def killed(settings: Settings, step: str, *arguments: str) -> None:
    """Run a command in a process that dies at a step."""
    script = str(ROOT / "tests" / "programs" / "redrive_killed.py")
    done = run([script, step, "dead-letters", *arguments], env=environment(settings), timeout=HANG_S)
    assert done.returncode == -signal.SIGKILL, done


def redriven_rows(settings: Settings) -> list[tuple[Any, ...]]:
    return query(
        settings,
        """SELECT d.log_partition, d.log_offset, (to_partition, to_offset) = (r.log_partition, r.log_offset)
           FROM ledger.dead_letter_decisions d LEFT JOIN ledger.redrives r
             ON (of_partition, of_offset) = (d.log_partition, d.log_offset) ORDER BY 1, 2""",
    )


def test_a_redrive_killed_at_any_step_is_finished_by_the_next(cli: Cli, ledger_settings: Settings) -> None:
    """Each letter has one record that mends it, one effect, and a decision that says where."""
    positions = dead(ledger_settings, *(wrong_key(f"g{n}") for n in range(len(STEPS))))
    for step, position in zip(STEPS, positions, strict=True):
        killed(ledger_settings, step, "redrive", position, *WHY, "--set", "amount=7")
        state, to = states(cli)[position]
        assert state == ("open" if step == "before_insert" else "redriving"), step
        done = cli("redrive", position, *WHY, "--set", "amount=7", "--json")
        assert (done.code, done.json["outcome"]) == (0, "accepted"), step
        assert states(cli)[position] == ("redriven", done.json["position"]), step
        assert to in (None, done.json["position"]), step
    # No join has doubled a row, so no letter was appended twice, but for what was on its way and may have come later.
    late = _place(dict(zip(STEPS, positions, strict=True))["while_appending"])
    rows = [row for row in redriven_rows(ledger_settings) if row[2] or row[:2] != late]
    assert rows == [(*_place(position), True) for position in positions]
    assert balance(ledger_settings) == 7 * len(STEPS)
    assert_equals_second_fold(ledger_settings)


def tried(settings: Settings, position: str, results: list[Any], corrections: Corrections = AS_IT_WAS) -> None:
    """Redrive a letter as one of several operators; the result or the refusal is kept."""
    with decisions.decision_connection(settings.dsn) as connection, ExitStack() as closing:
        redriver = Redriver(connection, settings, "zoe", "a test", corrections, HANG_S, closing)
        row = dead_letter(connection, _place(position))
        assert row is not None
        try:
            results.append(redriver.redrive(row))
        except (RedriveRefusedError, RedriveUnderWayError) as refused:
            results.append(refused)


def test_two_redrives_at_once_have_one_effect(
    cli: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen an open letter, and both decide in the same moment, alike or differently."""
    positions = dead(ledger_settings, *(wrong_key(f"g{n}") for n in range(6)))
    real, barrier = decisions.record_decision, threading.Barrier(2)

    def at_once(*arguments: Any) -> bool:
        barrier.wait(HANG_S)
        return real(*arguments)

    monkeypatch.setattr(decisions, "record_decision", at_once)
    for number, position in enumerate(positions):
        results: list[Any] = []
        threads = [
            threading.Thread(
                target=tried, args=(ledger_settings, position, results, fields(amount=n) if number % 2 else AS_IT_WAS)
            )
            for n in (6, 7)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_S)
        done = {row.to for row in results if isinstance(row, Redriven)}
        assert (len(results), len(done)) == (2, 1), results
    wait_until_folded(ledger_settings)
    assert redriven_rows(ledger_settings) == [(*_place(position), True) for position in positions]
    assert query(ledger_settings, "SELECT count(*) FROM ledger.journal") == [(len(positions),)]
    assert len(read_log(ledger_settings)) == 2 * len(positions)


@contextmanager
def somebody_at(settings: Settings, position: str, owner: Any, name: str, *, after: bool) -> Iterator[list[Any]]:
    """Somebody who redrives a letter, and stands still before or after a first call; what came of it by the end."""
    real, there, go_on = getattr(owner, name), threading.Event(), threading.Event()
    results: list[Any] = []

    def slow(*arguments: Any) -> Any:
        if there.is_set():
            return real(*arguments)
        done = real(*arguments) if after else None
        there.set()
        assert go_on.wait(HANG_S)
        return done if after else real(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, name, slow)
        thread = threading.Thread(target=tried, args=(settings, position, results))
        thread.start()
        try:
            assert there.wait(HANG_S)
            yield results
        finally:
            go_on.set()
            thread.join(HANG_S)


def test_of_two_who_redrive_a_letter_one_appends(cli: Cli, ledger_settings: Settings) -> None:
    """One stands still after the insert; another takes that for a kill and finishes; the first appends nothing.

    In the middle of its append one isn't taken for dead.
    """
    first, second = dead(ledger_settings, wrong_key("g1"), wrong_key("g2"))
    with somebody_at(ledger_settings, first, decisions, "record_decision", after=True) as results:
        done = cli("redrive", first, *WHY, "--json")
    assert [str(row.to) for row in results] == [done.json["position"]]
    assert len(read_log(ledger_settings)) == 3
    with somebody_at(ledger_settings, second, CommandProducer, "append_record", after=False) as results:
        refused = cli("redrive", second, *WHY, "--timeout", "1")
    assert (refused.code, "by somebody else at this moment" in refused.err) == (3, True)
    assert isinstance(results[0], Redriven)
    wait_until_folded(ledger_settings)
    assert balance(ledger_settings) == 10


def test_a_copy_of_a_redriven_record_is_not_redriven(cli: Cli, ledger_settings: Settings) -> None:
    """A broker may have held back the append of a killed redrive: both are dead letters, and one of them is mended."""
    append(ledger_settings, [record("Grant", "taken", "ann", 1), record("Grant", "taken-2", "ann", 1)])
    (first,) = dead(ledger_settings, record("Grant", "taken", "ann", 5))
    second = cli("redrive", first, *WHY, "--set", "command_id=taken-2", "--json").json["position"]
    copy = Raw(G(5, "taken-2"), b"ann", headers=redrive_headers(_place(first), "ann", "a test", 1))
    (third,) = dead(ledger_settings, copy)
    done = cli("redrive", third, *WHY, "--set", "command_id=free")
    assert (done.code, f"{third} is a copy of {second}: both mend {first}." in done.err) == (3, True)
    assert cli("redrive", second, *WHY, "--set", "command_id=free").code == 0
    assert cli("discard", third, *WHY).code == 0
    assert balance(ledger_settings) == 7


def test_without_the_fold_nothing_is_redriven(
    bare: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What isn't folded yet may be a redrive of the same letter."""
    use(ledger_settings, monkeypatch)
    append(ledger_settings, [wrong_key("g1")])
    fold_log(ledger_settings)
    append(ledger_settings, [record("Grant", "g2", "ann", 5)])
    position = "0:0"
    done = bare("redrive", position, *WHY, "--timeout", "0.5")
    assert done.code == 4
    assert "Nothing was appended." in done.err
    assert query(ledger_settings, "SELECT * FROM ledger.dead_letter_decisions") == []
    assert bare("discard", position, *WHY).code == 0


def test_who_may_not_and_what_is_not_redriven(
    cli: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules are activated by another command. What mends a letter belongs into its log. A reader lists and shows."""
    (position,) = dead(ledger_settings, wrong_key("g1"))
    (control,) = dead(ledger_settings, Raw(ACTIVATION, b"key", 1))
    done = cli("redrive", control, *WHY)
    assert (done.code, "creditfold rules activate" in done.err) == (3, True)
    assert cli("discard", control, *WHY).code == 0
    use(ledger_settings.model_copy(update={"commands_topic": ledger_settings.outcomes_topic}), monkeypatch)
    done = cli("redrive", position, *WHY)
    assert (done.code, "The projection was folded from" in done.err) == (1, True)
    use(ledger_settings, monkeypatch)
    with role(ledger_settings, "IN ROLE creditfold_reader") as reader:
        use(reader, monkeypatch)
        assert states(cli) == {position: ("open", None), control: ("discarded", None)}
        assert cli("show", position).code == 0
        for verb in ("redrive", "discard"):
            done = cli(verb, position, *WHY)
            assert done.code == 1
            said = "error: This PostgreSQL user may not decide about dead letters: permission denied"
            assert done.err.startswith(said)
            assert "\ntry: Use the user that made the tables" in done.err
