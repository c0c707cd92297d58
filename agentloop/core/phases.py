"""The vocabulary of the machine: its plan, log, phases, commands and events.

Values only; the rules that connect them are in `agentloop.core.machine`. Every
command names the events that answer it. An answer is matched by iteration and
attempt, or by the key of a call, so that a late one can be told from a current.
"""

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from attrs import field

from agentloop.core.catalog import Failure
from agentloop.core.config import Auto, ToolChoice
from agentloop.core.content import Content, Message, ToolResult, ToolUse
from agentloop.core.routing import Routing, ServerRoute
from agentloop.core.run import Usage
from agentloop.core.values import value

StopReason: TypeAlias = Literal[
    "end_turn",
    "tool_use",
    "stop_sequence",
    "max_tokens",
    "content_blocked",
    "context_window",
    "malformed",
    "pause",
    "unknown",
]
"""Why the model stopped, in one vocabulary for all providers. A hint: content
decides what follows (contract section 11)."""


@value(kw_only=True)
class Plan:
    """What the rules need to know of a run; fixed when it starts.

    Attributes:
        max_iterations: how many inferences the run may make.
        tool_choice: for the first iteration, with the tool's wire name.
        servers: aliases to discover before the first inference.
        parallel: how many tool calls may run at once.
        attempts: how often one effect is tried.
        delays: seconds before the second, third ... attempt; the last repeats.
        on_unresolved_call: what a name that resolves to nothing leads to.
        on_invalid_arguments: what refused arguments lead to.
    """

    max_iterations: int
    tool_choice: ToolChoice = field(factory=Auto)
    servers: tuple[str, ...] = ()
    parallel: int = 8
    attempts: int = 5
    delays: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    on_unresolved_call: Literal["fail", "tell_model"] = "fail"
    on_invalid_arguments: Literal["fail", "tell_model"] = "fail"


class Log:
    """The messages of one run: an immutable view over a shared, growing list.

    Appending to the newest view is O(1) and shares the list; appending to an
    older one copies. So a state holds its history by value without copying it.
    `length` is what `len` tells, for those that ask on every turn.
    """

    __slots__ = ("_items", "length")

    def __init__(self, *messages: Message) -> None:
        self._items = list(messages)
        self.length = len(messages)

    def append(self, *messages: Message) -> "Log":
        """A view with more messages at its end."""
        view = Log.__new__(Log)
        items = self._items
        if len(items) != self.length:
            items = items[: self.length]
        items += messages
        view._items = items
        view.length = len(items)
        return view

    def since(self, start: int) -> list[Message]:
        """The messages from position `start` on."""
        return self._items[start : self.length]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Message:
        if not -self.length <= index < self.length:
            raise IndexError(index)
        return self._items[index if index >= 0 else self.length + index]

    def __iter__(self) -> Iterator[Message]:
        return iter(self._items[: self.length])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Log) and self.since(0) == other.since(0)

    __hash__ = None  # type: ignore[assignment] # compared by content, like a list

    def __repr__(self) -> str:
        return f"Log(<{self.length} messages>)"


# ---------------------------------------------------------------- outcomes


@value
class Answer:
    """The final answer, decoded: its text, its structured value, or both."""

    text: str | None = None
    structured: Any = None


@value
class Completed:
    """The model gave its final answer."""

    answer: Answer


@value
class RequiresAction:
    """The caller is asked to answer these calls."""

    pending: tuple[ToolUse, ...]


@value
class Failed:
    """The run ended without an answer; `type` is a catalog type."""

    type: str
    message: str


Outcome: TypeAlias = Completed | RequiresAction | Failed


# ---------------------------------------------------------------- phases


@value
class Discovering:
    """Asking servers for their tools; `delay` seconds pass before the attempt.

    `at_least` is a provider's own hint, which jitter must not undercut.
    """

    attempt: int = 1
    delay: float = 0.0
    at_least: float = 0.0


@value
class Inferring:
    """Waiting for the model."""

    attempt: int = 1
    delay: float = 0.0
    at_least: float = 0.0


@value
class Call:
    """A server call of the current turn, with the attempt that is due."""

    key: str
    use: ToolUse
    route: ServerRoute
    attempt: int = 1
    delay: float = 0.0
    at_least: float = 0.0


@value
class CallingTools:
    """Waiting for server calls.

    `results` answers `calls` position by position, None while one is open.
    `asked` are the caller's calls of the same turn. `told` are results we gave
    ourselves for names that resolve to nothing. Calls from position `barred` on
    are not started any more, because an earlier one failed for good.
    """

    calls: tuple[Call, ...]
    results: tuple[ToolResult | Failure | None, ...]
    asked: tuple[ToolUse, ...] = ()
    told: tuple[ToolResult, ...] = ()
    barred: int | None = None


@value
class Finished:
    """The run has ended."""

    outcome: Outcome


Phase: TypeAlias = Discovering | Inferring | CallingTools | Finished


@value
class LoopState:
    """Everything the loop knows of a run; the next command follows from it.

    `iterations` counts the inferences begun, `log` holds this run's messages.
    """

    plan: Plan
    routing: Routing | None
    phase: Phase
    iterations: int
    log: Log
    usage: Usage


# ---------------------------------------------------------------- commands


@value
class Discover:
    """List the tools of `servers`. Answered by Discovered or DiscoveryFailed."""

    servers: tuple[str, ...]
    attempt: int
    delay: float
    at_least: float


@value
class Infer:
    """Ask the model. Answered by ModelReplied or ModelFailed."""

    iteration: int
    attempt: int
    delay: float
    at_least: float
    tool_choice: ToolChoice
    log: Log


@value
class CallTools:
    """Perform these calls, side by side. Each is answered by its own event."""

    window: tuple[Call, ...]


@value
class Finish:
    """Store the outcome; `keep` says whether the log joins the conversation."""

    outcome: Outcome
    keep: bool


Command: TypeAlias = Discover | Infer | CallTools | Finish


# ---------------------------------------------------------------- events


@value
class Discovered:
    """All servers answered."""

    routing: Routing


@value
class DiscoveryFailed:
    """A server did not answer."""

    attempt: int
    failure: Failure


@value
class ModelReplied:
    """The model answered.

    `answer` is the decoded final answer, or why it does not decode; it is read
    only when the message holds no calls. `usage` is None when not reported.
    """

    iteration: int
    attempt: int
    message: Message
    stop: StopReason
    usage: Usage | None = None
    answer: Answer | Failure | None = None


@value(kw_only=True)
class ModelFailed:
    """The inference failed; `usage` is what the attempt is known to have cost."""

    iteration: int
    attempt: int
    failure: Failure
    usage: Usage | None = None


@value
class ToolReturned:
    """A call returned, with its own failure flagged by `is_error`."""

    key: str
    content: tuple[Content, ...]
    is_error: bool = False


@value
class ToolFailed:
    """A call could not be made or its server broke the protocol."""

    key: str
    attempt: int
    failure: Failure


@value
class CancelRequested:
    """Somebody asked for the run to end."""


@value
class DeadlinePassed:
    """The run's time is up."""


@value
class Recovered:
    """The worker that held the command is gone; another one took over."""


Event: TypeAlias = (
    Discovered
    | DiscoveryFailed
    | ModelReplied
    | ModelFailed
    | ToolReturned
    | ToolFailed
    | CancelRequested
    | DeadlinePassed
    | Recovered
)
