"""A TCP proxy before a Postgres server that drops connections when told.

It stands between a client and the server's socket, and can cut a connection before
a statement reaches the server, or after the server did it but before its answer
reaches the client.
"""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Literal

import psycopg

When = Literal["before", "after"]


class CuttingProxy:
    """Forwards connections from a loopback port to a Postgres server."""

    def __init__(self, conninfo: str) -> None:
        self._upstream = psycopg.conninfo.conninfo_to_dict(conninfo)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._trap: tuple[bytes, When] | None = None
        self.cuts = 0
        self.accepted = 0
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> "CuttingProxy":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(5)
        self.cut_all()

    @property
    def conninfo(self) -> str:
        """How to reach the server through here."""
        host, port = self._listener.getsockname()
        named = {**self._upstream, "host": host, "port": port, "sslmode": "disable"}
        return psycopg.conninfo.make_conninfo(**named)

    def trap(self, word: bytes, when: When) -> None:
        """Cut the next connection on which a client sends this word."""
        self._trap = (word, when)

    def cut_all(self) -> None:
        """Drop every connection there is."""
        with self._lock:
            socks = list(self._open)
        for sock in socks:
            _close(sock)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            server = self._connect()
            with self._lock:
                self._open |= {client, server}
            gate = threading.Event()
            for pump in (self._upward, self._downward):
                threading.Thread(
                    target=pump, args=(client, server, gate), daemon=True
                ).start()

    def _connect(self) -> socket.socket:
        host = str(self._upstream.get("host") or "127.0.0.1")
        port = int(self._upstream.get("port") or 5432)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"{host}/.s.PGSQL.{port}")
        return sock

    def _upward(
        self, client: socket.socket, server: socket.socket, deaf: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                when = self._sprung(data)
                if when == "before":
                    break
                if when == "after":
                    deaf.set()  # the answer goes nowhere, and ends the connection
                server.sendall(data)
        self._drop(client, server)

    def _sprung(self, data: bytes) -> When | None:
        """Whether this is what the trap waits for; it snaps once."""
        if self._trap is None or self._trap[0] not in data:
            return None
        when = self._trap[1]
        self._trap = None
        self.cuts += 1
        return when

    def _downward(
        self, client: socket.socket, server: socket.socket, deaf: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if deaf.is_set():
                    break
                client.sendall(data)
        self._drop(client, server)

    def _drop(self, *socks: socket.socket) -> None:
        with self._lock:
            self._open -= set(socks)
        for sock in socks:
            _close(sock)


def _close(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
