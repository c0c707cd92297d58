"""Temporal as an engine, on a real server: starts, waits, cancels, what is recorded."""

import asyncio
import socket
import sys
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec
from temporalio.service import RPCError

from agentloop import AsyncAgentLoop, Run
from agentloop.core.catalog import RequestError
from agentloop.engines import temporal
from agentloop.engines.temporal import TemporalEngine, TemporalServer
from agentloop.engines.temporal_client import connect
from agentloop.engines.temporal_texts import MAX_PAYLOAD, Pace
from agentloop.engines.temporal_worker import Hands
from agentloop.ports import EngineUnavailableError, MissingExtraError, RunRef
from agentloop.testing.engines.waiting import until
from agentloop.testing.scripted import (
    Reply,
    ScriptedBackend,
    Seen,
    calls,
    says,
    throttles,
)
from agentloop.wire.checkpoint import unversioned
from tests.temporal_server import running
from tests.temporal_world import ME, Gate, World, payloads, server_here

PAY = ("shop-pay", {"amount": 1})


def error_type(run: object) -> str:
    """The type of the error that a run ended with."""
    return str(getattr(getattr(run, "error", None), "type", None))


def tried(world: World, run: Run) -> int:
    """How many attempts of inferences the run has behind it."""
    jobs = world.loop.list_jobs(run.id, scope=ME)
    return sum(len(job.attempts) for job in jobs)


def dead_address() -> str:
    """A port of this machine where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


# ---------------------------------------------------------------- starting


def test_a_start_that_comes_twice_is_one_workflow() -> None:
    """Also when the run has ended meanwhile, nothing is driven again."""
    with World(ScriptedBackend(calls(PAY), says("ok"))) as world:
        run = world.start()
        ref = RunRef(run.id, ME.company_id)
        world.engine.start(ref)
        with world.worker():
            assert world.ended(run).final_text == "ok"
            assert unversioned(world.ask(run).result()) == {"status": "completed"}
            before = world.ask(run).histories()
            world.engine.start(ref)
            assert world.ask(run).histories() == before
    assert world.paid == [1]
    world.model.assert_done()


def test_a_server_that_is_away_is_told_within_the_time_given() -> None:
    """The caller hears that the run was not started; its key starts it later."""
    right = server_here()
    away = evolve(right, address=dead_address(), timeout=0.5)
    key = str(uuid.uuid4())
    with World(ScriptedBackend(says("ok")), away) as world:
        id_ = world.converse()
        with pytest.raises(RequestError) as refused:
            world.loop.start_run(id_, "go", client_op_id=key, scope=ME)
        assert refused.value.slug == "workflow-start-failed"
        with pytest.raises(EngineUnavailableError, match=away.address):
            world.engine.cancel(RunRef(key, 1))
        found = world.loop.list_runs(id_, scope=ME)[0]
        assert found.status == "pending"
        world.server = right
        with TemporalEngine(world.server) as engine, world.worker():
            engine.start(RunRef(found.id, ME.company_id))
            assert world.ended(found).final_text == "ok"


def test_a_worker_says_what_is_wrong_with_its_server() -> None:
    """A dead address and a namespace that does not exist, each by its name."""
    with World(ScriptedBackend()) as world:
        right = world.server
        world.server = evolve(right, address=dead_address(), timeout=0.5)
        with (
            pytest.raises(EngineUnavailableError, match=world.server.address),
            world.worker(),
        ):
            raise AssertionError("nobody is there")
        world.server = evolve(right, namespace="nowhere")
        with (
            pytest.raises(EngineUnavailableError, match="'nowhere'"),
            world.worker(),
        ):
            raise AssertionError("there is no such namespace")
    with pytest.raises(ValueError, match="concurrency must be at least 1, not 0"):
        world.worker(concurrency=0)


def test_a_closed_engine_says_so() -> None:
    """Using it afterwards is a mistake of the host's, not of the server."""
    engine = TemporalEngine(TemporalServer(running().address))
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.start(RunRef("x", 1))


def test_the_extra_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are there without it; using one tells what to install."""
    assert dir(temporal) == temporal.__all__
    for name in [n for n in sys.modules if n.partition(".")[0] == "temporalio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "temporalio", None)
    with pytest.raises(MissingExtraError, match=r"agentloop\[temporal\]"):
        _ = temporal.TemporalWorker
    with pytest.raises(AttributeError, match="no attribute 'TemporalWorkers'"):
        _ = temporal.TemporalWorkers


def test_secrets_are_not_shown() -> None:
    """Neither a key nor a codec is in what a server's value says of itself."""
    server = TemporalServer(options={"api_key": "canary"})
    assert "canary" not in repr(server)
    assert "canary" not in str(server.unavailable(TimeoutError()))


