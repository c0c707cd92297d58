"""T5 and T6: many runs at once, on an event loop and over a pool of connections."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agentloop import AsyncAgentLoop
from agentloop.core.phases import Infer
from agentloop.ports import DeltaSink, Inference, JobContext, SessionSetup
from benchmarks import bare, server
from benchmarks.measure import Row, Spread, Tick, cpu_of
from benchmarks.workload import QUESTION, SCOPE, LeanModel, LeanSession, free_slots

RUNS, TURNS, LATENCY = 200, 8, 0.050
_SAMPLES = 5


class SlowModel(LeanModel):
    """A lean model that takes its time on the event loop."""

    def session(self, setup: SessionSetup) -> "SlowSession":
        """A session that waits before it answers."""
        return SlowSession(self.turns)


class SlowSession(LeanSession):
    """Answers after the latency of a model."""

    async def ainfer(
        self, command: Infer, job: JobContext, on_delta: DeltaSink | None
    ) -> Inference:
        """Wait, then answer."""
        await asyncio.sleep(LATENCY)
        return self.infer(command, job, on_delta)


async def timed(work: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[float, float]:
    """Wall and CPU seconds of a piece of asynchronous work."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return time.perf_counter() - wall, time.process_time() - cpu


async def crowd(
    loop: AsyncAgentLoop, runs: int, turns: int, model: str
) -> tuple[float, float]:
    """Wall and CPU of many runs at once; their conversations are made before."""
    defaults: dict[str, Any] = {
        "model": model,
        "max_iterations": turns,
        "mcp_servers": [{"alias": "rooms"}],
    }
    talks = [
        await loop.create_conversation(defaults=defaults, scope=SCOPE)
        for _ in range(runs)
    ]

    async def work() -> None:
        ended = await asyncio.gather(
            *(loop.run(talk.id, QUESTION, scope=SCOPE) for talk in talks)
        )
        if any(run.status != "completed" for run in ended):
            raise AssertionError("a run of the crowd failed")

    return await timed(work)


async def _ours() -> tuple[float, float]:
    async with AsyncAgentLoop(SlowModel(TURNS), tools={"rooms": [free_slots]}) as loop:
        return await crowd(loop, RUNS, TURNS, "slow")


async def _bare() -> tuple[float, float]:
    async def work() -> None:
        loops = (bare.async_loop(TURNS, LATENCY) for _ in range(RUNS))
        await asyncio.gather(*loops)

    return await timed(work)


def t5(tick: Tick) -> list[Row]:
    """200 runs of 8 iterations against a model of 50 ms."""
    ours: list[tuple[float, float]] = []
    floor: list[tuple[float, float]] = []
    for turn in range(_SAMPLES + 1):
        tick(f"{RUNS} concurrent runs, sample {turn} of {_SAMPLES}")
        cpu_of(lambda: ours.append(asyncio.run(_ours())))
        cpu_of(lambda: floor.append(asyncio.run(_bare())))
    what = f"{RUNS} runs x {TURNS} iterations x 50 ms"
    return [
        _seconds("T5", f"{what}, wall", ours[1:], floor[1:], 0, 0.55),
        _seconds("T5", f"{what}, CPU", ours[1:], floor[1:], 1, 0.20),
    ]


def _seconds(  # noqa: PLR0913 - one line of a table
    figure: str,
    what: str,
    ours: list[tuple[float, float]],
    floor: list[tuple[float, float]],
    column: int,
    limit: float | None,
) -> Row:
    spread = Spread(tuple(sample[column] for sample in ours))
    return Row(
        figure=figure,
        what=what,
        value=spread.median,
        unit="s",
        baseline=Spread(tuple(sample[column] for sample in floor)).median,
        limit=limit,
        spread=spread.width,
    )


# ---------------------------------------------------------------- calls in flight


FLYING = 60
_MODEL = "turns-2-wait-1000"


def t6(tick: Tick) -> list[Row]:
    """60 runs of 2 iterations of a second each, over one boto3 client."""
    from agentloop.backends.bedrock import BedrockBackend
    from agentloop.testing.fake_bedrock.client import bedrock_client

    async def flight(client: Any) -> tuple[float, float]:
        backend = BedrockBackend(client, max_in_flight=FLYING)
        async with AsyncAgentLoop(
            backend, tools={"rooms": [free_slots]}, in_flight=FLYING
        ) as loop:
            return await crowd(loop, FLYING, 2, _MODEL)

    ours: list[tuple[float, float]] = []
    floor: list[tuple[float, float]] = []
    with server.running() as url:
        for turn in range(3):
            tick(f"{FLYING} calls in flight, sample {turn + 1} of 3")
            client = bedrock_client(url, max_pool_connections=FLYING)
            floor.append(_threads(client))
            ours.append(asyncio.run(flight(client)))
    what = f"{FLYING} runs x 2 iterations x 1 s over boto3"
    return [
        _seconds("T6", f"{what}, wall", ours, floor, 0, 2.6),
        _seconds("T6", f"{what}, CPU", ours, floor, 1, None),
    ]


def _threads(client: Any) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(FLYING) as pool:
        flights = [
            pool.submit(bare.boto3_loop, client, _MODEL, 2) for _ in range(FLYING)
        ]
        for flight in flights:
            flight.result()
    return time.perf_counter() - wall, time.process_time() - cpu
