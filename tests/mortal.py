"""Workers that die wherever they are told to, and worlds in which runs outlive them.

A worker passes places: before and after each commit and each effect. At the chosen
place it dies for good: from then on every thread of it dies at the next place it
passes, as the threads of a killed process would. The next worker of the world is
another loop over the same store, once the lease of the dead one has run out.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from agentloop import AgentLoop, Scope
from agentloop.core.catalog import Failure
from agentloop.core.config import ToolSpec
from agentloop.core.content import Message, Text, ToolResult
from agentloop.core.history import problems
from agentloop.core.machine import next_command
from agentloop.core.phases import Finish
from agentloop.core.routing import InDoubt, Offer
from agentloop.ports import Reader, RunRef, ToolAnswer, ToolCall, effect_key
from agentloop.testing.fixed import CountedIds, HandClock
from agentloop.testing.scripted import Reply, ScriptedBackend, Seen
from agentloop.wire.standing import Standing, standing_from, standing_text
from tests.faces import DEFAULTS, FACES, SCOPE, opened_store

COMMITS = ("claim", "checkpoint", "finalize")
ROUNDS_COMMITS = (*COMMITS, "release")
LEASE = 30.0


class Died(BaseException):
    """The worker is gone: nothing that catches errors may catch this."""


class Life:
    """One worker's way through its places, which ends at one of them, or never."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.places: list[str] = []
        self._dies_at = dies_at
        self._dead = False
        self._lock = threading.Lock()

    def pass_by(self, place: str) -> None:
        """Pass a place alive, or die there."""
        with self._lock:
            if not self._dead:
                self.places.append(place)
                self._dead = len(self.places) == self._dies_at
            if self._dead:
                raise Died(place)


class MortalStore:
    """A store as a mortal worker sees it; the dead neither write nor give back."""

    def __init__(self, store: Any, life: Life, commits: tuple[str, ...]) -> None:
        self._store = store
        self._life = life
        self._commits = commits

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in self._commits:
            dead = name in {"release", "heartbeat"}
            return (lambda *_: False) if dead else found

        def call(*args: Any) -> Any:
            self._life.pass_by(f"before {name}")
            answer = found(*args)
            self._life.pass_by(f"after {name}")
            return answer

        return call


class Unheard:
    """An engine that is told of runs, and leaves them to whoever plays the recipe."""

    name = "rounds"

    def start(self, run: RunRef) -> None:
        """The run is played when it is waited for."""

    def cancel(self, run: RunRef) -> None:
        """Its next round sees the flag."""


class Engined:
    """A loop whose runs are driven round by round, by an engine that remembers.

    What a round answers is recorded after it; a worker that dies in between leaves the
    engine with what was recorded before, and the next one repeats the round.
    """

    def __init__(self, world: "World", life: Life, *parts: Any, **choices: Any) -> None:
        self._records = world.records
        self._life = life
        self._loop = AgentLoop(*parts, engine=Unheard(), **choices)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def wait(self, run_id: str, *, scope: Scope) -> Any:
        """The recipe of `agentloop.runtime.rounds`."""
        rounds = self._loop.rounds(Unheard.name)
        run = RunRef(run_id, scope.company_id)
        if run_id not in self._records:
            self._record(run_id, rounds.begin(run))
        while True:
            standing = standing_from(self._records[run_id])
            if isinstance(next_command(standing.state), Finish):
                return self._loop.get_run(run_id, scope=scope)
            self._record(run_id, rounds.go_on(run, standing))

    def _record(self, run_id: str, standing: Standing) -> None:
        self._life.pass_by("before record")
        self._records[run_id] = standing_text(standing)
        self._life.pass_by("after record")

    def run(self, *given: Any, scope: Scope) -> Any:
        """Start a run and drive it."""
        run = self._loop.start_run(*given, scope=scope)
        return self.wait(run.id, scope=scope)

    def __enter__(self) -> "Engined":
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.close()


@frozen
class Flow:
    """What the model and the tools do in a run, as functions of what they see.

    Where effects run `side_by_side`, how many commits there are depends on threads.
    """

    model: Callable[[Seen], Reply]
    tool: Callable[[ToolCall, int], ToolAnswer | Failure] = lambda call, nth: (
        ToolAnswer((Text(f"booked {call.arguments.get('n', 0)}"),))
    )
    config: dict[str, Any] = field(factory=dict)
    discovers: bool = False
    side_by_side: bool = False


