"""Rows to the resources a caller sees, and the ids of jobs and messages.

The one place that turns stored bodies into values. A body that does not decode is
the store's fault, not the caller's: `invalid-stored-field`, with the detail kept
for the log.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

from attrs import fields_dict

from agentloop.core.catalog import BY_TYPE, RequestError
from agentloop.core.config import Config, ToolChoice
from agentloop.core.request import NewConversation, Payload
from agentloop.core.run import (
    Attempt,
    Conversation,
    InferenceJob,
    Run,
    RunError,
    RunEvent,
    StoredMessage,
    Usage,
)
from agentloop.ports import (
    AttemptRow,
    ConversationRow,
    JobRow,
    MessageRow,
    NewEvent,
    RunRow,
    derived_id,
)
from agentloop.wire import WireError, dump, load, message_from, to_json, undump
from agentloop.wire.checkpoint import (
    StoredResult,
    result_fields,
    unversioned,
    versioned,
)

T = TypeVar("T")
EXPIRED = "expired"
"""The outcome of a request that was answered with a demand for credentials."""
_ATTEMPT_FIELDS = frozenset(fields_dict(Attempt))
_REMEMBERED = 64
"""How many texts keep what they decode to: a run is read several times, and many
runs share a config. What is decoded is never changed, so it can be shared. Few,
because a config may hold the schemas of a hundred tools."""


class StoredFieldError(RequestError):
    """A stored field that cannot be read; `problem` is for the log only."""

    def __init__(self, problem: str) -> None:
        super().__init__("invalid-stored-field")
        self.problem = problem

    def __reduce__(self) -> tuple[object, ...]:
        return (StoredFieldError, (self.problem,))


@lru_cache(maxsize=1024)  # an iteration asks for it three times
def job_id(run_id: str, iteration: int) -> str:
    """The id of an iteration's inference job."""
    return derived_id(run_id, f"job/{iteration}")


def _stored(field: str, read: Callable[..., T], *args: Any) -> T:
    try:
        return read(*args)
    except WireError as error:
        raise StoredFieldError(f"{field} {error}") from None


# ---------------------------------------------------------------- conversations


def conversation_body(new: NewConversation) -> str:
    """What a conversation row holds as its body."""
    return versioned(to_json(new))


def body_of(row: ConversationRow) -> NewConversation:
    """The name, system prompt and defaults of a stored conversation."""
    return body_from(row.body)


def body_from(text: str) -> NewConversation:
    """The same of the text that is stored of it."""
    return _stored("conversation", _body_from, text)


@lru_cache(_REMEMBERED)
def _body_from(text: str) -> NewConversation:
    body: NewConversation = load(unversioned(text), NewConversation)
    return body


def conversation(row: ConversationRow) -> Conversation:
    """A conversation as the caller sees it."""
    body = body_of(row)
    return Conversation(
        id=row.id,
        company_id=row.company_id,
        user_id=row.user_id,
        defaults=body.defaults,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        name=body.name,
        system_prompt=body.system_prompt,
    )


def message(row: MessageRow) -> StoredMessage:
    """A message as the caller sees it."""
    value = _stored("content_blocks", message_from, row.body)
    return StoredMessage(
        id=derived_id(row.run_id, f"message/{row.position}"),
        sequence_no=row.sequence_no,
        role=value.role,
        content_blocks=value.content,
        run_id=row.run_id,
        created_at=row.created_at,
    )


# ---------------------------------------------------------------- runs


def config_of(row: RunRow) -> Config:
    """The effective config of a stored run."""
    return _config_from(row.config)


@lru_cache(_REMEMBERED)
def _config_from(text: str) -> Config:
    config: Config = load(undump(text), Config)
    return config


def tool_choice_of(row: RunRow) -> ToolChoice | None:
    """The tool choice as the caller sent it."""
    if row.tool_choice is None:
        return None
    choice: ToolChoice = load(undump(row.tool_choice), ToolChoice)
    return choice


