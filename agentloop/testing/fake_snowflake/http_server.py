"""Sockets: one HTTP/1.1 server that also knows how to break a connection.

The room holds how replies leave: whole, chunked, cut, reset. It must not know what they
say.
"""

from __future__ import annotations

import gzip
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, TypeAlias, cast
from urllib.parse import parse_qsl, urlsplit

from agentloop.testing.fake_snowflake.routes import Exchange
from agentloop.testing.fake_snowflake.streams import Drop, Response

Answer: TypeAlias = Callable[[Exchange], Response | Drop]

# Linger on, zero seconds: closing sends RST instead of FIN.
_RESET: Final = struct.pack("ii", 1, 0)


class HttpServer(ThreadingHTTPServer):
    """Serves from a thread of its own until closed."""

    # Threads are joined on close, so that nothing of a test outlives it.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.accepted = 0
        self.doomed: set[socket.socket] = set()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.01,), name="fake-snowflake"
        )
        self._thread.start()

    def stop(self) -> None:
        """Cut every connection and end every thread."""
        self.shutdown()
        self._thread.join()
        with self._lock:
            for connection in self._sockets:
                _hang_up(connection)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection and remember it."""
        connection, address = super().get_request()
        with self._lock:
            self._sockets.add(connection)
            self.accepted += 1
        return connection, address

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override] # the base also allows datagrams
        """End a connection: a doomed one without the polite FIN."""
        with self._lock:
            self._sockets.discard(request)
        if request in self.doomed:
            self.doomed.discard(request)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: clients that leave in the middle are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one segment: Nagle and delayed ACK cost 40 ms per call otherwise.
    wbufsize = -1
    disable_nagle_algorithm = True

    @property
    def _owner(self) -> HttpServer:
        return cast("HttpServer", self.server)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: tests read the record instead."""

    def handle_any(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":  # 4.x packs its bodies
            raw = gzip.decompress(raw)
        url = urlsplit(self.path)
        reply = self._owner.answer(
            Exchange(
                method=self.command,
                path=url.path,
                parameters=dict(parse_qsl(url.query)),
                headers={k.lower(): v for k, v in self.headers.items()},
                raw=raw,
            )
        )
        match reply:
            case Drop(ready):
                ready()
                self._reset()
            case Response():
                self._send(reply)

    do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - http.server's own names

    def _send(self, reply: Response) -> None:
        if reply.stall == 0 and not reply.ready():
            self._reset()
            return
        self._send_head(reply)
        for index, part in enumerate(reply.parts):
            if 0 < reply.stall == index and not self._stalled(reply):
                return
            self._send_part(reply, part)
        self._send_end(reply)

    def _stalled(self, reply: Response) -> bool:
        if reply.ready():
            return True
        self._reset()
        return False

    def _send_head(self, reply: Response) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        match reply.framing:
            case "length":
                self.send_header("Content-Length", str(reply.length))
            case "chunked":
                self.send_header("Transfer-Encoding", "chunked")
            case "close":
                self.send_header("Connection", "close")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_part(self, reply: Response, piece: bytes) -> None:
        if not piece:
            return
        if reply.framing == "chunked":
            piece = b"%x\r\n%s\r\n" % (len(piece), piece)
        self.wfile.write(piece)
        if reply.framing != "length":
            self.wfile.flush()

    def _send_end(self, reply: Response) -> None:
        match reply.leaving:
            case "close":
                self.close_connection = True
            case "reset":
                self.wfile.flush()
                self._reset()
            case "whole":
                if reply.framing == "chunked":
                    self.wfile.write(b"0\r\n\r\n")

    def _reset(self) -> None:
        self.close_connection = True
        self._owner.doomed.add(self.connection)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the client was faster
