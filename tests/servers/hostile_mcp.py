"""An MCP server that breaks the rules, written on bare sockets.

The first path segment names what goes wrong; the handshake is honest unless the
name starts with `init-`, `list-` servers lie about their catalog, and everything
else goes wrong at `tools/call`. Every request is kept for the tests to look at.
"""

import json
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from attrs import define, field

MIB = 1024 * 1024


@define
class Request:
    """One HTTP request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def rpc(self) -> str:
        """The JSON-RPC method, empty for a reply or no body."""
        return str(self.body.get("method", ""))

    @property
    def id(self) -> Any:
        """The JSON-RPC id."""
        return self.body.get("id")


@define
class Reply:
    """What a behaviour answers with."""

    sock: socket.socket
    request: Request

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def http(self, status: str, body: bytes = b"", **headers: str) -> None:
        """Send a whole response."""
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
        self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def json(self, value: object, status: str = "200 OK", **headers: str) -> None:
        """Send JSON, valid or not, as application/json."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.http(status, body, content_type="application/json", **headers)

    def result(self, result: object, **headers: str) -> None:
        """Send an honest result."""
        self.json(
            {"jsonrpc": "2.0", "id": self.request.id, "result": result}, **headers
        )

    def error(
        self, code: object, status: str = "200 OK", message: object = "no"
    ) -> None:
        """Send a JSON-RPC error."""
        error = {"code": code, "message": message}
        self.json({"jsonrpc": "2.0", "id": self.request.id, "error": error}, status)

    def stream(self, *parts: bytes) -> None:
        """Send an event stream, its parts one by one, then close."""
        self.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        for part in parts:
            self.raw(part)
        self.close()

    def event(self, result: object, **more: str) -> bytes:
        """An event with a result."""
        message = {"jsonrpc": "2.0", "id": self.request.id, "result": result}
        return sse(message, **more)

    def close(self) -> None:
        """End the connection in order."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        os.close(self.sock.detach())  # close() would wait for the reader's file


def sse(message: object, **fields: str) -> bytes:
    """A server-sent event."""
    lines = [f"{name}: {value}" for name, value in fields.items()]
    if message is not None:
        lines.append(f"data: {json.dumps(message)}")
    return ("\n".join(lines) + "\n\n").encode()


def text(value: str) -> dict[str, Any]:
    """A tool result of one text block."""
    return {"content": [{"type": "text", "text": value}]}


Behaviour = Callable[["HostileServer", Reply], None]
BEHAVIOURS: dict[str, Behaviour] = {}


def behaviour(name: str) -> Callable[[Behaviour], Behaviour]:
    """Register what happens under a path segment."""

    def register(function: Behaviour) -> Behaviour:
        BEHAVIOURS[name] = function
        return function

    return register


@define
class HostileServer:
    """A listening server; `url(name)` is where a behaviour is reached."""

    port: int
    requests: list[Request] = field(factory=list)
    released: threading.Event = field(factory=threading.Event)
    counts: dict[str, int] = field(factory=dict)
    scripts: dict[str, Behaviour] = field(factory=dict)

    def url(self, name: str) -> str:
        """The URL of a behaviour."""
        return f"http://127.0.0.1:{self.port}/{name}"

    def seen(self, name: str, rpc: str) -> list[Request]:
        """The requests of a JSON-RPC method under a behaviour."""
        return [r for r in self.requests if r.path == f"/{name}" and r.rpc == rpc]

    def count(self, name: str) -> int:
        """How often this was asked, this time included."""
        self.counts[name] = self.counts.get(name, 0) + 1
        return self.counts[name]

    def hang(self) -> None:
        """Say nothing until the test is over."""
        self.released.wait(30)

    def serve(self, sock: socket.socket) -> None:
        """Answer the requests of one connection."""
        with sock, suppress(OSError), sock.makefile("rb") as lines:
            while (request := _read(lines)) is not None:
                self.requests.append(request)
                self.answer(Reply(sock, request))

    def answer(self, reply: Reply) -> None:
        """Answer one request, honestly where the behaviour is not concerned."""
        request = reply.request
        name = request.path.strip("/").partition("?")[0]
        script = self.scripts.get(name) or BEHAVIOURS[name.partition("/")[0]]
        stage = {"initialize": "init-", "tools/list": "list-"}.get(request.rpc, "call-")
        mine = name if name.startswith(("init-", "list-")) else f"call-{name}"
        if request.method == "DELETE":
            reply.http("204 No Content")
        elif request.method == "GET" or (request.id is not None and request.rpc):
            if mine.startswith(stage) or request.method == "GET":
                script(self, reply)
            else:
                self.honest(reply)
        else:
            reply.http("202 Accepted")

    def honest(self, reply: Reply) -> None:
        """The handshake, a catalog of one tool, and a text."""
        match reply.request.rpc:
            case "initialize":
                reply.result(
                    {
                        "protocolVersion": "2025-06-18",
                        "capabilities": {"tools": {}},
                        "serverInfo": {"name": "hostile", "version": "0"},
                    },
                    mcp_session_id=f"session-{self.count('sessions')}",
                )
            case "tools/list":
                reply.result(
                    {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}
                )
            case _:
                reply.result(text("fine"))


def _read(lines: Any) -> Request | None:
    first = lines.readline().decode("latin-1").split()
    if len(first) != 3:
        return None
    headers: dict[str, str] = {}
    if not first[2].startswith("HTTP/"):
        return None  # as the first bytes of TLS
    while line := lines.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = lines.read(int(headers.get("content-length", 0)))
    return Request(first[0], first[1], headers, json.loads(body) if body else {})


@contextmanager
def hostile_server(tls: ssl.SSLContext | None = None) -> Iterator[HostileServer]:
    """A running server, stopped with all its connections on leaving."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = HostileServer(listener.getsockname()[1])
    threads: list[threading.Thread] = []

    def serve(sock: socket.socket) -> None:
        with suppress(OSError):
            server.serve(tls.wrap_socket(sock, server_side=True) if tls else sock)
        sock.close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                thread = threading.Thread(target=serve, args=(sock,), daemon=True)
                threads.append(thread)
                thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield server
    finally:
        server.released.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(5)
        for thread in threads:
            thread.join(5)


