"""Plain values for tests of the loop: a routing of every kind, and short verbs.

The verbs make one event that fits a state and step it, so that a test reads like
the story of a run.
"""

from collections.abc import Iterable

from agentloop.core.catalog import Failure
from agentloop.core.config import ClientTools, Config, McpServer, ToolSpec
from agentloop.core.content import Block, Content, Message, Text, ToolUse
from agentloop.core.machine import next_command, start, step
from agentloop.core.phases import (
    Answer,
    CallTools,
    Failed,
    Finished,
    LoopState,
    ModelFailed,
    ModelReplied,
    Plan,
    StopReason,
    ToolFailed,
    ToolReturned,
)
from agentloop.core.routing import Offer, Routing, assemble
from agentloop.core.run import Usage

USER = Message("user", (Text("Is room 3 free?"),))
HELLO = Text("Room 3 is free.")

SEARCH, READ, PAY = "docs-search", "docs-read", "docs-pay"
"""Server tools whose policies in doubt are tell, repeat and fail."""
APPROVE, ASK = "user-approve", "ask"
"""Tools of the caller: under an alias, and bare."""
LOST = "nowhere-tool"
"""A name that resolves to nothing."""


def spec(name: str) -> ToolSpec:
    """A tool without arguments."""
    return ToolSpec(name=name, input_schema={"type": "object"})


CONFIG = Config(
    model="m",
    mcp_servers=(
        McpServer(alias="docs"),
        McpServer(alias="web", url="https://web.example.com/mcp"),
    ),
    client_tools=(ClientTools(alias="user", tools=(spec("approve"),)),),
    tools=(spec("ask"),),
)
CATALOGS = {
    "docs": (
        Offer(spec("search"), "tell"),
        Offer(spec("read"), "repeat"),
        Offer(spec("pay"), "fail"),
    ),
    "web": (Offer(spec("get")),),
}
ROUTING: Routing = assemble(CONFIG, CATALOGS).routing


def failure(kind: str = "mcp_server", **rest: object) -> Failure:
    """A failure of a kind."""
    return Failure(kind=kind, message=rest.pop("message", f"{kind}!"), **rest)


def plan(**changes: object) -> Plan:
    """A plan of eight iterations, changed as a test needs it."""
    return Plan(**{"max_iterations": 8, **changes})


def begin(opening: Message = USER, **changes: object) -> LoopState:
    """A run that waits for the model's first answer."""
    return start(plan(**changes), opening, ROUTING)


def begin_asking(**changes: object) -> LoopState:
    """A run that first has to ask a server for its tools."""
    return start(plan(servers=("web",), **changes), USER, None)


def uses(*names: str) -> tuple[ToolUse, ...]:
    """One call of each name, with ids t0, t1 and so on."""
    return tuple(ToolUse(f"t{i}", name, {"n": i}) for i, name in enumerate(names))


def replied(
    state: LoopState,
    blocks: Iterable[Block],
    stop: StopReason = "end_turn",
    usage: Usage | None = None,
    answer: Answer | Failure | None = None,
) -> ModelReplied:
    """The model's answer to the state's inference."""
    return ModelReplied(
        iteration=state.iterations,
        attempt=state.phase.attempt,
        message=Message("assistant", tuple(blocks)),
        stop=stop,
        usage=usage,
        answer=answer,
    )


def reply(state: LoopState, *blocks: Block, **rest: object) -> LoopState:
    """The state after the model answered with these blocks."""
    return step(state, replied(state, blocks, **rest))


def calls(state: LoopState, *names: str) -> LoopState:
    """The state after the model called tools of these names."""
    return reply(state, *uses(*names), stop="tool_use")


def model_fails(
    state: LoopState, kind: str = "throttled", usage: Usage | None = None
) -> LoopState:
    """The state after the inference failed."""
    event = ModelFailed(
        iteration=state.iterations,
        attempt=state.phase.attempt,
        failure=failure(kind),
        usage=usage,
    )
    return step(state, event)


def returned(
    state: LoopState, position: int, *content: Content, is_error: bool = False
) -> LoopState:
    """The state after the call at a position of the turn returned."""
    key = f"{state.iterations}.{position}"
    content = content or (Text(f"result {position}"),)
    return step(state, ToolReturned(key, content, is_error))


def tool_fails(
    state: LoopState, position: int, kind: str = "mcp_server", **rest: object
) -> LoopState:
    """The state after the call at a position of the turn failed."""
    key = f"{state.iterations}.{position}"
    call = next(call for call in state.phase.calls if call.key == key)
    return step(state, ToolFailed(key, call.attempt, failure(kind, **rest)))


def window(state: LoopState) -> list[str]:
    """The keys of the calls that may be running."""
    command = next_command(state)
    assert isinstance(command, CallTools)
    return [call.key for call in command.window]


def failed_as(state: LoopState) -> str:
    """The error type of a run that has failed."""
    assert isinstance(state.phase, Finished)
    assert isinstance(state.phase.outcome, Failed)
    return state.phase.outcome.type


def answers(state: LoopState) -> list[tuple[str, bool, str]]:
    """Id, error flag and text of every result in the last message."""
    return [
        (result.tool_use_id, result.is_error, result.content[0].text)
        for result in state.log[-1].content
    ]
