"""What all replies of Cortex have in common once they are parsed JSON.

Content is taken as it is: what follows from it is the machine's rule. Names and ids
stay verbatim, arguments become an object, texts lose the characters that no store
takes, what we do not know becomes an opaque block. Nothing vanishes without a note.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import frozen

from agentloop.backends.cortex.codec.wording import PROVIDER
from agentloop.core.catalog import Failure
from agentloop.core.content import Message, Opaque, Reasoning, Text, ToolUse
from agentloop.core.phases import StopReason
from agentloop.core.run import Usage
from agentloop.wire import WireError, clean_text, cleaned


@frozen
class Reply:
    """What a reply says in neutral words, with notes on what was changed."""

    message: Message
    stop: StopReason
    usage: Usage | None
    notes: tuple[str, ...] = ()


class MalformedError(Exception):
    """A reply that cannot be understood; the text says why."""


def understood(read: Callable[[Any], Reply], document: Any) -> Reply | Failure:
    """What `read` makes of a document, or the failure that it makes no sense."""
    try:
        return read(document)
    except (MalformedError, WireError) as error:
        return malformed(str(error))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        return malformed(f"it has another shape ({type(error).__name__}: {error})")
    except RecursionError:
        return malformed("it is nested too deeply")


def malformed(problem: str) -> Failure:
    """The failure of a reply that cannot be used."""
    text, _ = clean_text(f"cortex' reply cannot be used: {problem}"[:500])
    return Failure(kind="malformed_output", message=text)


def parsed(raw: bytes | str) -> Any:
    """The JSON value of a reply's body.

    Raises:
        MalformedError: it is no JSON.
    """
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"it is no JSON ({type(error).__name__})") from None


def count(value: Any) -> int | None:
    """A number of tokens, None for anything that is none."""
    return value if type(value) is int and value >= 0 else None


def fields(value: Any) -> Mapping[str, Any]:
    """A JSON object, empty for anything that is none."""
    return value if isinstance(value, Mapping) else {}


class Reader:
    """Reads the parts of one reply; collects notes.

    Args:
        tool_name: reads a tool name from the wire back to the one it stands for.
        stop: why the model stopped.
    """

    def __init__(self, tool_name: Callable[[str], str], stop: StopReason) -> None:
        self._tool_name = tool_name
        self.stop: StopReason = stop
        self.notes: list[str] = []

    def text(self, raw: Any) -> str:
        """A text without what no store takes."""
        if not isinstance(raw, str):
            raise MalformedError("a text that is none")
        text, changed = clean_text(raw)
        self._count(changed)
        return text

    def said(self, raw: Any) -> Text:
        """A text block."""
        return Text(self.text(raw))

    def call(self, id_: Any, name: Any, arguments: Any) -> ToolUse | None:
        """A call with its arguments, None when they were cut off."""
        if not isinstance(name, str) or not isinstance(id_, str):
            raise MalformedError("a tool call whose name or id is no text")
        found = self._arguments(arguments)
        if found is None:
            self.notes.append(f"a call of {name[:80]!r} that was cut off was dropped")
            return None
        return ToolUse(self.text(id_), self._tool_name(self.text(name)), found)

    def reasoning(self, raw: Any, signature: Any) -> Reasoning:
        """Reasoning as it is; a text that had to change loses its signature."""
        text = self.text(raw)
        signed = signature if isinstance(signature, str) and text == raw else None
        return Reasoning(text=text, signature=signed or None)

    def redacted(self, raw: Any) -> Reasoning:
        """Reasoning that nobody may read, kept byte for byte."""
        if not isinstance(raw, str):
            raise MalformedError("redacted reasoning that is no text")
        return Reasoning(redacted=raw)

    def opaque(self, raw: Any) -> Opaque:
        """A block that we do not know."""
        if not isinstance(raw, Mapping):
            raise MalformedError("a block that is no object")
        value, changed = cleaned(raw)
        self._count(changed)
        return Opaque(PROVIDER, value)

    def _arguments(self, raw: Any) -> Any:
        """An object, always; None for the beginning of one.

        Arguments come as text on some wires, and as nothing when there are none. At
        the token limit nothing is what is left of arguments that were not finished.
        """
        if isinstance(raw, str):
            raw = _unwrapped(raw)
            if raw is _CUT:
                return None
        if not raw and raw in ({}, None, ""):
            return None if self.stop == "max_tokens" else {}
        if not isinstance(raw, Mapping):
            raise MalformedError("a tool call whose arguments are no object")
        value, changed = cleaned(raw)
        self._count(changed)
        return value

    def _count(self, changed: int) -> None:
        if changed:
            self.notes.append(f"{changed} characters of the reply became U+FFFD")

    def reply(self, blocks: list[Any], usage: Usage | None) -> Reply:
        """The reply of these blocks; those that are None were dropped."""
        content = tuple(block for block in blocks if block is not None)
        return Reply(Message("assistant", content), self.stop, usage, tuple(self.notes))


_CUT: Final = object()


def _unwrapped(text: str) -> Any:
    """The value of arguments that came as text, `_CUT` when it breaks off."""
    if not text.strip():
        return {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _CUT
