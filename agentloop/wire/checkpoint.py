"""Stored forms: checkpoints, setups, staged results and how a run ended.

A header is small and holds no messages: the messages of a run are stored once,
each on its own, and an unfinished turn's calls are read from the last of them.
A setup is what stays fixed: the plan and every catalog. Everything carries
`v`, the schema version; a newer one is refused, an older one is brought forward. A
key that this version does not know is refused with its path, wherever it is: what
follows it may hang on it, and writing it back unread would pass that on as known.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, assert_never

from attrs import evolve, frozen

from agentloop.core.catalog import Failure
from agentloop.core.config import Config
from agentloop.core.content import Message, ToolResult, ToolUse, tool_uses
from agentloop.core.machine import open_turn
from agentloop.core.phases import (
    CallingTools,
    Completed,
    Discovering,
    Failed,
    Finished,
    Inferring,
    Log,
    LoopState,
    Outcome,
    Phase,
    Plan,
    RequiresAction,
)
from agentloop.core.routing import Catalogs, Offer, Routing, assemble
from agentloop.core.run import PendingToolCall, Usage
from agentloop.wire.converter import SCHEMA_VERSION, load, to_json
from agentloop.wire.lines import quoted, usage_text
from agentloop.wire.text import WireError, dump, undump


@frozen(kw_only=True)
class StoredSetup:
    """What a run decided once: its plan and what each server offers."""

    plan: Plan
    catalogs: dict[str, tuple[Offer, ...]]


@frozen(kw_only=True)
class StoredResult:
    """The terminal fields of a run; `outcome` tells which of them are set."""

    usage: Usage
    pending: tuple[PendingToolCall, ...] = ()
    final_text: str | None = None
    final_structured_output: Any = None
    error_type: str | None = None
    error_message: str | None = None


def versioned(value: Any) -> str:
    """The stored text of a JSON object, marked with the schema version."""
    return dump({"v": SCHEMA_VERSION, **value})


def unversioned(text: str) -> dict[str, Any]:
    """The JSON object of a stored text.

    Raises:
        WireError: it is damaged, or a newer version of this library wrote it.
    """
    value = undump(text)
    if not isinstance(value, dict):
        raise WireError("$", "damaged: no object")
    version = value.pop("v", None)
    if not isinstance(version, int) or version < 1:
        raise WireError("$.v", "damaged: no schema version")
    if version > SCHEMA_VERSION:
        raise WireError(
            "$.v",
            f"written by a newer version of agentloop (schema {version}, "
            f"this one reads up to {SCHEMA_VERSION}); upgrade first",
        )
    return value


# ---------------------------------------------------------------- headers


def header_text(
    state: LoopState, *, idle: bool = False, remembered: str | None = None
) -> str:
    """A checkpoint header.

    `idle` says that its command was not begun, `remembered` is what a backend
    wants to be told when the command is taken up by somebody else.
    """
    rest = ',"idle":true' if idle else ""
    if remembered is not None:
        rest += f',"remembered":{dump(remembered)}'
    usage = state.usage
    return (
        f'{_HEAD}{state.iterations},"messages":{state.log.length},'
        f'"usage":[{usage.prompt_tokens},{usage.completion_tokens},'
        f"{usage.cache_read_tokens},{usage.cache_write_tokens},"
        f'{usage.attempts_without_usage}],"phase":{_phase_text(state.phase)}{rest}}}'
    )


_HEAD: Final = f'{{"v":{SCHEMA_VERSION},"iterations":'


def _phase_text(phase: Phase) -> str:
    """A phase as text; most are first tries, which are written ready."""
    if isinstance(phase, Inferring):
        if phase.attempt == 1 and not (phase.delay or phase.at_least):
            return _FIRST_INFERENCE
    elif isinstance(phase, CallingTools) and _are_first_tries(phase):
        return _FIRST_CALLS
    return dump(_phase(phase))


def _are_first_tries(phase: CallingTools) -> bool:
    for call in phase.calls:
        if call.attempt > 1:
            return False
    return phase.barred is None


def _phase(phase: Phase) -> dict[str, Any]:
    match phase:
        case Inferring(attempt, delay, at_least):
            return {"kind": "inferring", "try": [attempt, delay, at_least]}
        case Discovering(attempt, delay, at_least):
            return {"kind": "discovering", "try": [attempt, delay, at_least]}
        case CallingTools():
            tries = {
                call.key: [call.attempt, call.delay, call.at_least]
                for call in phase.calls
                if call.attempt > 1
            }
            return {"kind": "calling", "tries": tries, "barred": phase.barred}
        case Finished():
            return {"kind": "finished"}
        case _:
            assert_never(phase)


_FIRST_INFERENCE: Final = dump(_phase(Inferring()))
_FIRST_CALLS: Final = dump(_phase(CallingTools((), ())))


_HEADER_KEYS: Final = frozenset(
    {"iterations", "messages", "usage", "phase", "idle", "remembered"}
)
_PHASE_KEYS: Final = frozenset({"kind", "try", "tries", "barred"})


def is_idle(header: str) -> bool:
    """Whether the checkpoint's command was not begun by whoever wrote it."""
    return bool(unversioned(header).get("idle"))


