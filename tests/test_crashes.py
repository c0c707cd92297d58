"""Crash-exact runs: a worker may die at any commit or effect, and nothing is lost.

Every scripted flow is first played without a crash. Then it is played again for
every place where a worker can die: before or after each commit, before or after
each effect, and for every pair of such places, the second one in the life of the
worker that took over. What is stored must be what it would have been, but for what
a lost attempt costs; no call that may not be repeated runs twice.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentloop.core.catalog import Failure
from agentloop.core.content import Json
from agentloop.core.routing import InDoubt
from agentloop.ports import Reader, ToolAnswer, ToolCall
from agentloop.testing.scripted import Reply, Seen, calls, fails, says, throttles
from tests.faces import SCOPE
from tests.mortal import (
    Died,
    Flow,
    Life,
    Report,
    World,
    check_same,
    check_sound,
    opened_world,
)

BOOK = ("rooms-book", {})


def one_tool(seen: Seen) -> Reply:
    """A call, then the answer."""
    return calls(BOOK) if seen.iteration == 1 else says("done")


def two_tools(seen: Seen) -> Reply:
    """Two calls side by side, then the answer."""
    turn = calls(("rooms-book", {"n": 1}), ("rooms-book", {"n": 2}))
    return turn if seen.iteration == 1 else says("done")


def mixed(seen: Seen) -> Reply:
    """A server call beside a caller's."""
    return calls(("user-confirm", {}), BOOK)


def throttled(seen: Seen) -> Reply:
    """Throttled on each first attempt."""
    return throttles() if seen.attempt == 1 else one_tool(seen)


def unsteady(call: ToolCall, nth: int) -> ToolAnswer | Failure:
    """A server that answers the second time only."""
    if nth == 1:
        return Failure(kind="mcp_server", message="busy", code="503")
    return ToolAnswer((Json({"room": 3}),))


