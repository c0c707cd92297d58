"""The parts of Temporal's engine without a server: texts, times, failed rounds."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from agentloop import AgentLoop, Options, Scope
from agentloop.core.content import ToolUse
from agentloop.core.machine import next_command
from agentloop.core.phases import (
    Call,
    CallingTools,
    Discovering,
    Finished,
    Inferring,
    Log,
    LoopState,
    Phase,
    Plan,
    RequiresAction,
)
from agentloop.core.routing import ServerRoute
from agentloop.core.run import Usage
from agentloop.engines.temporal_client import TemporalServer
from agentloop.engines.temporal_texts import (
    FOREVER,
    MAX_PAYLOAD,
    Order,
    Pace,
    PayloadTooLargeError,
    Place,
    TextPayloads,
    order_from,
    order_text,
    place_from,
    place_text,
)
from agentloop.engines.temporal_worker import Hands, LostStarts, pace_of
from agentloop.engines.temporal_workflow import GONE, GRACE, activity_for, time_for
from agentloop.ports import (
    ClaimRequest,
    RunRef,
    StoreUnavailableError,
)
from agentloop.stores.memory import MemoryStore
from agentloop.testing.scripted import ScriptedBackend, says, throttles
from agentloop.wire import WireError
from agentloop.wire.standing import Standing, standing_text

RUN = RunRef("run", 7)
NAME = TemporalServer().driver
ME = Scope(7, 1)
TEXTS = TextPayloads()


def standing(phase: Phase, wait: float = 0.0) -> Standing:
    """A standing in some phase."""
    plan = Plan(max_iterations=3, servers=("a",))
    state = LoopState(plan, None, phase, 2, Log(), Usage())
    return Standing(state=state, wait=wait)


def calling(count: int) -> CallingTools:
    """So many calls, none of them answered."""
    each = [
        Call(f"2.{n}", ToolUse(f"2.{n}", "a-b", {}), ServerRoute("a", "b"), 1)
        for n in range(count)
    ]
    return CallingTools(tuple(each), (None,) * count)


PHASES = [
    (Inferring(2), "infer", 20.0),
    (Discovering(1), "discover", 5.0),
    (calling(1), "call_tools", 7.0),
    (calling(9), "call_tools", 63.0),
    (calling(5000), "call_tools", 35000.0),
    (Finished(RequiresAction(())), None, None),
]

# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("phase", [phase for phase, _, _ in PHASES])
def test_orders_come_back_as_they_were(phase: Phase) -> None:
    """With a place in any phase, and without one."""
    pace = Pace(infer=20.0, discover=5.0, call=7.0)
    place = Place(standing(phase, 1.5), pace)
    order = Order(RUN, 10, 2.5, place)
    found = order_from(order_text(order))
    assert found.place is not None
    assert found.place.standing.same_place(place.standing)
    assert (found.place.standing.wait, found.place.pace) == (1.5, pace)
    assert evolve(found, place=None) == evolve(order, place=None)
    assert order_text(found) == order_text(order)
    assert len(order_text(order)) < 1000
    assert order_from(order_text(Order(RUN, 10, 2.5))) == Order(RUN, 10, 2.5)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "nothing",
        '{"v":1}',
        '{"v":99,"run_id":"x"}',
        '{"v":1,"run_id":"x","company_id":1,"commands":1,"silence":1,"place":{"v":1}}',
        '{"v":1,"run_id":"x","company_id":1,"commands":1,"silence":1,"place":3}',
        '{"v":1,"pace":[1,2]}',
    ],
)
def test_damaged_texts_are_refused(text: str) -> None:
    """Nothing is guessed: a workflow stands still until somebody can read it."""
    with pytest.raises(WireError):
        order_from(text)
    with pytest.raises(WireError):
        place_from(text)


def test_texts_go_into_payloads_as_they_are() -> None:
    """Temporal's tools see JSON; a text that is none is quoted."""
    text = place_text(Place(standing(Inferring()), Pace()))
    payload, quoted = TEXTS.to_payloads([text, "a trace"])
    assert (payload.data.decode(), quoted.data) == (text, b'"a trace"')
    assert payload.metadata["encoding"] == b"json/plain"
    assert TEXTS.from_payloads([payload, quoted], [str, str]) == [text, "a trace"]
    assert TEXTS.from_payloads([payload, quoted]) == [text, "a trace"]


