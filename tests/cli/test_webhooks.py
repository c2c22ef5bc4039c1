"""Webhooks and alerts on the command line: made, shown once, listed, changed, sent again, each audited."""

import pytest

from creditfold.common.settings import Settings
from creditfold.projections.access.audit import audit_lines
from creditfold.projections.connections import connected
from helpers.command_line import use
from helpers.support import Cli

pytestmark = pytest.mark.stack

WHY = ("--reason", "a test needs it")
URL = "https://shop.example/hooks"


@pytest.fixture
def cli(bare: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command on a ledger without a worker, which these don't need."""
    use(ledger_settings, monkeypatch)
    return bare


def test_an_endpoint_is_made_shown_once_and_managed(cli: Cli, ledger_settings: Settings) -> None:
    """Each change is audited; no secret is in a list, nor in the audit."""
    done = cli("webhooks", "create", URL, "--type", "lot.granted", "--prefix", "eu-", *WHY, "--json")
    assert done.code == 0, done.err
    made = done.json
    endpoint, secret = made["id"], made["secret"].removeprefix("whsec_")
    assert (made["types"], made["account_prefixes"], made["url"]) == (["lot.granted"], ["eu-"], URL)
    new = cli("webhooks", "rotate", endpoint, *WHY)
    assert "whsec_" in new.out
    assert "two sign" in cli("webhooks", "rotate", endpoint, *WHY).err
    assert cli("webhooks", "disable", endpoint, *WHY).out == f"The endpoint {endpoint} is disabled.\n"
    assert "disabled: by hand" in cli("webhooks", "list").out
    assert cli("webhooks", "enable", endpoint, "--from-now", *WHY).out == f"The endpoint {endpoint} is enabled.\n"
    assert cli("webhooks", "resend", endpoint, "--parked", *WHY).out == "0 events are sent again.\n"
    assert cli("webhooks", "attempts", endpoint).out == "Nothing was sent yet.\n"
    shown = cli("webhooks", "show", endpoint).out + cli("webhooks", "list", "--json").out
    assert made["public_key"] in shown
    with connected(ledger_settings.dsn) as connection:
        lines = audit_lines(connection)
    assert [line.action for line in lines][::-1] == [
        *("webhooks.create", "webhooks.rotate", "webhooks.disable", "webhooks.enable", "webhooks.resend")
    ]
    assert secret not in shown + repr(lines)
    assert cli("webhooks", "delete", endpoint, *WHY).out == f"The endpoint {endpoint} was deleted.\n"
    assert cli("webhooks", "list").out.startswith("There are no endpoints.")


def test_a_rule_is_added_listed_and_removed(cli: Cli) -> None:
    """In words that say what it watches."""
    below = cli("alerts", "add", "--below", "100", "--rearm-at", "150", "--asset", "credits", *WHY)
    assert "an account drops below 100 of credits, and again when it has 150." in below.out
    assert "has nothing left" in cli("alerts", "add", "--depleted", "--prefix", "eu-", *WHY).out
    soon = cli("alerts", "add", "--expiring-within", "12h", *WHY, "--json").json
    assert (soon["kind"], soon["within_ms"]) == ("expiring", 43_200_000)
    assert "end within 0.5 days" in cli("alerts", "list").out
    assert cli("alerts", "remove", soon["id"], *WHY).out == f"The rule {soon['id']} was removed.\n"
    assert [row["kind"] for row in cli("alerts", "list", "--json").json] == ["dropped", "depleted"]


#: A command, and what its error says.
BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no TLS": (("webhooks", "create", "http://10.0.0.1/", *WHY), "without TLS"),
    "no host": (("webhooks", "create", "https://", *WHY), "no host"),
    "an unknown type": (("webhooks", "create", URL, "--type", "lot.eaten", *WHY), "lot.eaten"),
    "no reason": (("webhooks", "create", URL, "--reason", " "), "--reason"),
    "nobody": (("webhooks", "show", "ep_1"), "no endpoint"),
    "nothing to send": (("webhooks", "resend", "ep_1", *WHY), "isn't said"),
    "half a range": (("webhooks", "resend", "ep_1", "--from", "0:1", *WHY), "two ends"),
    "two kinds of rules": (("alerts", "add", "--depleted", "--below", "5", *WHY), "isn't said"),
    "no rule": (("alerts", "remove", "al_1", *WHY), "no rule"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused_in_words(cli: Cli, name: str) -> None:
    """With a remedy."""
    words, said = BAD[name]
    done = cli(*words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "\ntry: " in done.err
