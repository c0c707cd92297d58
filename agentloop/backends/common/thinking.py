"""Extended thinking of Claude, which is asked for alike wherever Claude is reached.

What goes with it and what does not (Anthropic, "Extended thinking"), and the other
rules of sampling and tool choice that all hosts of Claude share. How a request says
it, and which models can, is the backends' business.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import frozen

from agentloop.core.config import AnyTool, Config, SpecificTool, ToolChoice

LEAST_BUDGET: Final = 1024
"""Fewer thinking tokens are refused."""


@frozen
class Thinking:
    """Ask Claude to think: with a budget of tokens, or as much as it likes."""

    budget_tokens: int | None = None

    @property
    def way(self) -> str:
        """`budget` or `adaptive`."""
        return "adaptive" if self.budget_tokens is None else "budget"


def way_of_thinking(wanted: Thinking | None, raw: Mapping[str, Any]) -> str | None:
    """`budget`, `adaptive`, or None; the host may also have written it `raw`."""
    thinking = raw.get("thinking")
    if isinstance(thinking, Mapping):
        ways = {"enabled": "budget", "adaptive": "adaptive"}
        return ways.get(thinking.get("type", ""))
    return None if wanted is None else wanted.way


def thinking_problems(config: Config, wanted: Thinking | None) -> Iterator[str]:
    """What does not go with a model that is asked to think."""
    if config.temperature not in {None, 1}:
        yield (
            f"$.temperature: '{config.model}' is asked to think, "
            f"which goes with temperature 1 only, not {config.temperature}"
        )
    budget = None if wanted is None else wanted.budget_tokens
    if budget is not None and not LEAST_BUDGET <= budget < config.max_tokens:
        yield (
            f"$.max_tokens: the thinking budget of {budget} must be at least "
            f"{LEAST_BUDGET} and below max_tokens, which is {config.max_tokens}"
        )


def choice_problems(
    config: Config, choice: ToolChoice, forced: frozenset[str], *, thinks: bool
) -> Iterator[str]:
    """Why the model cannot be made to call a tool; `forced` are the ways it can."""
    kind = {AnyTool: "any", SpecificTool: "tool"}.get(type(choice))
    if kind is None:
        return
    if kind not in forced:
        yield f"$.tool_choice: '{config.model}' cannot be made to call a tool ({kind})"
    if thinks:
        yield (
            f"$.tool_choice: '{config.model}' is asked to think, "
            "and a thinking model cannot be made to call a tool"
        )


def sampling_problems(
    config: Config, top_p: float | None, *, one_sampler: bool
) -> Iterator[str]:
    """Whether `top_p` is one, and may stand beside a temperature."""
    if top_p is None:
        return
    if not 0 <= top_p <= 1:
        yield f"$.model: top_p must be between 0 and 1, not {top_p}"
    if one_sampler and config.temperature is not None:
        yield f"$.temperature: '{config.model}' takes temperature or top_p, not both"
