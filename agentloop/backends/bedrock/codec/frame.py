"""Everything of a request that is not a turn: tools, limits, options, output.

Most of it is the same for every inference of a run and encoded once; only a forced
tool choice (first iteration), placeholders for tools that are gone, thinking where it
is not allowed yet, and the job's id differ. This room knows no messages.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from agentloop.backends.bedrock.codec.blocks import Wire, as_botocore
from agentloop.backends.bedrock.codec.names import TOOL_NAME, Names
from agentloop.backends.bedrock.codec.schemas import native, tool_schema
from agentloop.backends.bedrock.options import JOB_KEY, Model
from agentloop.core.config import AnyTool, Auto, SpecificTool, ToolChoice, ToolSpec
from agentloop.core.content import JsonObject
from agentloop.core.values import value
from agentloop.ports import SessionSetup
from agentloop.wire import WireError, clean, clean_text, dump

GONE: Final = "This tool is no longer available. Do not call it."
ANSWER_NAME: Final = "final_answer"
AS_JSON: Final = (
    "Your final answer must be one JSON object and nothing else: no prose around it "
    "and no code fence. It must be valid against this JSON Schema:\n{schema}"
)
_NOT_METADATA: Final = re.compile(r"[^a-zA-Z0-9\s:_@$#=/+,.-]")


@value
class Moment:
    """What may differ from one inference of a run to the next.

    `used` are the tools called so far; `may_think` is explained where it is found.
    """

    choice: ToolChoice
    used: Mapping[str, None]
    may_think: bool


class Frame:
    """The constant part of all requests of one run, built from its setup."""

    def __init__(self, setup: SessionSetup, model: Model) -> None:
        self.notes: list[str] = []
        self._setup, self._model = setup, model
        self._specs = self._tool_specs()
        self.names = Names(TOOL_NAME, {spec["name"] for spec in self._specs})
        output = self._native_output()
        texts = list(self._system_texts(native_output=output is not None))
        as_system = model.can.system
        self.preface = None if as_system or not texts else "\n\n".join(texts)
        self.message_point = self._cache_point("messages")
        self._before = self._members_before(texts if as_system else [])
        self._after = self._members_after(output)
        self._tails: dict[object, bytes] = {}

    def tail(self, moment: Moment, job_id: str) -> bytes:
        """What follows the turns in a request, to its closing brace."""
        used = () if self._specs else tuple(moment.used)
        key = (moment.choice, moment.may_think, used)
        constant = self._tails.get(key)
        if constant is None:
            constant = self._tails[key] = b"".join(
                b', "%b": %b' % (name.encode(), as_botocore(value).encode("ascii"))
                for name, value in self._members(moment)
            )
        metadata = {
            JOB_KEY: _NOT_METADATA.sub("_", job_id)[:256],
            **self._model.options.metadata,
        }
        last = as_botocore(metadata).encode("ascii")
        return b']%b, "requestMetadata": %b}' % (constant, last)

    def _members(self, moment: Moment) -> Iterator[tuple[str, Any]]:
        yield from self._before
        if config := self._tool_config(moment):
            yield "toolConfig", config
        if fields := self._request_fields(may_think=moment.may_think):
            yield "additionalModelRequestFields", fields
        yield from self._after

    # ------------------------------------------------------------ system, limits

    def _system_texts(self, *, native_output: bool) -> Iterator[str]:
        text, _ = clean_text(self._setup.system or "")
        if text.strip():
            yield text
        schema = self._setup.config.output_format_schema
        if schema is not None and not native_output:
            yield AS_JSON.format(schema=dump(schema))

    def _members_before(self, texts: list[str]) -> list[tuple[str, Any]]:
        system: list[Wire] = [{"text": text} for text in texts]
        if system and (point := self._cache_point("system")):
            system.append(point)
        limits = [("inferenceConfig", self._limits())]
        return [("system", system), *limits] if system else limits

    def _limits(self) -> Wire:
        config, options = self._setup.config, self._model.options
        limits: Wire = {"maxTokens": config.max_tokens}
        if config.temperature is not None:
            limits["temperature"] = config.temperature
        if options.top_p is not None:
            limits["topP"] = options.top_p
        if options.stop_sequences:
            limits["stopSequences"] = list(options.stop_sequences)
        return limits

    def _cache_point(self, place: str) -> Wire | None:
        """A cache point, where it is wanted and the model takes one."""
        cache = self._model.options.cache
        if cache is None or place not in cache.places & self._model.can.cache:
            return None
        point = {"type": "default"}
        return {"cachePoint": point | ({"ttl": cache.ttl} if cache.ttl else {})}

    # ------------------------------------------------------------ tools

    def _tool_specs(self) -> list[Wire]:
        if self._model.can.tools:
            return [self._tool_spec(spec) for spec in self._setup.specs]
        if self._setup.specs:
            self.notes.append(f"no tools were offered: '{self._model.id}' takes none")
        return []

    def _tool_spec(self, spec: ToolSpec) -> Wire:
        schema, changes = tool_schema(self._plain(spec.input_schema))
        wire: Wire = {"name": spec.name}
        description, _ = clean_text(spec.description or "")
        if description.strip():
            wire["description"] = description
        strict = self._strict(spec, schema) if spec.strict else None
        wire["inputSchema"] = {"json": strict or schema}
        if strict:
            wire["strict"] = True
        self.notes.extend(
            f"the schema of tool '{spec.name}': {change}" for change in changes
        )
        return wire

    def _strict(self, spec: ToolSpec, schema: JsonObject) -> Wire | None:
        """The schema of a strict tool, None when it cannot be strict here."""
        problem: str | None = f"'{self._model.can.family}' has no strict tools"
        if self._model.can.strict_tools:
            closed, problem = native(schema)
            if closed is not None:
                return closed
        self.notes.append(f"the tool '{spec.name}' is not strict: {problem}")
        return None

    def _tool_config(self, moment: Moment) -> Wire | None:
        """The tools on offer; for a history with calls there are always some."""
        specs = self._specs or self._placeholders(moment.used)
        if not specs:
            return None
        tools: list[Wire] = [{"toolSpec": spec} for spec in specs]
        if point := self._cache_point("tools"):
            tools.append(point)
        config: Wire = {"tools": tools}
        if choice := self._choice(moment.choice):
            config["toolChoice"] = choice
        return config

    def _placeholders(self, used: Mapping[str, None]) -> list[Wire]:
        if not used or not self._model.can.tools:
            return []
        self.notes.append("tools of the history are no longer offered; placeholders")
        schema = {"json": {"type": "object", "properties": {}}}
        return [
            {"name": self.names.out(name), "description": GONE, "inputSchema": schema}
            for name in used
        ]

    def _choice(self, choice: ToolChoice) -> Wire | None:
        forced = self._model.can.forced_choice if self._specs else frozenset()
        match choice:
            case Auto():
                return None
            case AnyTool() if "any" in forced:
                return {"any": {}}
            case SpecificTool(name) if "tool" in forced:
                return {"tool": {"name": name}}
            case _:
                self.notes.append("the tool choice was left to the model")
                return None

    # ------------------------------------------------------------ output, options

    def _native_output(self) -> Wire | None:
        """The final answer's schema for a model that can be held to it."""
        schema = self._setup.config.output_format_schema
        if schema is None or not self._model.can.native_schema:
            return None
        closed, problem = native(schema)
        if closed is None:
            self.notes.append(
                f"the output schema went into the system text: it holds {problem}"
            )
            return None
        structure = {"jsonSchema": {"schema": dump(closed), "name": ANSWER_NAME}}
        return {"textFormat": {"type": "json_schema", "structure": structure}}

    def _request_fields(self, *, may_think: bool) -> Wire:
        options = self._model.options
        fields = dict(options.request_fields)
        if options.thinking is not None:
            budget = options.thinking.budget_tokens
            fields["thinking"] = (
                {"type": "adaptive"}
                if budget is None
                else {"type": "enabled", "budget_tokens": budget}
            )
        thinking = fields.get("thinking")
        by_budget = isinstance(thinking, dict) and thinking.get("type") == "enabled"
        if by_budget and not may_think:
            self.notes.append("no thinking: the calls were made without any")
            del fields["thinking"]
        return fields

    def _members_after(self, output: Wire | None) -> list[tuple[str, Any]]:
        options = self._model.options
        found: dict[str, Any] = {
            "guardrailConfig": self._guardrail(),
            "additionalModelResponseFieldPaths": list(options.response_field_paths),
            "performanceConfig": options.latency and {"latency": options.latency},
            "serviceTier": options.service_tier and {"type": options.service_tier},
            "outputConfig": {
                **(output or {}),
                **({"effort": options.effort} if options.effort else {}),
            },
        }
        return [(name, value) for name, value in found.items() if value]

    def _guardrail(self) -> Wire | None:
        guardrail = self._model.options.guardrail
        if guardrail is None:
            return None
        wire: Wire = {
            "guardrailIdentifier": guardrail.identifier,
            "guardrailVersion": guardrail.version,
        }
        return wire | ({"trace": guardrail.trace} if guardrail.trace else {})

    def _plain(self, value: Any) -> Any:
        try:
            return clean(value)[0]
        except WireError as error:
            self.notes.append(f"a schema was left out: {error}")
            return None
