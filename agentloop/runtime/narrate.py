"""What a run's transitions are called when they are told to somebody.

Events are made from states and from what was fed to them, before the commit that
stores them, so that what was told is what is stored. They are slim: calls by key,
id and name, never arguments, results or text.
"""

from typing import Any, TypeAlias

from agentloop.core.catalog import Failure
from agentloop.core.phases import (
    Call,
    CallingTools,
    Discover,
    Discovered,
    Event,
    Failed,
    Finish,
    Infer,
    Inferring,
    LoopState,
    ModelFailed,
    ModelReplied,
    ToolFailed,
    ToolReturned,
)
from agentloop.core.run import EventKind, Status
from agentloop.runtime.present import job_id

Told: TypeAlias = tuple[EventKind, dict[str, Any]]
Effect: TypeAlias = Discover | Infer | Call


def of_event(before: LoopState, event: Event, after: LoopState) -> list[Told]:
    """What an event amounted to; nothing when it was absorbed."""
    if after is before or isinstance(event, ModelReplied):
        return []  # a job was told of when it began
    if isinstance(event, ToolReturned):
        told = _call(before, event.key)
        told["is_error"] = event.is_error
        return [("tool_finished", told)]
    match event:
        case Discovered(routing):
            return [("tools_discovered", {"tools": len(routing.routes)})]
        case ModelFailed(attempt=attempt, failure=failure):
            place = {"iteration": before.iterations, "attempt": attempt}
            found: list[Told] = [("attempt_discarded", {**place, **_why(failure)})]
            if isinstance(after.phase, Inferring):
                found.append(("retry_wait", {**place, **_span(after.phase)}))
            return found
        case ToolFailed(key, attempt, failure):
            place = {**_call(before, key), "attempt": attempt, **_why(failure)}
            if (again := _open_call(after, key)) is not None:
                return [("retry_wait", {**place, **_span(again)})]
            return [("tool_finished", {**place, "is_error": True})]
        case _:
            return []


def of_effect(run_id: str, effect: Effect) -> Told | None:
    """What beginning an effect is called; retries were announced already."""
    if isinstance(effect, Infer):
        return "job_submitted", {
            "iteration": effect.iteration,
            "attempt": effect.attempt,
            "job_id": job_id(run_id, effect.iteration),
        }
    if isinstance(effect, Call):
        return "tool_started", {
            "key": effect.key,
            "tool_use_id": effect.use.tool_use_id,
            "name": effect.use.name,
            "attempt": effect.attempt,
        }
    return None


def of_end(status: Status, finish: Finish) -> Told:
    """The last event of a run."""
    told: dict[str, Any] = {"status": status}
    if isinstance(finish.outcome, Failed):
        told["error"] = finish.outcome.type
    return "terminal", told


def _span(effect: Inferring | Call) -> dict[str, float]:
    """How long is waited: by the schedule, and at least, by the provider's hint."""
    return {"delay": effect.delay, "at_least": effect.at_least}


def _why(failure: Failure) -> dict[str, Any]:
    why: dict[str, Any] = {"reason": failure.kind}
    if failure.code is not None:
        why["code"] = failure.code
    return why


def _call(state: LoopState, key: str) -> dict[str, Any]:
    call = _find(state, key)
    if call is None:
        return {"key": key}
    use = call.use
    return {"key": key, "tool_use_id": use.tool_use_id, "name": use.name}


def _find(state: LoopState, key: str) -> Call | None:
    if not isinstance(state.phase, CallingTools):
        return None
    for call in state.phase.calls:
        if call.key == key:
            return call
    return None


def _open_call(state: LoopState, key: str) -> Call | None:
    call = _find(state, key)
    if call is None or not isinstance(state.phase, CallingTools):
        return None
    open_ = state.phase.results[state.phase.calls.index(call)] is None
    return call if open_ else None