def test_a_server_can_be_described_by_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Temporal's own variables count, and what is said outright comes first."""
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.example:7233")
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "agents")
    monkeypatch.setenv("TEMPORAL_API_KEY", "canary")
    found = TemporalServer.from_environment()
    assert (found.address, found.namespace) == ("temporal.example:7233", "agents")
    assert found.options["api_key"] == "canary"
    said = TemporalServer.from_environment("here:1", "mine", task_queue="q")
    assert (said.address, said.namespace, said.task_queue) == ("here:1", "mine", "q")
    for name in ("ADDRESS", "NAMESPACE", "API_KEY"):
        monkeypatch.delenv(f"TEMPORAL_{name}")
    assert TemporalServer.from_environment() == TemporalServer()


@pytest.mark.asyncio
async def test_the_asynchronous_face_starts_runs_as_well() -> None:
    """Its callers wait without a thread of theirs being held."""
    with World(ScriptedBackend(says("ok"))) as world, world.worker():
        async with AsyncAgentLoop(
            ScriptedBackend(), world.store, engine=world.engine
        ) as loop:
            made = await loop.create_conversation(defaults={"model": "any"}, scope=ME)
            run = await loop.start_run(made.id, "go", scope=ME)
            assert run.status == "pending"
            ended = await loop.wait(run.id, timeout=60, scope=ME)
    assert ended.final_text == "ok"


# ---------------------------------------------------------------- what is recorded


def test_content_never_passes_through_the_engine() -> None:
    """Five megabytes said and five from a tool leave histories of small texts."""
    big = ("shop-pay", {"amount": 1, "size": 5_000_000})
    choices = {"max_result_bytes": 8_000_000}
    model = ScriptedBackend(calls(big, text="canary"), says("canary"))
    with World(model, choices=choices) as world, world.worker():
        run = world.ended(world.start("canary" * 833_333))
        assert run.status == "completed"
        found = payloads(world.ask(run).histories())
        messages = world.loop.messages(run.conversation_id, scope=ME).messages
    assert [len(str(m)) > 4_900_000 for m in messages] == [True, False, True, False]
    assert len(found) > 8
    assert max(map(len, found)) < 1000 < MAX_PAYLOAD
    assert b"canary" not in b"".join(found)


def test_a_turn_of_many_calls_stays_far_below_the_line() -> None:
    """A hundred calls of one turn, the largest standing there is in practice."""
    many = [("shop-pay", {"amount": n}) for n in range(100)]
    with World(ScriptedBackend(calls(*many), says("ok"))) as world, world.worker():
        run = world.ended(world.start())
        assert run.final_text == "ok"
        found = payloads(world.ask(run).histories())
    assert max(map(len, found)) < MAX_PAYLOAD // 20
    assert sorted(world.paid) == list(range(100))


class Scrambled(PayloadCodec):
    """Turns every bit around, as a codec of a host's might encrypt."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload(
                metadata={"encoding": b"binary/scrambled"},
                data=bytes(255 - b for b in p.SerializeToString()),
            )
            for p in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload.FromString(bytes(255 - b for b in p.data)) for p in payloads]


def test_a_codec_of_the_hosts_sees_every_payload() -> None:
    """With one nothing readable is recorded, not even the id of the run's company."""
    server = server_here(codec=Scrambled())
    with World(ScriptedBackend(calls(PAY), says("ok")), server) as world:
        with world.worker():
            run = world.ended(world.start())
            assert run.final_text == "ok"
        found = payloads(world.ask(run).histories())
    assert len(found) > 8
    assert not any(b"company_id" in each or b"phase" in each for each in found)


def test_a_long_run_goes_on_in_fresh_histories() -> None:
    """Its end is that of a run in one history, and no history is longer than asked."""

    def model(seen: Seen) -> Reply:
        return says("ok") if seen.iteration == 6 else calls(PAY)

    server = server_here(commands=3)
    with World(ScriptedBackend(forever=model), server) as world, world.worker():
        run = world.ended(world.start())
        world.ask(run).result()  # Temporal hears of the end after the store
        found = world.ask(run).histories()
    assert (run.status, run.iterations_used, len(world.paid)) == ("completed", 6, 5)
    assert len(found) == 4  # eleven commands
    kinds = [
        sum(e.HasField("activity_task_scheduled_event_attributes") for e in h.events)
        for h in found
    ]
    assert kinds == [4, 3, 3, 2]  # the first begins the run as well


def test_a_run_can_be_asked_where_it_stands() -> None:
    """Temporal's own tools show it, without content."""
    gate = Gate()

    def model(seen: Seen) -> Reply:
        gate.pass_by()
        return says("canary")

    with World(ScriptedBackend(forever=model)) as world, world.worker():
        run = world.start("canary")
        assert gate.reached.wait(60)
        told = unversioned(world.ask(run).query())
        gate.opened.set()
        assert world.ended(run).final_text == "canary"
        world.ask(run).result()
        ended = unversioned(world.ask(run).query())
    assert (told["iteration"], told["phase"]["kind"]) == (1, "inferring")
    assert (told["status"], ended["status"]) == (None, "completed")


# ---------------------------------------------------------------- driving


