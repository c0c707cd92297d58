"""What the model says and the tools do in the kit's runs, the same in every process.

A run's model is named after its flow, so that any worker knows what to answer: each
reply is a function of what the model was shown. Tools note every execution in the
ledger before they return. Everything here is the same for the embedded loop that an
engine is compared with.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import field, frozen

from agentloop.core.catalog import Failure, FailureKind
from agentloop.core.config import ToolSpec
from agentloop.core.content import Json, Text
from agentloop.core.routing import InDoubt, Offer
from agentloop.core.run import Run
from agentloop.ports import Store, ToolAnswer, ToolCall
from agentloop.runtime.face import AgentLoop
from agentloop.testing.engines.ledger import Fuse, Ledger
from agentloop.testing.scripted import (
    Reply,
    ScriptedBackend,
    Seen,
    calls,
    fails,
    says,
    throttles,
)

PATIENCE = 20.0
"""Seconds that the first of two calls waits for the second."""
LONG = 3600.0
"""Seconds of a wait that only a cancel or a deadline ends in time."""
LONG_RUN = 30
"""Iterations of a long run."""
ROWS = 4
"""Iterations of the flow that is killed again and again."""
_OBJECT = {"type": "object"}


@frozen
class Flow:
    """A script and what is done with it.

    Attributes:
        model: the reply to what is shown; the same for the same request.
        said: the payloads of its runs, one after another; a function gets the run
            before and makes the payload.
        config: defaults of the conversation beyond the model.
        start: further arguments of every run's start.
        choices: options of the workers beyond the kit's own.
        cancelled: whether a run is cancelled once its first attempt has failed.
        at_once: how many runs are started together; what is left tells them apart
            by how they ended only.
    """

    model: Callable[[Seen], Reply]
    said: tuple[Any, ...] = ("go",)
    config: dict[str, Any] = field(factory=dict)
    start: dict[str, Any] = field(factory=dict)
    choices: dict[str, Any] = field(factory=dict)
    cancelled: bool = False
    at_once: int = 1


# ---------------------------------------------------------------- models

PAY = ("kit-pay", {"n": 1})
LOOK = ("kit-look", {"n": 1})
FLAKY = ("kit-flaky", {"n": 1})
CONFIRM = ("user-confirm", {"slot": 9})
CANARY = "canary"
"""What a flow says, asks for and finds that an engine must not have kept."""
SCHEMA = {
    "type": "object",
    "required": ["text", "n"],
    "properties": {"text": {"type": "string"}, "n": {"type": "integer"}},
    "additionalProperties": False,
}


def _turns(*turns: Reply) -> Callable[[Seen], Reply]:
    """A model with a reply for each iteration, the last one for all that follow."""
    return lambda seen: turns[min(seen.iteration, len(turns)) - 1]


def _after_throttling(seconds: float, then: Reply) -> Callable[[Seen], Reply]:
    """A model that throttles each first attempt and names the time to wait."""
    return lambda seen: throttles(seconds) if seen.attempt == 1 else then


def _patient(seen: Seen) -> Reply:
    """Calls a tool, and then is throttled for a good while."""
    if seen.iteration == 1:
        return calls(PAY)
    return throttles(LONG) if seen.attempt == 1 else says("never said")


def _rows(count: int) -> Callable[[Seen], Reply]:
    """A model that calls a tool on every iteration but the last."""

    def model(seen: Seen) -> Reply:
        n = seen.iteration
        return says("done") if n == count else calls(("kit-pay", {"n": n}))

    return model


def _two_turns(seen: Seen) -> Reply:
    """Asks the caller in the first run, answers in the second."""
    answered = any(m.role == "tool" for m in seen.messages)
    return says("booked") if answered else calls(CONFIRM)


def _mixed(seen: Seen) -> Reply:
    """A server's call beside a caller's, then the answer."""
    answered = any(m.role == "tool" for m in seen.messages)
    return says("booked") if answered else calls(CONFIRM, PAY, text="so")


def _answers(run: Run) -> Any:
    """The caller's answers to whatever a run paused on."""
    outputs = [
        {"tool_use_id": call.tool_use_id, "content": f"yes to {call.name}"}
        for call in run.pending_tool_calls
    ]
    return {"kind": "tool_outputs", "outputs": outputs}


