"""What a tool returned, as content blocks a model can be shown.

The mapping, decided once:

- text is Text; an image of a type that providers take is Image;
- an embedded text resource is Text, an embedded file of a type that providers
  take is Image or Document;
- a resource link, and a block of a type we do not know, is Json with the block as
  the server sent it: nothing is fetched;
- audio, and files or images of other types, become one line of Text that names
  type and size: no provider takes them in a tool result;
- structuredContent is Json after the blocks, and a text block that only repeats it
  as JSON is left out.
"""

import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Final

from agentloop.core.content import (
    Content,
    Document,
    Image,
    Json,
    JsonObject,
    Text,
)
from agentloop.ports import ToolAnswer
from agentloop.tools.mcp.envelope import protocol_fault
from agentloop.wire import WireError, parse

_IMAGES: Final[Mapping[str, str]] = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_DOCUMENTS: Final[Mapping[str, str]] = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_UNNAMED: Final = re.compile(r"[^A-Za-z0-9 ()\[\]-]+")


def answer_of(result: JsonObject, alias: str) -> ToolAnswer:
    """The answer in the result of `tools/call`.

    Raises:
        FaultError: the result does not have the structure of one.
    """
    blocks = result.get("content", [])
    structured = result.get("structuredContent")
    is_error = result.get("isError", False)
    if not isinstance(blocks, list) or not isinstance(is_error, bool):
        raise protocol_fault(f"the result of '{alias}' is no tool result")
    if structured is None:
        if "content" not in result:
            raise protocol_fault(f"the result of '{alias}' has no content")
        return ToolAnswer(tuple(_contents(blocks, alias)), is_error)
    content = tuple(
        block for block in _contents(blocks, alias) if not _repeats(block, structured)
    )
    return ToolAnswer((*content, Json(structured)), is_error)


def _contents(blocks: list[object], alias: str) -> Iterator[Content]:
    for i, block in enumerate(blocks):
        content = _content(block)
        if content is None:
            raise protocol_fault(f"content[{i}] of the result of '{alias}' is broken")
        yield content


def _content(block: object) -> Content | None:
    """The block as content, None when it is not what its type promises."""
    match block:
        case {"type": "text", "text": str() as text}:
            return Text(text)
        case {"type": "image", "data": str() as data, "mimeType": str() as mime}:
            return _binary(data, mime, "image", "image")
        case {"type": "audio", "data": str() as data, "mimeType": str() as mime}:
            return _binary(data, mime, "audio", "audio")
        case {"type": "resource", "resource": {"text": str() as text}}:
            return Text(text)
        case {"type": "resource", "resource": {"blob": str() as data} as resource}:
            mime = str(resource.get("mimeType") or "application/octet-stream")
            return _binary(data, mime, "file", _name_of(resource))
        case {"type": "text" | "image" | "audio" | "resource"}:
            return None
        case {"type": str()}:
            return Json(block)
        case _:
            return None


def _binary(data: str, mime: str, what: str, name: str) -> Content | None:
    """Media, or a line about it; None when it is not base64."""
    try:
        size = len(binascii.a2b_base64(data, strict_mode=True)) if data else 0
    except ValueError:
        return None
    kind = mime.partition(";")[0].strip().lower()
    if size and kind in _IMAGES and what != "audio":
        return Image(_IMAGES[kind], data)
    if size and kind in _DOCUMENTS and what == "file":
        return Document(_DOCUMENTS[kind], name, data)
    return Text(f"[{what} of type {mime[:100]}, {size} bytes, not shown]")


def _name_of(resource: JsonObject) -> str:
    """A document name within the characters that every provider takes."""
    last = str(resource.get("uri") or "").rstrip("/").rpartition("/")[2]
    return " ".join(_UNNAMED.sub(" ", last).split())[:200] or "document"


def _repeats(block: Content, structured: object) -> bool:
    if not isinstance(block, Text):
        return False
    try:
        value, _ = parse(block.text)
    except WireError:
        return False
    return bool(value == structured)
