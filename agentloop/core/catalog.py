"""The error catalog: every way a request is refused and a run fails, in one table.

Rows follow contract section 8, then "More run errors" and "Request errors" of
section 11. A row may serve the HTTP side (`status`, `detail`), the run side
(`type`, `message`) or both. `FAILURES` is the finer vocabulary that backends and
tool servers speak: each kind names the catalog type it ends as, and whether the
loop tries again first. No other place may decide either question.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from attrs import field, frozen

DOCS_BASE = (
    "https://docs.narrative.io/reference/architecture/agent-conversations/errors/"
)


@frozen(kw_only=True)
class Incident:
    """One row of the catalog.

    `status` and `detail` describe the HTTP problem, `type` and `message` the
    error on a run; `retried` says whether the loop itself tries again.
    """

    slug: str
    title: str
    status: int | None = None
    detail: str | None = None
    type: str | None = None
    message: str | None = None
    retried: bool = False


NOT_FOUND = "Resource not found or not accessible."

CATALOG: tuple[Incident, ...] = (
    # ---- requests (contract section 8.1), some of them runs as well
    Incident(
        slug="conversation-not-found",
        title="Conversation Not Found",
        status=404,
        detail=NOT_FOUND,
        type="AgentLoopConversationNotFound",
        message="the conversation {id} of this run is gone",
    ),
    Incident(
        slug="agent-run-not-found",
        title="Agent Run Not Found",
        status=404,
        detail=NOT_FOUND,
        type="AgentLoopAgentRunNotFound",
        message="the run {id} is gone",
    ),
    Incident(
        slug="version-conflict",
        title="Version Conflict",
        status=409,
        detail="conversation version mismatch: expected {expected}, current {current}",
    ),
    Incident(
        slug="invalid-tool-alias",
        title="Invalid Tool Alias",
        status=400,
        detail="invalid tool aliases (must match ^[a-zA-Z][a-zA-Z0-9]{{0,7}}$): "
        "{names}",
    ),
    Incident(
        slug="duplicate-tool-alias",
        title="Duplicate Tool Alias",
        status=400,
        detail="duplicate tool aliases "
        "(must be unique across mcp_servers + client_tools): {names}",
    ),
    Incident(
        slug="tool-name-too-long",
        title="Tool Name Too Long",
        status=400,
        detail="tool wire names exceed Bedrock's 64-char limit: {names}",
    ),
    Incident(
        slug="invalid-caller-tool-name",
        title="Invalid Caller-Declared Tool Name",
        status=400,
        detail="invalid caller-declared tool names "
        "(must be non-empty, dash-free, and ≤ 64 chars): {names}",
    ),
    Incident(
        slug="duplicate-caller-tool-name",
        title="Duplicate Caller-Declared Tool Name",
        status=400,
        detail="duplicate caller-declared tool names "
        "(must be unique within tools[]): {names}",
    ),
    Incident(
        slug="unknown-tool-choice-mcp-alias",
        title="Unknown Tool Choice MCP Alias",
        status=400,
        detail="tool_choice references unknown mcp_alias '{alias}' "
        "— not a registered MCP server",
    ),
    Incident(
        slug="unknown-tool-choice-name",
        title="Unknown Tool Choice Name",
        status=400,
        detail="tool_choice references unknown tool name '{name}' "
        "— not found in the catalog",
    ),
    Incident(
        slug="tool-choice-without-tools",
        title="Tool Choice Without Tools",
        status=400,
        detail="tool_choice '{kind}' needs at least one tool, "
        "and the effective config offers none",
    ),
    Incident(
        slug="no-assistant-turn",
        title="No Assistant Turn",
        status=400,
        detail="cannot submit tool_outputs: "
        "conversation {id} has no assistant turn yet",
    ),
    Incident(
        slug="unknown-tool-use-id",
        title="Unknown Tool Use Id",
        status=400,
        detail="tool_use_id(s) not found on latest assistant turn: {ids}",
    ),
    Incident(
        slug="not-a-client-tool-call",
        title="Not A Client Tool Call",
        status=400,
        detail="tool_use_id(s) refer to server-resolved calls "
        "(no caller output expected): {ids}",
    ),
    Incident(
        slug="incomplete-tool-outputs",
        title="Incomplete Tool Outputs",
        status=400,
        detail="tool_outputs do not match the pending client tool calls — {clauses}",
    ),
    Incident(
        slug="pending-tool-calls",
        title="Pending Tool Calls",
        status=400,
        detail="the conversation waits for tool_outputs, "
        "a user_message cannot be sent before: {ids}",
    ),
    Incident(
        slug="workflow-start-failed",
        title="Workflow Start Failed",
        status=500,
        detail="the run was recorded but could not be handed to a worker; "
        "send the same client_op_id again",
        type="AgentLoopWorkflowStartFailed",
        message="no worker ever took the run",
    ),
    Incident(
        slug="invalid-stored-field",
        title="Invalid Stored Field",
        status=500,
        detail="a stored field could not be read; quote the log_id to support",
    ),
    Incident(
        slug="invalid-request",
        title="Invalid Request",
        status=400,
        detail="{problem}",
    ),
    Incident(
        slug="invalid-config", title="Invalid Config", status=400, detail="{problem}"
    ),
    Incident(
        slug="unknown-data-plane",
        title="Unknown Data Plane",
        status=400,
        detail="no backend is registered for data_plane_id '{id}'",
    ),
    Incident(
        slug="unauthenticated",
        title="Unauthenticated",
        status=401,
        detail="a valid bearer token is required",
    ),
    Incident(
        slug="forbidden",
        title="Forbidden",
        status=403,
        detail="the token lacks the {verb} permission on agent_conversations",
    ),
    Incident(
        slug="payload-too-large",
        title="Payload Too Large",
        status=413,
        detail="{problem}",
    ),
    Incident(
        slug="request-timeout",
        title="Request Timeout",
        status=408,
        detail="the body of the request did not arrive within {seconds:g} s",
    ),
    Incident(
        slug="inference-job-not-found",
        title="Inference Job Not Found",
        status=404,
        detail=NOT_FOUND,
    ),
    Incident(slug="not-found", title="Not Found", status=404, detail=NOT_FOUND),
    Incident(
        slug="method-not-allowed",
        title="Method Not Allowed",
        status=405,
        detail="this resource takes {allowed}",
    ),
    Incident(
        slug="too-many-requests",
        title="Too Many Requests",
        status=429,
        detail="{problem}",
    ),
    Incident(
        slug="store-unavailable",
        title="Store Unavailable",
        status=503,
        detail="the store did not answer and whether the request took effect "
        "is unknown; read before you repeat it",
    ),
    Incident(
        slug="internal-error",
        title="Internal Error",
        status=500,
        detail="the request failed for a reason of our own; quote the log_id",
    ),
    # ---- runs (contract section 8.2)
    Incident(
        slug="max-iterations-exceeded",
        title="Max Iterations Exceeded",
        type="AgentLoopMaxIterationsExceeded",
        message="max iterations exceeded after {n} iterations",
    ),
    Incident(
        slug="invalid-effective-config",
        title="Invalid Effective Config",
        type="AgentLoopInvalidEffectiveConfig",
        message="stored effective_config does not decode: {problem}",
    ),
    Incident(
        slug="invalid-request-payload",
        title="Invalid Request Payload",
        type="AgentLoopInvalidRequestPayload",
        message="stored request_payload does not decode: {problem}",
    ),
    Incident(
        slug="mcp-discovery-failed",
        title="MCP Discovery Failed",
        status=400,
        detail="tool discovery failed for {alias}: {problem}",
        type="AgentLoopMcpDiscoveryFailed",
        message="tool discovery failed: {problem}",
        retried=True,
    ),
    Incident(
        slug="unknown-tool-alias",
        title="Unknown Tool Alias",
        type="AgentLoopUnknownToolAlias",
        message="the model called '{name}', which resolves to no registered tool",
    ),
    Incident(
        slug="malformed-tool-name",
        title="Malformed Tool Name",
        type="AgentLoopMalformedToolName",
        message="the model called '{name}', which is no well-formed tool name",
    ),
    Incident(
        slug="mcp-unknown-tool",
        title="MCP Unknown Tool",
        type="UnknownTool",
        message="the tool '{name}' is not known under its alias",
    ),
    Incident(
        slug="mcp-tool-validation",
        title="MCP Tool Validation",
        type="ToolValidation",
        message="the arguments of '{name}' were refused: {problem}",
    ),
    Incident(
        slug="mcp-protocol-error",
        title="MCP Protocol Error",
        type="McpProtocol",
        message="{problem}",
    ),
    Incident(
        slug="mcp-server-error",
        title="MCP Server Error",
        type="McpServerError",
        message="{problem}",
        retried=True,
    ),
    Incident(
        slug="mcp-timeout", title="MCP Timeout", type="McpTimeout", message="{problem}"
    ),
    Incident(
        slug="schema-decode-failed",
        title="Schema Decode Failed",
        type="AgentLoopSchemaDecodeFailed",
        message="the final answer does not decode: {problem}",
    ),
    Incident(
        slug="concurrent-conversation-append",
        title="Concurrent Conversation Append",
        type="AgentLoopConcurrentConversationAppend",
        message="another run moved the conversation past version {version}; "
        "read the delta and start a new run",
    ),
    Incident(
        slug="invariant-violated",
        title="Invariant Violated",
        type="AgentLoopFinalizeInvariantViolated",
        message="finalize was called with fields that do not fit: {problem}",
    ),
    Incident(
        slug="inference-job-failed",
        title="Inference Job Failed",
        type="JobFailed",
        message="{problem}",
        retried=True,
    ),
    Incident(
        slug="cancelled",
        title="Cancelled",
        type="AgentLoopCancelled",
        message="the run was cancelled",
    ),
    # ---- runs (contract section 11, "More run errors")
    Incident(
        slug="output-truncated",
        title="Output Truncated",
        type="AgentLoopOutputTruncated",
        message="the model stopped at max_tokens; "
        "raise max_tokens or ask for a shorter answer",
    ),
    Incident(
        slug="content-blocked",
        title="Content Blocked",
        type="AgentLoopContentBlocked",
        message="the provider withheld the answer: {problem}",
    ),
    Incident(
        slug="context-window-exceeded",
        title="Context Window Exceeded",
        type="AgentLoopContextWindowExceeded",
        message="the conversation no longer fits the model: {problem}",
    ),
    Incident(
        slug="deadline-exceeded",
        title="Deadline Exceeded",
        type="AgentLoopDeadlineExceeded",
        message="the run did not end before its deadline",
    ),
    Incident(
        slug="malformed-model-output",
        title="Malformed Model Output",
        type="AgentLoopMalformedModelOutput",
        message="the model's answer cannot be used: {problem}",
    ),
    Incident(
        slug="worker-lost",
        title="Worker Lost",
        type="AgentLoopWorkerLost",
        message="the worker driving the run was lost: {problem}",
    ),
    Incident(
        slug="token-budget-exceeded",
        title="Token Budget Exceeded",
        type="AgentLoopTokenBudgetExceeded",
        message="the token budget of the run is spent",
    ),
)

BY_SLUG: Mapping[str, Incident] = MappingProxyType({row.slug: row for row in CATALOG})
BY_TYPE: Mapping[str, Incident] = MappingProxyType(
    {row.type: row for row in CATALOG if row.type}
)

FailureKind: TypeAlias = Literal[
    "throttled",
    "overloaded",
    "unavailable",
    "connection",
    "timeout",
    "denied",
    "not_found",
    "invalid_request",
    "quota",
    "provider",
    "context_window",
    "content_blocked",
    "truncated",
    "malformed_output",
    "schema_decode",
    "unknown_tool",
    "unknown_alias",
    "malformed_name",
    "tool_validation",
    "mcp_protocol",
    "mcp_server",
    "mcp_delivered",
    "mcp_timeout",
    "discovery_refused",
    "discovery_unavailable",
    "worker_lost",
]


@frozen
class FailureRule:
    """What becomes of a failure: its final catalog type, and if it is retried."""

    type: str
    retried: bool = False


FAILURES: Mapping[FailureKind, FailureRule] = MappingProxyType(
    {
        # Passing faults of a provider: the loop's one retry layer handles them.
        "throttled": FailureRule("JobFailed", retried=True),
        "overloaded": FailureRule("JobFailed", retried=True),
        "unavailable": FailureRule("JobFailed", retried=True),
        "connection": FailureRule("JobFailed", retried=True),
        "timeout": FailureRule("JobFailed", retried=True),
        # Lasting faults of a provider.
        "denied": FailureRule("JobFailed"),
        "not_found": FailureRule("JobFailed"),
        "invalid_request": FailureRule("JobFailed"),
        "quota": FailureRule("JobFailed"),
        "provider": FailureRule("JobFailed"),
        # What the model or its guard rails made of the answer.
        "context_window": FailureRule("AgentLoopContextWindowExceeded"),
        "content_blocked": FailureRule("AgentLoopContentBlocked"),
        "truncated": FailureRule("AgentLoopOutputTruncated"),
        "malformed_output": FailureRule("AgentLoopMalformedModelOutput"),
        "schema_decode": FailureRule("AgentLoopSchemaDecodeFailed"),
        # Tools.
        "unknown_tool": FailureRule("UnknownTool"),
        "unknown_alias": FailureRule("AgentLoopUnknownToolAlias"),
        "malformed_name": FailureRule("AgentLoopMalformedToolName"),
        "tool_validation": FailureRule("ToolValidation"),
        "mcp_protocol": FailureRule("McpProtocol"),
        "mcp_server": FailureRule("McpServerError", retried=True),
        "mcp_delivered": FailureRule("McpServerError"),
        "mcp_timeout": FailureRule("McpTimeout"),
        "discovery_refused": FailureRule("AgentLoopMcpDiscoveryFailed"),
        "discovery_unavailable": FailureRule(
            "AgentLoopMcpDiscoveryFailed", retried=True
        ),
        "worker_lost": FailureRule("AgentLoopWorkerLost"),
    }
)


@frozen(kw_only=True)
class Failure:
    """What went wrong with one effect, as a value that can be stored.

    `code` is the provider's own code, `retry_after` its hint in seconds.
    """

    kind: FailureKind
    message: str
    code: str | None = None
    retry_after: float = field(default=0.0)

    @property
    def retried(self) -> bool:
        """Whether the loop tries the effect again."""
        return FAILURES[self.kind].retried

    @property
    def type(self) -> str:
        """The catalog type a run ends with when this failure is final."""
        return FAILURES[self.kind].type


class RequestError(Exception):
    """A request refused before anything was written; the caller can mend it.

    Carries the catalog row, so that an HTTP face can answer with the documented
    problem body and a program can branch on `slug`.
    """

    def __init__(self, slug: str, **facts: object) -> None:
        self.incident = BY_SLUG[slug]
        self.facts = facts
        self.detail = (self.incident.detail or "").format_map(facts)
        super().__init__(self.detail)

    @property
    def slug(self) -> str:
        """The last part of the problem's `type` URL."""
        return self.incident.slug

    @property
    def status(self) -> int:
        """The HTTP status of the refusal."""
        return self.incident.status or 500

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.slug, self.facts))


def _rebuild(slug: str, facts: dict[str, object]) -> RequestError:
    return RequestError(slug, **facts)


def describe(type_: str, **facts: object) -> str:
    """The message of a run error of the catalog, filled with its facts."""
    return (BY_TYPE[type_].message or "").format_map(facts)
