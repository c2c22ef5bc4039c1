"""The command line against the real stack: what each command prints, and the code it exits with."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path

import httpx
import pytest
import typer
from pydantic import SecretStr
from rich.console import Console

from creditfold.cli.append import import_file, submission
from creditfold.cli.main import COMMANDS, command_line
from creditfold.cli.shared import output
from creditfold.cli.shared.output import OLDER
from creditfold.cli.shared.progress import figures_of
from creditfold.common.position import Position
from creditfold.common.settings import Settings, load_settings, unknown_variables
from creditfold.common.waiting import wait_until
from creditfold.log.offsets import end_offsets
from creditfold.processors.daemons import daemon
from creditfold.projections.access.keys import is_well_formed
from creditfold.projections.queries.balances import Balance
from helpers.command_line import started, use
from helpers.stack_under_test import embedded_settings, free_port, server_folder
from helpers.support import (
    HANG_S,
    PATIENT,
    Cli,
    Done,
    Raw,
    append,
    environment,
    fold_log,
    query,
    ran,
    wait_until_folded,
    worker,
    write_program,
)

pytestmark = pytest.mark.compiled_core

#: What starts the command line in a process that imports all itself.
COMMAND = (sys.executable, "-m", "creditfold.cli.main")
NAMES = [name for name, _, _ in COMMANDS]


# What needs no server.


@pytest.mark.parametrize("name", NAMES)
def test_each_command_teaches_itself(bare: Cli, name: str) -> None:
    """--help of each command shows how it is used."""
    done = bare(*name.split(), "--help")
    assert done.code == 0
    assert "Example" in done.out
    assert f"creditfold {name}" in done.out


def test_a_command_is_made_without_the_others() -> None:
    """Or with those of its first word alone."""
    for first in {name.split()[0] for name in NAMES}:
        whole = typer.main.get_group(command_line(first))
        assert list(whole.commands) == [first]
        found = [f"{first} {name}" for name in getattr(whole.commands[first], "commands", {})] or [first]
        assert found == [name for name in NAMES if name.split()[0] == first]


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    """`creditfold --help` is quick because neither Faust nor a Kafka client nor a driver is loaded."""
    script = (
        "import sys; from creditfold.cli.main import _run; code = _run(['--help']);"
        " heavy = {'faust', 'confluent_kafka', 'psycopg', 'aiokafka', 'pydantic'} & set(sys.modules);"
        " sys.exit(f'{heavy}' if heavy else code)"
    )
    done = ran(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    assert all(name.split()[0] in done.stdout for name in NAMES)


@pytest.mark.parametrize(
    ("done", "total", "rate", "said"),
    [
        (0, 1_000, 0.0, "0 of 1,000"),
        (500, 1_000, 50.0, "500 of 1,000  50/s  0:10 left"),
        (25_000, 1_025_000, 10_000.0, "25,000 of 1,025,000  10,000/s  1:40 left"),
    ],
)
def test_the_time_left_is_what_the_rate_says(done: int, total: int, rate: float, said: str) -> None:
    """Both stand beside each other on the bar."""
    assert figures_of(done, total, rate) == said


def test_version(bare: Cli) -> None:
    """--version names the distribution's version."""
    assert bare("--version").out.startswith("creditfold 0.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frob"], "No such command"),
        (["balance"], "Missing argument"),
        (["balance", "-5"], "Write -- before"),
        (["balance", ""], "no account id"),
        (["balance", " alice"], "no account id"),
        (["balance", "a" * 129], "no account id"),
        (["balance", "\udcff"], "no account id"),
        (["history", "alice", "--limit", "0"], "--limit"),
        (["history", "alice", "--before", str(2**63)], "--before"),
        (["grant", "alice", "-5"], "-5 can't be an amount: amounts are whole numbers from 1 on"),
        (["grant", "alice", "-5"], "To take credits: creditfold spend"),
        (["spend", "-5", "3"], "creditfold spend -- ACCOUNT AMOUNT"),
        (["refund", "-alice", "a", "3"], "Write -- before"),
        (["gran", "alice", "5"], "No such command 'gran'. Did you mean 'grant'?\n"),
        (["rejections", "--totals", "--account", "alice"], "counts all accounts"),
        (["dead-letters", "list", "--reason", "whatever"], "not_framed"),
        (["dead-letters", "show", "here"], "partition:offset"),
        (["grant", "alice", "many"], "amount must be a whole number from 1"),
        (["grant", "alice", "1.5"], "amount must be a whole number from 1"),
        (["grant", "alice", "0"], "amount must be a whole number from 1"),
        (["grant", "alice", "9007199254740992"], "amount must be a whole number from 1"),
        (["grant", "alice", "9" * 5000], "amount must be a whole number from 1"),
        (["grant", "--", "alice", "-5"], "amount must be a whole number from 1"),
        (["grant", " alice", "5"], "account must be a text of 1 to 128"),
        (["grant", "alice", "5", "--id", ""], "command_id must be"),
        (["grant", "alice", "5", "--metadata", "x"], "has no value"),
        (["grant", "alice", "5", "-m", "x=1", "-m", "x=2"], "given twice"),
        (["import", "no-such-file.jsonl"], "no-such-file.jsonl"),
        (["import", "commands.txt"], "--format jsonl or --format csv"),
        (["import", "."], "is a folder"),
    ],
)
def test_a_wrong_argument_is_refused_with_a_remedy(
    bare: Cli, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, what is wrong on the first line, what to try on the second, no traceback."""
    monkeypatch.setenv("CREDITFOLD_DATA_DIR", str(tmp_path))
    done = bare(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert "\ntry: " in done.err
    assert said in done.err


#: Stands in for a library that the command line imports, and waits in the middle of that.
HELD_IMPORT = """
import pathlib, sys
pathlib.Path({reached!r}).touch()
sys.stdin.read()
"""


def test_ctrl_c_while_the_command_line_is_imported_is_quiet(tmp_path: Path) -> None:
    """It ends as any program does that a signal ended, without a traceback."""
    reached = tmp_path / "reached"
    (tmp_path / "typer.py").write_text(HELD_IMPORT.format(reached=str(reached)))
    starting = subprocess.Popen(
        [sys.executable, "-m", "creditfold.cli.entry", "status"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wait_until(reached.exists, HANG_S)
    starting.send_signal(signal.SIGINT)
    assert starting.wait(HANG_S) == -signal.SIGINT
    assert starting.communicate() == ("", "")


def test_the_installed_command_is_the_entry() -> None:
    """What pip puts on PATH has the same beginning."""
    (script,) = [script for script in entry_points(group="console_scripts") if script.name == "creditfold"]
    assert script.value == "creditfold.cli.entry:main"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("creditfold sche", "schedule\nschedules"),
        ("creditfold dead-letters re", "redrive"),
        ("creditfold gra", "grant"),
    ],
)
def test_a_shell_completes_commands(tmp_path: Path, words: str, offered: str) -> None:
    """By the script that --show-completion prints, as bash runs it at each press of the key."""
    write_program(tmp_path / "creditfold", f'exec {sys.executable} -m creditfold.cli.entry "$@"')
    asking = f"""
        eval "$(_CREDITFOLD_COMPLETE=source_bash creditfold)"
        COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _creditfold_completion creditfold
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = ran("bash", "-c", asking, env={**os.environ, "PATH": path})
    assert (sorted(done.stdout.split()), done.stderr) == (offered.split(), "")


def test_without_arguments_there_is_help_and_no_error(bare: Cli) -> None:
    """The same as --help."""
    assert bare() == bare("--help")
    assert bare().err == ""


def test_an_interrupted_import_says_how_it_goes_on(bare: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 130, and no traceback."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("CREDITFOLD_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(import_file, "import_with_progress", interrupted)
    done = bare("import", "commands.jsonl")
    assert (done.code, done.out) == (130, "")
    assert done.err.startswith("error: Interrupted.\ntry: Run it again: it goes on where it was")


@pytest.mark.parametrize("width", [40, 80])
def test_a_table_that_does_not_fit_is_printed_record_by_record(width: int) -> None:
    """A value is never folded by us, whatever the width; where a table fits it is ruled."""
    columns = ("version", "decided at", "outcome", "command")
    row = ["1", "2026-01-02T03:04:05.678Z", "insufficient_credits", "0f8fad5b-d9cb-469f-a165-70867728950e"]
    console = Console(width=width, file=io.StringIO())
    with console.capture() as captured:
        output._print_ruled(console, columns, [row, ["2", "", "", "k"]], [True, False, False, False], "A title")
    assert captured.get() == (
        f"A title\n\nversion     1\ndecided at  {row[1]}\noutcome     {row[2]}\ncommand     {row[3]}\n"
        "\nversion     2\ncommand     k\n"
    )
    with console.capture() as captured:
        output._print_ruled(console, columns[:2], [row[:2]], [True, False], "")
    assert "───" in captured.get()
    assert row[1] in captured.get()


@pytest.mark.parametrize(("command", "server"), [(["balance", "alice"], "PostgreSQL"), (["init"], "Kafka")])
def test_where_a_stack_was_looked_for_is_named(
    bare: Cli, command: list[str], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder without one, rather than to start a second one; in one whose stack is stopped, to start it."""
    monkeypatch.setattr("creditfold.log.admin.CONNECT_S", 0.2)
    for name in [name for name in os.environ if name.startswith("CREDITFOLD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CREDITFOLD_KAFKA_BOOTSTRAP", f"127.0.0.1:{free_port()}")
    monkeypatch.chdir(tmp_path)
    done = bare(*command)
    assert done.code == 1
    assert " doesn't answer" in done.err
    looked = f"There is no stack in the data folder {tmp_path}/.creditfold, nor a .creditfold in a folder above.\n"
    assert looked in done.err
    assert "\ntry: Go to the folder where `creditfold up` was run, or set CREDITFOLD_DATA_DIR to its data" in done.err
    folder = tmp_path / "elsewhere"
    monkeypatch.setenv("CREDITFOLD_DATA_DIR", str(folder))
    assert f"There is no stack in the data folder {folder}.\n" in bare(*command).err
    assert list(tmp_path.iterdir()) == []
    assert f"There is no stack in the data folder {folder}." in bare("doctor").out
    reported = bare("spend", "alice", "5", "--id", "s-9", "--no-wait", "--timeout", "1").err
    assert f"There is no stack in the data folder {folder}." in reported
    # What is said of the command stays; that a second stack should be started isn't all any more.
    assert "The command is not in the log. Its id is s-9" in reported
    assert "Check that the broker runs" not in reported
    folder.mkdir()
    (folder / "settings.toml").touch()
    stopped = f"The {server} of the data folder {folder} doesn't run.\ntry: Start it with `creditfold up`.\n"
    assert stopped in bare(*command).err


def test_a_mistyped_setting_is_warned_of() -> None:
    """Every variable that begins as ours do and is no setting, but for those of our tools and of Kubernetes."""
    variables = {
        **dict.fromkeys(["CREDITFOLD_DATA_DIR", "CREDITFOLD_TEST_STACK", "CREDITFOLD_KAFKA_PORT", "PATH"], "x"),
        **dict.fromkeys(["CREDITFOLD_SERVICE_HOST", "CREDITFOLD_KAFKA_SERVICE_PORT_CLIENT"], "10.0.0.1"),
        "CREDITFOLD_PORT": "tcp://10.0.0.1:80",
        "CREDITFOLD_PORT_80_TCP_ADDR": "10.0.0.1",
        "CREDITFOLD_DATADIR": "x",
        "CREDITFOLD_BOOTSTRAP": "x",
        "CREDITFOLD_XYZZY": "x",
    }
    assert unknown_variables(variables) == {
        "CREDITFOLD_DATADIR": "CREDITFOLD_DATA_DIR",
        "CREDITFOLD_BOOTSTRAP": "CREDITFOLD_KAFKA_BOOTSTRAP",
        "CREDITFOLD_XYZZY": None,
    }
    wrong = os.environ | {"CREDITFOLD_PARTITION": "8", "CREDITFOLD_KAFKA_BOOTSTRAP": "nowhere"}
    done = ran(*COMMAND, "balance", "alice", env=wrong)
    assert done.stderr.startswith(
        "warning: CREDITFOLD_PARTITION is no setting and is ignored; did you mean CREDITFOLD_PARTITIONS?\n"
        "error: Bad setting: CREDITFOLD_KAFKA_BOOTSTRAP: 'nowhere' is not host:port.\n"
    )


def test_a_bad_setting_is_named(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are checked before anything is asked of a server."""
    monkeypatch.setenv("CREDITFOLD_PARTITIONS", "many")
    done = bare("balance", "alice")
    assert done.code == 2
    assert "CREDITFOLD_PARTITIONS" in done.err
    assert "try: See docs/settings.md." in done.err


def test_an_error_is_json_where_json_was_asked_for(bare: Cli) -> None:
    """Programs read errors too."""
    done = bare("balance", "", "--json")
    assert json.loads(done.err) | {"error": "", "try": ""} == {"error": "", "try": "", "exit_code": 2}
    # Behind -- it is an argument like any other.
    assert bare("grant", "--", "--json", "0").err.startswith("error: ")


def test_a_stranger_s_text_reaches_no_terminal_as_a_control_sequence() -> None:
    """What comes from the log may hold anything."""
    assert output.safe("red \x1b[31m\nline\u202e") == "red \\x1b[31m\\nline\\u202e"


def test_json_has_stable_shapes() -> None:
    """Positions in one text, instants in UTC, bytes in base64, numbers as numbers."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
    row = {"at": moment, "bytes": b"\xff\x00", "position": Position(3, 1042), "none": None, "n": 2**53}
    assert output.as_json(row) == {
        "at": "2026-01-02T03:04:05.678Z",
        "bytes": "/wA=",
        "position": "3:1042",
        "none": None,
        "n": 2**53,
    }
    credits = {"pending": 0, "held": 2, "debt": 0, "credit_limit": 0}
    assert output.as_json([Balance("a", "credits", 5, 1, 3, 7, held=2)]) == [
        {"position": "3:7", "account_id": "a", "asset": "credits", "available": 5, "version": 1, **credits}
    ]


# What needs the stack.


@pytest.mark.usefixtures("one_producer")
def test_an_outcome_is_reported_as_the_fold_decided_it(cli: Cli, ledger_settings: Settings, tmp_path: Path) -> None:
    """Grant 500; spend 800, 120, the same 120 again, and another under its id."""
    with worker(ledger_settings, tmp_path):
        first = cli("grant", "alice", "500", "--reason", "welcome", "-m", "campaign=spring", *PATIENT)
        assert (first.code, first.err) == (0, "")
        assert first.out.startswith("accepted: +500 credits; alice has 500 credits\n  command ")
        rejected = cli("spend", "alice", "800", *PATIENT)
        assert rejected.code == 3
        assert rejected.out.startswith("rejected: insufficient_credits: spend of 800 credits; alice has 500 credits\n")
        assert cli("spend", "alice", "120", "--id", "k", *PATIENT).out.startswith(
            "accepted: -120 credits; alice has 380"
        )
        again = cli("spend", "alice", "120", "--id", "k", *PATIENT)
        assert again.code == 0
        assert again.out.startswith("duplicate: this command was decided before, at ")
        reused = cli("spend", "alice", "121", "--id", "k", *PATIENT)
        assert reused.code == 3
        assert reused.out.startswith("dead letter: command_id_reused: ")
        assert cli("balance", "alice", "--json").json[0]["available"] == 380
        assert [row["change"] for row in cli("history", "alice", "--json").json] == [-120, 0, 500]
        assert [row["version"] for row in cli("history", "alice", "-n", "1", "--before", "3", "--json").json] == [2]
        assert "--before 3" in cli("history", "alice", "-n", "1").out
        assert cli("rejections", "--totals", "--json").json == {"insufficient_credits": 1}
        assert [row["amount"] for row in cli("rejections", "-a", "alice", "--json").json] == [800]
        assert cli("rejections", "-a", "bob").out == "Nothing was rejected.\n"


@pytest.mark.usefixtures("one_producer")
def test_outcomes_as_json(cli: Cli, ledger_settings: Settings, tmp_path: Path) -> None:
    """Each kind of outcome has the same first keys."""
    with worker(ledger_settings, tmp_path):
        accepted = cli("grant", "alice", "5", "--asset", "boosts", "--id", "g", *PATIENT, "--json").json
        rejected = cli("spend", "alice", "6", "--asset", "boosts", "--id", "s", *PATIENT, "--json").json
        duplicate = cli("grant", "alice", "5", "--asset", "boosts", "--id", "g", *PATIENT, "--json").json
        dead = cli("grant", "alice", "7", "--asset", "boosts", "--id", "g", *PATIENT, "--json").json
        appended = cli("grant", "alice", "5", "--no-wait", *PATIENT, "--json").json
    first = {"account", "command_id", "position", "outcome"}
    assert set(accepted) == set(rejected) == set(duplicate) == first | {"duplicate", "decision"}
    assert [row["outcome"] for row in (accepted, rejected, duplicate)] == ["accepted", "rejected", "accepted"]
    assert [row["duplicate"] for row in (accepted, rejected, duplicate)] == [False, False, True]
    assert accepted["decision"]["position"] == accepted["position"]
    assert duplicate["decision"] == accepted["decision"]
    assert (rejected["decision"]["rejection"], rejected["decision"]["balance"]) == ("insufficient_credits", 5)
    assert set(dead) == first | {"reason", "detail"}
    assert set(appended) == first


@pytest.mark.usefixtures("one_producer")
def test_accounts_with_odd_names(cli: Cli, ledger_settings: Settings, tmp_path: Path) -> None:
    """A dash in front, a space within, another script, markup: all are names."""
    names = ["-5", "two words", "Ωμέγα", "[bold]x[/bold]", "--json"]
    with worker(ledger_settings, tmp_path):
        for name in names:
            done = cli("grant", *PATIENT, "--", name, "7")
            assert done.out.startswith(f"accepted: +7 credits; {name} has 7 credits"), done
            assert name in cli("balance", "--", name).out


def test_an_unknown_account_has_nothing(cli: Cli) -> None:
    """Reading it is no error."""
    assert cli("balance", "bob") == Done(0, "bob was never used. Its balance is 0.\n", "")
    assert cli("balance", "bob", "--json").json == []
    assert cli("history", "bob") == Done(0, "bob has no decisions yet.\n", "")
    assert cli("history", "bob", "--json").json == []


def test_without_a_worker_the_append_is_done_and_the_wait_ends(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 4: the command is in the log, and its id is reported."""
    # The log has all the time that it needs, and the fold, which doesn't run, hardly any.
    awaited = submission.awaited_outcome
    monkeypatch.setattr(submission, "awaited_outcome", lambda *given: awaited(*given[:-1], 0.1))
    done = cli("grant", "alice", "500", "--id", "g1", *PATIENT)
    assert (done.code, done.out) == (4, "")
    assert re.search(r"The command is in the log at \d:0\. Its id is g1; sent again with --id g1, ", done.err)
    assert "creditfold worker" in done.err
    waiting = cli("grant", "alice", "500", "--no-wait", *PATIENT)
    assert waiting.code == 0
    assert waiting.out.startswith("appended at ")


def test_status_reports_what_stands_still(cli: Cli, ledger_settings: Settings, tmp_path: Path) -> None:
    """Lag without a worker is stuck; with one it goes to zero."""
    cli("grant", "alice", "500", "--no-wait", *PATIENT)
    stuck = cli("status", "--check", "--interval", "0.1", "--json")
    assert stuck.code == 1
    assert json.loads(stuck.err)["error"].startswith("Unhealthy: no worker is at work")
    assert set(stuck.json) == {
        *("topic", "services", "processes", "partitions", "totals", "open_transactions", "in_transit", "warnings")
    }
    assert stuck.json["totals"]["lag"] == 1
    assert all(row["stuck"] for row in stuck.json["partitions"])
    with worker(ledger_settings, tmp_path):
        wait_until_folded(ledger_settings)
        # Asked once more, nobody may have had the time for a sign of life.
        seen: list[Done] = []

        def is_well() -> bool:
            seen.append(cli("status", "--check", "--interval", "0.1"))
            return seen[-1].code == 0

        assert wait_until(is_well, HANG_S)
        done = seen[-1]
    assert [line.split()[:2] for line in done.out.splitlines() if line.startswith("total")] == [["total", "0"]]


def test_dead_letters_are_shown_with_their_bytes(cli: Cli, ledger_settings: Settings, tmp_path: Path) -> None:
    """The bytes in hex and text, as they are in the log."""
    headers = (("trace", b"1"), ("odd", b"\x1b[31m"), ("none", None))
    append(ledger_settings, [Raw(b"not avro\x1b[31m", b"key", 2, headers), Raw(None, b"key", 2)])
    assert cli("dead-letters", "list").out == "There are no dead letters.\n"
    with worker(ledger_settings, tmp_path):
        wait_until_folded(ledger_settings)
    listed = cli("dead-letters", "list", "--reason", "not_framed", "--json").json
    assert [(row["position"], row["reason"], row["key"]) for row in listed] == [("2:0", "not_framed", "a2V5")]
    shown = [cli("dead-letters", "list", "--limit", str(limit)).out for limit in (1, 2)]
    # As a word: it is in many a time of day.
    assert [("2:0" in one.split(), OLDER in one) for one in shown] == [(False, True), (True, False)]
    shown = cli("dead-letters", "show", "2:0").out
    assert "6e 6f 74 20 61 76 72 6f 1b 5b" in shown
    assert "not avro.[31m" in shown
    lines = [line.split() for line in shown.splitlines() if line.startswith("header")]
    assert [line[1:] for line in lines] == [
        ["trace", "=", "1"],
        ["odd", "=", "G1szMW0=", "(base64)"],
        ["none", "=", "none"],
    ]
    assert cli("dead-letters", "show", "2:0", "--json").json["value"] == listed[0]["value"]
    missing = cli("dead-letters", "show", "2:2")
    assert (missing.code, missing.out) == (2, "")


def test_dead_letters_are_counted(cli: Cli, ledger_settings: Settings) -> None:
    """By reason and state, the most first: what a flood is looked at by."""
    assert cli("dead-letters", "list", "--totals").out == "There are no dead letters.\n"
    append(ledger_settings, [*(Raw(b"noise", b"%d" % (n % 2), 2) for n in range(5)), *[Raw(None, b"key", 2)] * 2])
    fold_log(ledger_settings)
    assert cli("dead-letters", "discard", "2:1", "--why", "noise").code == 0
    rows = cli("dead-letters", "list", "--totals", "--json").json
    assert [tuple(row.values())[:4] for row in rows] == [
        ("not_framed", "open", 4, 2),
        ("empty_value", "open", 2, 1),
        ("not_framed", "discarded", 1, 1),
    ]
    first, last = rows[0]["first_at"], rows[0]["last_at"]
    assert first <= last
    lines = cli("dead-letters", "list", "--totals", "--open", "--reason", "not_framed").out.splitlines()
    assert [line.split() for line in lines[1:]] == [["not_framed", "open", "4", "2", first, last]]
    assert cli("dead-letters", "list", "--totals", "--open", "--since", "9999-01-01").out == (
        "There are no open dead letters.\n"
    )


def test_import_appends_the_good_lines_and_lists_the_bad(
    cli: Cli, ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3 for bad lines; a second run goes on behind them."""
    use(ledger_settings.model_copy(update={"data_dir": tmp_path / "data"}), monkeypatch)
    good = [
        {"type": "grant", "command_id": f"g{n}", "account": "alice", "asset": "credits", "amount": 5} for n in range(9)
    ]
    lines = [json.dumps(command) for command in good]
    file = tmp_path / "commands.jsonl"
    file.write_text("\n".join([*lines[:4], "{nonsense", *lines[4:]]) + "\n", "utf-8")
    report = tmp_path / "bad.jsonl"
    done = cli("import", str(file), "--report", str(report))
    assert done.code == 3
    assert done.out.startswith("appended 9 commands in ")
    assert "1 bad line, listed in" in done.out
    assert "line 5: " in done.out
    assert json.loads(report.read_text("utf-8"))["line"] == 5
    again = cli("import", str(file), "--report", str(report), "--json")
    assert (again.code, again.json["appended"], again.json["skipped"], again.json["bad_before"]) == (3, 0, 10, 1)
    over = cli("import", str(file), "--report", str(report), "--start-over", "--json")
    assert (over.code, over.json["appended"]) == (3, 9)
    with worker(ledger_settings, tmp_path):
        wait_until_folded(ledger_settings)
    assert cli("balance", "alice", "--json").json[0]["available"] == 45
    csv = tmp_path / "commands.txt"
    csv.write_text("type,command_id,account,asset,amount\ngrant,c1,bob,credits,5\n", "utf-8")
    assert cli("import", str(csv), "--format", "csv").out.startswith("appended 1 command in ")
    assert "Add --start-over to import it" in cli("import", str(csv), "--format", "jsonl").err


@pytest.mark.unprepared
def test_init_makes_what_is_missing_once(bare: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two topics of the fixture are there, one topic and the tables aren't; then all are."""
    other = f"{ledger_settings.outcomes_topic}.other"
    use(ledger_settings.model_copy(update={"outcomes_topic": other}), monkeypatch)
    unready = bare("balance", "alice")
    assert (unready.code, unready.err) == (1, "error: The database holds no ledger.\ntry: Run `creditfold init`.\n")
    made = bare("init").out.splitlines()
    assert made[:4] == [
        f"The topic {ledger_settings.commands_topic} was there.",
        f"The topic {other} was created.",
        f"The topic {ledger_settings.dead_letters_topic} was there.",
        "The tables were created.",
    ]
    # And with the tables the first key, which no second time makes another one of.
    assert "The key first" in made[4]
    assert is_well_formed(made[6])
    again = bare("init").out.splitlines()
    assert again == [
        line.replace("were created", "were there").replace("was created", "was there") for line in made[:4]
    ]
    # A log begins without any record of ours.
    assert set(end_offsets(ledger_settings, ledger_settings.commands_topic, range(4)).values()) == {0}


def test_kafka_away_ends_an_append_with_a_remedy(
    cli: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens on the port: an error in the time given, and no library's log lines."""
    use(ledger_settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_port()}"}), monkeypatch)
    done = cli("grant", "alice", "500", "--timeout", "1")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: Kafka didn't answer within 1 s.")
    assert "CREDITFOLD_KAFKA_BOOTSTRAP" in done.err
    assert re.search(r"The command is not in the log\. Its id is [0-9a-f-]{36}; sent again with --id ", done.err)
    assert len(done.err.splitlines()) == 2
    assert cli("balance", "alice").code == 0
    away = cli("status", "--json")
    assert away.code == 1
    assert [row["next_offset"] for row in away.json["partitions"]] == [0, 0, 0, 0]
    assert (away.json["totals"]["end_offset"], away.json["open_transactions"]) == (None, None)


def test_postgres_away_is_reported_before_anything_is_appended(
    cli: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No outcome could be reported, so nothing is appended; --no-wait needs no PostgreSQL."""
    dead = SecretStr(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    use(ledger_settings.model_copy(update={"postgres_dsn": dead}), monkeypatch)
    done = cli("grant", "alice", "500")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: PostgreSQL doesn't answer")
    assert "try: Start it with `creditfold up`" in done.err
    assert cli("grant", "alice", "500", "--no-wait", *PATIENT).code == 0
    away = cli("status", "--json", "--interval", "0.1")
    assert away.code == 1
    assert (away.json["totals"]["end_offset"], away.json["totals"]["lag"], away.json["processes"]) == (1, None, None)
    # A worker that waits for PostgreSQL isn't to be killed for it, and isn't ready either.
    assert cli("worker", "--check").code == 1
    unseen = cli("worker", "--check", "--live")
    assert (unseen.code, "no reason to restart" in unseen.out) == (0, True)
    use(ledger_settings, monkeypatch)
    assert cli("status", "--json", "--interval", "0.1").json["totals"]["end_offset"] == 1


def test_a_missing_topic_is_named(cli: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped topic is not created by an append, and not taken for the one that was folded."""
    use(ledger_settings.model_copy(update={"commands_topic": "creditfold.no-such"}), monkeypatch)
    done = cli("grant", "alice", "500", "--no-wait", *PATIENT)
    assert done.code == 2
    assert "creditfold.no-such" in done.err
    assert "creditfold init" in done.err
    mixed = cli("status")
    assert mixed.code == 1
    assert ledger_settings.commands_topic in mixed.err


def test_ctrl_c_ends_a_wait_without_a_traceback(cli: Cli, ledger_settings: Settings) -> None:
    """Exit code 130."""
    waiting = started(ledger_settings, "grant", "alice", "5", "--timeout", "300")
    # It waits once it asks how far the partition is folded that its command is in.
    asking = """SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND query LIKE 'SELECT next_offset > $1%%'"""
    assert wait_until(lambda: query(ledger_settings, asking) == [(1,)], HANG_S)
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=HANG_S)
    assert (waiting.returncode, out) == (130, "")
    assert re.match(r"error: Interrupted\.\ntry: The command is in the log at \d:0\. Its id is [0-9a-f-]{36}; ", err)


def test_the_clean_up_of_a_connection_is_no_output_of_a_command() -> None:
    """An interrupt between two steps of a query has psycopg warn of the rollback that can't be done then."""
    program = """
import logging
from creditfold.cli.main import main
try:
    main()
except SystemExit:
    logging.getLogger("psycopg").warning("error ignored in rollback")
    print("warned")
"""
    done = ran(sys.executable, "-c", program, "--version")
    assert (done.returncode, done.stdout.endswith("\nwarned\n")) == (0, True)
    assert "rollback" not in done.stderr


def test_a_closed_pipe_is_quiet(cli: Cli, ledger_settings: Settings) -> None:
    """`creditfold history alice | head -0` complains about nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    done = ran(*COMMAND, "balance", "alice", env=environment(ledger_settings), stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_output_that_cannot_be_written_is_reported_with_the_command_s_id(cli: Cli, ledger_settings: Settings) -> None:
    """A full disk: the append is done all the same. A closed standard output is no failure."""
    with Path("/dev/full").open("w") as full:
        granting = (*COMMAND, "grant", "alice", "5", "--id", "g", "--no-wait", *PATIENT)
        done = ran(*granting, env=environment(ledger_settings), stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Can't write the output: No space left on device.\ntry: ")
    assert re.search(r"The command is in the log at \d:0\. Its id is g;", done.stderr)
    closed = ran("sh", "-c", f"{' '.join(granting)} >&-", env=environment(ledger_settings), stdout=None)
    assert (closed.returncode, closed.stderr) == (0, "")


@pytest.mark.stack
def test_up_status_worker_and_down(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded stack's life: up with a worker, a grant, up again, down, up without its data lost."""
    folder = server_folder()
    use(embedded_settings(folder).model_copy(update={"partitions": 2, "api_port": free_port()}), monkeypatch)
    settings = load_settings()
    try:
        with socket.create_server(("127.0.0.1", settings.api_port)):
            busy = bare("up", "--worker")
        assert (busy.code, busy.out) == (1, "")
        assert f"Port {settings.api_port} on 127.0.0.1 is busy, and the HTTP door needs it" in busy.err
        assert "\ntry: Set CREDITFOLD_API_PORT=" in busy.err
        done = bare("up", "--worker")
        assert done.code == 0, done.err
        started = "Kafka and PostgreSQL and a worker and a publisher and the delivery of webhooks and the HTTP door"
        assert f"Started {started}." in done.out
        url = f"http://127.0.0.1:{settings.api_port}"
        assert f"HTTP {url}; each request needs a key: `creditfold init` makes the first one." in done.out
        assert bare("serve", "--check").out == "The HTTP door is ready.\n"
        taken = bare("serve")
        assert (taken.code, taken.out) == (1, "")
        assert f"The port {settings.api_port} on 127.0.0.1 can't be listened on: Address already in use." in taken.err
        assert httpx.get(f"{url}/v1/progress", timeout=HANG_S, trust_env=False).status_code == 401
        assert bare("grant", "alice", "500", *PATIENT).code == 0

        def found() -> dict[str, str]:
            services = bare("status", "--json", "--interval", "0.1").json["services"]
            return {row["name"]: row["state"] for row in services}

        # One that runs may be too busy to answer in time.
        run = dict.fromkeys(("Kafka", "PostgreSQL", "worker", "publisher", "delivery", "HTTP door"), "running")
        assert wait_until(lambda: found() == run, HANG_S), found()
        assert bare("follow", "alice", "--since", "start", "--limit", "1", *PATIENT).code == 0
        assert "Everything runs already." in bare("up", "--worker").out
        stopped = "the HTTP door and the delivery of webhooks and the publisher and the worker and Kafka and PostgreSQL"
        assert f"Stopped {stopped}." in bare("down").out
        assert "doesn't answer." in bare("serve", "--check", "--live").err
        assert bare("down").out == f"Nothing ran in the data folder {settings.data_dir.resolve()}.\n"
        assert bare("status").code == 1
        assert bare("up").code == 0
        assert bare("balance", "alice", "--json").json[0]["available"] == 500
        assert [daemon(settings, role).pid for role in ("worker", "publisher", "delivery", "serve")] == [None] * 4
    finally:
        bare("down")
        shutil.rmtree(folder, ignore_errors=True)


def test_a_worker_ends_at_sigterm(cli: Cli, ledger_settings: Settings) -> None:
    """`creditfold worker --json-logs` logs JSON, and exits with 0."""
    running = started(ledger_settings, "worker", "--json-logs")
    cli("grant", "alice", "5", *PATIENT)
    running.terminate()
    _, err = running.communicate(timeout=HANG_S)
    assert running.returncode == 0
    assert all(json.loads(line)["level"] for line in err.splitlines())
