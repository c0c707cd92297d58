"""What is left of a flow for its caller to see, ids and times aside."""

from typing import Any

from attrs import frozen

from agentloop.core.content import Message
from agentloop.core.history import problems
from agentloop.core.run import Run, Scope, Usage
from agentloop.runtime.face import AgentLoop

SCOPE = Scope(1, 1)


@frozen
class Left:
    """The runs of a conversation, its messages, and what they cost."""

    runs: tuple[dict[str, Any], ...]
    messages: tuple[Message, ...]
    usage: tuple[Usage | None, ...]
    attempts: tuple[tuple[str, ...], ...]


def left_of(loop: AgentLoop, conversation_id: str, run_ids: list[str]) -> Left:
    """What can be read of a conversation and these of its runs.

    Raises:
        AssertionError: the messages are no legal history, or have gaps.
    """
    delta = loop.messages(conversation_id, scope=SCOPE)
    numbers = [message.sequence_no for message in delta.messages]
    if numbers != list(range(1, delta.current_version + 1)):
        raise AssertionError(f"messages have gaps: {numbers}")
    messages = tuple(Message(m.role, m.content_blocks) for m in delta.messages)
    if wrong := problems(messages):
        raise AssertionError(f"no legal history: {wrong}")
    runs = [loop.get_run(id_, scope=SCOPE) for id_ in run_ids]
    jobs = [job for run in runs for job in loop.list_jobs(run.id, scope=SCOPE)]
    return Left(
        runs=tuple(_shown(run) for run in runs),
        messages=messages,
        usage=tuple(run.usage for run in runs),
        attempts=tuple(tuple(a.outcome for a in job.attempts) for job in jobs),
    )


def _shown(run: Run) -> dict[str, Any]:
    pending = [
        (call.tool_use_id, call.name, dict(call.arguments))
        for call in run.pending_tool_calls
    ]
    error = run.error
    return {
        "status": run.status,
        "iterations_used": run.iterations_used,
        "jobs": len(run.submitted_inference_job_ids),
        "pending": pending,
        "final_text": run.final_text,
        "final_structured_output": run.final_structured_output,
        "error": error and (error.type, error.message.replace(run.id, "(run)")),
    }
