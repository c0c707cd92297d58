"""MCP servers as servers of tools: by URL over HTTP, by command over pipes.

`address` judges addresses, `envelope` judges answers, `answers` and `listing` map
them; `pinned`, `http` and `stdio` move bytes; `link` holds a session of the
official SDK; `server` is the port over all of it. Needs the extra `mcp`, imported
when a server is first connected.
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
