"""The table of operations: what routes, documents and tests of the surface read.

One row for each method of contract sections 2 and 12, with every status and every
documented problem it can answer with.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from attrs import frozen

from agentloop.core.request import NewConversation, StartRequest
from agentloop.core.run import Conversation, InferenceJob, MessageDelta, Page, Run
from agentloop.http import handlers
from agentloop.http.auth import Verb
from agentloop.http.handlers import CONVERSATION, JOB, RUN, Answer, Asked, Desk
from agentloop.http.health import Health
from agentloop.http.reading import MAX_NUMBER
from agentloop.http.streams import EventStream

Response: TypeAlias = Answer | EventStream
Handler: TypeAlias = Callable[[Desk, Asked], Awaitable[Response]]


@frozen
class Number:
    """A whole number in the query, or in a header, that may be left out."""

    name: str
    default: int
    description: str
    minimum: int = 0
    maximum: int = MAX_NUMBER
    place: str = "query"


@frozen
class Listing:
    """A JSON object whose only member is a list."""

    member: str
    item: type


@frozen
class Success:
    """A status that is no problem, and what its body is; None: there is none."""

    status: int
    body: Any
    description: str


@frozen(kw_only=True)
class Operation:
    """One method of one path; without a `verb` it needs no token."""

    id: str
    method: str
    path: str
    summary: str
    verb: Verb | None
    handler: Handler
    successes: tuple[Success, ...]
    problems: tuple[str, ...] = ()
    numbers: tuple[Number, ...] = ()
    body: type | None = None


BODY: Final = ("invalid-request", "payload-too-large", "request-timeout")
CONFIG: Final = (
    "invalid-config",
    "invalid-tool-alias",
    "duplicate-tool-alias",
    "tool-name-too-long",
    "invalid-caller-tool-name",
    "duplicate-caller-tool-name",
)
CHOICE: Final = (
    "unknown-tool-choice-mcp-alias",
    "unknown-tool-choice-name",
    "tool-choice-without-tools",
    "mcp-discovery-failed",
)
PAYLOAD: Final = (
    "no-assistant-turn",
    "unknown-tool-use-id",
    "not-a-client-tool-call",
    "incomplete-tool-outputs",
    "pending-tool-calls",
)
COMMON: Final = (
    "unauthenticated",
    "forbidden",
    "too-many-requests",
    "internal-error",
    "store-unavailable",
)
"""What every operation with a token may answer with."""
STORED: Final = "invalid-stored-field"

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        id="create_conversation",
        method="POST",
        path="/agents/conversations",
        summary="Create a conversation",
        verb="write",
        handler=handlers.create_conversation,
        body=NewConversation,
        successes=(Success(201, Conversation, "The conversation as it is stored."),),
        problems=(*BODY, *CONFIG),
    ),
    Operation(
        id="list_conversations",
        method="GET",
        path="/agents/conversations",
        summary="List the caller's own conversations, newest first",
        verb="read",
        handler=handlers.list_conversations,
        numbers=(
            Number("page", 1, "The page, from 1.", minimum=1),
            Number("per_page", 50, "Records on a page.", minimum=1, maximum=200),
        ),
        successes=(Success(200, Page, "One page."),),
        problems=("invalid-request", STORED),
    ),
    Operation(
        id="get_conversation",
        method="GET",
        path="/agents/conversations/{conversation_id}",
        summary="Read a conversation",
        verb="read",
        handler=handlers.get_conversation,
        successes=(Success(200, Conversation, "The conversation."),),
        problems=(CONVERSATION, STORED),
    ),
    Operation(
        id="delete_conversation",
        method="DELETE",
        path="/agents/conversations/{conversation_id}",
        summary="Remove a conversation with its runs, messages, jobs and events",
        verb="write",
        handler=handlers.delete_conversation,
        successes=(Success(204, None, "It is gone."),),
        problems=(CONVERSATION,),
    ),
    Operation(
        id="list_messages",
        method="GET",
        path="/agents/conversations/{conversation_id}/messages",
        summary="Read the messages after a version",
        verb="read",
        handler=handlers.list_messages,
        numbers=(Number("since", 0, "The version read last, 0 for all messages."),),
        successes=(Success(200, MessageDelta, "The messages, and the version."),),
        problems=("invalid-request", CONVERSATION, STORED),
    ),
    Operation(
        id="start_run",
        method="POST",
        path="/agents/conversations/{conversation_id}/runs",
        summary="Start a run",
        verb="write",
        handler=handlers.start_run,
        body=StartRequest,
        successes=(
            Success(202, Run, "The run, pending."),
            Success(200, Run, "The run that was started under the same key before."),
        ),
        problems=(
            *BODY,
            CONVERSATION,
            "version-conflict",
            *CONFIG,
            "unknown-data-plane",
            *CHOICE,
            *PAYLOAD,
            "workflow-start-failed",
            STORED,
        ),
    ),
    Operation(
        id="list_runs",
        method="GET",
        path="/agents/conversations/{conversation_id}/runs",
        summary="List the runs of a conversation, oldest first",
        verb="read",
        handler=handlers.list_runs,
        successes=(Success(200, Listing("runs", Run), "All of its runs."),),
        problems=(CONVERSATION, STORED),
    ),
    Operation(
        id="get_run",
        method="GET",
        path="/agents/runs/{run_id}",
        summary="Read a run",
        verb="read",
        handler=handlers.get_run,
        successes=(Success(200, Run, "The run, also when it failed."),),
        problems=(RUN, STORED),
    ),
    Operation(
        id="cancel_run",
        method="POST",
        path="/agents/runs/{run_id}/cancel",
        summary="Cancel a run",
        verb="write",
        handler=handlers.cancel_run,
        successes=(
            Success(202, Run, "The run, which ends as soon as it can."),
            Success(200, Run, "The run, unchanged: it had ended."),
        ),
        problems=(RUN, STORED),
    ),
    Operation(
        id="run_events",
        method="GET",
        path="/agents/runs/{run_id}/events",
        summary="Follow a run's events until it ends",
        verb="read",
        handler=handlers.run_events,
        numbers=(
            Number("Last-Event-ID", 0, "The last event that was seen.", place="header"),
        ),
        successes=(
            Success(200, EventStream, "The events, as they happen."),
            Success(204, None, "The run has ended and every event was seen."),
        ),
        problems=("invalid-request", RUN, STORED),
    ),
    Operation(
        id="list_jobs",
        method="GET",
        path="/agents/runs/{run_id}/inference-jobs",
        summary="List the inference jobs of a run by iteration",
        verb="read",
        handler=handlers.list_jobs,
        successes=(
            Success(200, Listing("inference_jobs", InferenceJob), "All of its jobs."),
        ),
        problems=(RUN, STORED),
    ),
    Operation(
        id="get_job",
        method="GET",
        path="/agents/inference-jobs/{job_id}",
        summary="Read an inference job with its attempts, request and response",
        verb="read",
        handler=handlers.get_job,
        successes=(Success(200, InferenceJob, "The job."),),
        problems=(JOB, STORED),
    ),
    Operation(
        id="health",
        method="GET",
        path="/healthz",
        summary="Tell whether the store and the worker are well",
        verb=None,
        handler=handlers.health,
        successes=(
            Success(200, Health, "All is well."),
            Success(503, Health, "The store or the worker is not well."),
        ),
        problems=("internal-error",),
    ),
    Operation(
        id="openapi",
        method="GET",
        path="/openapi.json",
        summary="Describe this surface",
        verb=None,
        handler=handlers.openapi,
        successes=(Success(200, dict, "An OpenAPI 3.1 document."),),
        problems=("internal-error",),
    ),
)
