"""The settings and their page say the same, and a bad one is named."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from creditfold.stack.settings import InvalidSettingError, Settings, load_settings, settings_table

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Settings are read once in a process, so each test here reads them anew."""
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


def test_the_page_holds_the_table() -> None:
    """docs/settings.md is written by settings_table()."""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8").endswith("\n\n" + settings_table())


def test_each_setting_is_explained() -> None:
    """No setting without a sentence."""
    assert [name for name, field in Settings.model_fields.items() if not (field.description or "").endswith(".")] == []


BAD = {
    "CREDITFOLD_KAFKA_BOOTSTRAP": "nowhere",
    "CREDITFOLD_KAFKA_CONTROLLER_PORT": "70000",
    "CREDITFOLD_KAFKA_HEAP": "lots",
    "CREDITFOLD_KAFKA_SECURITY_PROTOCOL": "CARRIER_PIGEON",
    "CREDITFOLD_KAFKA_SASL_MECHANISM": "HANDSHAKE",
    "CREDITFOLD_COMMANDS_TOPIC": "a topic",
    "CREDITFOLD_PARTITIONS": "0",
    "CREDITFOLD_REPLICATION": "none",
    "CREDITFOLD_MAX_MESSAGE_BYTES": "1",
    "CREDITFOLD_CHUNK_RECORDS": "-1",
    "CREDITFOLD_RETRY_MAX_S": "0",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad setting, one name in the message."""
    monkeypatch.setenv(name, BAD[name])
    with pytest.raises(InvalidSettingError, match=name) as error:
        load_settings()
    assert "docs/settings.md" in error.value.remedy


def test_all_bad_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody repairs them one run at a time."""
    for name, value in BAD.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettingError) as error:
        load_settings()
    assert [name for name in BAD if f"{name}: " not in error.value.message] == []


def test_secrets_stay_out_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither printing the settings nor a bad one beside it shows a password."""
    monkeypatch.setenv("CREDITFOLD_KAFKA_PASSWORD", "hunter2")
    monkeypatch.setenv("CREDITFOLD_POSTGRES_DSN", "postgresql://u:hunter2@db/x")
    assert "hunter2" not in repr(load_settings())
    load_settings.cache_clear()
    monkeypatch.setenv("CREDITFOLD_PARTITIONS", "0")
    with pytest.raises(InvalidSettingError) as error:
        load_settings()
    assert "hunter2" not in str(error.value)


def test_empty_means_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass empty variables on for what nobody set."""
    monkeypatch.setenv("CREDITFOLD_POSTGRES_DSN", "")
    assert load_settings().postgres_dsn is None


@pytest.mark.parametrize(("folder", "word"), [("/tmp/a,b", "comma"), ("/tmp/" + "a" * 90, "too long")])  # noqa: S108
def test_a_folder_that_no_socket_can_live_in(folder: str, word: str) -> None:
    """Said before the server is started, not by the server."""
    with pytest.raises(InvalidSettingError, match=word):
        _ = Settings(data_dir=Path(folder)).postgres_socket_dir


def test_settings_are_frozen() -> None:
    """Nothing changes a setting behind another's back."""
    with pytest.raises(ValidationError):
        Settings().partitions = 3  # type: ignore[misc]