# ---------------------------------------------------------------- statuses


def _status(line: str, **headers: str) -> Behaviour:
    return lambda server, reply: reply.http(line, b"<h1>no</h1>", **headers)


for _code in (
    400,
    401,
    402,
    403,
    404,
    405,
    406,
    408,
    409,
    410,
    413,
    415,
    418,
    422,
    425,
):
    BEHAVIOURS[f"status-{_code}"] = _status(f"{_code} Refused")
for _code in (500, 501, 502, 503, 504, 507, 520, 529, 599):
    BEHAVIOURS[f"status-{_code}"] = _status(f"{_code} Broken")
for _code in (201, 202, 203, 204, 206, 300, 301, 302, 303, 304, 305):
    BEHAVIOURS[f"status-{_code}"] = _status(f"{_code} Odd", location="/honest")
BEHAVIOURS["status-429"] = _status("429 Slow Down", retry_after="7")
BEHAVIOURS["status-503-hint"] = _status("503 Later", retry_after="3")
BEHAVIOURS["status-503-date"] = _status(
    "503 Later", retry_after="Wed, 21 Oct 2026 07:28:00 GMT"
)
BEHAVIOURS["status-503-huge"] = _status("503 Later", retry_after="999999999")


@behaviour("honest")
def _honest(server: HostileServer, reply: Reply) -> None:
    server.honest(reply)


# ---------------------------------------------------------------- bodies


def _body(data: bytes, content_type: str = "application/json") -> Behaviour:
    return lambda server, reply: reply.http("200 OK", data, content_type=content_type)


def _message(**changes: object) -> Behaviour:
    """An honest reply with some of its members changed; None leaves one out."""

    def answer(server: HostileServer, reply: Reply) -> None:
        message: dict[str, object] = {
            "jsonrpc": "2.0",
            "id": reply.request.id,
            "result": text("fine"),
        }
        message |= changes
        reply.json({name: value for name, value in message.items() if value != "-"})

    return answer