CLIENT_TOOLS = [
    {"alias": "user", "tools": [{"name": "confirm", "input_schema": _OBJECT}]}
]
PARITY: dict[str, Flow] = {
    "answer": Flow(_turns(says("hello é 😀"))),
    "server tools": Flow(_turns(calls(PAY, text="a look"), calls(LOOK), says("ok"))),
    "parallel tools": Flow(
        _turns(
            calls(
                ("kit-meet", {"n": 1, "after": 2}),
                ("kit-meet", {"n": 2, "after": 3}),
                ("kit-meet", {"n": 3}),
            ),
            says("met"),
        )
    ),
    "failing tool": Flow(_turns(calls(("kit-break", {}), LOOK), says("sorry"))),
    "client tools": Flow(_two_turns, ("go", _answers), {"client_tools": CLIENT_TOOLS}),
    "mixed turn": Flow(_mixed, ("go", _answers), {"client_tools": CLIENT_TOOLS}),
    "structured answer": Flow(
        _turns(says('{"text": "room 3", "n": 3}')),
        config={"output_format_schema": SCHEMA},
    ),
    "several runs": Flow(_turns(calls(PAY), says("ok")), ("1", "2", "3")),
    "forced tool": Flow(
        _turns(calls(LOOK), says("ok")), start={"tool_choice": {"kind": "any"}}
    ),
    "throttled": Flow(_after_throttling(0.3, says("at last"))),
    "throttled for good": Flow(_turns(throttles())),
    "discovery": Flow(
        _turns(calls(("late-pay", {"n": 1})), says("found")),
        config={"mcp_servers": [{"alias": "late"}]},
    ),
    "discovery that fails first": Flow(
        _turns(calls(("shy-pay", {"n": 1})), says("found")),
        config={"mcp_servers": [{"alias": "shy"}]},
    ),
    "tool that is tried again": Flow(_turns(calls(FLAKY), says("ok"))),
    "tool that is tried again beside others": Flow(
        _turns(calls(PAY, FLAKY, LOOK), says("ok"))
    ),
    "tool that stays broken": Flow(
        _turns(calls(PAY, ("kit-down", {"n": 1})), says("never said"))
    ),
    "truncated": Flow(_turns(calls(LOOK, stop="max_tokens"))),
    "answer that does not fit": Flow(
        _turns(says('{"text": "room 3"}')), config={"output_format_schema": SCHEMA}
    ),
    "lost race": Flow(
        _after_throttling(0.5, says("first")), start={"expected_version": 0}, at_once=2
    ),
    "refused": Flow(_turns(calls(PAY), fails("denied", code="AccessDenied"))),
    "last iteration": Flow(_turns(calls(PAY)), config={"max_iterations": 2}),
    "unknown tool": Flow(_turns(calls(("nowhere-go", {})), says("ok"))),
    "long run": Flow(_rows(LONG_RUN), config={"max_iterations": LONG_RUN}),
    "cancelled while waiting": Flow(_patient, cancelled=True),
    "deadline while waiting": Flow(
        _turns(throttles(LONG)), choices={"run_timeout": 3.0}
    ),
}
"""Flows that end on an engine as they end without one."""

FLOWS: dict[str, Flow] = {
    **PARITY,
    "one payment": Flow(_turns(calls(PAY), says("paid"))),
    "one look": Flow(_turns(calls(LOOK), says("seen"))),
    "rows": Flow(_rows(ROWS)),
    "waits": Flow(_after_throttling(1.5, says("at last"))),
    "secret": Flow(
        _turns(calls(("kit-pay", {"n": 1, "note": CANARY}), text=CANARY), says(CANARY)),
        (CANARY,),
    ),
}


