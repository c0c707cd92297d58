"""The resources a caller sees: scope, conversation, run, usage, job, events.

Fields and names are those of contract sections 1, 7 and 12. Instants are RFC 3339
strings in UTC with microseconds, because the core has no clock to compare with.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from attrs import field, frozen

from agentloop.core.config import Config, ToolChoice
from agentloop.core.content import Block, JsonObject, Role

Status: TypeAlias = Literal[
    "pending", "running", "completed", "requires_action", "failed"
]
TERMINAL: frozenset[str] = frozenset({"completed", "requires_action", "failed"})


@frozen
class Scope:
    """Whose call this is: taken from a token, never from a request body."""

    company_id: int
    user_id: int


@frozen
class Usage:
    """Tokens, summed over every attempt that reported them (contract section 7).

    `prompt_tokens` counts uncached input, cache reads and cache writes, so that
    `total_tokens` is always prompt plus completion. `attempts_without_usage`
    counts the attempts that told nothing: unknown is not zero.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    attempts_without_usage: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def plus(self, other: "Usage | None") -> "Usage":
        """The sum with one more attempt; None is an attempt that told nothing."""
        if other is None:
            return Usage(
                prompt_tokens=self.prompt_tokens,
                completion_tokens=self.completion_tokens,
                cache_read_tokens=self.cache_read_tokens,
                cache_write_tokens=self.cache_write_tokens,
                attempts_without_usage=self.attempts_without_usage + 1,
            )
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.attempts_without_usage + other.attempts_without_usage,
        )


@frozen
class PendingToolCall:
    """A call the run waits for the caller to answer."""

    tool_use_id: str
    name: str
    arguments: JsonObject


@frozen
class RunError:
    """Why a run failed; `title` and `docs_url` are None for an unknown type."""

    type: str
    message: str
    title: str | None = None
    docs_url: str | None = None


@frozen(kw_only=True)
class Run:
    """A run as the caller polls it (contract section 1.5)."""

    id: str
    conversation_id: str
    company_id: int
    user_id: int
    client_op_id: str
    status: Status
    tool_choice: ToolChoice | None = None
    effective_config: Config
    iterations_used: int | None = None
    usage: Usage | None = None
    submitted_inference_job_ids: tuple[str, ...] = ()
    pending_tool_calls: tuple[PendingToolCall, ...] = ()
    final_text: str | None = None
    final_structured_output: Any = None
    error: RunError | None = None
    started_at: str
    completed_at: str | None = None

    @property
    def terminal(self) -> bool:
        """Whether the run has ended and will never change again."""
        return self.status in TERMINAL


@frozen(kw_only=True)
class Conversation:
    """A conversation; `version` is the number of its last message."""

    id: str
    company_id: int
    user_id: int
    defaults: Config
    version: int
    created_at: str
    updated_at: str
    name: str | None = None
    system_prompt: str | None = None


@frozen(kw_only=True)
class StoredMessage:
    """A message with its place in the conversation (contract section 1.6)."""

    id: str
    sequence_no: int
    role: Role
    content_blocks: tuple[Block, ...]
    run_id: str
    created_at: str


@frozen(kw_only=True)
class MessageDelta:
    """The messages after a version, and the version that was current."""

    current_version: int
    messages: tuple[StoredMessage, ...]


@frozen(kw_only=True)
class Page:
    """One page of a list, in the envelope of contract section 1.7."""

    current_page: int
    total_records: int
    total_pages: int
    records: tuple[Conversation, ...]
    prev_page: int | None = None
    next_page: int | None = None


@frozen(kw_only=True)
class Attempt:
    """One try of an inference, as its job record shows it (contract section 12).

    `outcome` is `ok`, `lost`, the kind of the failure, or `expired` for a request
    that was repeated with fresh credentials; `usage` is None when the provider told
    nothing.
    """

    number: int
    outcome: str
    provider_request_id: str | None = None
    code: str | None = None
    message: str | None = None
    usage: Usage | None = None
    started_at: str | None = None
    completed_at: str | None = None


@frozen(kw_only=True)
class InferenceJob:
    """One inference of a run with all its attempts, for drill-down.

    `request` is the body as it was sent, `response` the provider's answer to the
    attempt that succeeded, verbatim. `request_verified` says whether the rebuilt
    request has the checksum of the bytes that were sent.
    """

    id: str
    run_id: str
    iteration: int
    backend: str
    model: str
    status: Literal["pending", "running", "completed", "failed"]
    attempts: tuple[Attempt, ...] = ()
    request: Any = None
    request_verified: bool | None = None
    response: Any = None
    usage: Usage | None = None


EventKind: TypeAlias = Literal[
    "tools_discovered",
    "text_normalised",
    "job_submitted",
    "text_delta",
    "attempt_discarded",
    "retry_wait",
    "tool_started",
    "tool_finished",
    "terminal",
]


@frozen
class RunEvent:
    """Something that happened in a run.

    `id` rises within the run; text deltas have none, because they are not kept.
    `data` is slim: calls by key, id and name, never their arguments or results.
    """

    kind: EventKind
    data: Mapping[str, Any] = field(factory=dict)
    id: int | None = None
