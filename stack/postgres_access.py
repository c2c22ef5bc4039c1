"""Owns how clients reach PostgreSQL: the embedded server's port on loopback, its passwords, and connection strings.

Refuses to start a server. Passwords are kept in one file of the data folder that its owner alone can read, in libpq's
own format, and reach the server as verifiers only, so that no log and no list of processes has them.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier, Literal

from creditfold.common.errors import ResourceError
from creditfold.common.settings import Settings
from creditfold.stack.ports import LOOPBACK

DATABASE = "creditfold"
#: The port that the socket is named after, whatever port is open.
SOCKET_PORT = 5432
#: The ledger's owner, and the role that may read its views.
OWNER = "postgres"
READER = "creditfold_reader"

#: Through the socket's folder, which only its owner can enter, everybody is let in; through the port with a password.
HBA = f"""# Written by creditfold at each start.
local all all trust
host all all {LOOPBACK}/32 scram-sha-256
"""


class AccessError(ResourceError):
    """PostgreSQL can't be reached in the way that was asked for."""

    exit_code = 2


class Passwords:
    """The passwords of the embedded server's two roles, in a file in the format of libpq's .pgpass.

    Args:
        path: of the file. It is made with the first password, readable by its owner alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def of(self, role: str) -> str | None:
        """The password of a role, None if it has none yet."""
        return self._read().get(role)

    def make(self, given: Mapping[str, str]) -> dict[str, str]:
        """Give each role a password: the one given, else the one that it has, else a new one by chance."""
        kept = self._read()
        made = {role: given.get(role) or kept.get(role) or secrets.token_urlsafe(24) for role in (OWNER, READER)}
        if made != kept:
            fresh = self.path.with_name(f"{self.path.name}.new")
            fresh.unlink(missing_ok=True)
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.writelines(f"{LOOPBACK}:*:*:{role}:{_escaped(password)}\n" for role, password in made.items())
            fresh.replace(self.path)
        # libpq passes over a file that others can read.
        self.path.chmod(0o600)
        return made

    def _read(self) -> dict[str, str]:
        try:
            lines = self.path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return {}
        except PermissionError:
            raise AccessError(
                f"The passwords in {self.path} belong to another user.",
                "Run as the user who started the stack, who alone may read them.",
            ) from None
        rows = (line.split(":", 4) for line in lines if line.count(":") >= 4)
        return {row[3]: _plain(row[4]) for row in rows if row[3] in (OWNER, READER)}


def _escaped(password: str) -> str:
    return password.replace("\\", "\\\\").replace(":", "\\:")


def _plain(password: str) -> str:
    return password.replace("\\:", ":").replace("\\\\", "\\")


def enable_reader_login(connection: psycopg.Connection[Any]) -> None:
    """Make the readers' role of the embedded server one that can log in, which through the socket needs no password."""
    found = connection.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [READER]).fetchone()
    if found is None:
        try:
            connection.execute(SQL("CREATE ROLE {} LOGIN").format(Identifier(READER)))
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            found = (False,)
    if found == (False,):
        connection.execute(SQL("ALTER ROLE {} LOGIN").format(Identifier(READER)))


def set_passwords(connection: psycopg.Connection[Any], passwords: Mapping[str, str]) -> None:
    """Give roles their passwords, of which the server sees no more than it needs to check them."""
    for role, password in passwords.items():
        verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
        connection.execute(SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(role), Literal(verifier)))


class Access(NamedTuple):
    """How a client reaches PostgreSQL: libpq's parameters without the password, and the password if it is known."""

    parameters: Mapping[str, str]
    password: str | None


