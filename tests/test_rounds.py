"""Rounds: one command at a time, as an engine performs a run, under every blow."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from attrs import define, field

from agentloop import AgentLoop, Run, Scope, tool
from agentloop.core.catalog import RequestError
from agentloop.core.machine import next_command
from agentloop.core.phases import CallingTools, Command, Finish
from agentloop.ports import (
    ClaimRequest,
    EngineUnavailableError,
    RunRef,
    Store,
)
from agentloop.runtime.rounds import RunBusyError, RunNotFoundError
from agentloop.stores.memory import MemoryStore
from agentloop.testing.scripted import (
    ScriptedBackend,
    calls,
    says,
    throttles,
)
from agentloop.wire.standing import Standing, standing_from, standing_text

ME = Scope(1, 407)
CONFIRM = {"name": "confirm", "input_schema": {"type": "object"}}


@define
class Notes:
    """An engine that takes note of what it is told, and does it when asked."""

    name: str = "notes"
    started: list[RunRef] = field(factory=list)
    woken: list[RunRef] = field(factory=list)
    down: bool = False

    def start(self, run: RunRef) -> None:
        self._check()
        if run not in self.started:
            self.started.append(run)

    def cancel(self, run: RunRef) -> None:
        self._check()
        self.woken.append(run)

    def _check(self) -> None:
        if self.down:
            raise EngineUnavailableError("it is down")


@define
class World:
    """A host with an engine: what starts runs, and what performs them."""

    model: ScriptedBackend
    store: Store = field(factory=MemoryStore)
    engine: Notes = field(factory=Notes)
    ran: list[str] = field(factory=list)
    choices: dict[str, Any] = field(factory=dict)

    def loop(self) -> AgentLoop:
        """A loop over the world; a second one is another process."""

        @tool(repeatable=True)
        def look(q: str) -> str:
            """Look something up."""
            self.ran.append(f"look {q}")
            return f"found {q}"

        @tool
        def pay(amount: int) -> str:
            """Pay."""
            self.ran.append(f"pay {amount}")
            return "paid"

        return AgentLoop(
            self.model,
            self.store,
            {"shop": [look, pay]},
            engine=self.engine,
            **self.choices,
        )


def converse(loop: AgentLoop, **defaults: Any) -> str:
    """A conversation that may use the shop."""
    servers = [{"alias": "shop"}]
    chosen = {"model": "any", "mcp_servers": servers, **defaults}
    return loop.create_conversation(defaults=chosen, scope=ME).id


def play(loop: AgentLoop, run: RunRef) -> Iterator[tuple[Command, Standing]]:
    """The recipe: every command with the standing that it follows from."""
    rounds = loop.rounds("notes")
    standing = rounds.begin(run)
    while True:
        standing = standing_from(standing_text(standing))  # as an engine keeps it
        command = next_command(standing.state)
        yield command, standing
        if isinstance(command, Finish):
            return
        standing = rounds.go_on(run, standing)


def ended(loop: AgentLoop, ref: RunRef) -> tuple[Run, list[str]]:
    """The run played to its end, and the kinds of its commands."""
    kinds = [type(command).__name__ for command, _ in play(loop, ref)]
    return loop.get_run(ref.run_id, scope=ME), kinds


def test_the_recipe_drives_a_run_to_its_end() -> None:
    """Commands come as the machine says; run and messages are the embedded ones."""
    script = (
        calls(("shop-look", {"q": "a"}), ("shop-pay", {"amount": 3})),
        calls(("confirm", {"slot": 9})),
    )
    world = World(ScriptedBackend(*script))
    with world.loop() as loop:
        id_ = converse(loop, tools=[CONFIRM])
        assert loop.start_run(id_, "go", scope=ME).status == "pending"
        run, kinds = ended(loop, world.engine.started[0])
        assert kinds == ["Infer", "CallTools", "Infer", "Finish"]
        assert run.status == "requires_action"
        assert sorted(world.ran) == ["look a", "pay 3"]
        found = loop.messages(id_, scope=ME).messages
    assert [message.role for message in found] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


def test_a_round_that_is_repeated_performs_nothing() -> None:
    """What the store knows already is answered, not done again."""
    world = World(ScriptedBackend(calls(("shop-pay", {"amount": 1})), says("ok")))
    with world.loop() as loop:
        loop.start_run(converse(loop), "go", scope=ME)
        ref = world.engine.started[0]
        rounds = loop.rounds("notes")
        first = rounds.begin(ref)
        second = rounds.go_on(ref, first)
        assert rounds.go_on(ref, first).same_place(second)
        third = rounds.go_on(ref, second)
        assert rounds.go_on(ref, second).same_place(third)
        assert rounds.go_on(ref, third).status == "completed"
        assert rounds.go_on(ref, third).status == "completed"
        assert rounds.begin(ref).status == "completed"
    assert world.ran == ["pay 1"]
    world.model.assert_done()


def test_a_round_holds_no_content() -> None:
    """What an engine records is small and says nothing of what was said."""
    secret = "canary" * 1000
    world = World(
        ScriptedBackend(
            calls(*[("shop-look", {"q": f"{secret}{n}"}) for n in range(20)]),
            says(secret),
        )
    )
    with world.loop() as loop:
        loop.start_run(converse(loop), secret, scope=ME)
        texts = [
            standing_text(standing)
            for _, standing in play(loop, world.engine.started[0])
        ]
    assert "canary" not in "".join(texts)
    assert max(map(len, texts)) < 2000


def many(count: int) -> World:
    """A world whose model asks for so many calls in one turn."""
    asked = [("shop-look", {"q": str(n)}) for n in range(count)]
    return World(ScriptedBackend(calls(*asked), says("ok")))


def places_of_calls(world: World) -> list[Standing]:
    """Where a world's run stood between the rounds of its turn."""
    with world.loop() as loop:
        loop.start_run(converse(loop), "go", scope=ME)
        seen = [place for _, place in play(loop, world.engine.started[0])]
    return [place for place in seen if isinstance(place.state.phase, CallingTools)]


