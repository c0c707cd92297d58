"""What the provider knows besides the request: its models and what it once said.

The room holds the model catalogue and the memory the history rules need. It must not
judge anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Final

from attrs import field, frozen

# The names on the provider's "Cortex REST API" page. An account sees those its region
# serves, so hosts of the fake may narrow or widen the list.
MODELS: Final = (
    "claude-opus-4-7",
    "claude-sonnet-4-6",
    "claude-opus-4-6",
    "claude-sonnet-4-5",
    "claude-opus-4-5",
    "claude-haiku-4-5",
    "claude-4-sonnet",
    "openai-gpt-5.4",
    "openai-gpt-5.2",
    "openai-gpt-5.1",
    "openai-gpt-5",
    "openai-gpt-5-mini",
    "openai-gpt-5-nano",
    "openai-gpt-4.1",
    "llama4-maverick",
    "llama3.1-8b",
    "llama3.1-70b",
    "llama3.1-405b",
    "deepseek-r1",
    "mistral-7b",
    "mistral-large",
    "mistral-large2",
    "snowflake-llama-3.3-70b",
)

_GENERATION = re.compile(r"claude-[a-z]+-(\d+)-(\d+)$")


@frozen(kw_only=True)
class Known:
    """The provider's side of a conversation.

    Attributes:
        models: The models this account may use.
        thoughts: Every signed thought the provider issued, text by signature; None when
            nobody kept a list, as in offline checks.
        thoughtless: Ids of calls made in turns that held no reasoning.
    """

    models: tuple[str, ...] = MODELS
    thoughts: Mapping[str, str] | None = None
    thoughtless: Set[str] = field(default=frozenset())


def is_claude(model: str) -> bool:
    """Whether the model is of the Claude family."""
    return model.startswith("claude-")


def is_openai(model: str) -> bool:
    """Whether the model is of the OpenAI family."""
    return model.startswith("openai-")


def has_tools(model: str) -> bool:
    """Whether the model can call tools: no other family can."""
    return is_claude(model) or is_openai(model)


def refuses_prefill(model: str) -> bool:
    """Whether a conversation must end with the user: Claude 4.6 and later."""
    match = _GENERATION.match(model)
    return match is not None and (int(match[1]), int(match[2])) >= (4, 6)
