"""A host's options for one model, and the combinations that Cortex refuses.

The contract's config knows temperature and max_tokens; everything else that a request
can carry is set here, per model, by whoever builds the backend. `first_problem` tells
before a run costs anything what would be refused later.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import field, frozen

from agentloop.backends.common.thinking import (
    Thinking,
    choice_problems,
    sampling_problems,
    thinking_problems,
    way_of_thinking,
)
from agentloop.backends.cortex.capabilities import Capabilities, Dialect
from agentloop.core.config import Config, ToolChoice

MOST_SQL_TOKENS: Final = 8192
"""What COMPLETE can be asked for at most (Snowflake, "COMPLETE")."""


@frozen(kw_only=True)
class CachePoints:
    """Where cache points are set: after the tools, the system, the last turn.

    They live five minutes, which is all that Cortex offers.
    """

    tools: bool = True
    system: bool = True
    messages: bool = True

    @property
    def places(self) -> frozenset[str]:
        """The places that are wanted, in the words of the capability table."""
        wanted = {
            "tools": self.tools,
            "system": self.system,
            "messages": self.messages,
        }
        return frozenset(place for place, is_wanted in wanted.items() if is_wanted)


@frozen(kw_only=True)
class ModelOptions:
    """What requests for one model carry beyond its config.

    Attributes:
        top_p: nucleus sampling.
        stop_sequences: texts at which the model stops (REST).
        thinking: extended thinking (Claude over REST).
        effort: how much work the model may spend (REST).
        cache: cache points (Claude over REST).
        betas: values of the `anthropic-beta` header (Claude over REST).
        request_fields: further fields of the body, or of COMPLETE's options.
    """

    top_p: float | None = None
    stop_sequences: tuple[str, ...] = ()
    thinking: Thinking | None = None
    effort: str | None = None
    cache: CachePoints | None = None
    betas: tuple[str, ...] = ()
    request_fields: Mapping[str, Any] = field(factory=dict)


FIELD_KINDS: Final[Mapping[str, Any]] = {
    "top_p": int | float,
    "stop_sequences": tuple | list,
    "thinking": Thinking,
    "effort": str,
    "cache": CachePoints,
    "betas": tuple | list,
    "request_fields": Mapping,
}
"""What the fields of `ModelOptions` hold, for the check of what a host gave."""


@frozen(kw_only=True)
class Model:
    """A model as requests see it: its name, its wire, what it takes, what is wanted.

    `emulated` says that tools are put into words and a schema, because the wire has
    none of its own.
    """

    id: str
    dialect: Dialect
    can: Capabilities
    options: ModelOptions
    emulated: bool = False

    @property
    def has_tools(self) -> bool:
        """Whether calls travel as such on this wire."""
        return self.can.tools and self.dialect != "sql"

    @property
    def takes_schema(self) -> bool:
        """Whether the model can be held to a JSON Schema on this wire."""
        if self.dialect == "sql":
            return self.can.sql_schema
        return self.can.native_schema


def first_problem(config: Config, choice: ToolChoice, model: Model) -> str | None:
    """What Cortex would refuse in every request of such a run, or None."""
    return next(
        (
            problem
            for check in (_tools, _choice, _limits, _thinking, _sampling, _extras)
            for problem in check(config, choice, model)
        ),
        None,
    )


def _tools(config: Config, _: ToolChoice, model: Model) -> Iterator[str]:
    offered = config.mcp_servers or config.client_tools or config.tools
    if not offered or model.has_tools or model.emulated:
        return
    if model.dialect == "sql":
        yield (
            "$.tools: COMPLETE takes no tools; use the rest transport, "
            "or let the backend emulate them with emulate_tools=True"
        )
    else:
        yield (
            f"$.tools: '{config.model}' takes no tools over REST; use a claude- or "
            "openai- model, or the sql transport with emulate_tools=True"
        )


def _choice(config: Config, choice: ToolChoice, model: Model) -> Iterator[str]:
    if model.emulated:
        return
    forced, thinks = model.can.forced_choice, _way_of_thinking(model) is not None
    yield from choice_problems(config, choice, forced, thinks=thinks)


def _limits(config: Config, _: ToolChoice, model: Model) -> Iterator[str]:
    if model.dialect == "sql" and config.max_tokens > MOST_SQL_TOKENS:
        yield (
            f"$.max_tokens: COMPLETE gives at most {MOST_SQL_TOKENS} tokens, "
            f"not {config.max_tokens}"
        )


def _way_of_thinking(model: Model) -> str | None:
    return way_of_thinking(model.options.thinking, model.options.request_fields)


def _thinking(config: Config, _: ToolChoice, model: Model) -> Iterator[str]:
    way = _way_of_thinking(model)
    if way is None:
        return
    if model.dialect != "messages" or way not in model.can.thinking:
        yield f"$.model: '{config.model}' has no {way} thinking on this transport"
    yield from thinking_problems(config, model.options.thinking)


def _sampling(config: Config, _: ToolChoice, model: Model) -> Iterator[str]:
    top_p, one = model.options.top_p, model.can.one_sampler
    yield from sampling_problems(config, top_p, one_sampler=one)


def _extras(config: Config, _: ToolChoice, model: Model) -> Iterator[str]:
    options, can, claude = model.options, model.can, model.dialect == "messages"
    wanted = options.cache.places if options.cache is not None else frozenset()
    if missing := sorted(wanted - (can.cache if claude else frozenset())):
        places = ", ".join(missing)
        yield f"$.model: '{config.model}' takes no cache points in {places}"
    if options.effort is not None and (model.dialect == "sql" or not can.effort):
        yield f"$.model: '{config.model}' cannot be told an effort on this transport"
    if options.stop_sequences and model.dialect == "sql":
        yield "$.model: COMPLETE takes no stop sequences"
    if any(not text.strip() for text in options.stop_sequences):
        yield "$.model: a stop sequence must not be blank"
    if options.betas and not claude:
        yield f"$.model: '{config.model}' takes no anthropic-beta values"
