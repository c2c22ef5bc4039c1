"""What support and finance ask on the command line: statements, and what was decided in a time."""

import csv
import io
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from creditfold.common.settings import Settings
from creditfold.projections import queries
from helpers.support import PATIENT, Cli, worker

pytestmark = pytest.mark.compiled_core


@pytest.mark.usefixtures("one_producer")
def test_what_was_decided_in_a_time(
    cli: Cli, ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statements, histories, rejections and dead letters have --since, which counts, and --until, which doesn't."""
    with worker(ledger_settings, tmp_path):
        cli("grant", "ada", "500", "--id", "g", "--reason", "=1+1", *PATIENT)
        cli("spend", "ada", "900", "--id", "much", *PATIENT)
        cli("spend", "ada", "120", "--id", "s", *PATIENT)
        cli("spend", "ada", "1", "--id", "s", *PATIENT)
    lines = cli("history", "ada", "--json").json[::-1]
    assert [line["command_id"] for line in lines] == ["g", "much", "s"]
    times = [line["decided_at"] for line in lines]
    now = {"since": ("--since", times[2]), "until": ("--until", times[2])}

    whole = cli("statement", "ada", "--json").json
    assert [line["command_id"] for line in whole["lines"]] == ["g", "s"]
    assert whole["closing"] == [{"asset": "credits", "available": 380, "pending": 0, "held": 0, "debt": 0}]
    late, early = (cli("statement", "ada", *now[end], "--json").json for end in ("since", "until"))
    assert [*early["lines"], *late["lines"]] == whole["lines"]
    assert early["closing"] == late["opening"]
    shown = cli("statement", "ada").out.splitlines()
    assert [line.split()[1] for line in shown] == ["at", "opening", "grant", "spend", "closing"]
    rows = list(csv.DictReader(io.StringIO(cli("statement", "ada", "--csv").out.removeprefix("\ufeff"), newline="")))
    assert [(row["row"], row["change"], row["available"], row["reason"]) for row in rows] == [
        ("opening", "", "0", ""),
        ("line", "500", "500", "'=1+1"),
        ("line", "-120", "380", ""),
        ("closing", "", "380", ""),
    ]
    text = cli("statement", "ada", "--csv").out
    with monkeypatch.context() as small:
        small.setattr(queries, "statement", partial(queries.statement, limit=1))
        assert cli("statement", "ada", "--csv").out == text
        assert cli("statement", "ada", "--json").json == whole
    for name in ("history", "rejections", "dead-letters list"):
        of_ada = ("ada",) if name == "history" else ()
        found = {end: cli(*name.split(), *of_ada, *now[end], "--json").json for end in now}
        assert len(found["since"]) + len(found["until"]) == (3 if name == "history" else 1), name
        assert cli(*name.split(), *of_ada, "--since", "2020-01-01", "--until", "2020-01-02", "--json").json == []
    assert [row["command_id"] for row in cli("rejections", "--until", times[2], "--json").json] == ["much"]
    assert [row["command_id"] for row in cli("rejections", "-a", "ada", "--since", times[1], "--json").json] == ["much"]
    assert cli("rejections", "--totals", "--since", "2020-01-01", "--until", "2020-01-02", "--json").json == {}


@pytest.mark.usefixtures("one_producer")
def test_credits_that_will_end(cli: Cli, ledger_settings: Settings, tmp_path: Path) -> None:
    """Of an account by day and by lot, of all accounts by month."""
    soon, later = (datetime.now(UTC) + timedelta(days=days) for days in (20, 300))
    with worker(ledger_settings, tmp_path):
        for name in ("ada", "bob"):
            cli("grant", name, "100", "--id", "soon", "--expires-at", soon.isoformat(), *PATIENT)
            cli("grant", name, "5", "--id", "later", "--expires-at", later.isoformat(), *PATIENT)
        cli("grant", "ada", "7", *PATIENT)
        cli("spend", "ada", "30", *PATIENT)
    found = cli("expiring", "ada", "--json").json
    assert [(lot["command_id"], lot["remaining"]) for lot in found["lots"]] == [("soon", 70)]
    assert [(row["day"], row["remaining"]) for row in found["days"]] == [(soon.date().isoformat(), 70)]
    assert "soon/1" in cli("expiring", "ada").out
    assert cli("expiring", "ada", "--within", "1h").out == "Nothing of ada ends within 1h.\n"
    months = cli("expiring", "--all", "--json").json
    assert [(row["month"][:7], row["lots"], row["remaining"]) for row in months] == [
        (f"{soon:%Y-%m}", 2, 170),
        (f"{later:%Y-%m}", 2, 10),
    ]
    assert f"{soon:%Y-%m}" in cli("expiring", "--all").out
    _accounts_are_found(cli, later)


def _accounts_are_found(cli: Cli, later: datetime) -> None:
    """By the same questions as over HTTP, as a table, as JSON, and counted."""
    found = cli("accounts", "--command", "soon", "--json").json
    assert [row["account_id"] for row in found["accounts"]] == ["ada", "bob"]
    assert [command["command_id"] for row in found["accounts"] for command in row["commands"]] == ["soon", "soon"]
    first = cli("accounts", "-n", "1").out
    assert [line.split()[:4] for line in first.splitlines()[1:]] == [
        ["ada", "open", "credits", "82"],
        ["More:", "--after", "ada"],
    ]
    assert "bob" in cli("accounts", "-n", "1", "--after", "ada", "--state", "open").out
    rich = ("accounts", "--asset", "credits", "--least", "100", "--prefix", "b")
    assert [cli(*rich, "--count").out, cli(*rich, "--count", "--json").json["number"]] == ["1\n", 1]
    assert cli(*rich, "--ends-before", later.isoformat(), "--count").out == "1\n"
    assert (
        cli("accounts", "--asset", "credits", "--balance", "held", "--least", "1").out == "There is no such account.\n"
    )
    refused = cli("accounts", "--metadata", "order_id=1")
    assert (refused.code, "keeps no metadata" in refused.err) == (2, True)


@pytest.mark.usefixtures("one_producer")
def test_what_was_spent_and_what_ended(cli: Cli, ledger_settings: Settings, tmp_path: Path) -> None:
    """By class, source and reason over all accounts, in hours; and lot by lot, with what ended each."""
    past = "2026-01-01T00:00:00Z"
    with worker(ledger_settings, tmp_path):
        for name in ("ada", "bob"):
            cli("grant", name, "100", "--id", "paid", *PATIENT)
            cli("grant", name, "20", "--id", "promo", "--class", "promo", "--priority", "10", *PATIENT)
            cli("spend", name, "50", "--id", "s", "--source", "shop", "--reason", "=cmd", *PATIENT)
        cli("spend", "ada", "7", "--id", "t", "--source", "ads", *PATIENT)
        cli("refund", "ada", "t", "2", "--source", "desk", "--reason", "sorry", *PATIENT)
        cli("grant", "ada", "9", "--id", "old", "--effective-at", "2025-01-01", "--expires-at", past, *PATIENT)
        cli("void", "ada", "paid", "--id", "v", "--reason", "fraud", *PATIENT)
        cli("close", "bob", "--forfeit", "--id", "c", "--reason", "bye", *PATIENT)
    rows = cli("spent", "--json").json
    assert [tuple(row.values()) for row in rows] == [
        ("credits", "paid", "shop", "=cmd", 60, 0, 0),
        ("credits", "promo", "shop", "=cmd", 40, 0, 0),
        ("credits", "paid", "ads", "", 7, 0, 0),
        ("credits", "paid", "desk", "sorry", 0, 2, 0),
    ]
    by_class = cli("spent", "--by", "class", "--json").json
    assert [(row["lot_class"], row["source"], row["spent"], row["refunded"]) for row in by_class] == [
        ("paid", None, 67, 2),
        ("promo", None, 40, 0),
    ]
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    # The log's clock may have begun another hour meanwhile.
    since, until = (f"{now + timedelta(hours=hours):%Y-%m-%dT%H:%MZ}" for hours in (-1, 1))
    assert cli("spent", "--since", since, "--until", until, "--json").json == rows
    assert cli("spent", "--until", since, "--json").json == cli("spent", "--asset", "gold", "--json").json == []
    assert "'=cmd" in cli("spent", "--csv").out
    assert "desk" in cli("spent").out

    totals = cli("ended", "--totals", "--json").json
    assert [(row["what"], row["lot_class"], row["reason"], row["amount"]) for row in totals] == [
        ("expired", "paid", "", 9),
        ("forfeited", "paid", "bye", 70),
        ("voided", "paid", "fraud", 65),
    ]
    lines = cli("ended", "--json").json
    assert [(line["account_id"], line["what"], line["lot_command"], line["command_id"]) for line in lines] == [
        ("bob", "forfeited", "paid", "c"),
        ("ada", "voided", "paid", "v"),
        ("ada", "expired", "old", "old"),
    ]
    assert cli("ended", "ada", "--json").json == lines[1:]
    assert cli("ended", "--until", lines[1]["decided_at"], "--json").json == lines[2:]
    assert cli("ended", "ada", "--since", lines[1]["decided_at"], "--json").json == lines[1:2]
    assert "void_grant v" in cli("ended", "--csv").out
    assert cli("ended", "nobody").out == "Nothing ended in that time.\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("statement ada --json --csv", "either JSON or CSV"),
        ("statement ada --since 2026-06-02 --until 2026-06-01", "--until is before --since"),
        ("history ada --since soon", "'soon' is no time"),
        ("rejections --until soon", "'soon' is no time"),
        ("expiring", "Either one account"),
        ("expiring ada --all", "Either one account"),
        ("expiring ada --within soon", "'soon' is no length of time"),
        ("dead-letters list --since soon", "'soon' is no time"),
        ("spent --json --csv", "either JSON or CSV"),
        ("spent --by colour", "told apart by 'colour'"),
        ("ended ada --totals", "--totals are of all accounts"),
        ("ended --by class", "--asset and --by are for --totals"),
        ("ended --since 2026-06-02 --until 2026-06-01", "--until is before --since"),
        ("expiring ada --csv", "--csv is for --all"),
        ("accounts --ends-before soon", "'soon' is no time"),
        ("accounts --metadata order", "has no value"),
    ],
)
def test_a_wrong_time_is_refused(bare: Cli, line: str, says: str) -> None:
    """Before anything is asked for."""
    done = bare(*line.split())
    assert done.code == 2
    assert says in done.err
