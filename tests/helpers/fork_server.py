"""Starts `creditfold` and the tests' own programs as processes of their own, without the seconds that imports take.

A server, one for each process that runs tests, has imported what they import and opened nothing: no thread, no client,
no connection. What it is asked to start is a fork of it, with the arguments, environment, folder and standard streams
that were asked for. It runs what Python would have run, with all that is to be done at its end, and can be signalled,
killed and frozen as any process. Only what Python does with its memory then, which takes longer than many commands do,
is left to the system. It outlives its server, and so the tests, no more than that: what is left then is killed.

Refuses to know what is started. What is about a process's start itself (imports, `-c`, a closed standard output) isn't
for it: `Process` starts that as `subprocess.Popen` does.
"""

import atexit
import gc
import inspect
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

#: What takes long to import, and starts nothing when it is imported.
IMPORTED = (
    *("creditfold.cli.main", "creditfold.processors.worker.main", "creditfold.processors.publisher.main"),
    *(
        "creditfold.processors.rebuild.steps",
        "creditfold.processors.rebuild.verify",
        "creditfold.producers.import_file",
    ),
    *(
        "creditfold.stack.embedded",
        "creditfold.log.doctor.kafka_checks",
        "creditfold.projections.queries.outcomes",
        "rich.table",
    ),
    # What Faust imports when an app is made.
    *("faust.assignor.leader_assignor", "faust.events", "faust.fixups.django", "faust.tables.sets", "faust.topics"),
    *("faust.tables.objects", "faust.transport.utils"),
)
#: How the names of the variables begin that are read when a process starts. With others than ours it isn't forked.
READ_AT_START = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC_", "GLIBC_", "CREDITFOLD_CORE")
PAUSE_S = 0.01
#: The options of `subprocess.Popen` that a forked process can be started with.
USUAL = {"stdin", "stdout", "stderr", "env", "cwd", "text", "encoding", "errors", "bufsize"}
#: What `subprocess.Popen` hands to the method that `Process` puts its own in place of, as of Python 3.11 to 3.13.
HANDED = (
    *(
        "self",
        "args",
        "executable",
        "preexec_fn",
        "close_fds",
        "pass_fds",
        "cwd",
        "env",
        "startupinfo",
        "creationflags",
    ),
    *("shell", "p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite", "restore_signals"),
    *("gid", "gids", "uid", "umask", "start_new_session", "process_group"),
)


def fits(popen: type["subprocess.Popen[Any]"]) -> bool:
    """Whether this is the Popen that `Process` knows; with another one all is started as that does."""
    execute = getattr(popen, "_execute_child", None)
    return execute is not None and tuple(inspect.signature(execute).parameters) == HANDED


_FITS = fits(subprocess.Popen)


class Job(NamedTuple):
    """What a forked process is to run: `-m` and a module, or a script, with its arguments."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str


class _Server:
    """The asking side of the server's process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def fork(self, job: Job, streams: Sequence[int]) -> int:
        """Start a process with three file descriptors as its standard streams; returns its pid."""
        return int(self._asked({"start": job}, streams)["pid"])

    def wait(self, pid: int) -> tuple[int, int]:
        """What `os.waitpid(pid, os.WNOHANG)` would answer the process's parent."""
        answer = self._asked({"wait": pid})
        return answer["pid"], answer["status"]

    def _asked(self, question: Mapping[str, Any], streams: Sequence[int] = ()) -> Any:
        with self._lock:
            if self._socket is None or self._pid != os.getpid():
                self._socket, self._process = _started()
                self._pid = os.getpid()
            try:
                content = json.dumps(question).encode()
                socket.send_fds(self._socket, [len(content).to_bytes(8, "big")], streams)
                self._socket.sendall(content)
                return json.loads(_exactly(self._socket, int.from_bytes(_exactly(self._socket, 8), "big")))
            except BaseException:
                # Ctrl-C, or a test out of time: the answer that is on its way isn't one to the next question.
                self._end()
                raise

    def _end(self) -> None:
        """Have the server end, and what it has forked; the next question is another one's."""
        ended, self._socket = self._socket, None
        assert ended is not None
        assert self._process is not None
        with suppress(OSError):
            # Not only closed: a fork of ours may hold it, too.
            ended.shutdown(socket.SHUT_RDWR)
        ended.close()
        self._process.wait()


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that must be those of the server's process."""
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_START)}


_OURS = read_at_start(os.environ)


def _started() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    ours, its = socket.socketpair()
    with its:
        # The name is what a process of ours is known by, in its command line, which is its forks' too.
        command = [sys.executable, __file__, str(its.fileno()), "creditfold"]
        variables = {name: value for name, value in os.environ.items() if not name.startswith(READ_AT_START)}
        # It ends when we do, because our end of the socket is closed then.
        process = subprocess.Popen(command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, env=variables | _OURS)
    return ours, process


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise EOFError("the other side has ended")
        data += more
    return data


_server = _Server()


