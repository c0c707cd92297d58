"""What each Bedrock model family takes: one record per family, one table.

Found by the model id with any region prefix and ARN around it removed. The sources
are the Converse API reference, the "Supported models and model features", "Prompt
caching" and "Structured output" pages of the Bedrock user guide, and refusals that
users reported. What is not documented counts as not supported: a request that asks
for less is still answered, one that asks for too much is refused. Hosts override a
record where they know better, and must where a profile's ARN hides the model.

This room holds facts about models and nothing about requests.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from attrs import evolve, frozen

ReasoningRule: TypeAlias = Literal["signed", "echo", "drop"]
"""What may go back of a model's reasoning: signed blocks only, all, or none."""


@frozen(kw_only=True)
class Capabilities:
    """What a model takes; the defaults are what every family takes.

    Attributes:
        family: a short name for messages.
        tools: whether it can be given tools at all.
        forced_choice: the kinds of `toolChoice` beside `auto`: `any`, `tool`.
        result_status: whether a tool result may carry a `status`.
        result_form: whether results are texts, or JSON objects only.
        result_media: whether a tool result may hold images and documents.
        mixed_results: whether text may stand beside tool results in one turn.
        native_schema: whether `outputConfig.textFormat` takes a JSON Schema.
        strict_tools: whether a tool may be `strict`.
        cache: where cache points may stand: `tools`, `system`, `messages`.
        cache_hour: whether a cache point may live for an hour.
        reasoning: what goes back of earlier reasoning.
        thinking: the ways in which it can be asked to think.
        one_sampler: whether temperature and top_p exclude each other.
        system: whether it takes a system text.
    """

    family: str = "unknown"
    tools: bool = True
    forced_choice: frozenset[str] = frozenset()
    result_status: bool = False
    result_form: Literal["text", "json"] = "text"
    result_media: bool = False
    mixed_results: bool = False
    native_schema: bool = False
    strict_tools: bool = False
    cache: frozenset[str] = frozenset()
    cache_hour: bool = False
    reasoning: ReasoningRule = "echo"
    thinking: frozenset[str] = frozenset()
    one_sampler: bool = False
    system: bool = True


Override: TypeAlias = (
    Mapping[str, Capabilities] | Callable[[str], Capabilities | None] | None
)
"""A host's own records by the model name of its configs; None leaves it to us."""

UNKNOWN: Final = Capabilities()

_TALKS: Final = Capabilities(tools=False)
_BOTH: Final = frozenset({"any", "tool"})
_EVERYWHERE: Final = frozenset({"tools", "system", "messages"})

_FAMILIES: Final = (
    # The first prefix that fits decides, so the exceptions stand first.
    (
        "amazon.nova",
        Capabilities(
            family="nova",
            forced_choice=_BOTH,
            result_status=True,
            result_media=True,
            cache=frozenset({"system", "messages"}),
        ),
    ),
    ("amazon.titan", evolve(_TALKS, family="titan", system=False)),
    ("meta.llama2", evolve(_TALKS, family="llama")),
    ("meta.llama3-8b", evolve(_TALKS, family="llama")),
    ("meta.llama3-70b", evolve(_TALKS, family="llama")),
    ("meta.llama", Capabilities(family="llama")),
    ("mistral.mistral-7b", evolve(_TALKS, family="mistral", system=False)),
    ("mistral.mixtral-8x7b", evolve(_TALKS, family="mistral", system=False)),
    (
        "mistral.",
        Capabilities(
            family="mistral", forced_choice=frozenset({"any"}), result_form="json"
        ),
    ),
    ("deepseek.r1", evolve(_TALKS, family="deepseek", reasoning="drop")),
    ("deepseek.", Capabilities(family="deepseek", reasoning="drop")),
    ("cohere.command-text", evolve(_TALKS, family="cohere", system=False)),
    ("cohere.command-light", evolve(_TALKS, family="cohere", system=False)),
    ("cohere.", Capabilities(family="cohere")),
    ("ai21.j2", evolve(_TALKS, family="ai21", system=False)),
    ("ai21.", Capabilities(family="ai21")),
    ("openai.", Capabilities(family="openai")),
    ("qwen.", Capabilities(family="qwen")),
    ("writer.", Capabilities(family="writer")),
)

_REGION: Final = re.compile(r"^(?:us-gov|us|eu|apac|jp|au|ca|sa|me|af|global)\.")
_ARN_TAIL: Final = re.compile(
    r"^arn:[^:]*:bedrock:[^:]*:[^:]*:(?:foundation-model|inference-profile)/(.+)$"
)
_CLAUDE: Final = re.compile(
    r"claude-(?:(\d)(?:[-.](\d))?-[a-z]|[a-z]+-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d))"
)
_FIRST_SONNET_35: Final = re.compile(r"claude-3[-.]5-sonnet-20240620")


def capabilities_of(model_id: str, name: str = "") -> Capabilities:
    """The record of a model.

    Args:
        model_id: what Bedrock is asked for: an id, a profile or an ARN.
        name: the model's name in configs, consulted when the id hides the family.
    """
    return _found(model_id) or _found(name) or UNKNOWN


def bare_id(model_id: str) -> str:
    """The model id without the ARN and the region prefix around it."""
    tail = _ARN_TAIL.match(model_id)
    return _REGION.sub("", tail[1] if tail else model_id)


@lru_cache(maxsize=256)  # every run asks, and a host has few models
def _found(model_id: str) -> Capabilities | None:
    bare = bare_id(model_id)
    if bare.startswith("anthropic.claude"):
        return _claude(bare)
    for prefix, record in _FAMILIES:
        if bare.startswith(prefix):
            return record
    return None


def _claude(bare: str) -> Capabilities:
    """Claude by version: what came with 3.0, 3.5, 3.7, 4.5 and 4.6."""
    version = _claude_version(bare)
    caches = version >= (3, 5) and not _FIRST_SONNET_35.search(bare)
    tools = version >= (3, 0)
    ways = {"budget": version >= (3, 7), "adaptive": version >= (4, 6)}
    return Capabilities(
        family="claude",
        tools=tools,
        forced_choice=_BOTH if tools else frozenset(),
        result_status=tools,
        result_media=tools,
        mixed_results=True,
        native_schema=version >= (4, 5),
        strict_tools=version >= (4, 5),
        cache=_EVERYWHERE if caches else frozenset(),
        cache_hour=version == (4, 5),
        reasoning="signed",
        thinking=frozenset(way for way, known in ways.items() if known),
        one_sampler=version >= (4, 5),
    )


def _claude_version(bare: str) -> tuple[int, int]:
    """Major and minor, in the old and the new spelling; (2, 0) for the oldest."""
    found = _CLAUDE.search(bare)
    if found is None:
        return (2, 0)
    return int(found[1] or found[3]), int(found[2] or found[4] or 0)