def test_temporals_own_values_pass() -> None:
    """Nothing, its messages, and payloads that somebody made."""
    message = WorkflowExecution(workflow_id="x")
    raw = RawValue(Payload(data=b"raw"))
    sent = TEXTS.to_payloads([None, message, raw])
    hints = [type(None), WorkflowExecution, RawValue]
    nothing, back, again = TEXTS.from_payloads(sent, hints)
    assert (nothing, back, again.payload) == (None, message, raw.payload)


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        ('{"v":1,"x":"' + "y" * MAX_PAYLOAD + '"}', PayloadTooLargeError),
        ("y" * MAX_PAYLOAD, PayloadTooLargeError),
        (RawValue(Payload(data=b"y" * MAX_PAYLOAD)), PayloadTooLargeError),
        ({"an": "object"}, TypeError),
        (b"bytes", TypeError),
    ],
    ids=["object", "text", "raw", "dict", "bytes"],
)
def test_nothing_large_and_nothing_strange_is_given(
    value: object, refused: type[Exception]
) -> None:
    """Whatever would carry content by mistake is refused before it is sent."""
    with pytest.raises(refused):
        TEXTS.to_payloads([value])


def test_strange_payloads_are_refused() -> None:
    """What another converter wrote is not guessed at."""
    strange = Payload(metadata={"encoding": b"binary/plain"}, data=b"x")
    with pytest.raises(TypeError, match="binary/plain"):
        TEXTS.from_payloads([strange])


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(("phase", "name", "seconds"), PHASES)
def test_each_command_has_an_activity_and_a_time(
    phase: Phase, name: str | None, seconds: float | None
) -> None:
    """Several calls may take as long as each of them after the other."""
    here = standing(phase)
    assert activity_for(next_command(here.state)) == name
    if seconds is not None:
        pace = Pace(infer=20.0, discover=5.0, call=7.0)
        assert time_for(here, pace) == timedelta(seconds=seconds + GRACE)


@pytest.mark.parametrize(
    ("options", "pace"),
    [
        (
            Options(attempt_timeout=9, discovery_timeout=3, tool_timeout=2, attempts=4),
            Pace(infer=9, discover=3, call=40),
        ),
        (Options(tool_timeout=1, delays=()), Pace(infer=600, discover=30, call=5)),
        (
            Options(attempt_timeout=None, tool_timeout=None),
            Pace(infer=FOREVER, discover=30, call=FOREVER),
        ),
    ],
)
def test_the_pace_follows_from_the_options(options: Options, pace: Pace) -> None:
    """What has no bound for the host has one of a month for Temporal."""
    assert pace_of(options) == pace


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"timeout": 0}, "timeout must be above 0 seconds, not 0"),
        ({"silence": -1.0}, "silence must be above 0 seconds, not -1.0"),
        ({"commands": 0}, "commands must be at least 1, not 0"),
    ],
)
def test_a_server_that_cannot_be_is_refused(choices: Any, told: str) -> None:
    """Each number is told by its name when the value is made."""
    with pytest.raises(ValueError, match=told):
        TemporalServer(**choices)


# ---------------------------------------------------------------- lost starts


def test_a_run_that_nobody_begins_is_started_when_it_is_seen_again() -> None:
    """Who looks takes no lease, and leaves what is under way or another's alone."""
    store, engine = MemoryStore(), Noted()
    with AgentLoop(
        ScriptedBackend(forever=throttles(60.0)), store, engine=engine
    ) as it:
        where = it.create_conversation(defaults={"model": "m"}, scope=ME).id
        new, begun = (it.start_run(where, "go", scope=ME) for _ in range(2))
        rounds = it.rounds(NAME)
        waits = rounds.begin(RunRef(begun.id, ME.company_id))
        rounds.go_on(RunRef(begun.id, ME.company_id), waits)
        sweep = LostStarts(store, NAME)
        assert sweep.look() == []
        newer = it.start_run(where, "go", scope=ME)
        assert [run.run_id for run in sweep.look()] == [new.id]
        assert [run.run_id for run in sweep.look()] == [new.id, newer.id]
        assert LostStarts(store, TemporalServer(task_queue="other").driver).look() == []
        assert it.get_run(new.id, scope=ME).status == "pending"


def test_a_lost_start_is_found_behind_any_number_of_runs_that_wait() -> None:
    """Runs that were begun are not looked at, so they hide nothing."""
    store, engine = MemoryStore(), Noted()
    with AgentLoop(ScriptedBackend(), store, engine=engine) as loop:
        where = loop.create_conversation(defaults={"model": "m"}, scope=ME).id
        for _ in range(1100):
            begun = loop.start_run(where, "go", scope=ME).id
            asked = ClaimRequest(driver=NAME, lease_seconds=1.0, run_id=begun)
            claim = store.claim(asked)
            assert claim is not None
            store.release(claim.lease)
        run = loop.start_run(where, "go", scope=ME)
        sweep = LostStarts(store, NAME)
        sweep.look()
        assert sweep.look() == [RunRef(run.id, ME.company_id)]


