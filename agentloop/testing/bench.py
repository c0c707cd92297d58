"""`Bench`: a loop to test agent behaviour with, without network, ids or time."""

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from agentloop.core.run import Conversation, Run, RunEvent, Scope, StoredMessage
from agentloop.ports import Clock, Ids
from agentloop.runtime.face import AgentLoop
from agentloop.stores.memory import MemoryStore
from agentloop.testing.scripted import Scripted, ScriptedBackend

Tools = Mapping[str, Iterable[Callable[..., Any]] | Any]


class Bench:
    """A loop over a script and a memory store; retries do not wait.

    `script` sets what the model says, `tools` which host tools there are. `run`
    and `resume` drive runs of one conversation; `events` and `waits` keep what
    happened.
    """

    scope = Scope(1, 407)

    def __init__(self, ids: Ids, clock: Clock) -> None:
        self.backend = ScriptedBackend()
        self.store = MemoryStore(clock=clock)
        self.events: list[RunEvent] = []
        self.waits: list[float] = []
        self._ids = ids
        self._clock = clock
        self._tools: Tools = {}
        self._choices: dict[str, Any] = {}
        self._loop: AgentLoop | None = None
        self._conversation: Conversation | None = None

    def script(self, *replies: Scripted) -> None:
        """Add to what the model will say."""
        self.backend.add(*replies)

    def tools(self, **by_alias: Any) -> None:
        """Register host tools by alias; before the first run."""
        self._tools = by_alias

    def options(self, **choices: Any) -> None:
        """Set options of the loop; before the first run."""
        self._choices = choices

    @property
    def loop(self) -> AgentLoop:
        """The loop, made when it is first used."""
        if self._loop is None:
            self._loop = AgentLoop(
                self.backend,
                self.store,
                self._tools,
                ids=self._ids,
                clock=self._clock,
                observer=lambda _, event: self.events.append(event),
                **{"pause": self._pause, **self._choices},
            )
        return self._loop

    def converse(self, **defaults: Any) -> Conversation:
        """Begin a conversation; its defaults need no model."""
        defaults.setdefault("model", "scripted")
        self._conversation = self.loop.create_conversation(
            defaults=defaults, scope=self.scope
        )
        return self._conversation

    @property
    def conversation(self) -> Conversation:
        """The conversation under test, with default settings unless begun."""
        return self._conversation or self.converse()

    def run(self, payload: Any, **start: Any) -> Run:
        """Drive a run to its end."""
        return self.loop.run(self.conversation.id, payload, scope=self.scope, **start)

    def resume(self, run: Run, outputs: Mapping[str, Any], **start: Any) -> Run:
        """Answer the calls a run paused on, and drive the next."""
        return self.loop.resume(run, outputs, scope=self.scope, **start)

    @property
    def messages(self) -> tuple[StoredMessage, ...]:
        """The messages of the conversation."""
        return self.loop.messages(self.conversation.id, scope=self.scope).messages

    def _pause(self, delay: float, at_least: float) -> float:
        self.waits.append(max(delay, at_least))
        return 0.0

    def __enter__(self) -> "Bench":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._loop is not None:
            self._loop.close()
