"""A real MCP server on the official SDK, over HTTP or stdio; run as a script.

Usage: `real_mcp.py stdio` or `real_mcp.py http PORT [json]`. Over HTTP it prints
its port on a line of its own once it listens.
"""

import base64
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata

PAGE = 4
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nnot much of a picture").decode()
WAV = base64.b64encode(b"RIFF....WAVEfmt ").decode()
PDF = base64.b64encode(b"%PDF-1.4\n%%EOF\n").decode()
CANCELLED: list[str] = []

Context = ServerRequestContext[Any]
Params = types.CallToolRequestParams
Tool = Callable[[Context, Params], Awaitable[types.CallToolResult]]


def _text(value: str) -> types.TextContent:
    return types.TextContent(type="text", text=value)


def _result(*blocks: types.ContentBlock, **more: Any) -> types.CallToolResult:
    return types.CallToolResult(content=list(blocks), **more)


async def _echo(ctx: Context, params: Params) -> types.CallToolResult:
    return _result(_text(str((params.arguments or {}).get("text", ""))))


async def _picture(ctx: Context, params: Params) -> types.CallToolResult:
    return _result(types.ImageContent(type="image", data=PNG, mime_type="image/png"))


async def _sound(ctx: Context, params: Params) -> types.CallToolResult:
    return _result(types.AudioContent(type="audio", data=WAV, mime_type="audio/wav"))


async def _files(ctx: Context, params: Params) -> types.CallToolResult:
    note = types.TextResourceContents(uri="file:///n.txt", text="a note")
    paper = types.BlobResourceContents(
        uri="file:///dir/the paper_1.pdf", blob=PDF, mime_type="application/pdf"
    )
    return _result(
        types.EmbeddedResource(type="resource", resource=note),
        types.EmbeddedResource(type="resource", resource=paper),
    )


async def _link(ctx: Context, params: Params) -> types.CallToolResult:
    return _result(
        types.ResourceLink(type="resource_link", uri="file:///far", name="far")
    )


async def _structured(ctx: Context, params: Params) -> types.CallToolResult:
    return _result(
        _text("two slots"),
        _text('{"slots": [10, 14]}'),
        structured_content={"slots": [10, 14]},
    )


async def _fails(ctx: Context, params: Params) -> types.CallToolResult:
    return _result(_text("no such room"), is_error=True)


async def _refuses(ctx: Context, params: Params) -> types.CallToolResult:
    code = int((params.arguments or {}).get("code", -32603))
    raise MCPError(code=code, message="the server says no")


async def _meta(ctx: Context, params: Params) -> types.CallToolResult:
    sent = params.meta or {}
    return _result(structured_content={"key": dict(sent).get("agentloop/effect-key")})


async def _headers(ctx: Context, params: Params) -> types.CallToolResult:
    request: Any = ctx.request
    found = {} if request is None else dict(request.headers)
    return _result(structured_content={"headers": found})


async def _slow(ctx: Context, params: Params) -> types.CallToolResult:
    seconds = float((params.arguments or {}).get("seconds", 0.05))
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        CANCELLED.append(str((params.arguments or {}).get("mark")))
        raise
    return _result(_text(f"slept {seconds:g}"))


async def _cancelled(ctx: Context, params: Params) -> types.CallToolResult:
    return _result(structured_content={"marks": list(CANCELLED)})


async def _asks_back(ctx: Context, params: Params) -> types.CallToolResult:
    metadata = ServerMessageMetadata(related_request_id=ctx.request_id)
    await ctx.session.send_request(
        types.PingRequest(), types.EmptyResult, metadata=metadata
    )
    return _result(_text("you are there"))


async def _pid(ctx: Context, params: Params) -> types.CallToolResult:
    return _result(_text(str(os.getpid())))


async def _die(ctx: Context, params: Params) -> types.CallToolResult:
    os._exit(3)


async def _env(ctx: Context, params: Params) -> types.CallToolResult:
    return _result(structured_content={"names": sorted(os.environ)})


async def _free_slots(ctx: Context, params: Params) -> types.CallToolResult:
    return _result(_text("10:00, 14:00"))


TOOLS: dict[str, Tool] = {
    function.__name__.removeprefix("_"): function
    for function in (
        _echo,
        _picture,
        _sound,
        _files,
        _link,
        _structured,
        _fails,
        _refuses,
        _meta,
        _headers,
        _slow,
        _cancelled,
        _asks_back,
        _pid,
        _die,
        _env,
        _free_slots,
    )
}
HINTS = {
    "echo": types.ToolAnnotations(read_only_hint=True),
    "meta": types.ToolAnnotations(idempotent_hint=True),
    "die": types.ToolAnnotations(read_only_hint=False, destructive_hint=True),
}


async def _list_tools(
    ctx: Context, params: types.PaginatedRequestParams | None
) -> types.ListToolsResult:
    start = int((params and params.cursor) or 0)
    names = list(TOOLS)[start : start + PAGE]
    end = start + PAGE
    return types.ListToolsResult(
        tools=[
            types.Tool(
                name=name,
                description=f"the tool {name}",
                input_schema={"type": "object"},
                annotations=HINTS.get(name),
            )
            for name in names
        ],
        next_cursor=str(end) if end < len(TOOLS) else None,
    )


async def _call_tool(ctx: Context, params: Params) -> types.CallToolResult:
    return await TOOLS[params.name](ctx, params)


SERVER: Server[Any] = Server(
    "real", version="1", on_list_tools=_list_tools, on_call_tool=_call_tool
)


async def _over_stdio() -> None:
    async with stdio_server() as (read, write):
        await SERVER.run(read, write, SERVER.create_initialization_options())


def _over_http(port: int, *, as_json: bool) -> None:
    app = SERVER.streamable_http_app(json_response=as_json)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        anyio.run(_over_stdio)
    else:
        _over_http(int(sys.argv[2]), as_json="json" in sys.argv)