STRUCTURED = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string"}},
}
ONE_TOOL = Flow(one_tool)
FLOWS = {
    "answer": Flow(lambda seen: says("done")),
    "one tool": ONE_TOOL,
    "two tools": Flow(two_tools, side_by_side=True),
    "mixed": Flow(mixed),
    "throttled": Flow(throttled),
    "unsteady tool": Flow(one_tool, unsteady),
    "refused": Flow(lambda seen: fails("denied", code="AccessDenied")),
    "truncated": Flow(lambda seen: calls(BOOK, stop="max_tokens")),
    "endless": Flow(lambda seen: calls(BOOK)),
    "discovery": Flow(one_tool, discovers=True),
    "structured": Flow(
        lambda seen: says('{"text": "room 3", "n": 3}'),
        config={"output_format_schema": STRUCTURED},
    ),
}


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world of a face over a store."""
    with opened_world(*request.param, tmp_path) as made:
        yield made


def worlds(*kinds: str) -> pytest.MarkDecorator:
    """Have a test run in each of these worlds."""
    pairs = [tuple(kind.split()) for kind in kinds]
    return pytest.mark.parametrize("world", pairs, ids=kinds, indirect=True)


every_world = worlds(
    *("sync memory", "sync sqlite", "async memory", "async sqlite"),
    *("rounds memory", "rounds sqlite"),
)
two_worlds = worlds("sync sqlite", "async memory")


def deaths(world: World, flow: Flow, *earlier: int) -> range:
    """The places at which a worker can die, after some others have died."""
    return range(1, len(world.play(flow, *earlier)[1]) + 1)


@every_world
@pytest.mark.parametrize("flow", FLOWS)
def test_every_single_death_is_survived(world: World, flow: str) -> None:
    """Dying anywhere once changes no message but an outcome that is truly unknown."""
    calm, passed = world.play(FLOWS[flow])
    check_sound(calm)
    assert calm.unknown == 0
    for death in range(1, len(passed) + 1):
        report, _ = world.play(FLOWS[flow], death)
        check_sound(report)
        check_same(report, calm, deaths=1)


@two_worlds
@pytest.mark.parametrize("flow", FLOWS)
def test_every_pair_of_deaths_is_survived(world: World, flow: str) -> None:
    """Two deaths anywhere, the second also during the take-over, are no worse."""
    calm, _ = world.play(FLOWS[flow])
    for first in deaths(world, FLOWS[flow]):
        for second in deaths(world, FLOWS[flow], first):
            report, _ = world.play(FLOWS[flow], first, second)
            check_sound(report)
            check_same(report, calm, deaths=2)


@two_worlds
def test_a_death_outside_of_effects_costs_nothing(world: World) -> None:
    """An outcome is unknown only to whoever died between its intent and its result."""
    calm, passed = world.play(ONE_TOOL)
    call = passed.index("before tool")
    in_doubt = {call - 1, call, call + 1, call + 2}  # from commit to commit
    assert passed[call - 1] == "after checkpoint"
    assert passed[call + 2] == "before checkpoint"
    for death in range(len(passed)):
        report, _ = world.play(ONE_TOOL, death + 1)
        assert report.unknown == (death in in_doubt), passed[death]
        if death not in in_doubt:
            assert report.log == calm.log


# ---------------------------------------------------------------- in doubt


def settle(world: World, in_doubt: InDoubt, place: str) -> Report:
    """A run with one call, whose worker died at a place."""
    world.in_doubt = in_doubt
    passed = world.play(ONE_TOOL)[1]
    report, _ = world.play(ONE_TOOL, passed.index(place) + 1)
    check_sound(report)
    return report


@every_world
@pytest.mark.parametrize("place", ["before tool", "after tool"])
def test_told_the_model_reads_of_the_doubt(world: World, place: str) -> None:
    """The call is not repeated, and its result says that nobody knows."""
    report = settle(world, "tell", place)
    assert report.run.status == "completed"
    assert report.unknown == 1
    assert sum(report.record.calls.values()) == (place == "after tool")


@every_world
@pytest.mark.parametrize("place", ["before tool", "after tool"])
def test_repeated_the_call_runs_under_its_own_key(world: World, place: str) -> None:
    """The tool can tell from the key that this is the same call again."""
    report = settle(world, "repeat", place)
    assert report.run.status == "completed"
    assert report.unknown == 0
    assert list(report.record.calls.values()) == [1 + (place == "after tool")]


@every_world
@pytest.mark.parametrize("place", ["before tool", "after tool"])
def test_failed_the_run_ends_with_a_legal_history(world: World, place: str) -> None:
    """The call is not repeated, and the run says which one it was."""
    report = settle(world, "fail", place)
    assert report.run.error.type == "AgentLoopWorkerLost"
    assert "rooms-book" in report.run.error.message
    assert sum(report.record.calls.values()) == (place == "after tool")


@two_worlds
@pytest.mark.parametrize("in_doubt", ["repeat", "fail"])
@pytest.mark.parametrize("flow", ["one tool", "two tools", "mixed", "endless"])
def test_every_policy_holds_at_every_place(
    world: World, in_doubt: InDoubt, flow: str
) -> None:
    """Repeated calls leave no trace of the death; failed runs are never wrong."""
    world.in_doubt = in_doubt
    calm, _ = world.play(FLOWS[flow])
    for death in deaths(world, FLOWS[flow]):
        report, _ = world.play(FLOWS[flow], death)
        check_sound(report)
        if in_doubt == "repeat":
            assert report.log == calm.log
            assert max(report.record.calls.values(), default=0) <= 2
        elif report.run.error and report.run.error.type == "AgentLoopWorkerLost":
            assert max(report.record.calls.values(), default=0) <= 1
        else:
            check_same(report, calm, deaths=1)


# ---------------------------------------------------------------- the rest


@every_world
def test_a_cancel_in_between_holds_through_every_death(world: World) -> None:
    """Once it is asked for, no later worker makes another call."""
    reader = Reader(SCOPE.company_id)
    asked: list[str] = []

    def cancel(call: ToolCall, nth: int) -> ToolAnswer:
        world.store.request_cancel(reader, call.run_id)
        asked.append(call.run_id)
        return ToolAnswer((Json("booked"),))

    flow = Flow(one_tool, cancel)
    calm, passed = world.play(flow)
    assert calm.run.error.type == "AgentLoopCancelled"
    for death in range(1, len(passed) + 1):
        report, _ = world.play(flow, death)
        check_sound(report)
        if report.run.id in asked:
            assert report.run.error.type == "AgentLoopCancelled"
            assert len({job for job, _ in report.record.inferences}) == 1
            assert sum(report.record.calls.values()) == 1
        else:  # the worker died before the call, so nobody asked
            assert report.unknown == 1
            assert report.run.status == "completed"


@every_world
def test_workers_that_always_die_are_counted(world: World) -> None:
    """A run that kills every worker ends with `AgentLoopWorkerLost` and its costs."""
    flow = Flow(lambda seen: says("done"))
    passed = world.play(flow)[1]
    first = passed.index("before model") + 1
    # A take-over makes one commit less: the setup is there already.
    report, last = world.play(flow, *[first] * 5)
    check_sound(report)
    assert "before model" not in last
    assert report.run.error.type == "AgentLoopWorkerLost"
    assert report.run.usage.attempts_without_usage == 5
    assert report.log == ()


@every_world
@pytest.mark.parametrize("begun", [False, True], ids=["new", "under way"])
def test_runs_that_kill_whoever_takes_them_end(world: World, begun: bool) -> None:
    """Workers that die before they commit anything are counted, too."""
    flow = Flow(lambda seen: says("done"))
    passed = world.play(flow)[1]
    claimed = passed.index("after claim") + 1
    before = [passed.index("before model") + 1] if begun else []
    report, last = world.play(flow, *before, *[claimed] * 5)
    assert "before model" not in last
    assert report.run.error.type == "AgentLoopWorkerLost"
    assert "5 drivers in a row" in report.run.error.message
    assert world.play(flow, *before, *[claimed] * 4)[0].run.status == "completed"


@every_world
def test_a_conversation_goes_on_after_any_death(world: World) -> None:
    """Whatever a worker left behind, the next user message is welcome."""
    flow = Flow(one_tool)
    for death in deaths(world, flow):
        report, _ = world.play(flow, death)
        with world.loop(Flow(lambda seen: says("fine")), Life()) as loop:
            again = loop.run(report.run.conversation_id, "and now?", scope=SCOPE)
        assert again.final_text == "fine"


def test_the_dead_stay_dead() -> None:
    """A worker passes no place after the one where it died."""
    life = Life(2)
    life.pass_by("first")
    for _ in range(3):
        with pytest.raises(Died):
            life.pass_by("second")
    assert life.places == ["first", "second"]