def test_a_command_that_takes_long_is_not_taken_from_its_worker() -> None:
    """The worker says that it is alive, several times as long as silence is borne."""
    waits = iter((3.5,))

    def model(seen: Seen) -> Reply:
        Gate().opened.wait(next(waits))
        return says("ok")

    with World(ScriptedBackend(forever=model)) as world, world.worker():
        run = world.ended(world.start())
        world.ask(run).result()
        attempts = [
            event.activity_task_started_event_attributes.attempt
            for event in world.ask(run).histories()[0].events
            if event.HasField("activity_task_started_event_attributes")
        ]
    assert (run.final_text, attempts) == ("ok", [1, 1])


def test_stopping_a_worker_lets_the_command_under_way_end() -> None:
    """The next worker goes on from there; nothing is made twice."""
    gate = Gate()

    def model(seen: Seen) -> Reply:
        gate.pass_by()
        return says("ok") if seen.iteration == 2 else calls(PAY)

    with World(ScriptedBackend(forever=model)) as world:
        worker = world.worker()
        assert not worker.alive
        with worker:
            run = world.start()
            assert gate.reached.wait(60)
            assert worker.alive
            worker.stop()
            gate.opened.set()
        assert not worker.alive
        with world.worker():
            assert world.ended(run).final_text == "ok"
        jobs = world.loop.list_jobs(run.id, scope=ME)
        assert [len(job.attempts) for job in jobs] == [1, 1]


def test_nobody_waits_long_for_a_worker_that_died() -> None:
    """The SDK's default, ten seconds, would be added to every take-over."""

    async def config(world: World) -> Any:
        hands = Hands(world.loop.rounds(world.server.driver), pool, Pace())
        made = world.worker(drain=7.0)._made(await connect(world.server), hands)
        return made.config()

    with World(ScriptedBackend()) as world, ThreadPoolExecutor(1) as pool:
        found = asyncio.run(config(world))
    waits = found["sticky_queue_schedule_to_start_timeout"]
    assert timedelta(0) < waits <= timedelta(seconds=2)
    assert found["max_heartbeat_throttle_interval"] < timedelta(seconds=1)
    assert found["graceful_shutdown_timeout"] == timedelta(seconds=7)


def test_a_run_that_was_removed_leaves_its_workflow_at_rest() -> None:
    """Its conversation was deleted while it waited; the workflow ends in peace."""
    with World(ScriptedBackend(throttles(1.0))) as world, world.worker():
        run = world.start()
        until(lambda: tried(world, run) == 1, "the run waits")
        world.loop.delete_conversation(run.conversation_id, scope=ME)
        assert unversioned(world.ask(run).result()) == {"status": "removed"}


@pytest.mark.parametrize("begun", [False, True])
def test_a_cancel_ends_a_run_whose_workflow_was_terminated(begun: bool) -> None:
    """An operator may end workflows by hand; the store's run is ended by a new one."""
    with World(ScriptedBackend(throttles(3600.0))) as world:
        run = world.start()
        with world.worker() if begun else nullcontext():
            until(lambda: tried(world, run) == begun, "the run has come so far")
        world.ask(run).terminate()
        world.loop.cancel_run(run.id, scope=ME)
        with world.worker():
            assert error_type(world.ended(run)) == "AgentLoopCancelled"


def test_a_start_goes_on_with_a_run_whose_workflow_was_terminated() -> None:
    """Who ended the workflow by mistake has its run go on where it stood."""
    with (
        World(ScriptedBackend(calls(PAY), throttles(1.0), says("ok"))) as world,
        world.worker(),
    ):
        run = world.start()
        until(lambda: tried(world, run) == 2, "the run waits")
        world.ask(run).terminate()
        world.engine.start(RunRef(run.id, ME.company_id))
        assert world.ended(run).final_text == "ok"
    assert world.paid == [1]


def test_a_start_that_was_lost_is_found_by_a_worker() -> None:
    """The row was stored and Temporal never heard of it; nobody has to ask again."""
    right = server_here()
    away = evolve(right, address=dead_address(), timeout=0.2)
    with World(ScriptedBackend(says("ok")), away) as world:
        run = lost(world)
        world.server = right
        with world.worker(sweep=0.1):
            assert world.ended(run).final_text == "ok"


def lost(world: World) -> Run:
    """A run whose start never reached Temporal."""
    id_ = world.converse()
    with pytest.raises(RequestError):
        world.loop.start_run(id_, "go", scope=ME)
    return world.loop.list_runs(id_, scope=ME)[0]


def test_the_lost_starts_of_other_places_are_left_alone() -> None:
    """A worker of another queue may lack the tools and the model of a run."""
    elsewhere = evolve(server_here(), address=dead_address(), timeout=0.2)
    with World(ScriptedBackend(says("ok")), elsewhere) as world:
        theirs = lost(world)
        right = evolve(elsewhere, address=running().address)
        ours = evolve(right, task_queue="another")
        near = World(ScriptedBackend(says("ok")), ours, world.store)
        with near, near.worker(sweep=0.1):
            assert near.ended(near.start()).final_text == "ok"
            Gate().opened.wait(0.5)  # several looks
        assert world.loop.get_run(theirs.id, scope=ME).status == "pending"
        with pytest.raises(RPCError, match="not found"):
            evolve(world.ask(theirs), server=right).query()
