"""One simulation: build a world from a seed, let it live, and judge it."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import cast

from attrs import define, frozen

from agentloop.core.config import ClientTools, Config, ToolSpec
from agentloop.core.request import NewConversation
from agentloop.core.run import Scope
from agentloop.ports import NewConversationRow, Store
from agentloop.runtime.options import Options
from agentloop.runtime.prepare import Resources
from agentloop.runtime.present import conversation_body
from agentloop.runtime.service import Service
from agentloop.stores.memory import MemoryStore
from agentloop.testing.fixed import CountedIds
from agentloop.testing.simulate.actors import Acts, Canceller, Client, Stage, Worker
from agentloop.testing.simulate.bounds import ATTEMPT_TIMEOUT, DELAYS, TOOL_TIMEOUT
from agentloop.testing.simulate.chance import (
    CLASSES,
    Chance,
    Died,
    FaultClass,
    SkewedClock,
    Violation,
    WorldClock,
)
from agentloop.testing.simulate.judge import judge
from agentloop.testing.simulate.keepers import Keeper, Onlooker
from agentloop.testing.simulate.ledger import Shelf
from agentloop.testing.simulate.outside import Deeds, Model, NoDirectory, Tools
from agentloop.testing.simulate.stores import Line
from agentloop.testing.simulate.witness import Witness

LEASE = 30.0

LIMIT = 6000
"""Steps after which a simulation that has not ended never will."""

_IDLE = frozenset({"look", "asking", "watching", "waiting"})
_CLOCK_FAULTS = ("jump", "set", "skew", "frozen")
_LEAPS = (15.0, 15.0, LEASE - 1, LEASE + 1, LEASE + 1, 3600.0, 1e5, 31_536_000.0)


@frozen(kw_only=True)
class Scale:
    """How large a simulation may be: what a seed draws beyond that is left out.

    Attributes:
        workers: how many drive.
        clients: how many start runs.
        keys: how many runs each of them starts.
        storm: steps with faults; afterwards everything must end by itself.
    """

    workers: int = 8
    clients: int = 8
    keys: int = 2
    storm: int = 150


@frozen(kw_only=True)
class Report:
    """What one simulation was; equal for equal seeds, down to the trace.

    `violation` names the broken invariant by its number, None when all held.
    """

    seed: int
    steps: int
    runs: tuple[str, ...]
    faults: tuple[tuple[FaultClass, str, int], ...]
    trace: str
    violation: str | None = None


@define
class Part:
    """An actor on stage: who it is, and where it stands."""

    number: int
    actor: Acts
    clock: SkewedClock
    steps: Iterator[str] | None = None
    acting: bool = False
    over: bool = False
    at: str = ""


class Simulation:
    """One world, from its first step to its last."""

    def __init__(self, chance: Chance, scale: Scale) -> None:
        self.chance = chance
        self.scale = scale
        self.clock = WorldClock()
        self.deeds = Deeds()
        self.parts: list[Part] = []
        self.clients: list[Part] = []
        self.busy = False
        self.steps = 0
        self.nested = 0
        self.store = MemoryStore(self.clock)
        self.options = Options(
            lease=LEASE,
            attempts=chance.number(2, 6),
            delays=DELAYS,
            attempt_timeout=ATTEMPT_TIMEOUT,
            tool_timeout=TOOL_TIMEOUT,
            parallel_tools=chance.number(1, 3),
            pause=lambda delay, at_least: max(delay, at_least),
            on_unresolved_call="tell_model" if chance.often(0.5) else "fail",
        )
        self.most = chance.number(2, 6)
        self.run_timeout = 300.0 if chance.often(0.15) else None
        self.witness = Witness(self.store, self.clock, self.options.attempts)
        self.stage = Stage(chance, self.clock, self.witness, self._others)
        rest = self.clock.rest
        self.models = {"simulated": Model(chance, self.deeds, rest)}
        self.tools = Tools(chance, self.deeds, rest, asks=chance.often(0.2))
        self.ids = CountedIds()
        self._cast()

    # ------------------------------------------------------------ the cast

    def _cast(self) -> None:
        chance, crowd = self.chance, self.chance.allows("crowd")
        throng = chance.often(0.1)
        workers = chance.number(2, 8) if throng else chance.number(1, 4)
        clients = chance.number(2, 8) if throng else chance.number(1, 3)
        shelves = [self._conversation(chance.number(1, 2)) for _ in range(2)]
        keys = [self.ids.new() for _ in range(3)]
        for _ in range(min(workers, self.scale.workers) if crowd else 1):
            self._join(self._worker())
        for _ in range(min(clients, self.scale.clients) if crowd else 1):
            mine = min(chance.number(1, 2), self.scale.keys)
            start = chance.number(0, 3 - mine)
            self._join(self._client(*chance.pick(shelves), keys[start : start + mine]))
        if crowd and chance.often(0.5):
            resources = self._resources()
            self._join(Canceller(self.stage, resources.store, self._worker()))
        if crowd and chance.often(0.5):
            scope = Scope(chance.number(1, 2), 1)
            self._join(Onlooker(self.stage, self._service(), scope))
        if chance.allows("removal") and chance.often(0.3):
            self._join(Keeper(self.stage, self._service()))

    def _conversation(self, company: int) -> tuple[str, Scope]:
        scope = Scope(company, 1)
        row = self.store.create_conversation(
            NewConversationRow(
                id=self.ids.new(),
                company_id=scope.company_id,
                user_id=scope.user_id,
                body=_conversation_body(self.most),
            )
        )
        self.witness.shelves[row.id] = Shelf(company)
        return row.id, scope

    def _resources(self) -> Resources:
        line = Line(self.store, self.witness, self.chance, self._meanwhile)
        return Resources(
            store=cast(Store, line),  # it passes on every call it is given
            choose_backend=self._backend,
            servers={"rooms": self.tools},
            directory=NoDirectory(),
            options=self.options,
        )

    def _backend(self, config: Config) -> Model:
        return self.models[config.model]

    def _worker(self) -> Worker:
        clock = SkewedClock(self.clock)
        return Worker(self.stage, self._resources(), clock, self.run_timeout)

    def _client(self, conversation: str, scope: Scope, keys: list[str]) -> Client:
        return Client(self.stage, self._service(), scope, conversation, keys)

    def _service(self) -> Service:
        return Service(self._resources(), self.ids)

    def _join(self, actor: Acts) -> None:
        clock = actor.clock if isinstance(actor, Worker) else SkewedClock(self.clock)
        part = Part(len(self.parts), actor, clock)
        self.parts.append(part)
        if isinstance(actor, Client):
            self.clients.append(part)

    # ------------------------------------------------------------ the play

    def play(self) -> None:
        """Step until everything has ended.

        Raises:
            Violation: an invariant did not hold.
        """
        while not self._ended():
            self.steps += 1
            if self.steps == self.scale.storm:
                self._calm()
            if self.steps > LIMIT:
                raise Violation("invariant 19: it never ended")
            self._time()
            self._go_on()
        judge(self.witness, self.store, self.deeds, self.most)

    def _ended(self) -> bool:
        if self.witness.open:
            return False
        return all(client.over for client in self.clients)

    def _calm(self) -> None:
        self.chance.calm_down()
        for part in self.parts:
            part.clock.go_at(1.0)

    def _time(self) -> None:
        """Time passes; now and then by leaps, and not for everybody."""
        chance, clock = self.chance, self.clock
        clock.passed += chance.below(1.0 if self.busy else 20.0)
        kind = chance.one_of("clock", _CLOCK_FAULTS)
        if kind is None:
            return
        part = chance.pick(self.parts)
        if kind == "jump":
            clock.passed += chance.pick(_LEAPS)
        elif kind == "set":
            clock.set_by += chance.pick((-31_536_000.0, -3600.0, -LEASE, 3600.0))
        elif kind == "skew":
            part.clock.go_at(chance.pick((0.5, 0.9, 1.1, 4.0)))
        else:
            thawed = part.clock.frozen is not None
            part.clock.frozen = None if thawed else part.clock.monotonic()

    def _others(self) -> None:
        """Let time pass and others go on while a driver waits."""
        if self.nested < 2:
            self._time()
            self._meanwhile(0.6)

    def _meanwhile(self, probability: float = 0.15) -> None:
        """Let others go on while a call is on its way to the store."""
        if self.nested < 2 and self.chance.often(probability):
            self.nested += 1
            try:
                self._go_on()
            finally:
                self.nested -= 1

    def _go_on(self) -> None:
        able = self._able()
        if not able:
            return
        part = self.chance.pick(able)
        part.acting = True
        try:
            where = self._step(part)
        except Died:
            part.steps, where = None, "died"
        finally:
            part.acting = False
        part.at = where
        self.chance.note(f"{part.number} {where} {self.clock.passed!r}")

    def _able(self) -> list[Part]:
        """Who may go on: mostly whoever has something to do."""
        free = [part for part in self.parts if not part.acting and not part.over]
        busy = [part for part in free if part.at not in _IDLE]
        self.busy = bool(busy)
        if busy and self.chance.often(0.85):
            return busy
        if self.chance.often(0.2):
            return free  # somebody may look or ask in vain
        return [p for p in free if p.at not in _IDLE or p.actor.wakes(p.at)]

    def _step(self, part: Part) -> str:
        if part.steps is None:
            part.steps = iter(part.actor.steps())
        elif self.chance.hit("crash", "at a boundary"):
            raise Died
        where = next(part.steps, None)
        part.over = where is None
        return where or "over"


@cache  # a handful of texts, which no simulation changes
def _conversation_body(most: int) -> str:
    """What a service stores for a conversation with a limit of iterations."""
    tools = ToolSpec(name="confirm", input_schema={"type": "object"})
    config = Config(
        model="simulated",
        max_iterations=most,
        client_tools=(ClientTools(alias="user", tools=(tools,)),),
    )
    return conversation_body(NewConversation(defaults=config))


def simulate(
    seed: int,
    classes: Sequence[FaultClass] = CLASSES,
    tell: Callable[[str], object] | None = None,
    scale: Scale = Scale(),
) -> Report:
    """Live through everything a seed holds, with some classes of faults.

    `tell` hears every line of the trace. A smaller `scale` leaves the world as the
    seed has it, and lets fewer take part for a shorter while.
    """
    chance = Chance(seed, classes)
    if tell is not None:
        chance.tell_also(tell)
    simulation = Simulation(chance, scale)
    violation = None
    try:
        simulation.play()
    except Violation as found:
        violation = str(found)
    ledgers = simulation.witness.runs.values()
    faults = sorted(chance.faults.items())
    return Report(
        seed=seed,
        steps=simulation.steps,
        runs=tuple("removed" if each.gone else each.status for each in ledgers),
        faults=tuple((class_, kind, n) for (class_, kind), n in faults),
        trace=chance.digest,
        violation=violation,
    )
