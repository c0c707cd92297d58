"""Tool names and call ids that a provider would refuse, and their way back.

A model makes up names, and another provider's ids look different; both stay verbatim
in what we store. On the wire they are written in the permitted characters with a
checksum of the original, so that the same text always becomes the same name and two
texts never share one. When the model repeats such a name, it is read back.
"""

import re
from collections.abc import Collection
from hashlib import sha256
from typing import Final

_STRANGE: Final = re.compile(r"[^a-zA-Z0-9_-]")
_KEPT: Final = 48
_CHECK: Final = 12


class Names:
    """One space of names; remembers only those that had to be changed.

    `offered` are the names the model is really given: they mean themselves.
    """

    def __init__(
        self, legal: re.Pattern[str], offered: Collection[str] = frozenset()
    ) -> None:
        self._legal = legal
        self._offered = frozenset(offered)
        self._out: dict[str, str] = {}
        self._back: dict[str, str] = {}

    def out(self, name: str) -> str:
        """The name as the provider takes it."""
        if self._legal.fullmatch(name):
            return name
        wire = self._out.get(name)
        if wire is None:
            check = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_CHECK]
            wire = f"{_STRANGE.sub('_', name)[:_KEPT]}_{check}"
            self._out[name], self._back[wire] = wire, name
        return wire

    def back(self, wire: str) -> str:
        """The name that a name from the wire stands for."""
        if wire in self._offered:
            return wire
        return self._back.get(wire, wire)
