"""The door to the provider's rules: what it would refuse, said before it is asked.

The room holds `violations` and the rules that concern bytes and headers. It must not
hold state: the same functions judge requests at the fake server and offline.

"No violation" means: by every rule we know. The texts are our wording of the errors
providers are reported to send; match on their key words, not on whole sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from agentloop.testing.fake_snowflake.known import Known
from agentloop.testing.fake_snowflake.rules_chat import chat_fault
from agentloop.testing.fake_snowflake.rules_messages import messages_fault
from agentloop.testing.fake_snowflake.rules_sql import sql_fault
from agentloop.testing.fake_snowflake.shapes import Doc

Dialect: TypeAlias = Literal["messages", "chat", "sql"]

#: Says which rule a request breaks, if any.
Judge: TypeAlias = Callable[[Dialect, Doc, Known], str | None]

#: Largest request of the REST doors ("Cortex REST API", limits).
MAX_BYTES: Final = 20 * 1024 * 1024

ANTHROPIC_VERSION: Final = "2023-06-01"

# The values the Bedrock page "Anthropic Claude Messages API" lists; others are refused.
BETAS: Final = frozenset({
    "computer-use-2025-01-24",
    "token-efficient-tools-2025-02-19",
    "interleaved-thinking-2025-05-14",
    "output-128k-2025-02-19",
    "dev-full-thinking-2025-05-14",
    "context-1m-2025-08-07",
    "context-management-2025-06-27",
    "effort-2025-11-24",
    "tool-search-tool-2025-10-19",
    "tool-examples-2025-10-29",
    "fine-grained-tool-streaming-2025-05-14",
})  # fmt: skip

_FAULTS: Final[Mapping[Dialect, Callable[[Doc, Known], str | None]]] = {
    "messages": messages_fault,
    "chat": chat_fault,
    "sql": sql_fault,
}


def violations(dialect: Dialect, body: Doc, known: Known | None = None) -> str | None:
    """The first rule the request breaks, or None when it breaks none we know.

    Args:
        dialect: ``messages`` (Anthropic), ``chat`` (OpenAI) or ``sql`` (COMPLETE).
        body: The request document; for SQL the arguments as `model`, `prompt` and,
            when given, `options`.
        known: What the provider remembers; the published catalogue by default.
    """
    return _FAULTS[dialect](body, known or Known())


def accept_anything(dialect: Dialect, body: Doc, known: Known) -> str | None:  # noqa: ARG001 - the judge's signature
    """A judge for load tests: no rule is applied."""
    return None


def header_violation(dialect: Dialect, headers: Mapping[str, str]) -> str | None:
    """The first rule the headers break; names are compared without regard to case."""
    given = {name.lower(): value for name, value in headers.items()}
    if not given.get("content-type", "").startswith("application/json"):
        return f"content-type must be application/json, not {given.get('content-type')}"
    if dialect != "messages":
        return None
    if (version := given.get("anthropic-version")) != ANTHROPIC_VERSION:
        return f"anthropic-version: must be {ANTHROPIC_VERSION}, not {version}"
    asked = {b.strip() for b in given.get("anthropic-beta", "").split(",") if b.strip()}
    if unknown := sorted(asked - BETAS):
        return f"invalid beta flag {unknown[0]!r}"
    return None


def size_violation(raw: bytes) -> str | None:
    """Whether the request is larger than the REST doors take."""
    if len(raw) <= MAX_BYTES:
        return None
    return f"request of {len(raw)} bytes exceeds the limit of {MAX_BYTES} bytes"
