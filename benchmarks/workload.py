"""The work that is measured: a lean model, one validated tool, and one run of N turns.

A run of N is N model calls: N - 1 turns with one tool call each, then a text. The
model costs as little as a model can, so that what is measured is the loop around it.
"""

from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from attrs import evolve

from agentloop import AgentLoop, FunctionTools, Scope, tool
from agentloop.core.config import Config, ToolChoice
from agentloop.core.content import Message, Text, ToolUse
from agentloop.core.phases import Infer, LoopState, ModelReplied, StopReason
from agentloop.core.run import Usage
from agentloop.ports import (
    AttemptReport,
    ClaimRequest,
    DeltaSink,
    Inference,
    JobContext,
    SessionSetup,
    Store,
)
from agentloop.runtime.desk import Desk
from agentloop.runtime.drive import drive
from agentloop.runtime.hub import Hub
from agentloop.runtime.mailbox import Mailbox
from agentloop.runtime.options import Options
from agentloop.runtime.prepare import Drive, Resources, prepare
from agentloop.runtime.runner import DRIVER, desk_for
from agentloop.runtime.service import Service
from agentloop.runtime.system import RandomIds, SystemClock
from agentloop.stores.memory import MemoryStore

SCOPE = Scope(1, 407)
QUESTION = "Which slots are free on Friday?"
ANSWER = "Room 3 is free at ten."
TOOL_NAME = "rooms-free_slots"

NO_POOL: Executor = ThreadPoolExecutor(1)  # lone effects run on this thread
_USAGE = Usage(prompt_tokens=100, completion_tokens=20)
_NOTHING_TO_REPORT = AttemptReport()
_LOOKING = Text("Let me look.")
_ANSWERED = (Text(ANSWER),)


@tool(inline=True)
def free_slots(day: str, room: int, limit: int = 5) -> str:
    """Free slots of a room on a day."""
    return f"{day} {room}: 10:00, 14:00"[: 40 + limit]


class LeanModel:
    """A backend whose sessions call the tool N - 1 times and then answer."""

    name = "lean"

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def check(self, config: Config, tool_choice: ToolChoice) -> None:
        """Accept every config."""

    def session(self, setup: SessionSetup) -> "LeanSession":
        """A session that counts its own calls."""
        return LeanSession(self.turns)


class LeanSession:
    """One run's model: says a text and calls a tool, and at last only says a text."""

    def __init__(self, turns: int) -> None:
        self._turns = turns

    def infer(
        self, command: Infer, job: JobContext, on_delta: DeltaSink | None
    ) -> Inference:
        """Answer at once; nothing of the history is read."""
        number = command.iteration
        last = number >= self._turns
        content: tuple[Text | ToolUse, ...] = (
            _ANSWERED
            if last
            else (
                _LOOKING,
                ToolUse(f"t{number}", TOOL_NAME, {"day": "Friday", "room": number}),
            )
        )
        message = Message("assistant", content)
        stop: StopReason = "end_turn" if last else "tool_use"
        replied = ModelReplied(number, command.attempt, message, stop, _USAGE)
        return Inference(replied, _NOTHING_TO_REPORT)

    def request(self, command: Infer, job: JobContext) -> bytes:
        """There is no body."""
        return b"{}"


class NoJournal:
    """A journal that stores nothing, as an engine's is."""

    cancelled = False

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def keep_setup_once(self, drive: Drive) -> None:
        """Forget it."""

    def keep(self, row: Any) -> None:
        """Forget it."""

    def commit(self, state: LoopState, told: Any) -> bool:
        """Nothing is stored, nobody cancels."""
        return False

    def finish(self, state: LoopState, told: Any) -> Any:
        """The state itself stands for the row."""
        return state


class Bench:
    """A store, a tool and a model of `turns` turns, ready to start runs."""

    def __init__(self, turns: int, store: Store | None = None) -> None:
        self.turns = turns
        self.store: Store = store or MemoryStore()
        self.resources = Resources(
            store=self.store,
            choose_backend=lambda _: LeanModel(turns),
            servers={"rooms": FunctionTools([free_slots])},
            directory=None,
            options=Options(),
        )
        self._clock = SystemClock()
        self._service = Service(self.resources, RandomIds())

    def loop(self) -> AgentLoop:
        """The public face over the same things."""
        model = LeanModel(self.turns)
        return AgentLoop(model, self.store, {"rooms": [free_slots]})

    def desk(self, *, kept: bool) -> Desk:
        """A claimed run of `turns` turns, nothing of it done yet."""
        conversation = self._service.create_conversation(CONVERSATION, SCOPE)
        body = {
            "client_op_id": RandomIds().new(),
            "expected_version": 0,
            "payload": {"kind": "user_message", "text": QUESTION},
        }
        run, _ = self._service.start_run(conversation.id, body, SCOPE)
        claim = self.store.claim(
            ClaimRequest(driver=DRIVER, lease_seconds=3600.0, run_id=run.id)
        )
        if claim is None:
            raise AssertionError("a fresh run is due")
        ready = prepare(claim, self.resources)
        plan = evolve(ready.state.plan, max_iterations=self.turns)
        ready.state = evolve(ready.state, plan=plan)
        desk = desk_for(claim, ready, self.resources, Hub(None), self._clock)
        if not kept:
            desk.journal = NoJournal(run.id)  # type: ignore[assignment]
        return desk


CONVERSATION = {"defaults": {"model": "lean", "mcp_servers": [{"alias": "rooms"}]}}


def drive_to_end(desk: Desk) -> None:
    """What is measured: every command of a run, on this thread."""
    drive(desk, Mailbox(), NO_POOL)
    if len(desk.state.log) != 2 * desk.state.iterations:
        raise AssertionError("N model calls and N - 1 tool calls leave 2 N messages")
