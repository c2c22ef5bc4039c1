"""The one settings object. Owns names, defaults and bounds; refuses to connect to anything.

Every setting is read from the environment as `CREDITFOLD_<NAME>`, and where that doesn't have it from the file that
`creditfold up` leaves in the data folder (stack/settings_file.py); docs/settings.md lists them.
"""

import logging
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator

from creditfold.common.errors import CreditfoldError
from creditfold.common.extras import missing_extra

try:
    from pydantic_settings import (
        BaseSettings,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
        TomlConfigSettingsSource,
    )
except ModuleNotFoundError as error:
    raise missing_extra(error) or error from None

__all__ = ["InvalidSettingError", "Settings", "load_settings"]

# A Unix socket's path must fit into sockaddr_un (104 bytes with its end on macOS), PostgreSQL adds "/.s.PGSQL." and a
# port of up to five digits.
MAX_SOCKET_DIR_BYTES = 88


PREFIX = "CREDITFOLD_"
# Variables of docker-compose.yml, of the tests and of setup.py, which aren't settings.
OTHERS = tuple(
    PREFIX + name
    for name in ("TEST_", "CHAOS_", "KAFKA_PORT", "POSTGRES_PORT", "POSTGRES_PASSWORD", "EXAMPLES", "CORE")
)
# What Kubernetes puts into each container about a service that is called creditfold, or creditfold-something.
_OF_A_SERVICE = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
# By difflib's measure, prefix left out.
LIKENESS = 0.6

#: The data folder where CREDITFOLD_DATA_DIR doesn't say another: looked for here and in each folder above.
DATA_DIR = Path(".creditfold")
#: The file in a data folder with the settings that its stack was made with.
FILE = "settings.toml"
#: What a value looks like that holds a password.
PASSWORD = re.compile(r"://[^/@]*:[^/@]+@|\bpassword\s*=")

#: Those that sign with one key and verify with another.
JWT_ALGORITHMS = frozenset(
    {*(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)), "EdDSA", "Ed25519"}
)

#: Keys of metadata that can be declared as searchable.
MOST_SEARCHABLE = 8

_log = logging.getLogger(__name__)


class InvalidSettingError(CreditfoldError):
    """A setting is malformed or out of bounds."""

    exit_code = 2


#: After how many milliseconds a member of a group asks Kafka again what topics there are. A Kafka that has just come up
#: may know none yet: the member that assigns partitions then has none to assign, and the five minutes until clients
#: look again are an outage.
METADATA_AGE_MS = 5_000

#: What makes a client of Kafka a reader of committed records that belongs to no group and never skips one.
READER: Mapping[str, Any] = {
    "group.id": "creditfold-reader",  # Demanded by the client; never joined, nothing is committed.
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
}


def find_data_dir() -> Path:
    """The data folder of a stack that was made here or in a folder above; else `.creditfold` here, there or not.

    One that belongs to another user is skipped: that user could direct us to other servers.
    """
    with suppress(OSError):
        here = Path.cwd()
        for folder in (here, *here.parents):
            with suppress(OSError):
                if (folder / DATA_DIR / FILE).stat().st_uid in (os.geteuid(), 0):
                    return folder / DATA_DIR
    return DATA_DIR


