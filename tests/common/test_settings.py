"""The settings and their page say the same, a bad one is named, and a data folder remembers its own."""

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from creditfold.common.settings import FILE, InvalidSettingError, Settings, load_settings, settings_table
from creditfold.stack.settings_file import ALWAYS, OF_A_START, remember

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings are read once in a process, so each test here reads them anew, and no stack's is found."""
    monkeypatch.chdir(tmp_path)
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


def made(folder: Path, **values: object) -> Path:
    """Have a data folder remember settings as `up` does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = remember(Settings(data_dir=folder, **values), ["Kafka", "PostgreSQL"])  # type: ignore[arg-type]
    assert path == folder.resolve() / FILE
    return path


def test_a_stack_is_found_with_its_settings_from_its_folder_and_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a shell that knows nothing of it; by CREDITFOLD_DATA_DIR from elsewhere; and not from beside."""
    made(tmp_path / "shop" / ".creditfold", kafka_bootstrap="127.0.0.1:31999", partitions=3, kafka_heap="768m")
    below, beside = tmp_path / "shop" / "a" / "b", tmp_path / "other"
    for folder in (below, beside):
        folder.mkdir(parents=True)
    for place, name in [(tmp_path / "shop", ""), (below, ""), (beside, str(tmp_path / "shop" / ".creditfold"))]:
        monkeypatch.chdir(place)
        monkeypatch.setenv("CREDITFOLD_DATA_DIR", name)
        load_settings.cache_clear()
        found = load_settings()
        assert found.data_dir == tmp_path / "shop" / ".creditfold"
        assert (found.kafka_bootstrap, found.partitions, found.kafka_heap) == ("127.0.0.1:31999", 3, "768m")
    monkeypatch.setenv("CREDITFOLD_DATA_DIR", "")
    load_settings.cache_clear()
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert {name: getattr(load_settings(), name) for name in defaults} == defaults


def test_the_environment_wins_over_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting by setting; an empty variable is none."""
    made(tmp_path / ".creditfold", kafka_bootstrap="127.0.0.1:31999", partitions=3)
    monkeypatch.setenv("CREDITFOLD_KAFKA_BOOTSTRAP", "127.0.0.1:31998")
    monkeypatch.setenv("CREDITFOLD_PARTITIONS", "")
    assert (load_settings().kafka_bootstrap, load_settings().partitions) == ("127.0.0.1:31998", 3)


def test_all_that_is_set_is_remembered_but_secrets(tmp_path: Path) -> None:
    """What says where the stack is, in any case; what else was set; and nothing that others shouldn't see."""
    assert set(tomllib.loads(made(tmp_path / "plain").read_text("utf-8"))) == set(ALWAYS)
    given = {name: field.default for name, field in Settings.model_fields.items() if field.default is not None}
    given.pop("data_dir")
    path = made(tmp_path / "full", **given, jars_dir="jars", kafka_username="ada", kafka_password="hunter2")  # noqa: S106
    values = tomllib.loads(path.read_text("utf-8"))
    assert values == {**given, "jars_dir": str(tmp_path / "jars"), "kafka_username": "ada"}
    assert path.stat().st_mode & 0o777 == 0o600
    again = Settings(data_dir=tmp_path / "full")
    assert {name: getattr(again, name) for name in given} == given
    assert Settings.model_fields.keys() >= set(OF_A_START)


@pytest.mark.parametrize(
    ("dsn", "is_kept"),
    [("postgresql://ada@db/x", True), ("postgresql://ada:hunter2@db/x", False), ("password=a", False)],
)
def test_a_connection_string_is_remembered_without_a_password_only(tmp_path: Path, dsn: str, is_kept: bool) -> None:
    """A password stays where it is."""
    values = tomllib.loads(made(tmp_path, postgres_dsn=SecretStr(dsn)).read_text("utf-8"))
    assert values.get("postgres_dsn") == (dsn if is_kept else None)


@pytest.mark.parametrize(("password", "is_kept"), [("", True), ("ada:hunter2@", False)])
def test_a_mirror_is_remembered_without_a_password_only(tmp_path: Path, password: str, is_kept: bool) -> None:
    """The same for the address of a Maven repository."""
    url = f"https://{password}maven.example/central"
    values = tomllib.loads(made(tmp_path, maven_url=url).read_text("utf-8"))
    assert values.get("maven_url") == (url if is_kept else None)


def test_what_a_person_wrote_stays(tmp_path: Path) -> None:
    """A later start changes the lines of what it starts differently, and no other; none does where all is as before."""
    path = made(tmp_path, kafka_bootstrap="127.0.0.1:31999", partitions=3)
    mine = path.read_text("utf-8").replace("partitions = 3", "# As many as last year.\npartitions = 5") + "# The end.\n"
    path.write_text(mine, "utf-8")
    moved = Settings(data_dir=tmp_path, kafka_bootstrap="127.0.0.1:31997", partitions=7)
    assert remember(moved, []) is None
    assert remember(moved, ["PostgreSQL"]) is None
    assert remember(moved, ["Kafka"]) == path
    assert path.read_text("utf-8") == mine.replace(":31999", ":31997")
    assert remember(moved, ["Kafka"]) is None
    again = Settings(data_dir=tmp_path)
    assert (again.kafka_bootstrap, again.partitions) == ("127.0.0.1:31997", 5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafka_bootstrp = 'x:1'", "has 'kafka_bootstrp', which is no setting there; did you mean kafka_bootstrap?"),
        ("CREDITFOLD_PARTITIONS = 3", "did you mean partitions?"),
        (
            "data_dir = '/'",
            "has 'data_dir', which is no setting there; the data folder is the one that the file lies in",
        ),
        ("xyzzy = 1", "it may have: jars_dir, maven_url, kafka_bootstrap, "),
        ("[kafka]\nport = 1", "has 'kafka', which is no setting there"),
        ("partitions = 0", "Bad setting: partitions in "),
        ("partitions = many", "is no TOML"),
        ("partitions = 3".encode("utf-16"), "is no TOML: it isn't in UTF-8"),
        ("kafka_password = 'hunter2'", "holds kafka_password, and others may read it"),
        ("postgres_dsn = 'postgresql://ada:hunter2@db/x'", "holds postgres_dsn, and others may read it"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str | bytes, said: str) -> None:
    """With what is wrong in it, exit code 2 and no secret."""
    path = tmp_path / ".creditfold" / FILE
    path.parent.mkdir()
    path.write_bytes(text if isinstance(text, bytes) else f"{text}\n".encode())
    path.chmod(0o644)
    with pytest.raises(InvalidSettingError) as error:
        load_settings()
    assert said in error.value.message
    assert str(path) in error.value.message
    assert error.value.exit_code == 2
    assert "hunter2" not in str(error.value)
    if "others may read" in said:
        path.chmod(0o600)
        load_settings.cache_clear()
        secrets = (load_settings().kafka_password, load_settings().postgres_dsn)
        assert any(secret is not None and "hunter2" in secret.get_secret_value() for secret in secrets)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_strangers_stack_above_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that all may write, his file would lead our commands to his Kafka."""
    path = made(tmp_path / ".creditfold", kafka_bootstrap="127.0.0.1:31999")
    os.chown(path, 12345, 12345)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert load_settings().kafka_bootstrap == Settings.model_fields["kafka_bootstrap"].default