# ---------------------------------------------------------------- rounds


class Stubborn:
    """A store that raises something when a run is claimed."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.raises: BaseException | None = None

    def claim(self, request: ClaimRequest) -> Any:
        if self.raises is not None:
            raise self.raises
        return self._store.claim(request)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Noted:
    """An engine by Temporal's name that takes note of a start."""

    name = NAME

    def __init__(self) -> None:
        self.started: list[RunRef] = []

    def start(self, run: RunRef) -> None:
        self.started.append(run)

    def cancel(self, run: RunRef) -> None:
        raise AssertionError("nobody cancels here")


@pytest.fixture
def engine() -> Noted:
    """Knows which run was started."""
    return Noted()


@pytest.fixture
def store(engine: Noted) -> Stubborn:
    """A store with one run of Temporal's."""
    made = MemoryStore()
    with AgentLoop(ScriptedBackend(), made, engine=engine) as loop:
        where = loop.create_conversation(defaults={"model": "m"}, scope=ME)
        loop.start_run(where.id, "go", scope=ME)
    return Stubborn(made)


@pytest.fixture
def begin(store: Stubborn, engine: Noted) -> Iterator[Any]:
    """The activity that begins a run, as Temporal would call it."""
    with (
        AgentLoop(ScriptedBackend(says("ok")), store) as loop,  # type: ignore[arg-type] # by __getattr__
        ThreadPoolExecutor(1) as pool,
    ):
        hands = Hands(loop.rounds(NAME), pool, Pace())
        by_name = {a.__name__: a for a in hands.activities()}
        assert set(by_name) == {"begin", "discover", "infer", "call_tools"}

        async def call(run: RunRef = engine.started[0]) -> str:
            text = order_text(Order(run, 1, 1.0))
            return await ActivityEnvironment().run(by_name["begin"], text)

        yield call


@pytest.mark.asyncio
async def test_beginning_tells_place_and_pace(begin: Any) -> None:
    """The first answer holds what the workflow needs to know of the worker."""
    place = place_from(await begin())
    assert place.pace == Pace()
    assert isinstance(place.standing.state.phase, Inferring)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (StoreUnavailableError("the store is away"), "the store is away"),
        (KeyError("canary"), "the round raised KeyError; the worker's log has it"),
        (ValueError("canary"), "the round raised ValueError; the worker's log has it"),
    ],
)
async def test_what_a_round_raises_is_tried_again_and_tells_no_content(
    begin: Any, store: Stubborn, raised: Exception, told: str
) -> None:
    """Temporal is told the kind of a failure, and never to give up."""
    store.raises = raised
    with pytest.raises(ApplicationError) as failed:
        await begin()
    error = failed.value
    assert (error.message, error.type) == (told, type(raised).__name__)
    assert not error.non_retryable
    assert error.__cause__ is None
    store.raises = None
    assert place_from(await begin()).pace == Pace()


@pytest.mark.asyncio
async def test_a_run_that_is_held_is_tried_again_soon(
    begin: Any, store: Stubborn
) -> None:
    """Also when it is held for long: its holder may end at any time."""
    claim = store.claim(ClaimRequest(driver=NAME, lease_seconds=60.0))
    assert claim is not None
    with pytest.raises(ApplicationError) as failed:
        await begin()
    assert failed.value.type == "RunBusyError"
    assert failed.value.next_retry_delay == timedelta(milliseconds=250)


@pytest.mark.asyncio
async def test_a_run_that_is_gone_is_not_tried_again(begin: Any) -> None:
    """Nobody brings it back, and its workflow may end."""
    with pytest.raises(ApplicationError) as failed:
        await begin(RunRef("gone", 7))
    assert (failed.value.type, failed.value.non_retryable) == (GONE, True)


@pytest.mark.asyncio
async def test_a_standing_of_a_newer_version_waits_for_a_newer_worker(
    store: Stubborn,
) -> None:
    """During an upgrade a worker that cannot read a text leaves it to others."""
    newer = standing_text(standing(Inferring())).replace('"v":1', '"v":99')
    with (
        AgentLoop(ScriptedBackend(), store) as loop,  # type: ignore[arg-type] # by __getattr__
        ThreadPoolExecutor(1) as pool,
    ):
        hands = Hands(loop.rounds(NAME), pool, Pace())
        infer = next(a for a in hands.activities() if a.__name__ == "infer")
        text = order_text(Order(RUN, 1, 1.0))
        with pytest.raises(WireError, match="newer version"):
            await ActivityEnvironment().run(infer, text, newer)
