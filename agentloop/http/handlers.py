"""What each operation does: read the request, call the face, shape the answer.

The order of checks is the contract's: a body is read and parsed before the scope
is looked at, and the scope before anything else of the request.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from attrs import field, frozen
from starlette.requests import Request

from agentloop.core.catalog import RequestError
from agentloop.core.run import (
    Conversation,
    InferenceJob,
    Run,
    Scope,
)
from agentloop.http.calls import Calls
from agentloop.http.health import Health, Physician
from agentloop.http.options import HttpOptions
from agentloop.http.reading import json_of, last_event_id, path_id, query_number
from agentloop.http.streams import EventStream, OpenStreams
from agentloop.runtime.watch import Kept
from agentloop.wire import dump, to_json

CONVERSATION = "conversation-not-found"
RUN = "agent-run-not-found"
JOB = "inference-job-not-found"


@frozen(kw_only=True)
class Desk:
    """What all operations of one app share."""

    calls: Calls
    options: HttpOptions
    streams: OpenStreams
    physician: Physician
    document: Mapping[str, Any]


@frozen
class Asked:
    """One request with its body; the operations without a token have no caller."""

    request: Request
    caller: Scope | None
    body: bytes = b""

    @property
    def scope(self) -> Scope:
        """Whose request it is."""
        if self.caller is None:
            raise AssertionError("an operation without a token has no scope")
        return self.caller


@frozen
class Answer:
    """A response: its status, its JSON text, and the ids worth logging."""

    status: int
    body: str | None = None
    facts: Mapping[str, str] = field(factory=dict)


def answer(status: int, value: Any, **facts: str) -> Answer:
    """An answer with a value in its JSON form."""
    return Answer(status, dump(to_json(value)), facts)


# ---------------------------------------------------------------- conversations


async def create_conversation(desk: Desk, asked: Asked) -> Answer:
    """`POST /agents/conversations`."""
    body, _ = await _body(desk, asked)
    if not isinstance(body, dict):
        raise RequestError("invalid-request", problem="$: must be an object")
    create = desk.calls.face.create_conversation
    return await desk.calls.of(_created, create, body, scope=asked.scope)


async def get_conversation(desk: Desk, asked: Asked) -> Answer:
    """`GET /agents/conversations/{conversation_id}`."""
    id_ = _conversation_id(asked)
    get = desk.calls.service.get_conversation
    return await desk.calls.reading(partial(answer, 200), get, id_, asked.scope)


async def list_conversations(desk: Desk, asked: Asked) -> Answer:
    """`GET /agents/conversations`."""
    page = query_number(asked.request, "page", 1)
    per_page = query_number(asked.request, "per_page", 50)
    list_ = desk.calls.service.list_conversations
    shape = partial(answer, 200)
    return await desk.calls.reading(shape, list_, asked.scope, page, per_page)


async def delete_conversation(desk: Desk, asked: Asked) -> Answer:
    """`DELETE /agents/conversations/{conversation_id}`."""
    id_ = _conversation_id(asked)
    delete = desk.calls.face.delete_conversation
    return await desk.calls.of(_gone, delete, id_, scope=asked.scope)


async def list_messages(desk: Desk, asked: Asked) -> Answer:
    """`GET /agents/conversations/{conversation_id}/messages`."""
    id_ = _conversation_id(asked)
    exists = partial(get_conversation, desk, asked)
    read = partial(query_number, asked.request, "since", 0)
    since = await _after_scope(exists, read)
    messages, shape = desk.calls.service.messages, partial(answer, 200)
    return await desk.calls.reading(shape, messages, id_, since, asked.scope)


# ---------------------------------------------------------------- runs


async def start_run(desk: Desk, asked: Asked) -> Answer:
    """`POST /agents/conversations/{conversation_id}/runs`."""
    body, replaced = await _body(desk, asked)
    id_ = _conversation_id(asked)
    submit = partial(desk.calls.face.submit_run, replaced=replaced)
    return await desk.calls.starting(_started, submit, id_, body, asked.scope)


async def list_runs(desk: Desk, asked: Asked) -> Answer:
    """`GET /agents/conversations/{conversation_id}/runs`."""
    id_ = _conversation_id(asked)
    runs = desk.calls.service.list_runs
    return await desk.calls.reading(_runs, runs, id_, asked.scope)


async def get_run(desk: Desk, asked: Asked) -> Answer:
    """`GET /agents/runs/{run_id}`."""
    id_ = _run_id(asked)
    get = desk.calls.service.get_run
    return await desk.calls.reading(partial(answer, 200), get, id_, asked.scope)


async def cancel_run(desk: Desk, asked: Asked) -> Answer:
    """`POST /agents/runs/{run_id}/cancel`."""
    id_ = _run_id(asked)
    get, cancel = desk.calls.service.get_run, desk.calls.face.cancel_run
    run = await desk.calls.reading(_same_run, get, id_, asked.scope)
    if run.terminal:
        return answer(200, run)
    return await desk.calls.of(_cancelled, cancel, id_, scope=asked.scope)


async def run_events(desk: Desk, asked: Asked) -> EventStream | Answer:
    """`GET /agents/runs/{run_id}/events`."""
    id_ = _run_id(asked)
    exists = partial(get_run, desk, asked)
    after = await _after_scope(exists, partial(last_event_id, asked.request))
    watch = desk.calls.face.watch
    kept: Kept = await desk.calls.on_thread(watch.kept, id_, asked.scope, after)
    if kept.ended and not kept.events:
        return Answer(204)  # there is nothing more to come: do not come back
    return EventStream(
        run_id=id_,
        caller=asked.scope,
        after=after,
        calls=desk.calls,
        options=desk.options,
        streams=desk.streams,
    )


# ---------------------------------------------------------------- jobs


async def get_job(desk: Desk, asked: Asked) -> Answer:
    """`GET /agents/inference-jobs/{job_id}`."""
    id_ = path_id(asked.request, "job_id", JOB)
    get = desk.calls.service.inference_job
    return await desk.calls.reading(partial(answer, 200), get, id_, asked.scope)


async def list_jobs(desk: Desk, asked: Asked) -> Answer:
    """`GET /agents/runs/{run_id}/inference-jobs`."""
    id_ = _run_id(asked)
    jobs = desk.calls.service.list_jobs
    return await desk.calls.reading(_jobs, jobs, id_, asked.scope)


# ---------------------------------------------------------------- without a token


async def health(desk: Desk, _: Asked) -> Answer:
    """`GET /healthz`."""
    found: Health = await desk.physician.examine()
    return answer(200 if found.status == "ok" else 503, found)


async def openapi(desk: Desk, asked: Asked) -> Answer:
    """`GET /openapi.json`; the server is where the app is mounted."""
    server = asked.request.scope.get("root_path") or "/"
    return Answer(200, dump({**desk.document, "servers": [{"url": server}]}))


# ---------------------------------------------------------------- shapes


def _created(conversation: Conversation) -> Answer:
    return answer(201, conversation, conversation_id=conversation.id)


def _gone(_: None) -> Answer:
    return Answer(204)


def _started(found: tuple[Run, bool]) -> Answer:
    """A replayed key answers 200 with the run it started, as it is now."""
    run, created = found
    return answer(202 if created else 200, run, run_id=run.id)


def _runs(runs: tuple[Run, ...]) -> Answer:
    return answer(200, {"runs": [to_json(run) for run in runs]})


def _jobs(jobs: tuple[InferenceJob, ...]) -> Answer:
    return answer(200, {"inference_jobs": [to_json(job) for job in jobs]})


def _same_run(run: Run) -> Run:
    return run


def _cancelled(run: Run) -> Answer:
    """A run that ended by itself just before was not cancelled."""
    error = run.error.type if run.error else None
    ended = run.terminal and error != "AgentLoopCancelled"
    return answer(200 if ended else 202, run)


# ---------------------------------------------------------------- reading


async def _body(desk: Desk, asked: Asked) -> tuple[Any, int]:
    limits = desk.calls.face.watch.options.limits
    return await json_of(asked.body, limits, desk.calls)


def _conversation_id(asked: Asked) -> str:
    return path_id(asked.request, "conversation_id", CONVERSATION)


def _run_id(asked: Asked) -> str:
    return path_id(asked.request, "run_id", RUN)


async def _after_scope(
    exists: Callable[[], Awaitable[object]], read: Callable[[], int]
) -> int:
    """What `read` finds; that the resource is unknown goes before its refusal."""
    try:
        return read()
    except RequestError:
        await exists()
        raise