BEHAVIOURS |= {
    "body-empty": _body(b""),
    "body-html": _body(b"<html>hello</html>"),
    "body-half": _body(b'{"jsonrpc": "2.0", "id": 2, "resu'),
    "body-nan": _body(b'{"jsonrpc": "2.0", "id": 2, "result": {"a": NaN}}'),
    "body-twice": _body(b'{"jsonrpc": "2.0", "id": 2, "id": 2, "result": {}}'),
    "body-utf16": _body('{"jsonrpc": "2.0"}'.encode("utf-16")),
    "body-latin": _body(b'{"jsonrpc": "2.0", "id": 2, "result": {"a": "\xe9"}}'),
    "body-deep": _body(b"[" * 100_000 + b"]" * 100_000),
    "body-many": _body(b"[" + b"[]," * 20_000 + b"[]]"),
    "body-digits": _body(
        b'{"jsonrpc": "2.0", "id": 2, "result": ' + b"9" * 5000 + b"}"
    ),
    "body-batch": _body(b'[{"jsonrpc": "2.0", "id": 2, "result": {}}]'),
    "body-list": _body(b"[]"),
    "body-null": _body(b"null"),
    "body-string": _body(b'"hello"'),
    "type-html": _body(b'{"jsonrpc": "2.0"}', "text/html"),
    "type-plain": _body(b'{"jsonrpc": "2.0"}', "text/plain; charset=utf-8"),
    "type-jsonish": _body(b'{"jsonrpc": "2.0"}', "application/jsonp"),
    "type-octets": _body(b'{"jsonrpc": "2.0"}', "application/octet-stream"),
    "envelope-no-version": _message(jsonrpc="-"),
    "envelope-version-1": _message(jsonrpc="1.0"),
    "envelope-version-number": _message(jsonrpc=2.0),
    "envelope-no-id": _message(id="-"),
    "envelope-null-id": _message(id=None),
    "envelope-wrong-id": _message(id=99_999),
    "envelope-text-id": _message(id="2"),
    "envelope-true-id": _message(id=True),
    "envelope-float-id": _message(id=2.0),
    "envelope-nothing": _message(result="-"),
    "envelope-both": _message(error={"code": -32603, "message": "no"}),
    "envelope-result-list": _message(result=[]),
    "envelope-result-null": _message(result=None),
    "envelope-result-text": _message(result="fine"),
    "envelope-error-text": _message(result="-", error="no"),
    "envelope-error-null": _message(result="-", error=None),
    "envelope-error-no-code": _message(result="-", error={"message": "no"}),
    "envelope-error-text-code": _message(
        result="-", error={"code": "-32601", "message": "no"}
    ),
    "envelope-error-no-message": _message(result="-", error={"code": -32601}),
    "envelope-request": _message(result="-", method="ping"),
    "result-empty": _message(result={}),
    "result-content-text": _message(result={"content": "fine"}),
    "result-content-null": _message(result={"content": None}),
    "result-block-text": _message(result={"content": ["fine"]}),
    "result-block-untyped": _message(result={"content": [{"text": "fine"}]}),
    "result-text-number": _message(result={"content": [{"type": "text", "text": 1}]}),
    "result-image-no-data": _message(
        result={"content": [{"type": "image", "mimeType": "image/png"}]}
    ),
    "result-image-no-base64": _message(
        result={"content": [{"type": "image", "data": "%%", "mimeType": "image/png"}]}
    ),
    "result-resource-empty": _message(
        result={"content": [{"type": "resource", "resource": {"uri": "x:y"}}]}
    ),
    "result-error-text": _message(result={**text("fine"), "isError": "yes"}),
}
for _number in (-32700, -32600, -32601, -32602, -32603, -32000, -32001, 0, 1, 404):
    BEHAVIOURS[f"rpc{_number}"] = lambda server, reply, n=_number: reply.error(n)


@behaviour("rpc-32601-http-404")
def _unknown_under_404(server: HostileServer, reply: Reply) -> None:
    reply.error(-32601, "400 Bad Request")


