"""The catalog: every documented slug, type, title, status and template."""

import pickle
from string import Formatter
from typing import get_args

import pytest

from agentloop.core.catalog import (
    BY_SLUG,
    BY_TYPE,
    CATALOG,
    DOCS_BASE,
    FAILURES,
    Failure,
    FailureKind,
    RequestError,
    describe,
)

# Contract section 8.1 and "Request errors" of section 11: slug, status, title, and
# the detail with the facts that are given.
REQUESTS = [
    (
        "conversation-not-found",
        404,
        "Conversation Not Found",
        {},
        "Resource not found or not accessible.",
    ),
    (
        "agent-run-not-found",
        404,
        "Agent Run Not Found",
        {},
        "Resource not found or not accessible.",
    ),
    (
        "version-conflict",
        409,
        "Version Conflict",
        {"expected": 3, "current": 5},
        "conversation version mismatch: expected 3, current 5",
    ),
    (
        "invalid-tool-alias",
        400,
        "Invalid Tool Alias",
        {"names": "9x, a-b"},
        "invalid tool aliases (must match ^[a-zA-Z][a-zA-Z0-9]{0,7}$): 9x, a-b",
    ),
    (
        "duplicate-tool-alias",
        400,
        "Duplicate Tool Alias",
        {"names": "docs"},
        "duplicate tool aliases "
        "(must be unique across mcp_servers + client_tools): docs",
    ),
    (
        "tool-name-too-long",
        400,
        "Tool Name Too Long",
        {"names": "docs-x"},
        "tool wire names exceed Bedrock's 64-char limit: docs-x",
    ),
    (
        "invalid-caller-tool-name",
        400,
        "Invalid Caller-Declared Tool Name",
        {"names": "a-b"},
        "invalid caller-declared tool names "
        "(must be non-empty, dash-free, and ≤ 64 chars): a-b",
    ),
    (
        "duplicate-caller-tool-name",
        400,
        "Duplicate Caller-Declared Tool Name",
        {"names": "ask"},
        "duplicate caller-declared tool names (must be unique within tools[]): ask",
    ),
    (
        "unknown-tool-choice-mcp-alias",
        400,
        "Unknown Tool Choice MCP Alias",
        {"alias": "docs"},
        "tool_choice references unknown mcp_alias 'docs' — not a registered MCP server",
    ),
    (
        "unknown-tool-choice-name",
        400,
        "Unknown Tool Choice Name",
        {"name": "find"},
        "tool_choice references unknown tool name 'find' — not found in the catalog",
    ),
    (
        "mcp-discovery-failed",
        400,
        "MCP Discovery Failed",
        {"alias": "docs", "problem": "refused"},
        "tool discovery failed for docs: refused",
    ),
    (
        "no-assistant-turn",
        400,
        "No Assistant Turn",
        {"id": "c1"},
        "cannot submit tool_outputs: conversation c1 has no assistant turn yet",
    ),
    (
        "unknown-tool-use-id",
        400,
        "Unknown Tool Use Id",
        {"ids": "t1, t2"},
        "tool_use_id(s) not found on latest assistant turn: t1, t2",
    ),
    (
        "not-a-client-tool-call",
        400,
        "Not A Client Tool Call",
        {"ids": "t1"},
        "tool_use_id(s) refer to server-resolved calls (no caller output expected): t1",
    ),
    (
        "incomplete-tool-outputs",
        400,
        "Incomplete Tool Outputs",
        {"clauses": "missing: t1; unexpected: t2"},
        "tool_outputs do not match the pending client tool calls "
        "— missing: t1; unexpected: t2",
    ),
    (
        "workflow-start-failed",
        500,
        "Workflow Start Failed",
        {},
        "the run was recorded but could not be handed to a worker; "
        "send the same client_op_id again",
    ),
    (
        "invalid-stored-field",
        500,
        "Invalid Stored Field",
        {},
        "a stored field could not be read; quote the log_id to support",
    ),
    ("invalid-request", 400, "Invalid Request", {"problem": "$.x: bad"}, "$.x: bad"),
    ("invalid-config", 400, "Invalid Config", {"problem": "$.x: bad"}, "$.x: bad"),
    (
        "pending-tool-calls",
        400,
        "Pending Tool Calls",
        {"ids": "t1"},
        "the conversation waits for tool_outputs, "
        "a user_message cannot be sent before: t1",
    ),
    (
        "unknown-data-plane",
        400,
        "Unknown Data Plane",
        {"id": "p"},
        "no backend is registered for data_plane_id 'p'",
    ),
    (
        "unauthenticated",
        401,
        "Unauthenticated",
        {},
        "a valid bearer token is required",
    ),
    (
        "forbidden",
        403,
        "Forbidden",
        {"verb": "write"},
        "the token lacks the write permission on agent_conversations",
    ),
    (
        "request-timeout",
        408,
        "Request Timeout",
        {"seconds": 30.0},
        "the body of the request did not arrive within 30 s",
    ),
    ("payload-too-large", 413, "Payload Too Large", {"problem": "9 MiB"}, "9 MiB"),
    (
        "tool-choice-without-tools",
        400,
        "Tool Choice Without Tools",
        {"kind": "any"},
        "tool_choice 'any' needs at least one tool, "
        "and the effective config offers none",
    ),
    (
        "inference-job-not-found",
        404,
        "Inference Job Not Found",
        {},
        "Resource not found or not accessible.",
    ),
    ("not-found", 404, "Not Found", {}, "Resource not found or not accessible."),
    (
        "method-not-allowed",
        405,
        "Method Not Allowed",
        {"allowed": "GET, POST"},
        "this resource takes GET, POST",
    ),
    (
        "store-unavailable",
        503,
        "Store Unavailable",
        {},
        "the store did not answer and whether the request took effect is unknown; "
        "read before you repeat it",
    ),
    ("too-many-requests", 429, "Too Many Requests", {"problem": "slow"}, "slow"),
    (
        "internal-error",
        500,
        "Internal Error",
        {},
        "the request failed for a reason of our own; quote the log_id",
    ),
]
# Contract section 8.2 and "More run errors" of section 11: type, slug, title, and
# whether the loop itself tries again.
RUNS = [
    ("AgentLoopMaxIterationsExceeded", "max-iterations-exceeded", None, False),
    ("AgentLoopInvalidEffectiveConfig", "invalid-effective-config", None, False),
    ("AgentLoopInvalidRequestPayload", "invalid-request-payload", None, False),
    ("AgentLoopAgentRunNotFound", "agent-run-not-found", None, False),
    ("AgentLoopConversationNotFound", "conversation-not-found", None, False),
    (
        "AgentLoopMcpDiscoveryFailed",
        "mcp-discovery-failed",
        "MCP Discovery Failed",
        True,
    ),
    ("AgentLoopUnknownToolAlias", "unknown-tool-alias", None, False),
    ("AgentLoopMalformedToolName", "malformed-tool-name", None, False),
    ("UnknownTool", "mcp-unknown-tool", "MCP Unknown Tool", False),
    ("ToolValidation", "mcp-tool-validation", "MCP Tool Validation", False),
    ("McpProtocol", "mcp-protocol-error", "MCP Protocol Error", False),
    ("McpServerError", "mcp-server-error", "MCP Server Error", True),
    ("McpTimeout", "mcp-timeout", "MCP Timeout", False),
    ("AgentLoopSchemaDecodeFailed", "schema-decode-failed", None, False),
    (
        "AgentLoopConcurrentConversationAppend",
        "concurrent-conversation-append",
        None,
        False,
    ),
    ("AgentLoopFinalizeInvariantViolated", "invariant-violated", None, False),
    ("JobFailed", "inference-job-failed", None, True),
    ("AgentLoopCancelled", "cancelled", None, False),
    ("AgentLoopOutputTruncated", "output-truncated", None, False),
    ("AgentLoopContentBlocked", "content-blocked", None, False),
    ("AgentLoopContextWindowExceeded", "context-window-exceeded", None, False),
    ("AgentLoopDeadlineExceeded", "deadline-exceeded", None, False),
    ("AgentLoopMalformedModelOutput", "malformed-model-output", None, False),
    ("AgentLoopWorkerLost", "worker-lost", None, False),
    ("AgentLoopTokenBudgetExceeded", "token-budget-exceeded", None, False),
    ("AgentLoopWorkflowStartFailed", "workflow-start-failed", None, False),
]
DOCUMENTED = (
    "agent-run-not-found",
    "cancelled",
    "concurrent-conversation-append",
    "conversation-not-found",
    "duplicate-caller-tool-name",
    "duplicate-tool-alias",
    "incomplete-tool-outputs",
    "inference-job-failed",
    "invalid-caller-tool-name",
    "invalid-effective-config",
    "invalid-request-payload",
    "invalid-stored-field",
    "invalid-tool-alias",
    "invariant-violated",
    "malformed-tool-name",
    "max-iterations-exceeded",
    "mcp-discovery-failed",
    "mcp-protocol-error",
    "mcp-server-error",
    "mcp-tool-validation",
    "mcp-unknown-tool",
    "no-assistant-turn",
    "not-a-client-tool-call",
    "schema-decode-failed",
    "tool-name-too-long",
    "unknown-tool-alias",
    "unknown-tool-choice-mcp-alias",
    "unknown-tool-choice-name",
    "unknown-tool-use-id",
    "version-conflict",
    "workflow-start-failed",
)