def answer(seen: Seen) -> Reply:
    """What the model of any flow says."""
    return FLOWS[seen.config.model].model(seen)


# ---------------------------------------------------------------- tools


class Tools:
    """The kit's tool server; by its alias one that must be asked what it has.

    `late` answers at once; `shy` only when it is asked for the second time.
    """

    def __init__(self, ledger: Ledger, fuse: Fuse, alias: str = "kit") -> None:
        self._ledger = ledger
        self._fuse = fuse
        self._alias = alias

    def declared(self) -> tuple[Offer, ...] | None:
        """The catalog, or None when it must be asked for."""
        return _offers() if self._alias == "kit" else None

    def discover(self, timeout: float) -> tuple[Offer, ...] | Failure:  # noqa: ARG002 - the port's
        """The catalog."""
        self._fuse.pass_by("before discovery")
        if self._alias == "shy" and not self._ledger.entries("shy"):
            self._ledger.write("shy", "discovery", "discover", 0)
            return _failure("discovery_unavailable")
        return _offers()

    def call(self, call: ToolCall) -> ToolAnswer | Failure:
        """Do what the tool does, and note it."""
        self._fuse.pass_by("before tool")
        n = call.arguments.get("n", 0)
        number = n if isinstance(n, int) else 0
        self._wait_for(call)
        self._ledger.write(call.run_id, call.effect_key, call.name, number)
        self._fuse.pass_by("after tool")
        if call.name == "break":
            return ToolAnswer((Text("it broke"),), is_error=True)
        if self._is_down(call):
            return _failure("mcp_server")
        text = f"{call.name} {number}{call.arguments.get('note', '')}"
        return ToolAnswer((Text(text), Json({"n": number})))

    def _is_down(self, call: ToolCall) -> bool:
        """Whether a call fails in a way that another attempt may mend."""
        made = self._ledger.entries(call.run_id)
        tries = sum(entry.effect_key == call.effect_key for entry in made)
        return call.name == "down" or (call.name == "flaky" and tries < 3)

    def _wait_for(self, call: ToolCall) -> None:
        """Let the call that is named come first, as it will when both run."""
        after = call.arguments.get("after")
        pause = threading.Event()
        for _ in range(int(PATIENCE / 0.02)):
            here = self._ledger.entries(call.run_id) if after else ()
            if after is None or any(entry.n == after for entry in here):
                return
            pause.wait(0.02)
        raise AssertionError(f"the call beside this one, {after}, was never made")

    def close(self) -> None:
        """Nothing is open."""


def _failure(kind: FailureKind) -> Failure:
    """Something that is tried again, not at once."""
    return Failure(kind=kind, message="busy", code="503", retry_after=0.3)


def _offers() -> tuple[Offer, ...]:
    kinds: dict[str, InDoubt] = {
        "pay": "tell",
        "look": "repeat",
        "meet": "repeat",
        "break": "tell",
        "flaky": "repeat",
        "down": "repeat",
    }
    return tuple(
        Offer(ToolSpec(name=name, input_schema=_OBJECT), in_doubt)
        for name, in_doubt in kinds.items()
    )


# ---------------------------------------------------------------- loops


def hinted(delay: float, at_least: float) -> float:  # noqa: ARG001 - the option's
    """Wait for as long as the provider says, and no longer."""
    return at_least


def loop_over(store: Store, folder: Path, **given: Any) -> AgentLoop:
    """A loop over a store, with the kit's model and tools."""
    ledger, fuse = Ledger(folder), Fuse(folder)

    def model(seen: Seen) -> Reply:
        fuse.pass_by("before model")
        reply = answer(seen)
        fuse.pass_by("after model")
        return reply

    tools = {alias: Tools(ledger, fuse, alias) for alias in ("kit", "late", "shy")}
    backend = ScriptedBackend(forever=model)
    return AgentLoop(backend, store, tools, **{"pause": hinted, **given})