class _SettingsFile(TomlConfigSettingsSource):
    """The settings file of the data folder, and where that folder is if it isn't set."""

    def __init__(self, settings_cls: type[BaseSettings], given: object) -> None:
        self._folder = Path(str(given)) if given else find_data_dir()
        super().__init__(settings_cls, toml_file=self._folder.absolute() / FILE)

    def __call__(self) -> dict[str, Any]:
        return {"data_dir": self._folder, **super().__call__()}

    def _read_files(self, files: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        try:
            Path(files).stat()
        except OSError:
            # A user who may not look there has no stack there.
            return {}
        try:
            values = super()._read_files(files, *arguments, **options)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            why = "it isn't in UTF-8" if isinstance(error, UnicodeDecodeError) else error
            raise InvalidSettingError(f"The file {files} is no TOML: {why}.", "See docs/settings.md.") from None
        except OSError as error:
            raise InvalidSettingError(
                f"The settings of the data folder can't be read: {error.strerror} ({files}).",
                "Run as the user who made the stack, or set CREDITFOLD_DATA_DIR to a folder of your own.",
            ) from None
        _check_names(files, values)
        _check_secrets(files, values)
        return values


def _check_names(path: Path, values: Mapping[str, object]) -> None:
    known = [name for name in Settings.model_fields if name != "data_dir"]
    for name in values:
        if name not in known:
            plain = name.lower().removeprefix(PREFIX.lower())
            meant = get_close_matches(plain, known, 1, LIKENESS)
            hint = f"did you mean {meant[0]}?" if meant else f"it may have: {', '.join(known)}."
            if plain == "data_dir":
                hint = "the data folder is the one that the file lies in."
            raise InvalidSettingError(f"{path} has {name!r}, which is no setting there; {hint}", f"Edit {path}.")


def _check_secrets(path: Path, values: Mapping[str, object]) -> None:
    secret = [name for name in values if name.endswith(("_password", "_secret")) or PASSWORD.search(str(values[name]))]
    if secret and path.stat().st_mode & 0o077:
        raise InvalidSettingError(f"{path} holds {secret[0]}, and others may read it.", f"chmod 600 {path}")


class Settings(BaseSettings):
    """What can be set, with its default. Sizes are in bytes or records, times in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    data_dir: Path = Field(DATA_DIR, description="Folder of the embedded stack and of import progress.")
    jars_dir: Path | None = Field(None, description="Folder of Kafka's jars; by default `jars` in the data folder.")
    maven_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Mirror of Maven Central that Kafka's jars are fetched from; Maven Central itself if unset.",
    )

    kafka_bootstrap: str = Field("127.0.0.1:29092", description="Kafka's bootstrap servers, host:port by commas.")
    kafka_controller_port: Annotated[int, Field(ge=1, le=65535)] = Field(
        29093, description="Port of the embedded broker's controller, on loopback."
    )
    kafka_heap: str = Field("512m", pattern=r"^[0-9]+[mg]$", description="Heap of the embedded broker.")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How to talk to Kafka."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism, where the protocol has SASL."
    )
    kafka_username: str | None = Field(None, description="SASL user name.")
    kafka_password: SecretStr | None = Field(None, description="SASL password.")
    kafka_ca_file: Path | None = Field(None, description="Certificate authority file for TLS; the system's if unset.")

    commands_topic: str = Field(
        "creditfold.commands.v1", pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="The command topic: the log."
    )
    outcomes_topic: str = Field(
        "creditfold.outcomes.v1", pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="The topic of what was decided."
    )
    dead_letters_topic: str = Field(
        "creditfold.dead-letters.v1", pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="The topic of dead letters."
    )
    partitions: Annotated[int, Field(ge=1, le=10_000)] = Field(
        8, description="Partitions of the command topic when it is created. It never changes after."
    )
    replication: Annotated[int, Field(ge=1, le=32_767)] = Field(1, description="Replication factor of new topics.")
    max_message_bytes: Annotated[int, Field(ge=65_536, le=104_857_600)] = Field(
        1_048_588, description="Largest record batch that a new topic takes."
    )

    postgres_dsn: SecretStr | None = Field(
        None, description="PostgreSQL connection string; by default the embedded server's socket."
    )

    postgres_tcp_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None,
        description="Port of the embedded PostgreSQL on loopback, for clients without Unix sockets; closed if unset.",
    )
    postgres_reader_password: SecretStr | None = Field(
        None,
        description="Password of `creditfold_reader` at that port; one is made and kept in the data folder if unset.",
    )

    group: str = Field("creditfold-fold", min_length=1, max_length=200, description="Consumer group of the workers.")
    chunk_records: Annotated[int, Field(ge=1, le=100_000)] = Field(
        8_000, description="Most records that one transaction of a worker folds."
    )
    retry_max_s: Annotated[float, Field(gt=0, le=300)] = Field(
        5.0, description="Longest pause between tries while Kafka or PostgreSQL is away."
    )
    tick_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        60.0, description="Seconds between two ticks of a partition where something is due, at least; 0 for no ticks."
    )

    searchable_metadata: str = Field(
        "",
        description="Keys of metadata by which accounts are searched, by commas, at most 8; a generation keeps those "
        "that it was made with.",
    )

    searchable_balances: bool = Field(
        False, description="Whether new generations index balances and what ends, for searches; the fold is slower."
    )

    api_host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address that the HTTP door listens on.",
    )
    api_port: Annotated[int, Field(ge=1, le=65535)] = Field(29080, description="Port of the HTTP door.")
    api_rate: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        0.0, description="Requests a second that a key may send to one door, unless it has its own; 0 for any number."
    )
    api_burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Requests that a key may send at once; as many as in a second if unset."
    )
    api_jwks_url: str | None = Field(
        None, description="Where an identity provider publishes its keys (JWKS); no token is taken if unset."
    )
    api_jwt_issuer: str | None = Field(
        None, validate_default=True, description="The claim `iss` that a token must have."
    )
    api_jwt_audience: str | None = Field(
        None, validate_default=True, description="The claim `aud` that a token must have."
    )
    api_jwt_algorithms: str = Field("RS256,ES256", description="The algorithms that a token may be signed with.")
    api_cors_origins: str = Field(
        "", description="Origins whose pages may call the door from a browser, by commas; none if empty."
    )
    console_url: str | None = Field(
        None,
        pattern=r"^(https://[^/?#@]+|http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?)$",
        description="Where browsers have the door, as https://ledger.example: an identity provider leads them back "
        "there, to `/console/login/callback`.",
    )
    console_oidc_client_id: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="Who the console is to the identity provider `api_jwt_issuer`; nobody logs in by that if unset.",
    )
    console_oidc_client_secret: SecretStr | None = Field(
        None, description="Secret of that client; none where the provider has it as a public one."
    )
    console_oidc_scopes: str = Field(
        "openid", description="Scopes that the console asks the identity provider for, by spaces; openid is one."
    )
    console_oidc_name: str = Field(
        "single sign-on", min_length=1, max_length=60, description="What the login calls the identity provider."
    )

    api_log_requests: bool = Field(
        False, description="Whether the door logs each request: what it was, its id, its command's id and position."
    )
    api_metrics_address: str | None = Field(
        None, description="Address, host:port, where `GET /metrics` is served without a key; none if unset."
    )
    worker_metrics_address: str | None = Field(
        None, description="Address, host:port, where a worker shows its metrics, without a key; none if unset."
    )
    publisher_metrics_address: str | None = Field(
        None, description="Address, host:port, where a publisher shows its metrics, without a key; none if unset."
    )
    delivery_metrics_address: str | None = Field(
        None, description="Address, host:port, where delivery shows its metrics, without a key; none if unset."
    )

    otlp_endpoint: str | None = Field(
        None,
        description="Where a collector of OpenTelemetry takes spans by OTLP over HTTP, as "
        "http://127.0.0.1:4318/v1/traces; none are made if unset. Needs the extra [otel].",
    )

    webhook_allowed_networks: str = Field(
        "",
        description="Networks whose addresses webhooks may call though they aren't public, by commas, as 10.0.0.0/8; "
        "without TLS too. None if empty.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, and that over the file in the data folder, which either may name."""
        folder = init_settings().get("data_dir") or _in_environment("data_dir")
        return init_settings, env_settings, _SettingsFile(settings_cls, folder)

    @field_validator("kafka_bootstrap")
    @classmethod
    def _bootstrap_is_host_and_port(cls, value: str) -> str:
        for server in value.split(","):
            _host_and_port(server.strip())
        return value

    @field_validator(
        "api_metrics_address", "worker_metrics_address", "publisher_metrics_address", "delivery_metrics_address"
    )
    @classmethod
    def _metrics_are_somewhere(cls, value: str | None) -> str | None:
        if value is not None:
            _host_and_port(value)
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _collector_is_a_url(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^/\s]+/\S+", value):
            raise ValueError(f"{value[:100]!r} isn't a URL with a path, such as http://127.0.0.1:4318/v1/traces")
        return value

    @field_validator("api_jwks_url")
    @classmethod
    def _keys_come_safely(cls, value: str | None) -> str | None:
        # Whoever can put in other keys is anybody here.
        if value is not None and not is_safe_url(value):
            raise ValueError(f"{value[:100]!r} is neither https:// nor http:// on loopback")
        return value

    @field_validator("api_jwt_algorithms")
    @classmethod
    def _algorithms_have_two_keys(cls, value: str) -> str:
        unknown = sorted({name.strip() for name in value.split(",")} - JWT_ALGORITHMS)
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(sorted(JWT_ALGORITHMS))}")
        return value

    @field_validator("api_jwt_issuer", "api_jwt_audience")
    @classmethod
    def _tokens_are_of_somebody_for_us(cls, value: str | None, info: ValidationInfo) -> str | None:
        if not value and info.data.get("api_jwks_url"):
            raise ValueError("it is needed beside api_jwks_url: a provider signs for others too")
        return value

    @field_validator("console_oidc_client_id")
    @classmethod
    def _login_has_a_provider_and_a_way_back(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            missing = [name for name in ("api_jwks_url", "api_jwt_issuer", "console_url") if not info.data.get(name)]
            if missing:
                raise ValueError(f"it needs {' and '.join(missing)} too")
            if not is_safe_url(info.data["api_jwt_issuer"]):
                raise ValueError("api_jwt_issuer is neither https:// nor http:// on loopback, so it can't be asked")
        return value

    @field_validator("console_oidc_scopes")
    @classmethod
    def _login_says_who(cls, value: str) -> str:
        if "openid" not in value.split():
            raise ValueError("openid is missing: without it a provider doesn't say who logs in")
        return value

    @field_validator("webhook_allowed_networks")
    @classmethod
    def _networks_are_networks(cls, value: str) -> str:
        for part in filter(None, map(str.strip, value.split(","))):
            ip_network(part)
        return value

    @field_validator("searchable_metadata")
    @classmethod
    def _keys_can_be_searched_by(cls, value: str) -> str:
        keys = [key.strip() for key in value.split(",") if key.strip()]
        bad = next((key for key in keys if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", key)), None)
        if bad is not None:
            raise ValueError(f"{bad[:70]!r} isn't 1 to 64 letters of ASCII, digits, underscores, dots and hyphens")
        if len(set(keys)) > MOST_SEARCHABLE:
            raise ValueError(f"{len(set(keys))} keys are declared; each costs rows and an index, so at most 8 can be")
        return value

    @property
    def searchable_keys(self) -> list[str]:
        """The keys of metadata by which accounts are searched, in their order."""
        return sorted({key.strip() for key in self.searchable_metadata.split(",") if key.strip()})

    @property
    def jwt_algorithms(self) -> list[str]:
        """The algorithms that a token may be signed with."""
        return [name.strip() for name in self.api_jwt_algorithms.split(",")]

    def metrics_at(self, process: Literal["api", "worker", "publisher", "delivery"]) -> tuple[str, int] | None:
        """Host and port where a process shows its metrics without a key; None if it shows none."""
        address: str | None = getattr(self, f"{process}_metrics_address")
        return None if address is None else _host_and_port(address)

    @property
    def cors_origins(self) -> list[str]:
        """The origins whose pages may call the door from a browser."""
        return [name.strip() for name in self.api_cors_origins.split(",") if name.strip()]

    @field_validator("postgres_reader_password")
    @classmethod
    def _password_can_be_typed(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().isprintable():
            raise ValueError("a password has no control characters")
        return value

    @property
    def kafka_jars(self) -> Path:
        """Folder of Kafka's jars."""
        return (self.jars_dir or self.data_dir / "jars").resolve()

    @property
    def postgres_socket_dir(self) -> Path:
        """Folder of the embedded PostgreSQL's socket, a short path derived from the data folder."""
        inside = self.data_dir.resolve() / "run"
        if "," in str(inside):
            raise InvalidSettingError(
                f"The data folder's path has a comma, which PostgreSQL's clients take for a list of hosts: {inside}.",
                "Set CREDITFOLD_DATA_DIR to a path without one.",
            )
        if len(str(inside).encode()) <= MAX_SOCKET_DIR_BYTES:
            return inside
        raise InvalidSettingError(
            f"The data folder's path is too long for a Unix socket: {inside}.",
            "Set CREDITFOLD_DATA_DIR to a path of at most 80 characters.",
        )

    @property
    def dsn(self) -> str:
        """The PostgreSQL connection string in force. Holds the password if there is one: don't print it."""
        if self.postgres_dsn is not None:
            return self.postgres_dsn.get_secret_value()
        # The port is explicit, or PGPORT in the environment would lead elsewhere.
        return f"postgresql://postgres@/creditfold?host={quote(str(self.postgres_socket_dir), safe='')}&port=5432"

    @property
    def kafka_client(self) -> dict[str, str]:
        """The librdkafka settings that every client of ours starts from."""
        conf = {
            "bootstrap.servers": self.kafka_bootstrap,
            "security.protocol": self.kafka_security_protocol,
            # With the default, clients still wait up to ten seconds when Kafka is back.
            "reconnect.backoff.max.ms": "1000",
        }
        if "SASL" in self.kafka_security_protocol:
            conf["sasl.mechanism"] = self.kafka_sasl_mechanism
            conf["sasl.username"] = self.kafka_username or ""
            conf["sasl.password"] = self.kafka_password.get_secret_value() if self.kafka_password else ""
        if self.kafka_ca_file is not None:
            conf["ssl.ca.location"] = str(self.kafka_ca_file)
        return conf


def is_safe_url(url: str) -> bool:
    """Whether what is at an address can be changed by nobody on the way: by TLS, or on this machine."""
    return re.match(r"https://[^/]|http://(127\.0\.0\.1|localhost|\[::1\])([:/]|$)", url) is not None


def _host_and_port(text: str) -> tuple[str, int]:
    """The two parts of an address. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """Read the settings from the environment and the data folder, once.

    Variables that begin with `CREDITFOLD_` and are no setting are logged as warnings.

    Raises:
        InvalidSettingError: names each bad setting.

    Example:
        >>> load_settings().tick_seconds
        60.0
    """
    for name, meant in unknown_variables(os.environ).items():
        hint = f"did you mean {meant}?" if meant else "docs/settings.md lists them."
        _log.warning("%s is no setting and is ignored; %s", name, hint)
    try:
        return Settings()
    except ValidationError as error:
        bad = "; ".join(
            f"{source_of('_'.join(map(str, e['loc'])))}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise InvalidSettingError(f"Bad setting: {bad}.", "See docs/settings.md.") from None


def source_of(name: str) -> str:
    """The name of a setting where its value comes from: the environment, or the data folder's file."""
    if _in_environment(name):
        return f"{PREFIX}{name.upper()}"
    folder = _in_environment("data_dir")
    return f"{name} in {(Path(folder) if folder else find_data_dir()) / FILE}"


def _in_environment(name: str) -> str | None:
    """What the environment has for a setting, whose name may be in letters of any case there; None where it's empty."""
    return {given.upper(): value for given, value in os.environ.items() if value}.get(f"{PREFIX}{name.upper()}")


def unknown_variables(variables: Mapping[str, str]) -> dict[str, str | None]:
    """The variables that begin as a setting's does and are none, each with the setting that was probably meant."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    found = {}
    for name, value in variables.items():
        others = name.startswith(OTHERS) or _OF_A_SERVICE.search(name) or _ADDRESS.match(value)
        if name.startswith(PREFIX) and name.upper() not in known and not others:
            plain = [setting.removeprefix(PREFIX) for setting in known]
            meant = get_close_matches(name.removeprefix(PREFIX), plain, 1, LIKENESS)
            found[name] = PREFIX + meant[0] if meant else None
    return found


def settings_table() -> str:
    """Return the table of all settings in Markdown, as docs/settings.md has it."""
    lines = ["| name | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `CREDITFOLD_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"
