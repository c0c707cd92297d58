"""Texts of any length in rows of at most 400 KB: kept within a row, or in pieces.

A short text is an attribute of the row it belongs to. A long one is cut into pieces,
rows of their own under a name that nobody used before; the row then holds the name
and the number of the pieces. Pieces are written before the row that names them, so
that nobody finds half of a text; those that no row came to name are removed with
the partition they lie in. Many texts that are read together are packed into one.
"""

import secrets
from collections.abc import Iterator, Sequence
from typing import Final

from attrs import define, field

from agentloop.ports.store import StoreUnavailableError
from agentloop.stores.dynamodb_table import GoneError, Table, under
from agentloop.stores.dynamodb_values import Key, Row, demand_utf8

WITHIN: Final = 80_000
"""Bytes of a text that stays in its row; a row has up to three of them."""
ROOM: Final = 2_500_000
"""Bytes of all texts that stay in the rows of one transaction."""
_PIECE: Final = 350_000
_PIECES: Final = "text#"


def fresh() -> str:
    """A name that nobody used before."""
    return secrets.token_hex(12)


@define
class Texts:
    """The texts of one commit; `write` before the commit what became pieces."""

    table: Table
    name: str = field(factory=fresh)
    _room: int = ROOM
    _pieces: list[tuple[Key, Row]] = field(factory=list)
    _cut: int = 0

    def keep(self, partition: str, **texts: str | None) -> Row:
        """The attributes that keep texts; pieces lie in a partition."""
        row: Row = {}
        for name, text in texts.items():
            if text is not None:
                row |= self._kept(partition, name, text)
        return row

    def _kept(self, partition: str, name: str, text: str) -> Row:
        demand_utf8(text)
        size = len(text) if text.isascii() else len(text.encode())
        if size <= min(WITHIN, self._room):
            self._room -= size
            return {name: text}
        place = f"{_PIECES}{self.name}#{self._cut:06d}#"
        self._cut += 1
        width = _PIECE if text.isascii() else _PIECE // 4
        cut = range(0, len(text), width)
        for number, start in enumerate(cut):
            key = partition, f"{place}{number:08d}"
            self._pieces.append((key, {"piece": text[start : start + width]}))
        return {f"{name}_at": place, f"{name}_pieces": len(cut)}

    @property
    def cut(self) -> bool:
        """Whether any text became pieces."""
        return bool(self._pieces)

    def write(self) -> None:
        """Write the pieces."""
        self.table.put_all(self._pieces)

    def discard(self) -> None:
        """Remove the pieces of a commit that did not happen, if that can be done."""
        try:
            self.table.delete_all(key for key, _ in self._pieces)
        except StoreUnavailableError:
            return  # they go with their partition


def text_of(table: Table, partition: str, row: Row, name: str) -> str | None:
    """The text a row keeps under a name, None when it keeps none.

    Raises:
        GoneError: its pieces are gone.
    """
    if name in row:
        return str(row[name])
    if f"{name}_at" not in row:
        return None
    pieces = [row["piece"] for row in table.query(under(partition, row[f"{name}_at"]))]
    if len(pieces) != row[f"{name}_pieces"]:
        raise GoneError(f"pieces of {name} in {partition} are gone")
    return "".join(pieces)


def sure(text: str | None) -> str:
    """A text that its row always keeps."""
    if text is None:
        raise GoneError("a row has lost its text")
    return text


def pack(texts: Sequence[str]) -> str:
    """Many texts as one, led by their lengths."""
    return ",".join(str(len(text)) for text in texts) + ";" + "".join(texts)


def unpack(packed: str) -> Iterator[str]:
    """The texts that were packed, in order."""
    place = packed.index(";") + 1
    for length in packed[: place - 1].split(","):
        if length:
            yield packed[place : place + int(length)]
            place += int(length or 0)