@pytest.mark.parametrize(("slug", "status", "title", "facts", "detail"), REQUESTS)
def test_a_refusal_is_what_the_documentation_says(slug, status, title, facts, detail):
    """Slug, status, title and detail of every refused request are exact."""
    error = RequestError(slug, **facts)
    found = (error.slug, error.status, error.incident.title, error.detail)
    assert found == (slug, status, title, detail)
    assert str(error) == detail


@pytest.mark.parametrize(("type_", "slug", "title", "retried"), RUNS)
def test_a_run_error_is_what_the_documentation_says(type_, slug, title, retried):
    """Type, slug, title and the retry column of every run error are exact."""
    row = BY_TYPE[type_]
    assert (row.slug, row.retried) == (slug, retried)
    assert row.title == (title or slug.replace("-", " ").title())


def test_nothing_is_in_the_catalog_that_is_not_in_these_tables():
    """Rows, slugs and types agree with the two tables, and are unique."""
    assert {row.slug for row in CATALOG} == {
        *(slug for slug, *_ in REQUESTS),
        *(slug for _, slug, *_ in RUNS),
    }
    assert {row.slug for row in CATALOG if row.detail} == {s for s, *_ in REQUESTS}
    assert {row.slug for row in CATALOG if row.status} == {s for s, *_ in REQUESTS}
    assert set(BY_TYPE) == {type_ for type_, *_ in RUNS}
    assert len(BY_SLUG) == len(CATALOG)
    assert len(BY_TYPE) == sum(row.type is not None for row in CATALOG)


