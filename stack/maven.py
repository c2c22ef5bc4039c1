"""Owns downloads from a Maven repository: of files whose hashes are known before, several at once.

Refuses to know which files they are, and to resolve anything. A file has its name when all of it came and is what it
should be, so whatever dies and whenever, what is there by that name is right.
"""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import truststore
from requests.adapters import HTTPAdapter
from tenacity import Retrying, retry_if_exception_type, sleep_using_event, stop_after_attempt, wait_exponential

from creditfold.common.errors import ResourceError
from creditfold.stack.artifacts import Artifact

CONNECT_BOUND_S = 20.0
#: The longest that a server may say nothing.
SILENCE_BOUND_S = 30.0
TRIES = 3
AT_ONCE = 8
BLOCK_BYTES = 65_536

#: Answers that may be others a moment later; see RFC 9110, and RFC 6585 for 429.
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})

CERTIFICATES = (
    "If a proxy here signs with certificates of its own, add its authority to the system's, or name its file in "
    "REQUESTS_CA_BUNDLE."
)


class MavenError(ResourceError):
    """A file couldn't be fetched from the Maven repository."""


class _PassingError(Exception):
    """What may be otherwise when it is tried again."""


class _SystemTrust(HTTPAdapter):
    """Trusts whom the system trusts, as pip does: a company's own authority is there, and not in a list of ours."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, ssl_context=_context())

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, **options, ssl_context=_context())


def _context() -> ssl.SSLContext:
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def central() -> str:
    """The address of Maven Central, as the client of Maven repositories knows it."""
    from jgo.maven import MavenContext

    return MavenContext().remote_repos["central"]


class MavenRepository:
    """A Maven repository that is asked over HTTP. Proxies come from the environment, passwords from ~/.netrc as well.

    Args:
        url: where it begins; Maven Central if None.
    """

    def __init__(self, url: str | None) -> None:
        self._url = (url or central()).rstrip("/")
        self._thread = threading.local()
        self._sessions = contextlib.ExitStack()
        self._stopped = threading.Event()
        self._answers: set[requests.Response] = set()

    @property
    def shown(self) -> str:
        """Its address without the password that may stand in there."""
        parts = urlsplit(self._url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def fetch(
        self, artifacts: Sequence[Artifact], folder: Path, bound_s: float, on_bytes: Callable[[int], None]
    ) -> None:
        """Download the artifacts into a folder, over what is there by their names.

        What came before an error stays.

        Args:
            artifacts: each with its hash.
            folder: an existing one.
            bound_s: seconds after which it ends, however much is left.
            on_bytes: called with the size of each file that came.

        Raises MavenError, or OSError where the folder can't be written.
        """
        with self._sessions, ThreadPoolExecutor(AT_ONCE) as pool, self._ended_at_exit(pool):
            running = {pool.submit(self._fetch_one, artifact, folder): artifact for artifact in artifacts}
            try:
                for done in as_completed(running, timeout=bound_s):
                    done.result()
                    on_bytes(running[done].size)
            except TimeoutError:
                raise self._error(f"it takes more than {bound_s:.0f} s") from None

    @contextlib.contextmanager
    def _ended_at_exit(self, pool: ThreadPoolExecutor) -> Iterator[None]:
        """Have all that still runs end at once when a block is left, which waits for it."""
        try:
            yield
        finally:
            self._stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for answer in list(self._answers):
                with contextlib.suppress(OSError, ValueError, RuntimeError):
                    answer.raw.shutdown()

    def _fetch_one(self, artifact: Artifact, folder: Path) -> None:
        try:
            Retrying(
                stop=stop_after_attempt(TRIES),
                wait=wait_exponential(0.25),
                sleep=sleep_using_event(self._stopped),
                retry=retry_if_exception_type(_PassingError),
                reraise=True,
            )(self._try_one, artifact, folder)
        except _PassingError as error:
            raise self._error(str(error)) from error.__cause__

    def _try_one(self, artifact: Artifact, folder: Path) -> None:
        if self._stopped.is_set():
            return
        fresh = folder / f"{artifact.name}.part"
        with self._asked(artifact) as answer, fresh.open("wb") as file:
            self._answers.add(answer)
            try:
                self._copy(answer, file.write, artifact)
            finally:
                self._answers.discard(answer)
        if not artifact.is_at(fresh):
            fresh.unlink()
            raise self._error(self._stranger(artifact, answer))
        fresh.replace(folder / artifact.name)

    def _session(self) -> requests.Session:
        """A session of this thread's own: they aren't safe to share, and one handshake would wait for another."""
        if not hasattr(self._thread, "session"):
            self._thread.session = self._sessions.enter_context(requests.Session())
            self._thread.session.mount("https://", _SystemTrust())
        session: requests.Session = self._thread.session
        return session

    def _asked(self, artifact: Artifact) -> requests.Response:
        """The server's answer, its body not read yet."""
        try:
            answer = self._session().get(
                f"{self._url}/{artifact.path}", stream=True, timeout=(CONNECT_BOUND_S, SILENCE_BOUND_S)
            )
        except requests.exceptions.SSLError as error:
            raise self._error(f"no trusted connection to it can be made ({_innermost(error)})", CERTIFICATES) from error
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise _PassingError(f"it can't be reached ({_innermost(error)})") from error
        except OSError as error:
            # Whatever else it is, it was found before anything was asked: a malformed address, a proxy's or a bundle's.
            raise self._error(str(error)) from error
        if answer.status_code != 200:
            answer.close()
            said = f"it answers {answer.status_code} {answer.reason} for {artifact.path}"
            raise _PassingError(said) if answer.status_code in BUSY else self._error(said)
        return answer

    def _copy(self, answer: requests.Response, write: Callable[[bytes], object], artifact: Artifact) -> None:
        size = 0
        blocks = answer.iter_content(BLOCK_BYTES)
        # What was asked for after the end came isn't known to who shuts the connections.
        while not self._stopped.is_set():
            try:
                block = next(blocks, None)
            except requests.RequestException as error:
                said = f"the connection broke in the middle of {artifact.path} ({_innermost(error)})"
                raise _PassingError(said) from error
            if block is None:
                return
            size += len(block)
            if size > artifact.size:
                raise self._error(self._stranger(artifact, answer))
            write(block)

    def _stranger(self, artifact: Artifact, answer: requests.Response) -> str:
        kind = answer.headers.get("Content-Type", "a file of no named kind")
        return f"it sends something else for {artifact.path} ({kind}), which isn't used"

    def _error(self, said: str, hint: str = "") -> MavenError:
        return MavenError(
            f"The Maven repository {self.shown} sends no jars: {said.rstrip('.')}.",
            f"{hint + ' ' if hint else ''}See to the network, or to the proxy in HTTPS_PROXY; or set "
            "CREDITFOLD_MAVEN_URL to a mirror of Maven Central, or CREDITFOLD_JARS_DIR to a folder that has the jars. "
            "Then do the same again: what came is kept.",
        )


def _innermost(error: BaseException) -> str:
    """What the system said at first, out of the layers that each library puts around it."""
    inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    if isinstance(inner, BaseException):
        return _innermost(inner)
    return str(error.args[-1] if error.args and not isinstance(error, OSError) else error)
