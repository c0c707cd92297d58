"""Crash-exact runs: a worker may die at any commit or effect, and nothing is lost.

Every scripted flow is first played without a crash. Then it is played again for
every place where a worker can die: before or after each commit, before or after
each effect, and for every pair of such places. Another loop over the same store
takes over. What is stored must be what it would have been, but for what an attempt
that was lost costs; no call that may not be repeated runs twice.
"""

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from agentloop import AgentLoop
from agentloop.core.catalog import Failure
from agentloop.core.config import ToolSpec
from agentloop.core.content import Message, Text
from agentloop.core.history import problems
from agentloop.core.routing import Offer
from agentloop.ports import ToolAnswer, ToolCall
from agentloop.testing.fixed import CountedIds, HandClock
from agentloop.testing.scripted import (
    Reply,
    ScriptedBackend,
    Seen,
    calls,
    fails,
    says,
)
from tests.faces import DEFAULTS, SCOPE, opened_store


class Died(BaseException):
    """The worker is gone: nothing that catches errors may catch this."""


class Fate:
    """Counts the places a worker passes, and kills it at the chosen ones."""

    def __init__(self, *deaths: int) -> None:
        self.places: list[str] = []
        self._deaths = set(deaths)

    @property
    def passed(self) -> int:
        return len(self.places)

    def pass_by(self, place: str) -> None:
        self.places.append(place)
        if self.passed in self._deaths:
            raise Died


class MortalStore:
    """A store whose driving calls kill their caller before or after they commit."""

    def __init__(self, store: Any, fate: Fate) -> None:
        self._store = store
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name == "release":
            return lambda lease: None  # the dead give nothing back
        if name not in {"claim", "checkpoint", "finalize"}:
            return found

        def call(*args: Any) -> Any:
            self._fate.pass_by(f"before {name}")
            answer = found(*args)
            self._fate.pass_by(f"after {name}")
            return answer

        return call


class MortalTools:
    """Tools that note each execution, and kill their caller before or after it."""

    def __init__(self, fate: Fate, in_doubt: Any, done: list[str]) -> None:
        self.done = done
        self._fate = fate
        self._in_doubt = in_doubt

    def declared(self) -> tuple[Offer, ...]:
        spec = ToolSpec(name="book", input_schema={"type": "object"})
        return (Offer(spec, self._in_doubt),)

    def discover(self, timeout: float) -> tuple[Offer, ...]:
        return self.declared()

    def call(self, call: ToolCall) -> ToolAnswer | Failure:
        self._fate.pass_by("before tool")
        self.done.append(call.effect_key)
        self._fate.pass_by("after tool")
        return ToolAnswer((Text("booked"),))

    def close(self) -> None:
        return None


def one_tool(seen: Seen) -> Reply:
    """A call, then the answer."""
    return calls(("rooms-book", {})) if seen.iteration == 1 else says("done")


def two_tools(seen: Seen) -> Reply:
    """Two calls side by side, then the answer."""
    turn = calls(("rooms-book", {"n": 1}), ("rooms-book", {"n": 2}))
    return turn if seen.iteration == 1 else says("done")


def mixed(seen: Seen) -> Reply:
    """A server call beside a caller's."""
    return calls(("user-confirm", {}), ("rooms-book", {}))


def throttled(seen: Seen) -> Reply:
    """Throttled on the first attempt."""
    return fails("throttled") if seen.attempt == 1 else says("done")


FLOWS: dict[str, Callable[[Seen], Reply]] = {
    "answer": lambda seen: says("done"),
    "one tool": one_tool,
    "two tools": two_tools,
    "mixed": mixed,
    "throttled": throttled,
    "refused": lambda seen: fails("denied"),
    "endless": lambda seen: calls(("rooms-book", {})),
}


