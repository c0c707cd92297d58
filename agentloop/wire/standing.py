"""Where a run stands between two commands, as an engine keeps it.

A standing is a state of the machine without content: no texts, no arguments, no
results, so it stays small whatever the run holds, and what an engine records of a
run is never what a model or a tool said. `next_command` gives the right kind of
command for it; whoever performs that command reads the content from the store. The
calls of a turn are listed as long as they are few; of more than that there are their
number and a digest, which tells one place in the turn from every other as well.
"""

from hashlib import sha256
from typing import Any, Final, assert_never

from attrs import frozen

from agentloop.core.content import ToolResult, ToolUse
from agentloop.core.phases import (
    Answer,
    Call,
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
from agentloop.core.routing import ServerRoute
from agentloop.core.run import Status, Usage
from agentloop.wire.checkpoint import unversioned, versioned
from agentloop.wire.text import WireError, dump

_NOTHING_SPENT = Usage()
_LISTED: Final = 32
"""How many calls of one turn are listed; a model rarely asks for more."""


@frozen(kw_only=True)
class Standing:
    """A state without content, the pause before its command, and how it ended.

    Attributes:
        state: the machine's state; `next_command` tells what is to be done.
        wait: seconds that should pass before that command.
        status: the terminal status once the end is stored.
        digest: of the calls, when it was read from a text that does not list them;
            those of the state are stand-ins then.
    """

    state: LoopState
    wait: float = 0.0
    status: Status | None = None
    digest: str = ""

    def same_place(self, other: "Standing") -> bool:
        """Whether both wait for the same attempt of the same command."""
        return _place(self) == _place(other)


def standing_text(standing: Standing) -> str:
    """A standing as text, marked with the schema version."""
    return versioned(
        {
            **_place(standing),
            "wait": standing.wait,
            "status": standing.status,
        }
    )


def standing_from(text: str) -> Standing:
    """The standing that was written.

    Raises:
        WireError: it is damaged, or a newer version of this library wrote it.
    """
    value = unversioned(text)
    try:
        return Standing(
            state=_state(value),
            wait=value["wait"],
            status=value["status"],
            digest=value["phase"].get("digest", ""),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError("$", f"damaged standing: {error!r}") from None


def ended(status: Status) -> Standing:
    """The standing of a run whose end is stored."""
    phase = Finished(_outcome(status))
    state = LoopState(Plan(max_iterations=1), None, phase, 0, Log(), _NOTHING_SPENT)
    return Standing(state=state, status=status)


def _outcome(status: str) -> Outcome:
    match status:
        case "completed":
            return Completed(Answer())
        case "requires_action":
            return RequiresAction(())
        case _:
            return Failed("", "")


def _place(standing: Standing) -> dict[str, Any]:
    state = standing.state
    return {
        "iteration": state.iterations,
        "parallel": state.plan.parallel,
        "servers": list(state.plan.servers),
        "phase": _phase(state.phase, standing.digest),
    }


def _phase(phase: Phase, digest: str) -> dict[str, Any]:
    match phase:
        case Inferring(attempt):
            return {"kind": "inferring", "attempt": attempt}
        case Discovering(attempt):
            return {"kind": "discovering", "attempt": attempt}
        case CallingTools():
            return {"kind": "calling", **_turn(phase, digest), "barred": phase.barred}
        case Finished(outcome):
            return {"kind": "finished", "status": _status(outcome)}
        case _:
            assert_never(phase)


def _turn(phase: CallingTools, digest: str) -> dict[str, Any]:
    """Which calls there are and how far each of them is."""
    calls, results = phase.calls, phase.results
    if len(calls) <= _LISTED:
        return {"calls": _each(phase)}
    answered = sum(result is not None for result in results)
    told = digest or sha256(dump(_each(phase)).encode()).hexdigest()
    return {"many": len(calls), "answered": answered, "digest": told}


def _each(phase: CallingTools) -> list[list[Any]]:
    return [
        [call.key, call.use.name, call.attempt, result is not None]
        for call, result in zip(phase.calls, phase.results, strict=True)
    ]


def _status(outcome: Outcome) -> Status:
    match outcome:
        case Completed():
            return "completed"
        case RequiresAction():
            return "requires_action"
        case Failed():
            return "failed"


def _state(value: dict[str, Any]) -> LoopState:
    plan = Plan(
        max_iterations=max(value["iteration"], 1),
        servers=tuple(value["servers"]),
        parallel=value["parallel"],
    )
    phase = _phase_from(value["phase"])
    return LoopState(plan, None, phase, value["iteration"], Log(), _NOTHING_SPENT)


def _phase_from(value: dict[str, Any]) -> Phase:
    match value["kind"]:
        case "inferring":
            return Inferring(value["attempt"])
        case "discovering":
            return Discovering(value["attempt"])
        case "calling" if "many" in value:
            done = value["answered"]
            open_ = value["many"] - done
            calls = [["", "", 1, True]] * done + [["", "", 1, False]] * open_
            return _calling(calls, value["barred"])
        case "calling":
            return _calling(value["calls"], value["barred"])
        case "finished":
            return Finished(_outcome(value["status"]))
        case kind:
            raise WireError("$.phase.kind", f"{kind!r} is no phase")


def _calling(calls: list[Any], barred: int | None) -> CallingTools:
    bare = tuple(
        Call(key, ToolUse(key, name, {}), ServerRoute("", name), attempt)
        for key, name, attempt, _ in calls
    )
    results = tuple(
        ToolResult(key, ()) if answered else None for key, _, _, answered in calls
    )
    return CallingTools(bare, results, barred=barred)
