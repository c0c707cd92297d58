"""What tools return, block by block, as content for a model."""

from typing import Any

import pytest

from agentloop.core.content import Content, Document, Image, Json, Text
from agentloop.ports import ToolAnswer
from agentloop.tools.mcp.answers import answer_of
from agentloop.tools.mcp.envelope import EventReader, FaultError, ServerEvent

DATA = "aGVsbG8="  # "hello"


def media(kind: str, mime: str, data: str = DATA) -> dict[str, Any]:
    """A block of media."""
    return {"type": kind, "mimeType": mime, "data": data}


def file(uri: object, mime: object, data: str = DATA) -> dict[str, Any]:
    """An embedded file."""
    return {
        "type": "resource",
        "resource": {"uri": uri, "mimeType": mime, "blob": data},
    }


UNKNOWN = {"type": "hologram", "beam": [1, 2]}
LINK = {"type": "resource_link", "uri": "https://example.com/", "name": "there"}

BLOCKS: list[tuple[dict[str, Any], Content]] = [
    ({"type": "text", "text": ""}, Text("")),
    ({"type": "text", "text": "a", "annotations": {"audience": []}}, Text("a")),
    (media("image", "image/png"), Image("png", DATA)),
    (media("image", "image/jpeg"), Image("jpeg", DATA)),
    (media("image", "image/jpg"), Image("jpeg", DATA)),
    (media("image", "IMAGE/GIF; q=1"), Image("gif", DATA)),
    (media("image", "image/webp"), Image("webp", DATA)),
    (
        media("image", "image/svg+xml"),
        Text("[image of type image/svg+xml, 5 bytes, not shown]"),
    ),
    (
        media("image", "image/png", ""),
        Text("[image of type image/png, 0 bytes, not shown]"),
    ),
    (
        media("image", "application/pdf"),
        Text("[image of type application/pdf, 5 bytes, not shown]"),
    ),
    (
        media("audio", "audio/mpeg"),
        Text("[audio of type audio/mpeg, 5 bytes, not shown]"),
    ),
    (
        media("audio", "image/png"),
        Text("[audio of type image/png, 5 bytes, not shown]"),
    ),
    (
        {"type": "resource", "resource": {"uri": "x:y", "text": "inside"}},
        Text("inside"),
    ),
    (file("file:///a/b.pdf", "application/pdf"), Document("pdf", "b pdf", DATA)),
    (
        file("x:/rooms%20(2)[1].csv/", "text/csv"),
        Document("csv", "rooms 20(2)[1] csv", DATA),
    ),
    (file("x:/über_uns.md", "text/markdown"), Document("md", "ber uns md", DATA)),
    (file("", "text/html"), Document("html", "document", DATA)),
    (file(None, "text/plain"), Document("txt", "document", DATA)),
    (file("x:/" + "n" * 300, "text/plain"), Document("txt", "n" * 200, DATA)),
    (file("x:/a.png", "image/png"), Image("png", DATA)),
    (
        file("x:/a.zip", "application/zip"),
        Text("[file of type application/zip, 5 bytes, not shown]"),
    ),
    (
        file("x:/a", None),
        Text("[file of type application/octet-stream, 5 bytes, not shown]"),
    ),
    (LINK, Json(LINK)),
    (UNKNOWN, Json(UNKNOWN)),
]


@pytest.mark.parametrize(("block", "content"), BLOCKS)
def test_a_block(block: dict[str, Any], content: Content) -> None:
    """Every kind of block has one content that it becomes."""
    assert answer_of({"content": [block]}, "far") == ToolAnswer((content,))


@pytest.mark.parametrize(
    "block",
    [
        None,
        7,
        {},
        {"type": None},
        {"type": "text"},
        {"type": "image", "data": DATA},
        {"type": "audio", "mimeType": "audio/wav"},
        {"type": "resource"},
        {"type": "resource", "resource": "x:y"},
        media("image", "image/png", "aGVsbG8"),
        media("image", "image/png", "aGVs bG8="),
        media("audio", "audio/wav", "=aGVsbG8"),
        file("x:/a.pdf", "application/pdf", "ä"),
    ],
)
def test_a_broken_block(block: object) -> None:
    """A block that is not what its type promises breaks the result, by position."""
    with pytest.raises(FaultError, match=r"content\[1\]") as caught:
        answer_of({"content": [{"type": "text", "text": "a"}, block]}, "far")
    assert caught.value.failure.kind == "mcp_protocol"


@pytest.mark.parametrize(
    ("texts", "structured", "left"),
    [
        (["two rooms"], {"n": 2}, ["two rooms"]),
        (['{"n": 2}'], {"n": 2}, []),
        (['{\n  "n": 2\n}', "two"], {"n": 2}, ["two"]),
        (['{"n": 3}'], {"n": 2}, ['{"n": 3}']),
        ([], {"n": 2}, []),
        (["[1]"], [1], []),
        (["0"], 0, []),
    ],
)
def test_structured_content(
    texts: list[str], structured: object, left: list[str]
) -> None:
    """Structured content comes after the blocks, without texts that only repeat it."""
    blocks = [{"type": "text", "text": text} for text in texts]
    answer = answer_of({"content": blocks, "structuredContent": structured}, "far")
    assert answer.content == (*map(Text, left), Json(structured))


def test_structured_content_beside_media() -> None:
    """Media beside structured content is kept."""
    result = {"content": [media("image", "image/png")], "structuredContent": {"a": 1}}
    assert answer_of(result, "far").content == (Image("png", DATA), Json({"a": 1}))


def test_structured_content_alone() -> None:
    """A result may do without blocks when it has structured content."""
    answer = answer_of({"structuredContent": {"n": 2}, "isError": True}, "far")
    assert answer == ToolAnswer((Json({"n": 2}),), is_error=True)


def test_no_blocks_at_all() -> None:
    """A tool may have nothing to say."""
    assert answer_of({"content": []}, "far") == ToolAnswer(())


STREAM = (
    b"\r\n: a comment\r\n\r\n"
    b"data: one\r\ndata:two\r\ndata\r\nid: 7\r\nretry: 1500\r\n\r\n"
    b"event: other\ndata: unread\n\n"
    b"id\rdata:  spaced \r\r"
    b"retry: soon\n\n"
    b"event: message\ndata: last\n\n"
    b"data: never finished\n"
)
EVENTS = [
    ServerEvent(None, None, None),
    ServerEvent(b"one\ntwo\n", "7", 1.5),
    ServerEvent(None, None, None),
    ServerEvent(b" spaced ", "", None),
    ServerEvent(None, None, None),
    ServerEvent(b"last", None, None),
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 1000])
def test_events_in_any_pieces(size: int) -> None:
    """Events are the same however the stream is cut, whatever its line ends."""
    reader = EventReader()
    pieces = (STREAM[i : i + size] for i in range(0, len(STREAM), size))
    assert [event for piece in pieces for event in reader.feed(piece)] == EVENTS
