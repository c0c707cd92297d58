"""What each Cortex model family takes: one record per family, one table.

Found by the model's name. The sources are the "Cortex REST API", "COMPLETE" and
"COMPLETE structured outputs" pages of the Snowflake documentation, and for Claude,
which Bedrock serves behind Cortex, the Anthropic pages on thinking, effort and
structured output. What is not documented counts as not supported: a request that
asks for less is still answered, one that asks for too much is refused. Hosts override
a record where they know better.

This room holds facts about models and nothing about requests.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from attrs import evolve, frozen

Dialect: TypeAlias = Literal["messages", "chat", "sql"]
"""The three wires: Anthropic's, OpenAI's, and the arguments of COMPLETE."""

Transport: TypeAlias = Literal["rest", "sql"]

ReasoningRule: TypeAlias = Literal["signed", "echo", "drop"]
"""What may go back of a model's reasoning: signed blocks only, all, or none."""


@frozen(kw_only=True)
class Capabilities:
    """What a model takes; the defaults are what every family takes.

    Attributes:
        family: a short name for messages.
        tools: whether it can be given tools, over REST.
        forced_choice: the kinds of tool choice beside `auto`: `any`, `tool`.
        native_schema: whether it can be held to a JSON Schema over REST.
        sql_schema: whether it can be held to one over SQL.
        closed_schema: whether every object of such a schema must be closed and
            require all of its properties, as OpenAI's models demand.
        strict_tools: whether a tool may be `strict`.
        images: whether a user turn may hold images.
        documents: whether a user turn may hold documents that are no plain text.
        result_media: whether a tool result may hold images and documents.
        reasoning: what goes back of earlier reasoning.
        thinking: the ways in which it can be asked to think.
        effort: whether it can be told how much work to spend.
        cache: where cache points may stand: `tools`, `system`, `messages`.
        one_sampler: whether temperature and top_p exclude each other.
    """

    family: str = "unknown"
    tools: bool = False
    forced_choice: frozenset[str] = frozenset()
    native_schema: bool = False
    sql_schema: bool = True
    closed_schema: bool = False
    strict_tools: bool = False
    images: bool = False
    documents: bool = False
    result_media: bool = False
    reasoning: ReasoningRule = "drop"
    thinking: frozenset[str] = frozenset()
    effort: bool = False
    cache: frozenset[str] = frozenset()
    one_sampler: bool = False


Override: TypeAlias = (
    Mapping[str, Capabilities] | Callable[[str], Capabilities | None] | None
)
"""A host's own records by the model name of its configs; None leaves it to us."""

UNKNOWN: Final = Capabilities()

_BOTH: Final = frozenset({"any", "tool"})
_EVERYWHERE: Final = frozenset({"tools", "system", "messages"})

_OPENAI: Final = Capabilities(
    family="openai",
    tools=True,
    forced_choice=_BOTH,
    native_schema=True,
    closed_schema=True,
    strict_tools=True,
    images=True,
)

_FAMILIES: Final = (
    # The first prefix that fits decides.
    ("openai-gpt-5", evolve(_OPENAI, effort=True)),
    ("openai-o", evolve(_OPENAI, effort=True)),
    ("openai-", _OPENAI),
    ("llama", Capabilities(family="llama")),
    ("snowflake-llama", Capabilities(family="llama")),
    ("snowflake-arctic", Capabilities(family="arctic")),
    ("mistral", Capabilities(family="mistral")),
    ("mixtral", Capabilities(family="mistral")),
    ("deepseek", Capabilities(family="deepseek")),
)

_CLAUDE: Final = re.compile(
    r"claude-(?:(\d)(?:[-.](\d))?-[a-z]|[a-z]+-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d))"
)


def capabilities_of(model: str) -> Capabilities:
    """The record of a model by the name that Cortex knows it by."""
    if is_claude(model):
        return _claude(model)
    for prefix, record in _FAMILIES:
        if model.startswith(prefix):
            return record
    return UNKNOWN


def is_claude(model: str) -> bool:
    """Whether a model is one of Anthropic's."""
    return model.startswith("claude-")


def dialect_of(model: str, transport: Transport) -> Dialect:
    """The wire a model is spoken to over: never chosen by trying."""
    if transport == "sql":
        return "sql"
    return "messages" if is_claude(model) else "chat"


def _claude(model: str) -> Capabilities:
    """Claude by version: what came with 3.7, 4.5 and 4.6."""
    version = _claude_version(model)
    ways = {"budget": version >= (3, 7), "adaptive": version >= (4, 6)}
    return Capabilities(
        family="claude",
        tools=True,
        forced_choice=_BOTH,
        native_schema=version >= (4, 5),
        images=True,
        documents=True,
        result_media=True,
        reasoning="signed",
        thinking=frozenset(way for way, known in ways.items() if known),
        effort=version >= (4, 5),
        cache=_EVERYWHERE,
        one_sampler=version >= (4, 5),
    )


def _claude_version(model: str) -> tuple[int, int]:
    """Major and minor, in the old and the new spelling; (3, 0) where none is told."""
    found = _CLAUDE.search(model)
    if found is None:
        return (3, 0)
    return int(found[1] or found[3]), int(found[2] or found[4] or 0)