def remembered_in(header: str) -> str | None:
    """What the backend of the checkpoint's command left to be remembered.

    Raises:
        WireError: the header is damaged.
    """
    found = unversioned(header).get("remembered")
    if found is not None and not isinstance(found, str):
        raise WireError("$.remembered", "damaged: no text")
    return found


def state_from(
    header: str,
    plan: Plan,
    routing: Routing | None,
    log: Sequence[Message],
    results: Mapping[str, str],
) -> LoopState:
    """The state that was checkpointed.

    Raises:
        WireError: header, log and results do not belong together.
    """
    value = unversioned(header)
    try:
        return _state(value, plan, routing, log, results)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError("$", f"damaged checkpoint: {error!r}") from None


def _state(
    value: dict[str, Any],
    plan: Plan,
    routing: Routing | None,
    log: Sequence[Message],
    results: Mapping[str, str],
) -> LoopState:
    _refuse_strange("$", value, _HEADER_KEYS)
    if len(log) != value["messages"]:
        raise WireError("$.messages", f"says {value['messages']}, {len(log)} stored")
    iterations: int = value["iterations"]
    stored = value["phase"]
    _refuse_strange("$.phase", stored, _PHASE_KEYS)
    phase: Phase
    match stored["kind"]:
        case "inferring":
            phase = Inferring(*stored["try"])
        case "discovering":
            phase = Discovering(*stored["try"])
        case "calling" if routing is not None:
            turn = open_turn(iterations, tool_uses(log[-1]), routing)
            phase = _calling(turn, stored, results)
        case kind:
            raise WireError("$.phase.kind", f"{kind!r} cannot be resumed")
    usage = Usage(
        prompt_tokens=value["usage"][0],
        completion_tokens=value["usage"][1],
        cache_read_tokens=value["usage"][2],
        cache_write_tokens=value["usage"][3],
        attempts_without_usage=value["usage"][4],
    )
    return LoopState(plan, routing, phase, iterations, Log(*log), usage)


def _refuse_strange(path: str, value: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in value:
        if name not in known:
            raise WireError(f"{path}.{name}", "unknown key")


def _calling(
    turn: CallingTools, stored: dict[str, Any], results: Mapping[str, str]
) -> CallingTools:
    calls = tuple(
        evolve(call, attempt=tries[0], delay=tries[1], at_least=tries[2])
        if (tries := stored["tries"].get(call.key))
        else call
        for call in turn.calls
    )
    known = tuple(
        result_from(results[call.key]) if call.key in results else None
        for call in calls
    )
    return evolve(turn, calls=calls, results=known, barred=stored["barred"])


def result_text(result: ToolResult | Failure) -> str:
    """A call's result, or why it failed for good, as it is staged."""
    if isinstance(result, Failure):
        return dump({"failure": to_json(result)})
    return dump(to_json(result))


def result_from(text: str) -> ToolResult | Failure:
    """The staged result of a call.

    Raises:
        WireError: the text is damaged.
    """
    value = undump(text)
    if "failure" in value:
        failure: Failure = load(value["failure"], Failure)
        return failure
    value.pop("type", None)
    result: ToolResult = load(value, ToolResult)
    return result


# ---------------------------------------------------------------- setups


def setup_text(setup: StoredSetup) -> str:
    """A run's setup as it is stored once."""
    return versioned(to_json(setup))


def setup_from(text: str) -> StoredSetup:
    """The setup of a run.

    Raises:
        WireError: it is damaged or newer than this library.
    """
    setup: StoredSetup = load(unversioned(text), StoredSetup)
    return setup


def routing_of(config: Config, catalogs: Catalogs) -> Routing:
    """The routing that a stored setup stands for."""
    return assemble(config, catalogs).routing


# ---------------------------------------------------------------- results


def outcome_text(outcome: Outcome, usage: Usage) -> str:
    """The terminal fields of a run as they are stored: a `StoredResult`, joined."""
    match outcome:
        case Completed(answer):
            structured = dump(to_json(answer.structured))
            told = _members("[]", answer.text, structured, None, None)
        case RequiresAction(pending):
            told = _members(_pending_text(pending), None, "null", None, None)
        case Failed(type_, message):
            told = _members("[]", None, "null", type_, message)
        case _:
            assert_never(outcome)
    return f'{{"v":{SCHEMA_VERSION},"usage":{usage_text(usage)},{told}}}'


def _members(
    pending: str,
    final_text: str | None,
    structured: str,
    error_type: str | None,
    error_message: str | None,
) -> str:
    return (
        f'"pending":{pending},"final_text":{_or_null(final_text)},'
        f'"final_structured_output":{structured},"error_type":{_or_null(error_type)},'
        f'"error_message":{_or_null(error_message)}'
    )


def _or_null(text: str | None) -> str:
    return "null" if text is None else quoted(text)


def _pending_text(pending: Sequence[ToolUse]) -> str:
    calls = [
        PendingToolCall(use.tool_use_id, use.name, use.arguments) for use in pending
    ]
    return dump([to_json(call) for call in calls])


def result_fields(text: str) -> StoredResult:
    """The terminal fields of a stored run.

    Raises:
        WireError: they are damaged or newer than this library.
    """
    fields: StoredResult = load(unversioned(text), StoredResult)
    return fields