def test_a_turn_of_many_calls_has_a_small_standing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every place in it is told from every other, and none is performed twice."""
    monkeypatch.setattr("agentloop.runtime.rounds.BRIEF", -1.0)
    # A round ends when none of its calls is under way, which is a matter of luck.
    world, calling = next(
        (world, places)
        for world in map(many, [400] * 200)
        if len(places := places_of_calls(world)) > 5
    )
    assert max(len(standing_text(place)) for place in calling) < 300
    assert len({standing_text(place) for place in calling}) == len(calling)
    for before, after in pairwise(calling):
        assert before.same_place(standing_from(standing_text(before)))
        assert not before.same_place(after)
    assert sorted(world.ran) == sorted(f"look {n}" for n in range(400))


def test_a_round_takes_in_as_much_of_a_long_turn_as_a_moment_allows() -> None:
    """One round for every window would cost the square of the number of calls."""
    world = many(200)
    with world.loop() as loop:
        loop.start_run(converse(loop), "go", scope=ME)
        run, kinds = ended(loop, world.engine.started[0])
    assert (run.status, len(world.ran)) == ("completed", 200)
    assert kinds.count("CallTools") < 200 // 8


def test_a_retry_is_waited_for_by_the_engine() -> None:
    """The standing tells the pause, and the round that follows does not pause."""
    world = World(
        ScriptedBackend(throttles(), says("ok")),
        choices={"pause": lambda delay, at_least: delay * 1000},
    )
    with world.loop() as loop:
        loop.start_run(converse(loop), "go", scope=ME)
        waits = [s.wait for _, s in play(loop, world.engine.started[0])]
    assert waits == [0.0, 1000.0, 0.0]


def test_a_cancel_wakes_the_run_and_ends_it_at_its_next_round() -> None:
    """The flag is in the store; the engine is only told to look."""
    world = World(ScriptedBackend(throttles()), choices={"pause": lambda d, a: d})
    with world.loop() as loop:
        run = loop.start_run(converse(loop), "go", scope=ME)
        ref = world.engine.started[0]
        rounds = loop.rounds("notes")
        standing = rounds.go_on(ref, rounds.begin(ref))
        assert standing.wait == 1.0
        assert loop.cancel_run(run.id, scope=ME).status == "running"
        assert world.engine.woken == [ref]
        assert rounds.go_on(ref, standing).status == "failed"
        error = loop.get_run(run.id, scope=ME).error
    assert error is not None
    assert error.type == "AgentLoopCancelled"


def test_an_engine_that_is_down_leaves_the_run_pending() -> None:
    """The caller hears 500 and sends the same key again, which starts it."""
    world = World(ScriptedBackend(says("ok")))
    key = "5f0c1f9e-74a9-4a0d-9f3b-0d8f6a1f2c77"
    with world.loop() as loop:
        id_ = converse(loop)
        world.engine.down = True
        with pytest.raises(RequestError) as refused:
            loop.start_run(id_, "go", client_op_id=key, scope=ME)
        assert refused.value.slug == "workflow-start-failed"
        assert loop.list_runs(id_, scope=ME)[0].status == "pending"
        world.engine.down = False
        again = loop.start_run(id_, "go", client_op_id=key, scope=ME)
        assert again.status == "pending"
        run, _ = ended(loop, world.engine.started[0])
    assert (run.id, run.final_text) == (again.id, "ok")


def test_a_cancel_counts_though_the_engine_is_down() -> None:
    """The next round sees the flag in any case."""
    world = World(ScriptedBackend())
    with world.loop() as loop:
        run = loop.start_run(converse(loop), "go", scope=ME)
        world.engine.down = True
        loop.cancel_run(run.id, scope=ME)
        run, kinds = ended(loop, world.engine.started[0])
    assert kinds == ["Finish"]
    assert run.error is not None
    assert run.error.type == "AgentLoopCancelled"


def test_an_engines_runs_are_left_alone_by_everybody_else() -> None:
    """Neither a face's wait nor its workers drive them, nor does another engine."""
    world = World(ScriptedBackend(says("ok")))
    with world.loop() as loop, loop.worker(2, poll=0.01):
        run = loop.start_run(converse(loop), "go", scope=ME)
        with pytest.raises(TimeoutError):
            loop.wait(run.id, timeout=0.05, scope=ME)
        with pytest.raises(RunNotFoundError, match="'notes'"):
            loop.rounds("other").begin(world.engine.started[0])
        assert loop.get_run(run.id, scope=ME).status == "pending"


def test_a_run_that_is_held_is_busy() -> None:
    """Two rounds of one run never overlap; the second is told to come again."""
    world = World(ScriptedBackend(says("ok")))
    with world.loop() as loop:
        loop.start_run(converse(loop), "go", scope=ME)
        ref = world.engine.started[0]
        held = ClaimRequest(driver="notes", lease_seconds=60.0)
        claim = world.store.claim(held)
        assert claim is not None
        with pytest.raises(RunBusyError):
            loop.rounds("notes").begin(ref)
        world.store.release(claim.lease)
        assert ended(loop, ref)[0].final_text == "ok"


def test_a_run_that_was_removed_is_no_run() -> None:
    """Its conversation was deleted while the engine slept."""
    world = World(ScriptedBackend())
    with world.loop() as loop:
        id_ = converse(loop)
        loop.start_run(id_, "go", scope=ME)
        loop.delete_conversation(id_, scope=ME)
        with pytest.raises(RunNotFoundError):
            loop.rounds("notes").begin(world.engine.started[0])