@behaviour("rpc-32602-http-400")
def _invalid_under_400(server: HostileServer, reply: Reply) -> None:
    reply.error(-32602, "400 Bad Request")


@behaviour("rpc-result-http-400")
def _result_under_400(server: HostileServer, reply: Reply) -> None:
    reply.json({"jsonrpc": "2.0", "id": reply.request.id, "result": {}}, "400 Bad")


@behaviour("rpc-32601-http-500")
def _error_under_500(server: HostileServer, reply: Reply) -> None:
    reply.error(-32601, "500 Broken")


@behaviour("compressed")
def _compressed(server: HostileServer, reply: Reply) -> None:
    reply.http(
        "200 OK", b"\x1f\x8b", content_type="application/json", content_encoding="gzip"
    )


# ---------------------------------------------------------------- connections


@behaviour("close-at-once")
def _close_at_once(server: HostileServer, reply: Reply) -> None:
    reply.close()


@behaviour("reset-at-once")
def _reset_at_once(server: HostileServer, reply: Reply) -> None:
    reply.reset()


@behaviour("garbage")
def _garbage(server: HostileServer, reply: Reply) -> None:
    reply.raw(b"220 smtp.example.com ESMTP\r\n\r\n")
    reply.close()


@behaviour("half-head")
def _half_head(server: HostileServer, reply: Reply) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\ncontent-ty")
    reply.close()


@behaviour("half-body")
def _half_body(server: HostileServer, reply: Reply) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100"
    reply.raw(head + b'\r\n\r\n{"jsonrpc": ')
    reply.close()


@behaviour("half-chunk")
def _half_chunk(server: HostileServer, reply: Reply) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    reply.raw(head + b'transfer-encoding: chunked\r\n\r\nff\r\n{"json')
    reply.reset()


@behaviour("huge-head")
def _huge_head(server: HostileServer, reply: Reply) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\n")
    with suppress(OSError):
        for _ in range(64):
            reply.raw(b"x-filler: " + b"a" * 8192 + b"\r\n")
    reply.close()


@behaviour("silent")
def _silent(server: HostileServer, reply: Reply) -> None:
    server.hang()


@behaviour("silent-body")
def _silent_body(server: HostileServer, reply: Reply) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
    reply.raw(b"content-length: 100\r\n\r\n{")
    server.hang()


@behaviour("silent-stream")
def _silent_stream(server: HostileServer, reply: Reply) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hi\n\n")
    server.hang()


@behaviour("drip")
def _drip(server: HostileServer, reply: Reply) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    while not server.released.wait(0.02):
        reply.raw(b": still here\n\n")


# ---------------------------------------------------------------- streams


@behaviour("stream-honest")
def _stream_honest(server: HostileServer, reply: Reply) -> None:
    note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}
    reply.stream(b": hello\r\n\r\n", sse(note), reply.event(text("fine")))


@behaviour("stream-bytewise")
def _stream_bytewise(server: HostileServer, reply: Reply) -> None:
    reply.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    event = reply.event(text("fi\u2028ne")).replace(b"\n", b"\r\n")
    reply.stream(*(event[i : i + 1] for i in range(len(event))))


@behaviour("stream-other-events")
def _stream_other_events(server: HostileServer, reply: Reply) -> None:
    other = b"event: ping\ndata: not json at all\n\n"
    reply.stream(other, b"id:\n\n", b"retry: x\n\n", reply.event(text("fine")))


@behaviour("stream-empty")
def _stream_empty(server: HostileServer, reply: Reply) -> None:
    reply.stream()


@behaviour("stream-half-event")
def _stream_half_event(server: HostileServer, reply: Reply) -> None:
    reply.stream(reply.event(text("fine"))[:-10])


@behaviour("stream-unfinished-event")
def _stream_unfinished_event(server: HostileServer, reply: Reply) -> None:
    reply.stream(reply.event(text("fine"))[:-1])


@behaviour("stream-reset")
def _stream_reset(server: HostileServer, reply: Reply) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hi\n\n")
    reply.reset()