class Process(subprocess.Popen[Any]):
    """A process of `creditfold`, or of a program of the tests: `subprocess.Popen`, but for how quickly it starts.

    Args:
        arguments: what would come behind `python`: `-m` and a module, or a script, and their arguments.
        options: those of Popen; with one that isn't in USUAL it is started as Popen does.
    """

    _is_forked = False
    _waitpid_lock: threading.Lock

    def __init__(self, arguments: Sequence[str], **options: Any) -> None:
        self._is_usual = options.keys() <= USUAL
        super().__init__([sys.executable, *arguments], **options)

    def _execute_child(self, args: Any, *more: Any) -> None:
        if not (_FITS and self._is_usual and (args[1] == "-m" or args[1].endswith(".py"))):
            super()._execute_child(args, *more)  # type: ignore[misc]
            return
        folder, environment = more[4:6]
        reads, reads_to, writes_to, writes, errors_to, errors = more[9:15]
        given = dict(os.environ) if environment is None else dict(environment)
        if read_at_start(given) != _OURS:
            super()._execute_child(args, *more)  # type: ignore[misc]
            return
        job = Job(args[1:], given, str(folder or Path.cwd()))
        streams = [own if own >= 0 else at for own, at in zip((reads, writes, errors), range(3), strict=True)]
        try:
            self.pid = _server.fork(job, streams)
        finally:
            self._close_pipe_fds(reads, reads_to, writes_to, writes, errors_to, errors)  # type: ignore[attr-defined]
        self._is_forked = self._child_created = True

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if not self._is_forked:
            found: tuple[int, int] = super()._try_wait(wait_flags)  # type: ignore[misc]
            return found
        while True:
            pid, status = _server.wait(self.pid)
            if pid or wait_flags & os.WNOHANG:
                return pid, status
            time.sleep(PAUSE_S)

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if not self._is_forked:
            return super()._internal_poll(*arguments, **options)  # type: ignore[misc, no-any-return]
        # Asked with options by `__del__`, when the server may have ended before us.
        if self.returncode is None and not options and self._waitpid_lock.acquire(blocking=False):
            # Not while another thread waits for it: there is one answer, for who asks first.
            try:
                pid, status = (0, 0) if self.returncode is not None else _server.wait(self.pid)
                if pid == self.pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()
        return self.returncode


def start_anew(arguments: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
    """Start a process as `Process` does, by a Python that imports all of it."""
    return subprocess.Popen([sys.executable, *arguments], **options)


def run(
    arguments: Sequence[str], *, timeout: float | None = None, input: str | None = None, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end, its output captured as text unless the options say otherwise: `subprocess.run`."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    options.setdefault("stdin", subprocess.DEVNULL if input is None else subprocess.PIPE)
    with Process(arguments, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _serve(asking: socket.socket) -> Job:
    """Answer until whoever asks is gone. Returns in a forked process only: what it is to run."""
    # A terminal sends Ctrl-C to us as well as to whom it is for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alive: set[int] = set()
    while True:
        try:
            head, streams, _, _ = socket.recv_fds(asking, 8, 3)
            question = json.loads(_exactly(asking, int.from_bytes(head + _exactly(asking, 8 - len(head)), "big")))
        except (EOFError, ConnectionError):
            # Nobody is left to ask, nor to stop them.
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
            os._exit(0)
        if "wait" in question:
            ended = _ended(question["wait"])
            alive.discard(ended["pid"])
            _answer(asking, **ended)
            continue
        pid = os.fork()
        if not pid:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.closerange(3, max(*streams, asking.fileno()) + 1)
            asking.detach()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return Job(*question["start"])
        alive.add(pid)
        for stream in streams:
            os.close(stream)
        _answer(asking, pid=pid)


def _ended(pid: int) -> dict[str, int]:
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        # A former server's, which killed it at its end.
        found, status = pid, signal.SIGKILL
    return {"pid": found, "status": status}


def _answer(asking: socket.socket, **values: int) -> None:
    content = json.dumps(values).encode()
    # Where nobody waits for it any more, the next question says so.
    with suppress(ConnectionError):
        asking.sendall(len(content).to_bytes(8, "big") + content)


def _run(job: Job) -> None:
    """Run it as Python does what it is started with."""
    # The server's own are buffers over the files that these numbers were before.
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(job.environment)
    time.tzset()
    os.chdir(job.folder)
    if job.arguments[0] == "-m":
        _, module, *arguments = job.arguments
        sys.argv[:], sys.path[0] = [module, *arguments], job.folder
        sys.modules.pop(module, None)
        runpy._run_module_as_main(module)  # type: ignore[attr-defined]  # What `python -m` calls.
    else:
        sys.argv[:] = job.arguments
        sys.path[0] = str(Path(job.arguments[0]).parent)
        runpy.run_path(job.arguments[0], run_name="__main__")


def main() -> None:
    """Import, then serve; in each fork, run what was asked for."""
    for name in IMPORTED:
        __import__(name)
    # It keeps the paths of all modules: Faust looks for who has made an app among them.
    inspect.getmodule(inspect.currentframe())
    assert threading.active_count() == 1
    gc.freeze()
    job = _serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        _run(job)
        code = 0
    except SystemExit as ending:
        if not isinstance(ending.code, int | None):
            raise
        code = ending.code or 0
    _end(code)


def _end(code: int) -> NoReturn:
    """End as Python does, in its order, but for taking all its objects apart: those of what is imported are many."""
    threading._shutdown()  # type: ignore[attr-defined]  # Waits for threads that are no daemons.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except ValueError:
            # A program has closed it.
            continue
        except OSError:
            # Python says what is the matter, and ends with a code for it.
            sys.exit(code)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
