"""Rules on reasoning, sampling and cache points."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from agentloop.testing.fake_bedrock.rules.tools import MODEL_SAYS
from agentloop.testing.fake_bedrock.rules.view import Ask, Turn
from agentloop.testing.fake_bedrock.values import at, items, only_key, text

MOST_CACHE_POINTS: Final = 4
LEAST_BUDGET: Final = 1024
_OWN: Final = "fake-signature."


def sign(reasoning: str) -> str:
    """The signature the fake gives to a reasoning text.

    It names the text it was given for, so the rules notice an edited text, an edited
    signature and a signature moved to another text, without any memory. A signature of
    another form is taken as it is.
    """
    return _OWN + sha256(reasoning.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def thinking_lets_choose(ask: Ask) -> Iterator[str]:
    """A thinking model cannot be forced to call a tool."""
    if ask.thinking and ask.choice in {"any", "tool"}:
        yield (
            f"{MODEL_SAYS}Thinking may not be enabled when tool_choice forces tool use."
        )


def thinking_at_one(ask: Ask) -> Iterator[str]:
    """A thinking model runs at temperature one."""
    temperature = at(ask.body, "inferenceConfig", "temperature")
    if ask.thinking and temperature is not None and temperature != 1:
        yield (
            f"{MODEL_SAYS}`temperature` may only be set to 1 when thinking is enabled."
        )


def thinking_budget(ask: Ask) -> Iterator[str]:
    """A thinking budget is at least 1024 and below `maxTokens`."""
    if ask.thinking != "enabled":
        return
    budget = at(ask.body, "additionalModelRequestFields", "thinking", "budget_tokens")
    most = at(ask.body, "inferenceConfig", "maxTokens")
    if not isinstance(budget, int):
        yield f"{MODEL_SAYS}thinking.enabled.budget_tokens: Field required"
    elif budget < LEAST_BUDGET:
        yield (
            f"{MODEL_SAYS}thinking.enabled.budget_tokens: Input should be greater than "
            f"or equal to {LEAST_BUDGET}"
        )
    elif isinstance(most, int) and most <= budget:
        yield f"{MODEL_SAYS}`max_tokens` must be greater than `thinking.budget_tokens`."


def thinking_kept(ask: Ask) -> Iterator[str]:
    """With thinking on, the open tool loop still starts with its reasoning block."""
    first = _open_loop(ask)
    if ask.thinking != "enabled" or first is None or not first.kind("toolUse"):
        return
    found = first.blocks[0].kind
    if found != "reasoningContent":
        name = {"toolUse": "tool_use"}.get(found, found)
        yield (
            f"{MODEL_SAYS}messages.{first.index}.content.0.type: Expected `thinking` "
            f"or `redacted_thinking`, but found `{name}`. When `thinking` is enabled, "
            "a final `assistant` message must start with a thinking block (preceeding "
            "the lastmost set of `tool_use` and `tool_result` blocks)."
        )


def reasoning_signed(ask: Ask) -> Iterator[str]:
    """Claude takes no reasoning text back without its signature."""
    for block in ask.blocks("reasoningContent"):
        unsigned = not text(block.value, "reasoningText", "signature")
        if (
            ask.model.anthropic
            and only_key(block.value) == "reasoningText"
            and unsigned
        ):
            yield f"{MODEL_SAYS}{block.path}.thinking.signature: Field required"


def reasoning_untouched(ask: Ask) -> Iterator[str]:
    """A reasoning text comes back exactly as it was signed."""
    for block in ask.blocks("reasoningContent"):
        signature = text(block.value, "reasoningText", "signature")
        reasoning = text(block.value, "reasoningText", "text")
        if signature.startswith(_OWN) and signature != sign(reasoning):
            yield f"{MODEL_SAYS}{block.path}: Invalid `signature` in `thinking` block"


def one_sampler(ask: Ask) -> Iterator[str]:
    """Newer Claude models take temperature or topP, not both."""
    both = at(ask.body, "inferenceConfig", "temperature") is not None and (
        at(ask.body, "inferenceConfig", "topP") is not None
    )
    if both and ask.model.one_sampler:
        yield (
            f"{MODEL_SAYS}`temperature` and `top_p` cannot both be specified for this "
            "model. Please use only one."
        )


def cache_supported(ask: Ask) -> Iterator[str]:
    """Cache points stand only where the model has them."""
    if any(place not in ask.model.cache for place, _, _ in _cache_points(ask)):
        yield (
            "You invoked an unsupported model or your request did not allow prompt "
            "caching. See the documentation for more information."
        )


def cache_not_after_reasoning(ask: Ask) -> Iterator[str]:
    """No cache point follows a reasoning block directly."""
    for turn in ask.turns:
        for before, block in zip(turn.blocks, turn.blocks[1:], strict=False):
            if (before.kind, block.kind) == ("reasoningContent", "cachePoint"):
                yield (
                    "Cache point cannot be inserted after reasoning block. "
                    "Please remove the invalid cache point and try again."
                )


def cache_points_few(ask: Ask) -> Iterator[str]:
    """A request holds four cache points at most."""
    found = len(_cache_points(ask))
    if found > MOST_CACHE_POINTS:
        yield (
            f"{MODEL_SAYS}A maximum of {MOST_CACHE_POINTS} blocks with cache_control "
            f"may be provided. Found {found}."
        )


def cache_longest_first(ask: Ask) -> Iterator[str]:
    """In the order tools, system, messages, one hour never follows five minutes."""
    short = False
    for _, path, lifetime in _cache_points(ask):
        if lifetime == "1h" and short:
            yield (
                f"{MODEL_SAYS}{path}.cache_control.ttl: a ttl='1h' cache_control block "
                "must not come after a ttl='5m' cache_control block. Note that blocks "
                "are processed in the following order: `tools`, `system`, `messages`."
            )
        short = short or lifetime != "1h"


def _cache_points(ask: Ask) -> list[tuple[str, str, str]]:
    """Field, path and lifetime of each cache point, in the order they are processed."""
    listed = (
        (field, f"{field}.{place}", text(part, "cachePoint", "ttl"))
        for field, parts in (
            ("tools", ask.tools),
            ("system", items(ask.body, "system")),
        )
        for place, part in enumerate(parts)
        if only_key(part) == "cachePoint"
    )
    inline = (
        ("messages", block.path, text(block.value, "ttl"))
        for block in ask.blocks("cachePoint")
    )
    return [*listed, *inline]


def _open_loop(ask: Ask) -> Turn | None:
    """The first assistant turn of the tool loop that the last message continues."""
    first = None
    for turn in reversed(ask.turns):
        if turn.role == "assistant":
            first = turn
        elif not turn.kind("toolResult"):
            break
    return first