@behaviour("stream-no-json")
def _stream_no_json(server: HostileServer, reply: Reply) -> None:
    reply.stream(b"data: hello\n\n")


@behaviour("stream-wrong-id")
def _stream_wrong_id(server: HostileServer, reply: Reply) -> None:
    reply.stream(sse({"jsonrpc": "2.0", "id": 99_999, "result": {}}))


@behaviour("stream-bad-note")
def _stream_bad_note(server: HostileServer, reply: Reply) -> None:
    reply.stream(sse({"jsonrpc": "2.0", "method": 7}))


@behaviour("stream-reply-with-method")
def _stream_reply_with_method(server: HostileServer, reply: Reply) -> None:
    mixed = {"jsonrpc": "2.0", "id": reply.request.id, "method": "ping"}
    reply.stream(sse({**mixed, "result": text("fine")}))


@behaviour("stream-asks-too-much")
def _stream_asks_too_much(server: HostileServer, reply: Reply) -> None:
    asks = [{"jsonrpc": "2.0", "id": i, "method": "ping"} for i in range(1000)]
    with suppress(OSError):
        reply.stream(*map(sse, asks))


@behaviour("stream-resumed")
def _stream_resumed(server: HostileServer, reply: Reply) -> None:
    if reply.request.method == "POST":
        server.counts["resume-id"] = reply.request.id
        reply.stream(b"id: e1\nretry: 10\ndata:\n\n")
    else:
        reply.request.body["id"] = server.counts["resume-id"]
        reply.stream(reply.event(text(reply.request.headers["last-event-id"])))


@behaviour("stream-never-resumed")
def _stream_never_resumed(server: HostileServer, reply: Reply) -> None:
    reply.stream(b"id: e1\nretry: 1\ndata:\n\n")


# ---------------------------------------------------------------- sizes


@behaviour("huge-announced")
def _huge_announced(server: HostileServer, reply: Reply) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
    reply.raw(f"content-length: {50 * MIB}\r\n\r\n".encode() + b'{"a": "')
    _pour(server, reply)


@behaviour("huge-stream")
def _huge_stream(server: HostileServer, reply: Reply) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: ")
    _pour(server, reply)


@behaviour("huge-events")
def _huge_events(server: HostileServer, reply: Reply) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    _pour(server, reply, b": comment\n\n")