class MortalTools:
    """The tools of one worker; the world keeps what they did."""

    def __init__(self, world: "World", flow: Flow, life: Life) -> None:
        self._world = world
        self._flow = flow
        self._life = life

    def declared(self) -> tuple[Offer, ...] | None:
        return None if self._flow.discovers else self._offers()

    def _offers(self) -> tuple[Offer, ...]:
        spec = ToolSpec(name="book", input_schema={"type": "object"})
        return (Offer(spec, self._world.in_doubt),)

    def discover(self, timeout: float) -> tuple[Offer, ...] | Failure:
        self._life.pass_by("before discovery")
        asked = self._world.asked()
        self._life.pass_by("after discovery")
        if asked == 1:
            return Failure(kind="discovery_unavailable", message="starting up")
        return self._offers()

    def call(self, call: ToolCall) -> ToolAnswer | Failure:
        self._life.pass_by("before tool")
        nth = self._world.called(call)
        answer = self._flow.tool(call, nth)
        self._life.pass_by("after tool")
        return answer

    def close(self) -> None:
        return None


@define
class Record:
    """What effects happened in one run, whoever performed them."""

    inferences: list[tuple[str, int]] = field(factory=list)
    calls: Counter[str] = field(factory=Counter)
    discoveries: int = 0


@frozen
class Report:
    """What is stored of a run that ended, and what was done for it."""

    run: Any
    log: tuple[Message, ...]
    jobs: tuple[Any, ...]
    events: tuple[Any, ...]
    record: Record

    @property
    def unknown(self) -> int:
        """How many calls the model was told to be of unknown outcome."""
        return sum(map(is_unknown, self.blocks))

    @property
    def blocks(self) -> tuple[Any, ...]:
        return tuple(block for message in self.log for block in message.content)


def is_unknown(block: Any) -> bool:
    """Whether a block says that a call's outcome is unknown."""
    if not (isinstance(block, ToolResult) and block.is_error):
        return False
    return "outcome is unknown" in block.content[0].text


class World:
    """One store, and as many workers as a run takes."""

    def __init__(self, face: str, store: Any, clock: HandClock) -> None:
        self.store = store
        self.clock = clock
        self.in_doubt: InDoubt = "tell"
        self.record = Record()
        self.records: dict[str, str] = {}
        self._face = face
        self._ids = CountedIds()
        self._lock = threading.Lock()

    # ------------------------------------------------------------ what effects note

    def asked(self) -> int:
        """Note a discovery; its number."""
        self.record.discoveries += 1
        return self.record.discoveries

    def called(self, call: ToolCall) -> int:
        """Note a call, which must stand in the store by now; its number."""
        with self._lock:
            self.record.calls[call.effect_key] += 1
            nth = self.record.calls[call.effect_key]
        said = "".join(self.store.run_messages(call.run_id))
        assert call.tool_use_id in said, "a call was made that no commit announced"
        return nth

    def _inferred(self, seen: Seen) -> None:
        self.record.inferences.append((seen.job_id, seen.attempt))
        found = self.store.get_job(Reader(SCOPE.company_id), seen.job_id)
        assert found is not None, "an inference was made that no commit announced"

    # ------------------------------------------------------------ workers

    def loop(self, flow: Flow, life: Life) -> Any:
        """Another worker's loop over the store."""

        def model(seen: Seen) -> Reply:
            life.pass_by("before model")
            self._inferred(seen)
            reply = flow.model(seen)
            life.pass_by("after model")
            return reply

        rounds = self._face == "rounds"
        face: Any = partial(Engined, self, life) if rounds else FACES[self._face]
        commits = ROUNDS_COMMITS if rounds else COMMITS
        return face(
            ScriptedBackend(forever=model),
            MortalStore(self.store, life, commits),
            {"rooms": MortalTools(self, flow, life)},
            ids=self._ids,
            clock=self.clock,
            lease=LEASE,
            pause=lambda delay, at_least: 0.0,
        )

    def play(self, flow: Flow, *deaths: int) -> tuple[Report, list[str]]:
        """Play a flow to its end through some deaths, the last worker living.

        Each death is a place of a worker of its own. Returns the report, and the
        places that the last worker passed.
        """
        self.record = Record()
        with self.loop(flow, Life()) as loop:
            defaults = {**DEFAULTS, "max_iterations": 3, **flow.config}
            made = loop.create_conversation(defaults=defaults, scope=SCOPE)
            run = loop.start_run(made.id, "go", scope=SCOPE)
        for death in deaths:
            self._die(flow, Life(death), run.id)
        life = Life()
        with self.loop(flow, life) as loop:
            ended = loop.wait(run.id, scope=SCOPE)
            return self._report(loop, ended), life.places

    def _die(self, flow: Flow, life: Life, run_id: str) -> None:
        with self.loop(flow, life) as loop:
            try:
                loop.wait(run_id, scope=SCOPE)
            except Died:
                self.clock.move(2 * LEASE)
                return
        assert flow.side_by_side, f"the worker outlived its places: {life.places}"

    def _report(self, loop: Any, run: Any) -> Report:
        delta = loop.messages(run.conversation_id, scope=SCOPE)
        numbers = [message.sequence_no for message in delta.messages]
        assert numbers == list(range(1, delta.current_version + 1))
        return Report(
            run=run,
            log=tuple(Message(m.role, m.content_blocks) for m in delta.messages),
            jobs=tuple(loop.list_jobs(run.id, scope=SCOPE)),
            events=tuple(loop.events(run.id, scope=SCOPE)),
            record=self.record,
        )


