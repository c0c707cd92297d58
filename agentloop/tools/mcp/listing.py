"""What a server offers: the pages of `tools/list` as offers and reports.

A tool that cannot be offered is left out and reported; it never sinks the others
(contract section 11). Schemas are passed on as the server wrote them.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final, TypeAlias

from attrs import define, field, frozen

from agentloop.core.config import ToolSpec
from agentloop.core.content import JsonObject
from agentloop.core.routing import InDoubt, Offer
from agentloop.ports import require
from agentloop.tools.mcp.envelope import protocol_fault
from agentloop.wire import dump

MAX_PAGES: Final = 200
MAX_TOOLS: Final = 1000
MAX_BYTES: Final = 2 * 1024 * 1024
"""Of a whole catalog as JSON text: far more than any model is told of, and little
enough for the catalogs of a run's every server to be held at once."""
_DIALECTS: Final = tuple(
    f"{scheme}://json-schema.org/{name}"
    for scheme in ("http", "https")
    for name in (
        "draft/2020-12/schema",
        "draft/2019-09/schema",
        "draft-07/schema",
        "draft-06/schema",
        "draft-04/schema",
    )
)

Ask: TypeAlias = Callable[[str, JsonObject], Awaitable[JsonObject]]
"""Send a request of a method with params, and give back its result."""


@frozen
class Listing:
    """A catalog, and a line for every tool that was left out of it."""

    offers: tuple[Offer, ...]
    reports: tuple[str, ...] = ()


async def list_tools(ask: Ask, alias: str) -> Listing:
    """Every page of a server's catalog.

    Raises:
        FaultError: a page is broken, the pages do not end, or hold too much.
    """
    pages = _Pages(alias)
    params: JsonObject = {}
    while cursor := pages.take(await ask("tools/list", params)):
        params = {"cursor": cursor}
    return Listing(tuple(pages.offers), tuple(pages.reports))


@define
class _Pages:
    """What was read of a catalog so far, and how much that is."""

    alias: str
    offers: list[Offer] = field(factory=list)
    reports: list[str] = field(factory=list)
    _cursors: set[str] = field(factory=set)
    _bytes: int = 0

    def take(self, page: JsonObject) -> str | None:
        """Add a page; the cursor of the next one, if there is one."""
        tools, cursor = page.get("tools"), page.get("nextCursor")
        if not isinstance(tools, list) or not isinstance(cursor, str | None):
            raise protocol_fault(f"the catalog of '{self.alias}' is no list of tools")
        known = len(self.offers) + len(self.reports)
        self._count(known + len(tools), len(dump(tools)))
        for i, tool in enumerate(tools, known):
            match read_tool(tool, i):
                case Offer() as offer:
                    self.offers.append(offer)
                case str() as report:
                    self.reports.append(report)
        if cursor and (cursor in self._cursors or len(self._cursors) >= MAX_PAGES):
            raise protocol_fault(f"the catalog of '{self.alias}' does not end")
        self._cursors.add(cursor or "")
        return cursor

    def _count(self, tools: int, size: int) -> None:
        self._bytes += size
        if tools > MAX_TOOLS:
            raise protocol_fault(
                f"the catalog of '{self.alias}' exceeds {MAX_TOOLS} tools"
            )
        if self._bytes > MAX_BYTES:
            raise protocol_fault(
                f"the catalog of '{self.alias}' exceeds {MAX_BYTES} bytes"
            )


def read_tool(tool: object, position: int) -> Offer | str:
    """The offer of one entry of a catalog, or why it is left out."""
    if not isinstance(tool, dict):
        return f"tool {position} left out: it is no object"
    name, schema = tool.get("name"), tool.get("inputSchema")
    if not isinstance(name, str) or not name:
        return f"tool {position} left out: it has no name"
    if not isinstance(schema, dict):
        return f"tool '{name[:80]}' left out: its inputSchema is no object"
    if (problem := _schema_problem(schema)) is not None:
        return f"tool '{name[:80]}' left out: {problem}"
    description = tool.get("description")
    spec = ToolSpec(
        name=name,
        description=description if isinstance(description, str) else None,
        input_schema=schema,
    )
    return Offer(spec, _in_doubt(tool.get("annotations")))


def _in_doubt(annotations: object) -> InDoubt:
    match annotations:
        case {"readOnlyHint": True} | {"idempotentHint": True}:
            return "repeat"
        case _:
            return "tell"


def _schema_problem(schema: Mapping[str, object]) -> str | None:
    """Why a provider would refuse the schema, or a validator would fetch for it."""
    dialect = schema.get("$schema", _DIALECTS[0])
    if not isinstance(dialect, str) or dialect.rstrip("#") not in _DIALECTS:
        return "its inputSchema is written in an unknown dialect"
    if schema.get("type", "object") != "object":
        return "its inputSchema does not describe an object"
    if any(not ref.startswith("#") for ref in _references(schema)):
        return "its inputSchema has a $ref that leaves the schema"
    if not require("jsonschema_rs", "mcp").meta.is_valid(schema):
        return "its inputSchema is no valid JSON Schema"
    return None


def _references(schema: object) -> Iterator[str]:
    todo = [schema]
    while todo:
        match todo.pop():
            case dict() as node:
                ref = node.get("$ref")
                if isinstance(ref, str):
                    yield ref
                todo.extend(node.values())
            case list() as items:
                todo.extend(items)
