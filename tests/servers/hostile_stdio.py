"""A server process that breaks the rules on its pipes; run as a script.

Usage: `hostile_stdio.py NAME`. The handshake is honest unless NAME starts with
`init-`; what goes wrong goes wrong at `tools/call`. Standard library only, so that
it starts fast.
"""

import json
import os
import signal
import subprocess
import sys
import time

HONEST = {"content": [{"type": "text", "text": "fine"}]}
HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "hostile", "version": "0"},
}


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _reply(request: dict, **changes: object) -> None:
    message = {"jsonrpc": "2.0", "id": request["id"], "result": HONEST} | changes
    _write(json.dumps(message).encode() + b"\n")


def _flood(request: dict) -> None:
    while True:
        _write(b"a" * 65536)


def _orphan(request: dict) -> None:
    """Leave a child behind that holds our pipes open, and go."""
    child = subprocess.Popen(["sleep", "60"])
    _reply(request, result={"structuredContent": {"pid": child.pid}})


def _stubborn(request: dict) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _reply(request)
    while True:
        time.sleep(1)


def _deaf(request: dict) -> None:
    while True:
        time.sleep(1)


def _late(request: dict) -> None:
    time.sleep(0.4)
    _reply(request, result={"content": [{"type": "text", "text": "late"}]})


def _error(code: int):
    def answer(request: dict) -> None:
        error = {"code": code, "message": "no"}
        message = {"jsonrpc": "2.0", "id": request["id"], "error": error}
        _write(json.dumps(message).encode() + b"\n")

    return answer


def _echo_env(request: dict) -> None:
    error = {"code": -32603, "message": f"bad key {os.environ['MY_TOKEN']}"}
    message = {"jsonrpc": "2.0", "id": request["id"], "error": error}
    _write(json.dumps(message).encode() + b"\n")


CALLS = {
    "echo-env": _echo_env,
    "true-id": lambda r: _reply(r, id=True),
    "honest": _reply,
    "banner": lambda r: (_write(b"Starting up...\n"), _reply(r)),
    "blank-lines": lambda r: (_write(b"\n  \r\n"), _reply(r)),
    "half-line": lambda r: (_write(b'{"jsonrpc": "2.0", "id": 1'), os._exit(0)),
    "binary": lambda r: _write(b"\xff\xfe\x00\n"),
    "batch": lambda r: _write(b"[]\n"),
    "version-1": lambda r: _reply(r, jsonrpc="1.0"),
    "wrong-id": lambda r: _reply(r, id=99_999),
    "text-id": lambda r: _reply(r, id=str(r["id"])),
    "null-id": lambda r: _reply(r, id=None),
    "twice": lambda r: (_reply(r), _reply(r)),
    "bad-note": lambda r: _write(b'{"jsonrpc": "2.0", "method": 7}\n'),
    "reply-with-method": lambda r: _reply(r, method="ping"),
    "no-result": lambda r: _reply(r, result=None),
    "rpc-32601": _error(-32601),
    "rpc-32602": _error(-32602),
    "rpc-32603": _error(-32603),
    "exit": lambda r: os._exit(7),
    "kill": lambda r: os.kill(os.getpid(), signal.SIGKILL),
    "close-output": lambda r: (sys.stdout.close(), os.close(1), time.sleep(60)),
    "flood": _flood,
    "orphan": _orphan,
    "stubborn": _stubborn,
    "deaf": _deaf,
    "late": _late,
    "slow-pong": lambda r: None,
}


def _main(name: str) -> None:
    for line in sys.stdin.buffer:
        request = json.loads(line)
        method = request.get("method")
        if method == "initialize" and name == "init-exit":
            os._exit(9)
        elif method == "initialize" and name == "init-silent":
            time.sleep(60)
        elif method == "initialize":
            _reply(request, result=HELLO)
        elif method == "ping":
            _reply(request, result={})
        elif method == "tools/call":
            CALLS[name](request)


if __name__ == "__main__":
    _main(sys.argv[1])