@contextmanager
def opened_world(face: str, kind: str, folder: Path) -> Iterator[World]:
    """A world of one face over one kind of store."""
    clock = HandClock()
    with opened_store(kind, folder, clock) as store:
        yield World(face, store, clock)


# ---------------------------------------------------------------- what must hold


def check_sound(report: Report) -> None:
    """What must hold of every run that ended, however many workers died."""
    run = report.run
    assert run.terminal
    assert problems(report.log) == []
    ids = [event.id for event in report.events]
    assert ids == list(range(1, len(ids) + 1))
    kinds = [event.kind for event in report.events]
    assert kinds.count("terminal") == 1
    assert kinds[-1] == "terminal"
    _check_jobs(report)
    _check_usage(report)
    _check_effects(report)


def _check_jobs(report: Report) -> None:
    run, jobs = report.run, report.jobs
    assert run.iterations_used == len(run.submitted_inference_job_ids)
    assert run.submitted_inference_job_ids == tuple(job.id for job in jobs)
    for job in jobs:
        assert job.request is not None
        assert job.request_verified in {True, None}
        numbers = [attempt.number for attempt in job.attempts]
        assert numbers == list(range(1, len(numbers) + 1))
        ok = [attempt.outcome == "ok" for attempt in job.attempts]
        assert not any(ok[:-1])
        assert (job.status == "completed") is any(ok)
        assert (job.response is not None) is any(ok)


def _check_usage(report: Report) -> None:
    attempts = [attempt for job in report.jobs for attempt in job.attempts]
    told = [attempt.usage for attempt in attempts if attempt.usage is not None]
    usage = report.run.usage
    assert usage.prompt_tokens == sum(each.prompt_tokens for each in told)
    assert usage.completion_tokens == sum(each.completion_tokens for each in told)
    assert usage.attempts_without_usage == len(attempts) - len(told)


def _check_effects(report: Report) -> None:
    """No attempt is made twice, and none that is not in the books."""
    made = report.record.inferences
    assert len(made) == len(set(made))
    booked = {(job.id, a.number) for job in report.jobs for a in job.attempts}
    assert set(made) <= booked
    uses = {
        effect_key(report.run.id, f"{iteration}.{position}")
        for iteration, message in enumerate(_turns(report), start=1)
        for position, _ in enumerate(message.content)
    }
    assert set(report.record.calls) <= uses


def _turns(report: Report) -> list[Message]:
    return [message for message in report.log if message.role == "assistant"]


def check_same(report: Report, calm: Report, deaths: int) -> None:
    """The run ended as it would have, but for outcomes that are truly unknown."""
    tries = max(calm.record.calls.values(), default=0)
    assert all(made <= tries for made in report.record.calls.values())
    assert len(report.log) == len(calm.log)
    for here, there in zip(report.log, calm.log, strict=True):
        assert here.role == there.role
        for mine, its in zip(here.content, there.content, strict=True):
            assert mine == its or is_unknown(mine)
    assert report.unknown <= deaths * 2
    for name in ("status", "final_text", "final_structured_output", "error"):
        assert getattr(report.run, name) == getattr(calm.run, name)
    assert report.run.pending_tool_calls == calm.run.pending_tool_calls
    assert report.run.iterations_used == calm.run.iterations_used
    lost = [a for job in report.jobs for a in job.attempts if a.outcome == "lost"]
    assert len(lost) <= deaths
    extra = report.run.usage.attempts_without_usage
    assert extra <= calm.run.usage.attempts_without_usage + len(lost)
    assert report.run.usage.total_tokens == calm.run.usage.total_tokens