def _pour(server: HostileServer, reply: Reply, unit: bytes = b"a") -> None:
    """Send up to 50 MiB and note how much the other side took."""
    block = unit * (64 * 1024 // len(unit))
    sent = 0
    with suppress(OSError):
        while sent < 50 * MIB:
            reply.raw(block)
            sent += len(block)
            server.counts["poured"] = sent
    reply.close()


# ---------------------------------------------------------------- sessions


@behaviour("forgets-once")
def _forgets_once(server: HostileServer, reply: Reply) -> None:
    if server.count("forgets-once") == 1:
        reply.http("404 Not Found")
    else:
        reply.result(text(reply.request.headers["mcp-session-id"]))


@behaviour("forgets-always")
def _forgets_always(server: HostileServer, reply: Reply) -> None:
    reply.http("404 Not Found")


# ---------------------------------------------------------------- handshakes

BEHAVIOURS |= {
    "init-503": _status("503 Later"),
    "init-401": _status("401 Who"),
    "init-404": _status("404 Where"),
    "init-html": _body(b"<html>", "text/html"),
    "init-wrong-id": _message(id=99_999),
    "init-no-result": _message(result={}),
    "init-old": _message(
        result={
            "protocolVersion": "1999-01-01",
            "capabilities": {},
            "serverInfo": {"name": "old", "version": "0"},
        }
    ),
    "init-error": lambda server, reply: reply.error(-32603),
    "init-close": lambda server, reply: reply.close(),
    "init-silent": lambda server, reply: server.hang(),
}

# ---------------------------------------------------------------- catalogs

GOOD = {"name": "good", "inputSchema": {"type": "object"}}
BAD_TOOLS: tuple[object, ...] = (
    "a tool",
    None,
    {},
    {"name": ""},
    {"name": 7, "inputSchema": {}},
    {"name": "no_schema"},
    {"name": "null_schema", "inputSchema": None},
    {"name": "list_schema", "inputSchema": []},
    {"name": "odd_type", "inputSchema": {"type": "objekt"}},
    {"name": "array_type", "inputSchema": {"type": "array"}},
    {"name": "null_properties", "inputSchema": {"type": "object", "properties": None}},
    {"name": "far_ref", "inputSchema": {"properties": {"a": {"$ref": "http://x/y"}}}},
    {"name": "odd_dialect", "inputSchema": {"$schema": "http://127.0.0.1:1/schema"}},
)


def _pages(*pages: dict[str, object]) -> Behaviour:
    def answer(server: HostileServer, reply: Reply) -> None:
        cursor = reply.request.body.get("params", {}).get("cursor", "0")
        reply.result(pages[int(cursor) % len(pages)])

    return answer


def _endless(*tools: object) -> Behaviour:
    def answer(server: HostileServer, reply: Reply) -> None:
        cursor = int(reply.request.body.get("params", {}).get("cursor", 0))
        reply.result({"tools": list(tools), "nextCursor": str(cursor + 1)})

    return answer


BEHAVIOURS |= {
    "list-bad-tools": _pages({"tools": [*BAD_TOOLS, GOOD]}),
    "list-odd-schemas": _pages(
        {
            "tools": [
                {"name": "empty", "inputSchema": {}},
                {
                    "name": "union",
                    "inputSchema": {"anyOf": [{"type": "object"}, {"required": ["a"]}]},
                },
                {
                    "name": "old",
                    "description": 7,
                    "inputSchema": {
                        "$schema": "http://json-schema.org/draft-07/schema#",
                        "type": "object",
                        "definitions": {"x": {"type": "string"}},
                        "properties": {
                            "a": {"$ref": "#/definitions/x"},
                            "$ref": {"type": "string"},
                        },
                    },
                },
            ]
        }
    ),
    "list-same-cursor": _pages({"tools": [GOOD], "nextCursor": "0"}),
    "list-endless": _endless(GOOD),
    "list-many-tools": _endless(*[GOOD] * 300),
    "list-huge-pages": _endless({**GOOD, "description": "x" * 200_000}),
    "list-no-tools": _pages({"result": []}),
    "list-tools-object": _pages({"tools": {}}),
    "list-cursor-number": _pages({"tools": [], "nextCursor": 7}),
    "list-empty": _pages({"tools": []}),
    "list-32601": lambda server, reply: reply.error(-32601),
    "list-503": _status("503 Later"),
    "list-401": _status("401 Who"),
    "list-html": _body(b"<html>", "text/html"),
    "list-silent": lambda server, reply: server.hang(),
}

# ---------------------------------------------------------------- redirects


def _to(location: str, status: str = "307 Moved") -> Behaviour:
    return lambda server, reply: reply.http(
        status, location=location.format(port=server.port)
    )


BEHAVIOURS |= {
    "moved-307": _to("/honest"),
    "moved-308": _to("http://127.0.0.1:{port}/honest", "308 Moved"),
    "moved-other-origin": _to("http://localhost:{port}/honest"),
    "moved-nowhere": _to(""),
    "moved-broken": _to("http://[::1/"),
    "moved-ftp": _to("ftp://127.0.0.1/"),
    "moved-userinfo": _to("http://a:b@127.0.0.1:{port}/honest"),
    "moved-loop": _to("/moved-loop"),
    "init-moved": _to("http://localhost:{port}/honest"),
}


@behaviour("echo-token")
def _echo_token(server: HostileServer, reply: Reply) -> None:
    sent = reply.request.headers.get("authorization", "")
    reply.result(
        {
            "content": [{"type": "text", "text": f"you sent {sent}"}],
            "structuredContent": {"all": [{sent: sent.split()[-1]}]},
        }
    )


@behaviour("echo-token-error")
def _echo_token_error(server: HostileServer, reply: Reply) -> None:
    sent = reply.request.headers.get("authorization", "")
    reply.error(-32603, message=f"refused {sent}")
