"""A host's options for one model, and the combinations that Bedrock refuses.

The contract's config knows temperature and max_tokens; everything else that a
Converse request can carry is set here, per model, by whoever builds the backend.
`first_problem` tells before a run costs anything what would be refused later.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from attrs import field, frozen

from agentloop.backends.bedrock.capabilities import Capabilities
from agentloop.backends.common.thinking import (
    Thinking,
    choice_problems,
    sampling_problems,
    thinking_problems,
    way_of_thinking,
)
from agentloop.core.config import Config, ToolChoice

JOB_KEY: Final = "agentloop_job"
"""The key of `requestMetadata` under which a request names its job."""

_METADATA: Final = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,.-]{1,256}")
_MOST_METADATA: Final = 15  # Bedrock takes 16, one of them is the job's


@frozen(kw_only=True)
class Guardrail:
    """A guardrail that Bedrock applies to every request."""

    identifier: str
    version: str
    trace: Literal["enabled", "disabled", "enabled_full"] | None = None


@frozen(kw_only=True)
class CachePoints:
    """Where cache points are set: after the tools, the system, the last turn."""

    tools: bool = True
    system: bool = True
    messages: bool = True
    ttl: Literal["5m", "1h"] | None = None

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
        stop_sequences: texts at which the model stops.
        thinking: extended thinking (Claude).
        guardrail: applied by Bedrock to input and output.
        cache: cache points; only where the model's capabilities allow.
        service_tier: `priority`, `default`, `flex` or `reserved`.
        latency: `standard` or `optimized`.
        effort: how much work the model may spend; needs botocore 1.44.
        request_fields: `additionalModelRequestFields`, as they are.
        response_field_paths: `additionalModelResponseFieldPaths`.
        metadata: pairs beside the job id in `requestMetadata`, for the logs.
    """

    top_p: float | None = None
    stop_sequences: tuple[str, ...] = ()
    thinking: Thinking | None = None
    guardrail: Guardrail | None = None
    cache: CachePoints | None = None
    service_tier: str | None = None
    latency: str | None = None
    effort: str | None = None
    request_fields: Mapping[str, Any] = field(factory=dict)
    response_field_paths: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(factory=dict)


FIELD_KINDS: Final[Mapping[str, Any]] = {
    "top_p": int | float,
    "stop_sequences": tuple | list,
    "thinking": Thinking,
    "guardrail": Guardrail,
    "cache": CachePoints,
    "service_tier": str,
    "latency": str,
    "effort": str,
    "request_fields": Mapping,
    "response_field_paths": tuple | list,
    "metadata": Mapping,
}
"""What the fields of `ModelOptions` hold, for the check of what a host gave."""


@frozen(kw_only=True)
class Model:
    """A model as requests see it: its id, what it takes, what the host wants."""

    id: str
    can: Capabilities
    options: ModelOptions


def first_problem(config: Config, choice: ToolChoice, model: Model) -> str | None:
    """What Bedrock would refuse in every request of such a run, or None."""
    return next(
        (
            problem
            for check in (_model, _choice, _tools, _thinking, _sampling, _extras)
            for problem in check(config, choice, model)
        ),
        None,
    )


def _model(config: Config, _: ToolChoice, model: Model) -> Iterator[str]:
    if ":prompt/" in model.id:
        yield (
            f"$.model: '{config.model}' is the stored prompt {model.id}, which takes "
            "no system text, tools or limits; name a model or an inference profile"
        )


def _choice(config: Config, choice: ToolChoice, model: Model) -> Iterator[str]:
    forced, thinks = model.can.forced_choice, _way_of_thinking(model) is not None
    yield from choice_problems(config, choice, forced, thinks=thinks)


def _tools(config: Config, _: ToolChoice, model: Model) -> Iterator[str]:
    offered = config.mcp_servers or config.client_tools or config.tools
    if offered and not model.can.tools:
        yield f"$.tools: '{config.model}' takes no tools"


def _way_of_thinking(model: Model) -> str | None:
    return way_of_thinking(model.options.thinking, model.options.request_fields)


def _thinking(config: Config, _: ToolChoice, model: Model) -> Iterator[str]:
    way = _way_of_thinking(model)
    if way is None:
        return
    if way not in model.can.thinking:
        yield f"$.model: '{config.model}' has no {way} thinking"
    yield from thinking_problems(config, model.options.thinking)


def _sampling(config: Config, _: ToolChoice, model: Model) -> Iterator[str]:
    top_p, one = model.options.top_p, model.can.one_sampler
    yield from sampling_problems(config, top_p, one_sampler=one)


def _extras(config: Config, _: ToolChoice, model: Model) -> Iterator[str]:
    options, can = model.options, model.can
    if options.cache is not None:
        if missing := sorted(options.cache.places - can.cache):
            places = ", ".join(missing)
            yield f"$.model: '{config.model}' takes no cache points in {places}"
        if options.cache.ttl == "1h" and not can.cache_hour:
            yield f"$.model: '{config.model}' has no cache points that live for 1h"
    if any(not text for text in options.stop_sequences):
        yield "$.model: a stop sequence must not be empty"
    yield from _metadata(options)


def _metadata(options: ModelOptions) -> Iterator[str]:
    if len(options.metadata) > _MOST_METADATA:
        yield f"$.model: metadata takes {_MOST_METADATA} pairs at most"
    for key, value in options.metadata.items():
        if key == JOB_KEY:
            yield f"$.model: the metadata key '{JOB_KEY}' is the job's own"
        if not _METADATA.fullmatch(key) or not _METADATA.fullmatch(value or " "):
            yield (
                f"$.model: the metadata pair '{key[:40]}' holds characters beyond "
                "letters, digits, white space and :_@$#=/+,.-"
            )
