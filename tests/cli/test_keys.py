"""Keys on the command line: made, shown once, listed without their secrets, rotated, revoked, each audited."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from creditfold.common.settings import Settings
from creditfold.projections.access.audit import Actor, audit_lines
from creditfold.projections.access.keys import create_first_key, find_key
from creditfold.projections.access.scopes import SCOPES
from creditfold.projections.connections import connected
from helpers.command_line import use
from helpers.support import Cli

pytestmark = pytest.mark.stack

WHY = ("--reason", "a test needs it")


@pytest.fixture
def cli(bare: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command on a ledger without a worker, which keys don't need."""
    use(ledger_settings, monkeypatch)
    return bare


def opened(settings: Settings, text: str) -> Any:
    """The key that a text opens."""
    with connected(settings.dsn) as connection:
        return find_key(connection, text)


def test_a_key_is_made_shown_once_and_listed_without_its_secret(cli: Cli, ledger_settings: Settings) -> None:
    """With its scopes and limits; what the audit has of it has no secret either."""
    limits = ("--prefix", "eu-", "--asset", "credits", "--asset", "gold", "--most-amount", "500", "--expires", "90d")
    done = cli("keys", "create", "promo", "--scope", "append:grant", "--scope", "audit", *limits, *WHY, "--json")
    assert done.code == 0, done.err
    text = done.json["text"]
    key = opened(ledger_settings, text)
    assert (key.name, list(key.scopes), key.account_prefix) == ("promo", ["append:grant", "audit"], "eu-")
    assert (list(key.assets), key.most_amount) == (["credits", "gold"], 500)
    assert timedelta(days=89) < key.expires_at - datetime.now(UTC) < timedelta(days=91)
    secret = text.rpartition("_")[2]
    with connected(ledger_settings.dsn) as connection:
        (line,) = audit_lines(connection)
    assert (line.action, line.target, line.reason, line.before) == ("keys.create", key.id, WHY[1], None)
    assert line.who
    assert line.address
    shown = cli("keys", "list").out + cli("keys", "list", "--json").out + json.dumps(line.after) + repr(line)
    assert key.id in shown
    assert "accounts eu-...; assets credits, gold; up to 500" in shown
    assert secret not in shown


def test_a_rotated_key_has_two_texts_for_a_while_and_keeps_its_end(cli: Cli, ledger_settings: Settings) -> None:
    """Until the overlap is over; a third is refused meanwhile, and no rotation makes a key last longer."""
    first = cli("keys", "create", "shop", "--scope", "audit", "--expires", "2098-01-01", *WHY, "--json").json
    second = cli("keys", "rotate", "shop", *WHY, "--json").json
    assert second["text"] != first["text"]
    assert second["expires_at"] == first["expires_at"] == "2098-01-01T00:00:00.000Z"
    old, new = (opened(ledger_settings, one["text"]) for one in (first, second))
    assert old.id == new.id
    assert old.expires_at < datetime.now(UTC) + timedelta(days=1, minutes=5) < new.expires_at
    third = cli("keys", "rotate", "shop", *WHY)
    assert (third.code, third.out) == (1, "")
    assert "two secrets are good" in third.err
    cli("keys", "create", "leaky", "--scope", "audit", *WHY)
    leaked = cli("keys", "rotate", "leaky", "--overlap", "0s", *WHY, "--json").json["text"]
    assert cli("keys", "rotate", "leaky", "--overlap", "0s", *WHY).code == 0
    assert opened(ledger_settings, leaked) is None


def test_a_revoked_key_opens_nothing(cli: Cli, ledger_settings: Settings) -> None:
    """Named by its id or its name; it stays listed, and can't be rotated."""
    made = cli("keys", "create", "shop", "--scope", "audit", *WHY, "--json").json
    assert cli("keys", "revoke", made["id"], *WHY).out == f"The key shop ({made['id']}) is revoked.\n"
    assert opened(ledger_settings, made["text"]) is None
    assert [row["revoked_at"] is not None for row in cli("keys", "list", "--json").json] == [True]
    assert cli("keys", "rotate", "shop", *WHY).err.startswith("error: The key shop is revoked.\n")
    with connected(ledger_settings.dsn) as connection:
        revoke, create = audit_lines(connection)
    assert (revoke.action, create.action) == ("keys.revoke", "keys.create")
    assert revoke.before is not None
    assert revoke.after == revoke.before | {"revoked_at": (revoke.after or {})["revoked_at"]}


#: What `keys create` is given, and what its error says.
BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown scope": (("shop", "--scope", "append:everything", *WHY), "audit"),
    "no scope": (("shop", *WHY), "append:spend"),
    "no reason": (("shop", "--scope", "audit"), "--reason"),
    "an empty reason": (("shop", "--scope", "audit", "--reason", " "), "--reason"),
    "an empty name": (("", "--scope", "audit", *WHY), "no name"),
    "an end in the past": (("shop", "--scope", "audit", "--expires", "2020-01-01", *WHY), "ended already"),
    "no amount": (("shop", "--scope", "audit", "--most-amount", "0", *WHY), "largest amount"),
    "no asset": (("shop", "--scope", "audit", "--asset", "a\nb", *WHY), "asset"),
    "a long prefix": (("shop", "--scope", "audit", "--prefix", "p" * 129, *WHY), "prefix"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_can_be_no_key_is_refused_in_words(cli: Cli, name: str) -> None:
    """An unknown scope with those that there are; nothing is made."""
    words, said = BAD[name]
    done = cli("keys", "create", *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "\ntry: " in done.err
    assert cli("keys", "list").out.startswith("There are no keys.")


def test_a_name_is_taken_once(cli: Cli) -> None:
    """Of a revoked key too: the audit and the journal have it."""
    assert cli("keys", "create", "shop", "--scope", "audit", *WHY).code == 0
    assert cli("keys", "revoke", "shop", *WHY).code == 0
    again = cli("keys", "create", "shop", "--scope", "audit", *WHY)
    assert (again.code, again.out) == (2, "")
    assert "Choose another name" in again.err


def test_the_first_key_is_made_where_there_was_none(cli: Cli, ledger_settings: Settings) -> None:
    """With every scope, by `init`; not where one was revoked, and not where it isn't wanted."""
    assert "cfk_" not in cli("init", "--no-key").out
    text = cli("init").out.split()[-1]
    assert set(opened(ledger_settings, text).scopes) == SCOPES.keys()
    assert cli("keys", "revoke", "first", *WHY).code == 0
    with connected(ledger_settings.dsn) as connection:
        assert create_first_key(connection, Actor("ann", "here", "again")) is None


def test_the_help_names_every_scope(bare: Cli) -> None:
    """A kind of command by its name, all else as it is written."""
    shown = bare("keys", "create", "--help").out
    words = {word.strip(".,()`│ ") for word in shown.split()}
    assert {scope.removeprefix("append:") for scope in SCOPES} - words == set()
