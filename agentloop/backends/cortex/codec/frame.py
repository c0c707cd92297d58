"""What all requests of one run share, before any wire has given it a form.

Tools under legal schemas, the system text, the schema of the final answer, and what
may differ from one inference to the next. Built once from a run's setup.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from attrs import frozen

from agentloop.backends.common.names import Names
from agentloop.backends.common.tool_schemas import tool_schema
from agentloop.backends.cortex.codec.names import LEGAL
from agentloop.backends.cortex.codec.schemas import native
from agentloop.backends.cortex.codec.turns import Writer
from agentloop.backends.cortex.codec.wording import AS_JSON, GONE, Notes, Wording
from agentloop.backends.cortex.options import Model
from agentloop.core.config import ToolChoice, ToolSpec
from agentloop.core.content import JsonObject
from agentloop.ports import SessionSetup
from agentloop.wire import WireError, clean, clean_text, dump

NO_ARGUMENTS: Final[JsonObject] = {"type": "object", "properties": {}}


@frozen(kw_only=True)
class Tool:
    """A tool as a model is told of it."""

    name: str
    description: str | None
    schema: JsonObject
    strict: bool = False


@frozen(kw_only=True)
class Moment:
    """What may differ from one inference of a run to the next.

    Attributes:
        choice: the tool choice of this inference.
        used: the names of the tools called so far.
        may_think: whether thinking can be asked for.
        streamed: whether the answer is asked for as a stream.
    """

    choice: ToolChoice
    used: Mapping[str, None]
    may_think: bool
    streamed: bool


class Body(Protocol):
    """Writes requests of one dialect around encoded turns."""

    def writer(self) -> Writer:
        """A fresh writer of turns."""
        ...

    def body(self, turns: bytes, moment: Moment) -> bytes:
        """The whole request; `turns` are wire messages joined by commas."""
        ...


class Frame:
    """The constant facts of one run's requests.

    Attributes:
        notes: what had to be changed.
        tools: the tools on offer; empty for a wire or a model that takes none.
        names: tool names and their way back.
        schema: what the model is held to natively, if it is.
        system: the system text, with the schema in it where it is not native.
    """

    def __init__(self, setup: SessionSetup, model: Model) -> None:
        self.setup = setup
        self.model = model
        self.notes = Notes()
        self.tools = self._tools()
        self.names = Names(LEGAL, [tool.name for tool in self.tools])
        self.schema = self._schema()
        self.system = "\n\n".join(self._system_texts()) or None

    def wording(self) -> Wording:
        """Words for the turns of one conversation."""
        return Wording(self.model.can, self.names, self.notes)

    def placeholders(self, used: Mapping[str, None]) -> tuple[Tool, ...]:
        """Tools that stand for those of the history, where none is offered."""
        if self.tools or not used:
            return ()
        self.notes.add("tools of the history are no longer offered; placeholders")
        return tuple(
            Tool(name=self.names.out(name), description=GONE, schema=NO_ARGUMENTS)
            for name in used
        )

    # ------------------------------------------------------------ tools

    def _tools(self) -> tuple[Tool, ...]:
        if self.model.has_tools or self.model.emulated:
            return tuple(map(self._tool, self.setup.specs))
        if self.setup.specs:
            self.notes.add(f"no tools were offered: '{self.model.id}' takes none")
        return ()

    def _tool(self, spec: ToolSpec) -> Tool:
        found, changes = tool_schema(self._plain(spec.input_schema))
        # OpenAI's models refuse an object that tells nothing of its properties.
        schema = {**found, "properties": found.get("properties", {})}
        for change in changes:
            self.notes.add(f"the schema of tool '{spec.name}': {change}")
        strict = self._strict(spec, schema) if spec.strict else None
        description, _ = clean_text(spec.description or "")
        return Tool(
            name=spec.name,
            description=description if description.strip() else None,
            schema=strict or schema,
            strict=strict is not None,
        )

    def _strict(self, spec: ToolSpec, schema: JsonObject) -> JsonObject | None:
        """The schema of a strict tool, None when it cannot be strict here."""
        can = self.model.can
        problem: str | None = f"'{can.family}' has no strict tools on Cortex"
        if can.strict_tools and self.model.has_tools:
            shut, problem = native(schema, closed=can.closed_schema)
            if shut is not None:
                return shut
        self.notes.add(f"the tool '{spec.name}' is not strict: {problem}")
        return None

    def _plain(self, value: Any) -> Any:
        try:
            return clean(value)[0]
        except WireError as error:
            self.notes.add(f"a schema was left out: {error}")
            return None

    # ------------------------------------------------------------ output, system

    def _schema(self) -> JsonObject | None:
        """The final answer's schema for a model that can be held to it."""
        schema = self.setup.config.output_format_schema
        if schema is None or not self.model.takes_schema:
            return None
        shut, problem = native(schema, closed=self.model.can.closed_schema)
        if shut is not None and self.model.emulated and not _can_be_null(shut):
            shut, problem = None, "a top level that is not simply an object"
        if shut is None:
            why = f"it holds {problem}"
            self.notes.add(f"the output schema went into the system text: {why}")
        return shut

    def _system_texts(self) -> Iterator[str]:
        text, _ = clean_text(self.setup.system or "")
        if text.strip():
            yield text
        schema = self.setup.config.output_format_schema
        if schema is not None and self.schema is None:
            yield AS_JSON.format(schema=dump(schema))


def _can_be_null(schema: JsonObject) -> bool:
    """Whether it can stand as a nullable member beside emulated tool calls."""
    return schema.get("type") == "object" and "$ref" not in schema
