"""Server-sent events out of bytes, however these are cut.

Follows the WHATWG specification ("Server-sent events", 9.2.6): lines end in LF, CR
LF or CR; `data` lines of one event are joined by line feeds; comments and other
fields are skipped; a blank line ends an event. Differs in one thing: an event whose
lines are whole but whose blank line never came counts, because servers forget it at
the end.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from attrs import frozen

MOST_BYTES: Final = 32 * 1024 * 1024
"""More than any reply has; a stream without line ends must not fill the memory."""

_BOM: Final = b"\xef\xbb\xbf"


@frozen
class Event:
    """One event: its name, empty when it has none, and its data."""

    name: str
    data: str


class EventError(Exception):
    """Bytes that are no events."""


def events(pieces: Iterable[bytes]) -> Iterator[Event]:
    """The events in a body that arrives in pieces.

    Raises:
        EventError: a line that is no UTF-8, or one without an end.
    """
    name = ""
    data: list[str] = []
    for line in _lines(pieces):
        if not line:
            if data:
                yield Event(name, "\n".join(data))
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
    if data:
        yield Event(name, "\n".join(data))


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Whole lines; one that the end of the body cuts off is dropped."""
    rest, first = b"", True
    for piece in pieces:
        rest += piece
        if len(rest) > MOST_BYTES:
            raise EventError(f"a line of more than {MOST_BYTES} bytes")
        # A CR at the end may be half of a CR LF, so it has to wait.
        *whole, rest = _split(rest)
        for line in whole:
            yield _decoded(line.removeprefix(_BOM) if first else line)
            first = False
    if rest.endswith(b"\r"):
        yield _decoded(rest[:-1])


def _split(buffer: bytes) -> list[bytes]:
    """The buffer at its line ends; the last part is not ended yet."""
    held = b""
    if buffer.endswith(b"\r"):
        buffer, held = buffer[:-1], b"\r"
    parts = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    parts[-1] += held
    return parts


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EventError(f"a line that is no UTF-8 at byte {error.start}") from None
