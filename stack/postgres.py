"""Owns the embedded PostgreSQL: its cluster and its server process, reached by a Unix socket, and a port if one is set.

Refuses to know the tables. What a commit promised survives a crash: nothing that weakens that is ever set. The
cluster is made in a folder of another name, which is renamed when it is whole.
"""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from creditfold.common.processes import Daemon, Step, last_lines, run, start_time, tail
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.stack.ports import LOOPBACK, Need, check_ports
from creditfold.stack.postgres_access import (
    DATABASE,
    HBA,
    OWNER,
    READER,
    SOCKET_PORT,
    Passwords,
    enable_reader_login,
    passwords_path,
    set_passwords,
)
from creditfold.stack.postgres_server import PostgresError, Server, ServerUser, find_server, server_user

SUPERUSER = OWNER
PORT = SOCKET_PORT
READY_BOUND_S = 60.0
INITDB_BOUND_S = 120.0
FAST_STOP_BOUND_S = 30.0
IMMEDIATE_STOP_BOUND_S = 10.0

# A fast shutdown ends open sessions and writes a checkpoint; an immediate one leaves that to the next start.
FAST = Step(signal.SIGINT, FAST_STOP_BOUND_S)
IMMEDIATE = Step(signal.SIGQUIT, IMMEDIATE_STOP_BOUND_S)

# What the server says when the sessions of a killed one are still ending.
LINGERING = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')

# What the server says, in the C locale, when another has taken its port since it was found free.
_LOST_PORT = "could not create any TCP/IP sockets"

