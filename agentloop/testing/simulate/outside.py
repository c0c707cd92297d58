"""The world outside the loop: a model, tools and a directory, drawn from chance.

They know nothing of stores and leases. What they did is kept as it really was, so
that a witness can compare it with what the store says.
"""

from collections import Counter
from collections.abc import Callable
from math import inf

from attrs import define, field

from agentloop.core.catalog import Failure, FailureKind, RequestError
from agentloop.core.config import Config, McpServer, ToolChoice, ToolSpec
from agentloop.core.content import Block, Message, Text, ToolUse
from agentloop.core.phases import Infer, ModelFailed, ModelReplied, StopReason
from agentloop.core.routing import InDoubt, Offer
from agentloop.core.run import Scope, Usage
from agentloop.ports import (
    AttemptReport,
    DeltaSink,
    Inference,
    JobContext,
    SessionSetup,
    ToolAnswer,
    ToolCall,
    ToolServer,
)
from agentloop.testing.simulate.bounds import LASTING, PASSING
from agentloop.testing.simulate.chance import Chance
from agentloop.testing.simulate.ledger import CANARY, require

POLICIES: dict[str, InDoubt] = {"look": "repeat", "book": "tell", "pay": "fail"}
_SCHEMA = {"type": "object"}
_OFFERS = tuple(
    Offer(ToolSpec(name=name, input_schema=_SCHEMA), policy)
    for name, policy in POLICIES.items()
)


@define
class Deeds:
    """What really happened out there."""

    spent: dict[tuple[str, int], Usage | None] = field(factory=dict)
    executed: Counter[str] = field(factory=Counter)
    policies: dict[str, InDoubt] = field(factory=dict)


class Model:
    """A backend whose every answer is drawn."""

    name = "simulated"

    def __init__(
        self, chance: Chance, deeds: Deeds, rest: Callable[[float], object]
    ) -> None:
        self._chance = chance
        self._deeds = deeds
        self._rest = rest

    def check(self, config: Config, tool_choice: ToolChoice) -> None:
        """Accept every config."""

    def session(self, setup: SessionSetup) -> "Model":  # noqa: ARG002 # the port's
        """One session serves all, because nothing is kept."""
        return self

    def request(self, command: Infer, job: JobContext) -> bytes:  # noqa: ARG002 # the port's
        """An empty object is sent."""
        return b"{}"

    def infer(
        self,
        command: Infer,
        job: JobContext,
        on_delta: DeltaSink | None,  # noqa: ARG002 # the port's
    ) -> Inference:
        """Answer, fail, or answer so that nobody hears it."""
        chance = self._chance
        self._deeds.spent[job.job_id, command.attempt] = None
        self._remember(job, command.attempt)
        usage = None
        if chance.often(0.8):
            usage = Usage(prompt_tokens=chance.number(1, 99), completion_tokens=3)
        place = (job.job_id, command.attempt)
        if chance.hit("answer", "lost reply"):
            self._deeds.spent[place] = None
            return _failed(command, "connection", None)
        if chance.hit("answer", "raised"):
            raise RuntimeError(f"401 for {CANARY}")
        if chance.hit("answer", "hung"):
            self._rest(job.timeout or inf)
            return _failed(command, "timeout", None)
        self._deeds.spent[place] = usage
        roll = chance.below(1.0)
        if roll < 0.12:
            hint = chance.below(20.0) if roll < 0.04 else 0.0
            return _failed(command, chance.pick(PASSING), usage, hint)
        if roll < 0.14:
            return _failed(command, chance.pick(LASTING), usage)
        return self._replied(command, usage)

    def _remember(self, job: JobContext, attempt: int) -> None:
        """Keep an id of its own now and then; what was kept comes from this job."""
        left = job.remembered
        own = left is None or left.startswith(f"{job.job_id} ")
        require(own, 13, f"{job.job_id} was handed what {left} left")
        if job.remember is not None and self._chance.often(0.25):
            job.remember(f"{job.job_id} {attempt}")

    def _replied(self, command: Infer, usage: Usage | None) -> Inference:
        content, stop = self._turn()
        event = ModelReplied(
            iteration=command.iteration,
            attempt=command.attempt,
            message=Message("assistant", content),
            stop=stop,
            usage=usage,
        )
        return Inference(event, AttemptReport())

    def _turn(self) -> tuple[tuple[Block, ...], StopReason]:
        chance = self._chance
        roll = chance.below(1.0)
        if roll < 0.25:
            return (Text("done"),), "end_turn"
        if roll < 0.27:
            return (Text("cut"),), "max_tokens"
        names = [f"rooms-{chance.pick(tuple(POLICIES))}"]
        while len(names) < 4 and chance.often(0.45):
            names.append(f"rooms-{chance.pick(tuple(POLICIES))}")
        if chance.often(0.12):
            names.append("user-confirm")
        if chance.often(0.04):
            names.append("rooms-nothing")
        uses = tuple(ToolUse(f"u{i}", name, {}) for i, name in enumerate(names))
        return uses, "tool_use"


class Tools:
    """A server of three tools, one of each policy for calls in doubt."""

    def __init__(
        self,
        chance: Chance,
        deeds: Deeds,
        rest: Callable[[float], object],
        *,
        asks: bool,
    ) -> None:
        self._chance = chance
        self._deeds = deeds
        self._rest = rest
        self._asks = asks

    def declared(self) -> tuple[Offer, ...] | None:
        """The catalog, unless this server wants to be asked."""
        return None if self._asks else _OFFERS

    def discover(self, timeout: float) -> tuple[Offer, ...] | Failure:  # noqa: ARG002 # the port's
        """The catalog, or now and then nothing yet."""
        if self._chance.often(0.1):
            return Failure(kind="discovery_unavailable", message="not now")
        return _OFFERS

    def call(self, call: ToolCall) -> ToolAnswer | Failure:
        """Do it; the answer may be lost, and some calls are never taken on."""
        chance = self._chance
        if chance.often(0.06):
            return Failure(kind="mcp_server", message="not taken on")
        self._deeds.policies[call.effect_key] = POLICIES[call.name]
        self._deeds.executed[call.effect_key] += 1
        times = self._deeds.executed[call.effect_key]
        once = times == 1 or POLICIES[call.name] == "repeat"
        require(once, 9, f"call {call.effect_key} ran {times} times")
        if chance.hit("answer", "raised"):
            raise RuntimeError(f"401 for {CANARY}")
        if chance.hit("answer", "hung"):
            self._rest(call.timeout or inf)
            return Failure(kind="mcp_timeout", message="no answer in time")
        if chance.hit("answer", "lost result"):
            return Failure(kind="mcp_timeout", message="no answer in time")
        return ToolAnswer((Text("ok"),), is_error=chance.often(0.1))

    def close(self) -> None:
        """Nothing is held."""


class NoDirectory:
    """No server has an address in here."""

    def open(self, server: McpServer, scope: Scope) -> ToolServer:
        """Refuse."""
        raise RequestError(
            "invalid-config", problem=f"no way to {server.url} for {scope}"
        )


def _failed(
    command: Infer, kind: FailureKind, usage: Usage | None, retry_after: float = 0.0
) -> Inference:
    event = ModelFailed(
        iteration=command.iteration,
        attempt=command.attempt,
        failure=Failure(kind=kind, message="simulated", retry_after=retry_after),
        usage=usage,
    )
    return Inference(event, AttemptReport())