class World:
    """One store, one script, and as many workers as it takes."""

    def __init__(self, store: Any, clock: HandClock, in_doubt: str) -> None:
        self.store = store
        self.clock = clock
        self.in_doubt = in_doubt
        self.done: list[str] = []
        self._ids = CountedIds()

    def loop(self, script: Callable[[Seen], Reply], fate: Fate) -> AgentLoop:
        def mortal(seen: Seen) -> Reply:
            fate.pass_by("before model")
            reply = script(seen)
            fate.pass_by("after model")
            return reply

        return AgentLoop(
            ScriptedBackend(forever=mortal),
            MortalStore(self.store, fate),
            {"rooms": MortalTools(fate, self.in_doubt, self.done)},
            ids=self._ids,
            clock=self.clock,
            pause=lambda delay, at_least: 0.0,
            parallel_tools=1,
        )

    def play(self, script: Callable[[Seen], Reply], *deaths: int) -> tuple[Any, Fate]:
        """Play a flow to its end, through all the deaths on the way."""
        fate = Fate(*deaths)
        with self.loop(script, Fate()) as loop:
            conversation = loop.create_conversation(
                defaults={**DEFAULTS, "max_iterations": 2}, scope=SCOPE
            )
            run = loop.start_run(conversation.id, "go", scope=SCOPE)
        for _ in range(len(deaths) + 1):
            loop = self.loop(script, fate)
            try:
                with loop:
                    ended = loop.wait(run.id, scope=SCOPE)
                return self.report(loop, ended), fate
            except Died:
                self.clock.move(60)
        raise AssertionError("the run outlived every worker")

    def report(self, loop: AgentLoop, run: Any) -> dict[str, Any]:
        delta = loop.messages(run.conversation_id, scope=SCOPE)
        log = [Message(m.role, m.content_blocks) for m in delta.messages]
        jobs = loop.list_jobs(run.id, scope=SCOPE)
        attempts = [attempt for job in jobs for attempt in job.attempts]
        events = list(loop.events(run.id, scope=SCOPE))
        return {
            "run": run,
            "log": log,
            "jobs": jobs,
            "attempts": attempts,
            "events": events,
        }


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A store of each embedded kind, and tools whose doubts are told."""
    clock = HandClock()
    with opened_store(request.param, tmp_path, clock) as store:
        yield World(store, clock, "tell")


def check_sound(report: dict[str, Any], world: World) -> None:
    """What must hold of every run that ended, however many workers died."""
    run = report["run"]
    assert run.terminal
    assert run.iterations_used == len(run.submitted_inference_job_ids)
    assert [job.iteration for job in report["jobs"]] == list(
        range(1, run.iterations_used + 1)
    )
    assert problems(report["log"]) == []
    told = [a for a in report["attempts"] if a.usage is not None]
    assert run.usage.prompt_tokens == sum(a.usage.prompt_tokens for a in told)
    unknown = len(report["attempts"]) - len(told)
    assert run.usage.attempts_without_usage == unknown
    ids = [event.id for event in report["events"]]
    assert ids == list(range(1, len(ids) + 1))
    assert report["events"][-1].kind == "terminal"


def without_doubt(log: list[Message]) -> list[Any]:
    """A log in which lost outcomes do not count."""
    return [(m.role, len(m.content)) for m in log]


@pytest.mark.parametrize("flow", FLOWS)
def test_every_single_death_is_survived(world: World, flow: str) -> None:
    """Dying anywhere once changes no message but an outcome that is truly unknown."""
    calm, fate = world.play(FLOWS[flow])
    check_sound(calm, world)
    for death in range(1, fate.passed + 1):
        world.done.clear()
        report, _ = world.play(FLOWS[flow], death)
        check_sound(report, world)
        assert report["run"].status == calm["run"].status, death
        assert without_doubt(report["log"]) == without_doubt(calm["log"]), death
        assert len(world.done) == len(set(world.done)), death


@pytest.mark.parametrize("flow", ["answer", "one tool", "mixed", "throttled"])
def test_every_pair_of_deaths_is_survived(world: World, flow: str) -> None:
    """Two deaths anywhere, the second also during the take-over, are no worse."""
    calm, fate = world.play(FLOWS[flow])
    for pair in combinations(range(1, fate.passed + 8), 2):
        world.done.clear()
        report, _ = world.play(FLOWS[flow], *pair)
        check_sound(report, world)
        assert report["run"].status == calm["run"].status, pair
        assert without_doubt(report["log"]) == without_doubt(calm["log"]), pair
        assert len(world.done) == len(set(world.done)), pair


@pytest.mark.parametrize("in_doubt", ["tell", "repeat", "fail"])
def test_each_policy_settles_a_call_in_doubt(world: World, in_doubt: str) -> None:
    """Told, the model reads of it; repeated, it runs again; failed, the run ends."""
    _, fate = world.play(one_tool)
    world.in_doubt = in_doubt
    world.done.clear()
    report, _ = world.play(one_tool, fate.places.index("after tool") + 1)
    check_sound(report, world)
    outcomes = {
        "tell": ("completed", 1),
        "repeat": ("completed", 2),
        "fail": ("failed", 1),
    }
    assert (report["run"].status, len(world.done)) == outcomes[in_doubt]
    if in_doubt == "tell":
        (result,) = report["log"][2].content
        assert result.is_error
        assert "outcome is unknown" in result.content[0].text
    if in_doubt == "fail":
        assert report["run"].error.type == "AgentLoopWorkerLost"
    if in_doubt == "repeat":
        assert len(set(world.done)) == 1


def test_workers_that_always_die_are_counted(world: World) -> None:
    """A run that kills every worker ends with `AgentLoopWorkerLost` and a legal log."""
    with world.loop(lambda seen: says("x"), Fate()) as loop:
        conversation = loop.create_conversation(defaults=DEFAULTS, scope=SCOPE)
        run = loop.start_run(conversation.id, "go", scope=SCOPE)

    def deadly(seen: Seen) -> Reply:
        raise Died

    ended = None
    for _ in range(6):
        with world.loop(deadly, Fate()) as loop:
            try:
                ended = loop.wait(run.id, scope=SCOPE)
            except Died:
                world.clock.move(60)
    assert ended is not None
    assert ended.error.type == "AgentLoopWorkerLost"
    assert ended.usage.attempts_without_usage == 5
