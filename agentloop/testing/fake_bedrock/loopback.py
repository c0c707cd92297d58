"""The loopback HTTP server: accepting, parsing, writing, and closing without a trace.

It knows bytes, not Bedrock: each request goes to a function with a `Channel` to answer
through. The server listens on 127.0.0.1 only.
"""

import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from socketserver import BaseServer, StreamRequestHandler, TCPServer
from typing import Final, TypeAlias

from attrs import frozen

_LONGEST_LINE: Final = 65_536
_END_OF_HEADERS: Final = frozenset({b"\r\n", b"\n", b""})
# What `socketserver` calls a request; ours are always stream sockets.
_Connection: TypeAlias = socket.socket | tuple[bytes, socket.socket]


@frozen
class HttpRequest:
    """One HTTP request: header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Channel:
    """The way back to one client, for one request."""

    def __init__(self, handler: "_Handler") -> None:
        self._handler = handler
        self._chunked = False

    def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole reply."""
        self._head(status, {**headers, "Content-Length": str(len(body))})
        self._send(body)

    def half_reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Promise a whole body and send half of it."""
        self._head(status, {**headers, "Content-Length": str(len(body))})
        self._send(body[: len(body) // 2])

    def begin(self, headers: Mapping[str, str], *, chunked: bool) -> None:
        """Start a body of unknown length."""
        self._chunked = chunked
        framing = (
            {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}
        )
        self._head(HTTPStatus.OK, {**headers, **framing})

    def send(self, part: bytes) -> None:
        """Send one part of a begun body, at once."""
        self._send(b"%x\r\n%b\r\n" % (len(part), part) if self._chunked else part)

    def end(self) -> None:
        """End a begun body in good order."""
        if self._chunked:
            self._send(b"0\r\n\r\n")
        else:
            self.drop()

    def drop(self) -> None:
        """Close the connection, whatever was promised."""
        self._handler.close_connection = True
        with suppress(OSError):
            self._handler.connection.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Reset the connection: the peer sees an error, not an end."""
        connection = self._handler.connection
        self._handler.close_connection = True
        no_linger = struct.pack("ii", 1, 0)
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
            # The handler's files hold the descriptor too: only closing it resets.
            os.close(connection.detach())

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {int(status)} {_phrase(status)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._handler.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def _send(self, data: bytes) -> None:
        self._handler.wfile.write(data)
        self._handler.wfile.flush()


Exchange: TypeAlias = Callable[[HttpRequest, Channel], None]


class Listener:
    """A running server; `close` returns when no thread of it is left."""

    def __init__(self, exchange: Exchange) -> None:
        self.closing = threading.Event()
        self._server = _Server(exchange, self.closing)
        self._thread = threading.Thread(
            target=self._accept, name="fake-bedrock", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Wake every wait, close every connection, join every thread."""
        if self.closing.is_set():
            return
        self.closing.set()
        with suppress(OSError):  # one more connection wakes the accepting thread
            socket.create_connection(("127.0.0.1", self._server.server_port)).close()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    def _accept(self) -> None:
        # `serve_forever` polls, and a poll interval is a delay at every close.
        while not self.closing.is_set():
            self._server.handle_request()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # `server_close` joins them
    request_queue_size = 128

    def __init__(self, exchange: Exchange, closing: threading.Event) -> None:
        self._closing = closing
        self._open: set[object] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), partial(_Handler, exchange))

    def server_bind(self) -> None:
        # The inherited method asks the resolver for a host name nobody reads.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]

    def process_request(self, request: _Connection, client_address: object) -> None:
        if self._closing.is_set():
            self.shutdown_request(request)
            return
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: _Connection) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: _Connection, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # clients may leave at any time
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        with self._lock:
            connections = tuple(self._open)
        for connection in connections:
            if isinstance(connection, socket.socket):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(StreamRequestHandler):
    """One connection: requests are read and answered until either side closes.

    `http.server` has a handler too, but it reads headers as an e-mail message, which
    costs several times the rest of a request.
    """

    # Headers and body leave in one segment; apart, Nagle's algorithm and the delayed
    # acknowledgement cost 40 ms per call.
    wbufsize = -1
    disable_nagle_algorithm = True

    def __init__(
        self,
        exchange: Exchange,
        request: socket.socket,
        client_address: object,
        server: BaseServer,
    ) -> None:
        self._exchange = exchange
        self.close_connection = False
        super().__init__(request, client_address, server)

    def handle(self) -> None:
        while not self.close_connection:
            request = self._read()
            if request is None:
                return
            self._exchange(request, Channel(self))

    def _read(self) -> HttpRequest | None:
        words = self.rfile.readline(_LONGEST_LINE).decode("latin-1").split()
        if len(words) != 3:
            return None
        headers = dict(self._header_lines())
        self.close_connection = headers.get("connection", "").lower() == "close"
        if headers.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        body = self.rfile.read(int(headers.get("content-length") or 0))
        return HttpRequest(words[0], words[1], headers, body)

    def _header_lines(self) -> Iterator[tuple[str, str]]:
        while (line := self.rfile.readline(_LONGEST_LINE)) not in _END_OF_HEADERS:
            name, _, value = line.decode("latin-1").partition(":")
            yield name.strip().lower(), value.strip()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Scripted"