def payload_text(payload: Payload, replaced: int) -> str:
    """What a run row holds as its payload, with how much was replaced in it.

    The count waits there for the first commit of the run, which tells it.
    """
    value = to_json(payload)
    return dump({**value, "replaced": replaced} if replaced else value)


def payload_of(row: RunRow) -> tuple[Payload, int]:
    """The payload of a stored run, and how many characters were replaced in it.

    Raises:
        WireError: it is damaged or of an unknown kind.
    """
    value = undump(row.payload)
    replaced = value.pop("replaced", 0) if isinstance(value, dict) else 0
    payload: Payload = load(value, Payload)
    return payload, load(replaced, int, "$.replaced")


def run(row: RunRow, docs_base: str) -> Run:
    """A run as the caller sees it; fields are filled as its status allows."""
    fields = None
    if row.result is not None:
        fields = _stored("result", result_fields, row.result)
    return Run(
        id=row.id,
        conversation_id=row.conversation_id,
        company_id=row.company_id,
        user_id=row.user_id,
        client_op_id=row.client_op_id,
        status=row.status,
        tool_choice=_stored("tool_choice", tool_choice_of, row),
        effective_config=_stored("effective_config", config_of, row),
        iterations_used=None if fields is None else row.iterations,
        usage=None if fields is None else fields.usage,
        submitted_inference_job_ids=tuple(
            job_id(row.id, i) for i in range(1, row.iterations + 1)
        ),
        pending_tool_calls=() if fields is None else fields.pending,
        final_text=None if fields is None else fields.final_text,
        final_structured_output=None
        if fields is None
        else fields.final_structured_output,
        error=None if fields is None else run_error(fields, docs_base),
        started_at=row.started_at,
        completed_at=row.completed_at,
    )


def run_error(fields: StoredResult, docs_base: str) -> RunError | None:
    """The error of a failed run; an unknown type has neither title nor page."""
    if fields.error_type is None:
        return None
    row = BY_TYPE.get(fields.error_type)
    return RunError(
        fields.error_type,
        fields.error_message or "",
        row.title if row else None,
        f"{docs_base}{row.slug}" if row else None,
    )


def event(row: NewEvent) -> RunEvent:
    """A stored event."""
    value = _stored("event", undump, row.body)
    return RunEvent(value["kind"], value["data"], row.id)


# ---------------------------------------------------------------- jobs


def attempts_of(row: AttemptRow) -> Iterator[Attempt]:
    """An attempt as its job shows it.

    Before it come the requests that only got a demand for fresh credentials: they
    are seen under the same number, and count neither as tries nor in the usage.
    """
    value = _stored("attempt", unversioned, row.body)
    for one in value.get("preceding", ()):
        yield Attempt(
            number=row.number,
            outcome=EXPIRED,
            provider_request_id=one.get("provider_request_id"),
            code=one.get("code"),
            message=one.get("message"),
        )
    shown = {name: item for name, item in value.items() if name in _ATTEMPT_FIELDS}
    found: Attempt = _stored("attempt", load, shown, Attempt)
    yield found


def job(job_row: JobRow, rows: tuple[AttemptRow, ...], run_row: RunRow) -> InferenceJob:
    """A job without its request, which is rebuilt by whoever can encode it."""
    body = _stored("job", unversioned, job_row.body)
    attempts = tuple(found for row in rows for found in attempts_of(row))
    answered = next((row for row in reversed(rows) if row.response is not None), None)
    usage: Usage | None = None
    for found in attempts:
        if found.outcome != EXPIRED:
            usage = (usage or Usage()).plus(found.usage)
    ended = any(found.outcome == "ok" for found in attempts)
    over = run_row.result is not None
    return InferenceJob(
        id=job_row.id,
        run_id=job_row.run_id,
        iteration=job_row.iteration,
        backend=body["backend"],
        model=body["model"],
        status="completed" if ended else "failed" if over else "running",
        attempts=attempts,
        response=None
        if answered is None
        else _stored("response", undump, answered.response),
        usage=usage,
    )