def access(settings: Settings, *, as_owner: bool, tcp_port: int | None) -> Access:
    """How to reach the PostgreSQL of the settings.

    Args:
        settings: with a connection string of one's own, that one counts, whatever its user may do.
        as_owner: of the embedded server, whether to connect as the ledger's owner and not as a reader.
        tcp_port: the embedded server's open port, None if it is reached by its socket only.

    Raises AccessError.
    """
    if settings.postgres_dsn is not None:
        try:
            parameters = {
                name: str(value) for name, value in conninfo_to_dict(settings.dsn).items() if value is not None
            }
        except psycopg.ProgrammingError:
            # What libpq says of it repeats it, with the password.
            raise AccessError("The connection string can't be read.", "Set CREDITFOLD_POSTGRES_DSN.") from None
        password = parameters.pop("password", None)
        return Access(parameters, password)
    role = OWNER if as_owner else READER
    if tcp_port is None:
        host, port = str(settings.postgres_socket_dir), SOCKET_PORT
        return Access({"host": host, "port": str(port), "user": role, "dbname": DATABASE}, None)
    passwords = Passwords(passwords_path(settings))
    where = {"host": LOOPBACK, "port": str(tcp_port), "user": role, "dbname": DATABASE}
    return Access(where | {"passfile": str(passwords.path)}, passwords.of(role))


def passwords_path(settings: Settings) -> Path:
    """The file of the embedded server's passwords."""
    return settings.data_dir.resolve() / "pgpass"


def url(found: Access, *, with_password: bool) -> str:
    """A connection string for libpq and what is built on it; without the password it names the file of it, if any."""
    parameters = dict(found.parameters)
    user, database = parameters.pop("user", ""), parameters.pop("dbname", "")
    if with_password and found.password is not None:
        parameters.pop("passfile", None)
        user = f"{quote(user, safe='')}:{quote(found.password, safe='')}"
    else:
        user = quote(user, safe="")
    # A socket's folder, or several hosts, have no place before the path.
    place = ""
    if "/" not in parameters.get("host", "/") and "," not in parameters["host"]:
        host, port = parameters.pop("host"), parameters.pop("port", "")
        place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    rest = f"?{urlencode(parameters, quote_via=quote, safe='')}" if parameters else ""
    return f"postgresql://{user + '@' if user else ''}{place}/{quote(database, safe='')}{rest}"


#: libpq's parameters that JDBC's driver knows, and its names for them. What isn't here it does in its own way.
_JDBC: Mapping[str, str] = {
    "user": "user",
    "sslmode": "sslmode",
    "sslrootcert": "sslrootcert",
    "sslcert": "sslcert",
    "sslkey": "sslkey",
    "options": "options",
    "application_name": "ApplicationName",
    "connect_timeout": "connectTimeout",
}
#: Parameters that are said in another place, or mean nothing to JDBC's driver.
_NOT_JDBC = {"host", "hostaddr", "port", "dbname", "passfile", "client_encoding"}


def jdbc_url(found: Access, *, with_password: bool) -> tuple[str, list[str]]:
    """A connection string for JDBC, and libpq's parameters that it can't carry. Raises AccessError for a socket."""
    hosts = (found.parameters.get("host") or found.parameters.get("hostaddr") or "").split(",")
    if any(not host or host.startswith(("/", "@")) for host in hosts):
        raise AccessError(
            "JDBC knows no Unix sockets, and PostgreSQL is reached by one.",
            "Set CREDITFOLD_POSTGRES_TCP_PORT to a free port, then `creditfold down` and `creditfold up`; or name a "
            "host in CREDITFOLD_POSTGRES_DSN.",
        )
    ports = (found.parameters.get("port") or str(SOCKET_PORT)).split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    places = [
        (f"[{host}]" if ":" in host else host) + f":{port or SOCKET_PORT}"
        for host, port in zip(hosts, ports, strict=False)
    ]
    known = {_JDBC[name]: value for name, value in found.parameters.items() if name in _JDBC}
    if with_password and found.password is not None:
        known["password"] = found.password
    left_out = sorted(name for name in found.parameters if name not in _JDBC and name not in _NOT_JDBC)
    database = quote(found.parameters.get("dbname", ""), safe="")
    rest = f"?{urlencode(known, quote_via=quote, safe='')}" if known else ""
    return f"jdbc:postgresql://{','.join(places)}/{database}{rest}", left_out


def psql_call(psql: Path, found: Access, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command and the environment to run psql with. The password is in the environment, which others can't see."""
    environment = dict(os.environ)
    if found.password is not None:
        environment["PGPASSWORD"] = found.password
    return [str(psql), "--dbname", make_conninfo(**found.parameters), *arguments], environment
