"""Rules on images and documents: counts, sizes, names."""

import re
import struct
from binascii import Error, a2b_base64
from collections.abc import Iterator
from typing import Final

from agentloop.testing.fake_bedrock.rules.tools import MODEL_SAYS
from agentloop.testing.fake_bedrock.rules.view import Ask
from agentloop.testing.fake_bedrock.values import Json, at, text

MOST_IMAGES: Final = 20
MOST_DOCUMENTS: Final = 5
MOST_PIXELS: Final = 8000
# The model counts the base64 text: 5 MiB of it is 3.75 MiB of image.
MOST_IMAGE_CHARS: Final = 5_242_880
MOST_DOCUMENT_BYTES: Final = 4_500_000

# Underscores are not in the documented set but are accepted; a space is the only white
# space accepted, one at a time.
_NAME: Final = re.compile(r"(?:[A-Za-z0-9_\-()\[\]]| (?! ))+")


def documents_few(ask: Ask) -> Iterator[str]:
    """A request holds five documents at most."""
    if sum(1 for _ in ask.media("document")) > MOST_DOCUMENTS:
        yield f"You can't include more than {MOST_DOCUMENTS} documents in a request."


def documents_with_text(ask: Ask) -> Iterator[str]:
    """A message with a document holds a text too."""
    for turn in ask.turns:
        if turn.kind("document") and not turn.kind("text"):
            yield "A text block must be included when using documents."


def document_names_plain(ask: Ask) -> Iterator[str]:
    """Document names keep to the small character set."""
    for _, document in ask.media("document"):
        if not _NAME.fullmatch(text(document, "name")):
            yield (
                "The document file name can only contain alphanumeric characters, "
                "whitespace characters, hyphens, parentheses, and square brackets. The "
                "name can't contain more than one consecutive whitespace character. "
                "Check that the file name conforms to these restrictions and retry "
                "your request."
            )


def document_names_unique(ask: Ask) -> Iterator[str]:
    """No two documents of a request share a name."""
    names = [text(document, "name") for _, document in ask.media("document")]
    if len(set(names)) < len(names):
        yield (
            "Messages can't contain duplicate document names. "
            "Rename the document and retry your request."
        )


def documents_small(ask: Ask) -> Iterator[str]:
    """A document holds 4.5 MB at most."""
    for path, document in ask.media("document"):
        if _chars(document) * 3 // 4 > MOST_DOCUMENT_BYTES:
            yield f"The document at {path} exceeds the maximum size of 4.5 MB."


def images_few(ask: Ask) -> Iterator[str]:
    """A request holds twenty images at most."""
    images = sum(1 for _ in ask.media("image"))
    if images > MOST_IMAGES:
        documents = sum(1 for _ in ask.media("document"))
        yield (
            f"{MODEL_SAYS}messages: too many images and documents: "
            f"{images} + {documents} > {MOST_IMAGES}"
        )


def images_small(ask: Ask) -> Iterator[str]:
    """An image holds 3.75 MB at most, which is 5 MB of base64."""
    for path, image in ask.media("image"):
        chars = _chars(image)
        if chars > MOST_IMAGE_CHARS:
            yield (
                f"{MODEL_SAYS}{path}.source.bytes: image exceeds 5 MB maximum: "
                f"{chars} bytes > {MOST_IMAGE_CHARS} bytes"
            )


def images_narrow(ask: Ask) -> Iterator[str]:
    """No side of an image is longer than 8000 pixels."""
    for path, image in ask.media("image"):
        if max(_pixels(image)) > MOST_PIXELS:
            yield (
                f"{MODEL_SAYS}{path}.source.bytes: At least one of the image "
                f"dimensions exceed max allowed size: {MOST_PIXELS} pixels"
            )


def _chars(media: Json) -> int:
    """Length of the base64 text, also of bytes that were never sent."""
    raw = at(media, "source", "bytes")
    if isinstance(raw, str):
        return len(raw)
    return -(-len(raw) // 3) * 4 if isinstance(raw, (bytes, bytearray)) else 0


def _pixels(image: Json) -> tuple[int, int]:
    """Width and height by the header of a PNG or GIF, zeros for what is not read."""
    head = _head(at(image, "source", "bytes"))
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
        width, height = struct.unpack("!II", head[16:24])
        return width, height
    if head.startswith((b"GIF87a", b"GIF89a")) and len(head) >= 10:
        width, height = struct.unpack("<HH", head[6:10])
        return width, height
    return 0, 0


def _head(raw: object) -> bytes:
    if isinstance(raw, (bytes, bytearray)):
        return bytes(raw[:24])
    try:
        return a2b_base64(raw[:32]) if isinstance(raw, str) else b""
    except Error:
        return b""
