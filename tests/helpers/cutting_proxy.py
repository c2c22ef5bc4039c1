"""A proxy that breaks connections: after a whole request, before its answer, or when it is said to."""

import socket
import struct
import threading
from contextlib import suppress
from typing import Self

from helpers.support import HANG_S


class CuttingProxy:
    """Passes connections on to a door.

    Args:
        url: the door's.

    `cut_answers` is how many answers are still to be cut: the server has made them, and the client gets none of it.
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self.cut_answers = 0
        #: Connections that were begun.
        self.connections = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Break every connection that is open."""
        with self._lock:
            sockets, self._open = self._open, []
        for one in sockets:
            _reset(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target, HANG_S)
            with self._lock:
                self.connections += 1
                self._open += [client, server]
            for way in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=way, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if is_answer and self._takes_cut():
                    break
                target.sendall(data)
        _reset(source)
        _reset(target)

    def _takes_cut(self) -> bool:
        with self._lock:
            if not self.cut_answers:
                return False
            self.cut_answers -= 1
            return True


def _reset(one: socket.socket) -> None:
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        one.close()
