"""MCP servers as servers of tools: by URL over HTTP, by command over pipes.

`address` judges addresses, `envelope` judges answers, `answers` and `listing` map
them; `pinned`, `http` and `stdio` move bytes; `link` holds a session of the
official SDK; `server` is the port over all of it; `errands` are threads for what
blocks. Needs the extra `mcp`, imported when a server is first connected.

Calls are made at least once: what a server's fault ended is tried again, and may have
been processed. The same effect key goes along with each attempt, under `EFFECT_KEY` in
`_meta`; with `McpOptions(retry="undelivered")` only what was never sent is sent again.
"""

from agentloop.tools.mcp.directory import McpDirectory, StdioServer
from agentloop.tools.mcp.options import (
    EFFECT_KEY,
    Credentials,
    McpOptions,
    Resolver,
    StdioOptions,
    system_resolver,
)
from agentloop.tools.mcp.server import RemoteTools

__all__ = [
    "EFFECT_KEY",
    "Credentials",
    "McpDirectory",
    "McpOptions",
    "RemoteTools",
    "Resolver",
    "StdioOptions",
    "StdioServer",
    "system_resolver",
]
