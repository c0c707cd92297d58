"""A loopback model in a process of its own, so that only the client is measured.

It speaks just enough of the Converse protocol: `turns-N` as model id means N - 1
tool calls and then a text, `turns-N-wait-MS` answers after so many milliseconds. It
counts the results in each body it gets, so what it says depends on what was sent.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.bare import model

_PATH = re.compile(rb"POST /model/turns-(\d+)(?:-wait-(\d+))?/converse ")
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def reply(body: bytes, turns: int) -> bytes:
    """The whole HTTP response to a request body."""
    number = body.count(b'"toolResult"') + 1
    said = model(number, turns)
    value = {
        "output": {"message": said},
        "stopReason": "end_turn" if number >= turns else "tool_use",
        "usage": {"inputTokens": 100, "outputTokens": 20, "totalTokens": 120},
        "metrics": {"latencyMs": 1},
    }
    text = json.dumps(value).encode()
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        f"x-amzn-RequestId: bench-{number}\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"100-continue" in head.lower():
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            path, length = _PATH.match(head), _LENGTH.search(head)
            if path is None or length is None:
                raise ValueError(head[:200])
            body = await reader.readexactly(int(length[1]))
            await asyncio.sleep(int(path[2] or 0) / 1000)
            writer.write(reply(body, int(path[1])))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        writer.close()  # the client has gone, or the server is ending


async def serve() -> None:
    """Serve until the standard input ends."""
    server = await asyncio.start_server(converse, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


@contextmanager
def running() -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        port = process.stdout.readline().strip() if process.stdout else ""
        yield f"http://127.0.0.1:{port}"
        if process.stdin:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(serve())
