"""The real MCP server as a process of its own: started, killed, started again."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define

from agentloop.core.config import McpServer
from tests.servers import real_mcp

REAL = str(Path(real_mcp.__file__))


@define
class RealServer:
    """The server over HTTP; `mode` says whether it answers as a stream or as JSON."""

    mode: str
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Listen, on the same port as before."""
        arguments = [sys.executable, REAL, "http", str(self.port), self.mode]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        """Kill it, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()

    @property
    def pid(self) -> int:
        """The process that listens now."""
        assert self.process is not None
        return self.process.pid

    @property
    def url(self) -> str:
        """Where its one endpoint is."""
        return f"http://127.0.0.1:{self.port}/mcp"

    def config(self, alias: str = "real") -> McpServer:
        """The entry of a config that names it."""
        return McpServer(alias=alias, url=self.url)


@contextmanager
def real_server(mode: str = "stream") -> Iterator[RealServer]:
    """A running one, gone when the block is left."""
    server = RealServer(mode)
    server.start()
    try:
        yield server
    finally:
        server.stop()
