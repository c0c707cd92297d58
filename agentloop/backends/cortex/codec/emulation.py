"""Tools where a wire has none: put into words and a JSON Schema, and read back.

The model answers with one object of nullable members, since a choice between shapes
is not promised to work in Snowflake's structured output: `tool_calls`, `text`, and
`final` where the final answer has a schema of its own. Arguments are the text of a
JSON object, because some models demand that every object be closed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from agentloop.backends.cortex.codec.frame import Tool
from agentloop.core.config import AnyTool, Auto, SpecificTool, ToolChoice
from agentloop.core.content import JsonObject
from agentloop.wire import dump

Schema: TypeAlias = dict[str, Any]

CALLS: Final = "tool_calls"
TEXT: Final = "text"
FINAL: Final = "final"

_INSTRUCTIONS: Final = (
    "You can call tools. Answer with one JSON object. Its member `tool_calls` lists "
    "the calls you want made now, each with the tool's `name` and its `arguments` as "
    "the text of a JSON object; it is null when you need no tool. Its member `text` "
    "is what you say, or null.{final} The results of your calls come with the next "
    "message, in the order of the calls. The tools, each with the JSON Schema of its "
    "arguments:\n{tools}"
)
_FINAL: Final = (
    " Its member `final` is your final answer, and null as long as you call tools."
)


class Emulation:
    """The words and the schema for one set of tools."""

    def __init__(self, tools: Sequence[Tool], final: JsonObject | None) -> None:
        self._tools = tools
        self._final = final

    def instructions(self, choice: ToolChoice) -> str:
        """What the system text says of the tools."""
        told = [
            {
                "name": tool.name,
                "description": tool.description,
                "arguments": tool.schema,
            }
            for tool in self._tools
        ]
        text = _INSTRUCTIONS.format(
            final=_FINAL if self._final is not None else "",
            tools="\n".join(map(dump, told)),
        )
        return f"{text}\n{must}" if (must := _must(choice)) else text

    def schema(self, choice: ToolChoice) -> Schema:
        """The schema of every answer."""
        names = [tool.name for tool in self._tools]
        if isinstance(choice, SpecificTool):
            names = [choice.name]
        call = _closed(
            {"name": {"type": "string", "enum": names}, "arguments": {"type": "string"}}
        )
        free = isinstance(choice, Auto)
        members: Schema = {
            CALLS: {"type": ["array", "null"] if free else "array", "items": call},
            TEXT: {"type": ["string", "null"]},
        }
        if self._final is None:
            return _closed(members)
        final = {k: v for k, v in self._final.items() if k != "$defs"}
        members[FINAL] = {**final, "type": ["object", "null"]}
        definitions = self._final.get("$defs")
        whole = _closed(members)
        return {**whole, "$defs": definitions} if definitions else whole


def said_in_json(text: str, calls: Sequence[tuple[str, str]]) -> str:
    """An assistant turn in the form in which the model is asked to answer.

    Args:
        text: what it said.
        calls: names with arguments as JSON text.
    """
    made = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return dump({CALLS: made or None, TEXT: text or None})


def told_results(told: Sequence[tuple[str, str]], failed: Sequence[bool]) -> str:
    """Results of calls, by position and name."""
    results: list[Mapping[str, Any]] = []
    for position, ((name, text), is_error) in enumerate(
        zip(told, failed, strict=True), start=1
    ):
        result = {"call": position, "name": name, "content": text}
        results.append({**result, "is_error": True} if is_error else result)
    return dump({"tool_results": results})


def _must(choice: ToolChoice) -> str | None:
    match choice:
        case AnyTool():
            return "You must call at least one tool now."
        case SpecificTool(name):
            return f"You must call the tool {name} now."
        case Auto():
            return None


def _closed(members: Schema) -> Schema:
    return {
        "type": "object",
        "properties": members,
        "required": list(members),
        "additionalProperties": False,
    }