def test_every_documented_page_has_its_row():
    """The 31 pages of the reference are all there, under one base URL."""
    assert len(DOCUMENTED) == 31
    assert set(DOCUMENTED) <= set(BY_SLUG)
    page = (
        "https://docs.narrative.io/reference/architecture/agent-conversations/errors/"
    )
    assert page == DOCS_BASE


@pytest.mark.parametrize(
    ("type_", "facts", "message"),
    [
        (
            "AgentLoopMaxIterationsExceeded",
            {"n": 5},
            "max iterations exceeded after 5 iterations",
        ),
        (
            "AgentLoopInvalidEffectiveConfig",
            {"problem": "$.model: required"},
            "stored effective_config does not decode: $.model: required",
        ),
        ("AgentLoopCancelled", {}, "the run was cancelled"),
        ("McpTimeout", {"problem": "{n} left as it is"}, "{n} left as it is"),
    ],
)
def test_messages_are_filled_with_facts(type_, facts, message):
    """Facts are put in as they are, braces and all."""
    assert describe(type_, **facts) == message


@pytest.mark.parametrize("row", CATALOG, ids=lambda row: row.slug)
def test_each_row_serves_somebody_and_every_run_error_has_a_message(row):
    """A row has a status or a type; texts start lower-case and do not stop."""
    assert row.status or row.type
    assert (row.type is None) == (row.message is None)
    for text in filter(None, (row.message, row.detail)):
        if text != "Resource not found or not accessible.":
            assert text[0] in "{_" or text[0].islower()
            assert not text.endswith(".")
        names = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
        assert all(name.isidentifier() for name in names)


def test_a_missing_fact_is_a_mistake_that_shows():
    """No message is ever written with a hole in it."""
    with pytest.raises(KeyError):
        describe("AgentLoopWorkerLost")
    with pytest.raises(KeyError):
        RequestError("version-conflict", expected=1)


def test_failures_are_a_total_function_of_the_kind():
    """Every kind of failure has its rule, and its type is in the catalog."""
    assert set(FAILURES) == set(get_args(FailureKind))
    for kind, rule in FAILURES.items():
        failure = Failure(kind=kind, message="m")
        assert (failure.type, failure.retried) == (rule.type, rule.retried)
        assert rule.type in BY_TYPE


def test_the_retry_columns_agree():
    """A type is marked as retried exactly when one of its kinds is."""
    for type_, row in BY_TYPE.items():
        rules = [rule for rule in FAILURES.values() if rule.type == type_]
        assert row.retried == any(rule.retried for rule in rules), type_


@pytest.mark.parametrize(
    "kind",
    [
        "throttled",
        "overloaded",
        "unavailable",
        "connection",
        "timeout",
        "mcp_server",
        "discovery_unavailable",
    ],
)
def test_passing_faults_are_retried(kind):
    """Exactly the documented kinds get another attempt."""
    assert FAILURES[kind].retried
    assert sum(rule.retried for rule in FAILURES.values()) == 7


def test_an_error_that_is_no_refusal_counts_as_our_own():
    """A row without a status of its own answers with 500."""
    error = RequestError("max-iterations-exceeded")
    assert (error.status, error.detail) == (500, "")


def test_a_refusal_survives_another_process():
    """Pickling keeps slug, facts and detail."""
    error = RequestError("version-conflict", expected=1, current=2)
    again = pickle.loads(pickle.dumps(error))
    assert (again.slug, again.facts, str(again)) == (
        error.slug,
        error.facts,
        str(error),
    )