OPTIONS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    # What is written over again needn't be made: a commit that has to make a file of the log takes 50 ms.
    "min_wal_size": "1GB",
    "checkpoint_timeout": "5min",
    "log_checkpoints": "off",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgres:
    """The embedded server of one data folder. Connects to nothing and starts nothing until it is called."""

    def __init__(self, settings: Settings) -> None:
        data_dir = settings.data_dir.resolve()
        self._home = data_dir / "postgres"
        self._cluster = self._home / "data"
        self._socket_dir = settings.postgres_socket_dir
        self._port = settings.postgres_tcp_port
        given = settings.postgres_reader_password
        self._given = {} if given is None else {READER: given.get_secret_value()}
        self._passwords = Passwords(passwords_path(settings))
        self._refusal = ""
        self.log_path = data_dir / "postgres.log"
        # The record lies outside the server's own folder, which belongs to another user where root starts it.
        self._daemon = Daemon(data_dir / "postgres.json", self.log_path)

    @property
    def address(self) -> str:
        """The socket's folder, which is the `host` of a connection string."""
        return str(self._socket_dir)

    @property
    def pid(self) -> int | None:
        """The server's pid if it lives."""
        return self._daemon.pid

    @property
    def tcp_port(self) -> int | None:
        """The port that is open on loopback; None where the server is reached by its socket only.

        While it doesn't run, the one that is set.
        """
        if self.pid is None:
            return self._port
        try:
            lines = (self._cluster / "postmaster.pid").read_text("utf-8", "replace").splitlines()
            return int(lines[3]) if lines[5].strip() == LOOPBACK else None
        except (OSError, IndexError, ValueError):
            return self._port

    def is_ready(self) -> bool:
        """Whether our server lives and answers `SELECT 1`."""
        return self.pid is not None and self._answers()

    @property
    def _needs(self) -> list[Need]:
        return [] if self._port is None else [Need("PostgreSQL", self._port, "CREDITFOLD_POSTGRES_TCP_PORT")]

    def check(self) -> None:
        """Check that the server can be started, if it doesn't run. Raises PortBusyError."""
        if self.pid is None and self._running_without_record() is None:
            check_ports(self._needs)

    def start(self, on_step: Callable[[str], None] = lambda _: None) -> bool:
        """Start the server, wait until it answers and ensure that the database exists.

        Returns whether it wasn't running. Raises PostgresError.
        """
        launched = self.launch(on_step)
        self.wait_ready()
        return launched

    def launch(self, on_step: Callable[[str], None] = lambda _: None) -> bool:
        """Start the server's process without waiting for it. Returns False if it runs already. Raises PostgresError."""
        if self.pid is not None:
            return False
        orphan = self._running_without_record()
        if orphan is not None:
            self._daemon.adopt(orphan)
            return False
        user = server_user(self._cluster)
        server = find_server(self._cluster_major(user))
        check_ports(self._needs)
        self._prepare_folders(user)
        self._check_access(server, user)
        if not self._cluster.exists():
            on_step(f"Making a PostgreSQL {server.major} cluster")
            self._initdb(server, user)
        self._run(server, user)
        return True

    def wait_ready(self) -> None:
        """Wait, 60 s at most, until the server answers; crash recovery counts. Then ensure that the database exists.

        Raises PostgresError with the end of the log.
        """
        # Asked once more, a server that has much to do after its start may not answer in time.
        is_settled = wait_until(lambda: self._answers() or self._ended(), READY_BOUND_S)
        if not is_settled or self.pid is None:
            if _LOST_PORT in last_lines(self.log_path):
                check_ports(self._needs)
            what = "ended while starting" if self.pid is None else f"doesn't answer after {READY_BOUND_S:.0f} s"
            raise PostgresError(
                f"PostgreSQL {what}. {self._refusal}\nThe end of its log:\n{last_lines(self.log_path)}",
                f"The whole log is {self.log_path}.",
            )
        self._ensure_database()
        self._ensure_access()

    def stop(self) -> bool:
        """Shut down fast, within 30 s, else at once, else kill. Returns whether it was running."""
        return self._daemon.stop([FAST, IMMEDIATE])

    def kill(self) -> bool:
        """Kill the server as a crash would. For tests. Returns whether it was running."""
        return self._daemon.stop([])

    def _ended(self) -> bool:
        """Whether the server ended for good; where a killed one's sessions are in the way, try again."""
        if self.pid is not None:
            return False
        said = last_lines(self.log_path)
        if not any(words in said for words in LINGERING):
            return True
        self._relaunch()
        return False

    def _relaunch(self) -> None:
        user = server_user(self._cluster)
        server = find_server(self._cluster_major(user))
        self._check_access(server, user)
        self._run(server, user)

    def _check_access(self, server: Server, user: ServerUser) -> None:
        user.check_access([server.bin_dir / "postgres", self._home])

    def _answers(self) -> bool:
        try:
            with self._connected() as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.Error as error:
            self._refusal = str(error)
            return False

    def _connected(self) -> psycopg.Connection[tuple[object, ...]]:
        where = make_conninfo(host=self.address, port=PORT, user=SUPERUSER, dbname="postgres", connect_timeout=2)
        return psycopg.connect(where, autocommit=True)

    def _ensure_database(self) -> None:
        with self._connected() as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                return
            try:
                connection.execute(SQL("CREATE DATABASE {}").format(Identifier(DATABASE)))
            except psycopg.errors.DuplicateDatabase:
                return

    def _ensure_access(self) -> None:
        with self._connected() as connection:
            enable_reader_login(connection)
            if self._port is None:
                return
            if self.tcp_port != self._port:
                raise PostgresError(
                    f"PostgreSQL runs, and its port {self._port} isn't open: it was started with other settings.",
                    "Stop it with `creditfold down`, then start it with `creditfold up`.",
                )
            set_passwords(connection, self._passwords.make(self._given))

    def _cluster_major(self, user: ServerUser) -> int | None:
        """The major version that the cluster was made by; None if there is no cluster yet."""
        try:
            return int((self._cluster / "PG_VERSION").read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except PermissionError:
            raise PostgresError(
                f"The PostgreSQL cluster {self._cluster} belongs to another user than {user.name}.",
                "Run as the user who made it, or set CREDITFOLD_DATA_DIR to a folder of your own.",
            ) from None

    def _prepare_folders(self, user: ServerUser) -> None:
        for folder in (self._home, self._socket_dir):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            user.chown(folder)
            folder.chmod(0o700)
        own = self._port or PORT
        for lock in (self._cluster / "postmaster.pid", self._socket_dir / f".s.PGSQL.{own}.lock"):
            _forget_dead_server(lock, self._cluster)

    def _initdb(self, server: Server, user: ServerUser) -> None:
        fresh = self._home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        command = [str(server.bin_dir / "initdb"), "-D", str(fresh), "-U", SUPERUSER]
        # Order by code point: a system's locale would change the order of rows with the system's updates.
        command += ["--encoding=UTF8", "--locale=C"]
        if server.major >= 17:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        # A user who can enter the socket's folder may connect, and no other can reach the server.
        command += ["--auth-local=trust", "--auth-host=reject"]
        done = run(
            user.command(command), cwd=self._home, env=_environment(), identity=user.identity, bound_s=INITDB_BOUND_S
        )
        if done.code != 0:
            raise PostgresError(f"PostgreSQL's initdb failed:\n{tail(done.said)}", f"The folder is {self._home}.")
        fresh.rename(self._cluster)

    def _run(self, server: Server, user: ServerUser) -> None:
        quoted = str(self._socket_dir).replace('"', '""')
        options = {**OPTIONS, "unix_socket_directories": f'"{quoted}"'}
        self._name_socket()
        if self._port is not None:
            hba = self._home / "pg_hba.conf"
            hba.write_text(HBA, encoding="ascii")
            hba.chmod(0o600)
            user.chown(hba)
            options |= {"listen_addresses": LOOPBACK, "port": str(self._port), "hba_file": str(hba)}
            options |= {"password_encryption": "scram-sha-256"}
        command = [str(server.bin_dir / "postgres"), "-D", str(self._cluster)]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._daemon.start(user.command(command), cwd=self._home, env=_environment(), identity=user.identity)

    def _name_socket(self) -> None:
        """Have the socket be found by one name with any port: PostgreSQL names it after the one that it listens on."""
        usual = self._socket_dir / f".s.PGSQL.{PORT}"
        if usual.is_symlink():
            usual.unlink()
        if self._port not in (None, PORT):
            usual.unlink(missing_ok=True)
            usual.symlink_to(f".s.PGSQL.{self._port}")

    def _running_without_record(self) -> int | None:
        """The pid of a server of this cluster whose record was lost, if there is one."""
        pid = _locked_by(self._cluster / "postmaster.pid")
        return pid if pid is not None and _works_in(pid, self._cluster) else None


def _forget_dead_server(lock: Path, cluster: Path) -> None:
    """Remove a lock file that PostgreSQL would take for a live server's.

    It forgets dead servers itself, but is deceived where the pid has gone to a stranger, as after a container's
    restart, or is a zombie's, and gives up on a file that a crash left empty.
    """
    if lock.exists():
        pid = _locked_by(lock)
        if pid is None or (_exists(pid) and not _works_in(pid, cluster)):
            lock.unlink(missing_ok=True)


def _locked_by(lock: Path) -> int | None:
    try:
        return abs(int(lock.read_text(encoding="utf-8", errors="replace").split("\n")[0])) or None
    except (FileNotFoundError, ValueError):
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _works_in(pid: int, cluster: Path) -> bool:
    """Whether the process lives and is the cluster's server: that one works in the cluster's folder."""
    if start_time(pid) is None:
        return False
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")) == cluster
    except PermissionError:  # Another user's, while the cluster is ours.
        return False
    except FileNotFoundError:  # A system that doesn't say where a process works.
        return "postgres" in run(["ps", "-o", "comm=", "-p", str(pid)], bound_s=10).said


def _environment() -> dict[str, str]:
    """The environment without what would point PostgreSQL's programs elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}
