"""T1 to T3: what a turn costs, in process and over boto3, and how it grows."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from agentloop import AgentLoop
from benchmarks import bare, server
from benchmarks.measure import Prepare, Row, Spread, Tick, interleaved
from benchmarks.workload import QUESTION, SCOPE, Bench, drive_to_end, free_slots

LENGTHS = (1, 8, 32, 128, 512)
T3_LIMITS = {8: 1.10, 32: 0.70, 128: 0.40, 512: 0.15}
_SAMPLES = {1: 25, 8: 25, 32: 21, 128: 9, 512: 7}
_BOTO3_SAMPLES = {8: 15, 32: 9, 128: 5, 512: 3}


def per_turn(
    cases: Mapping[str, Prepare], turns: int, samples: int, tick: Tick
) -> dict[str, Spread]:
    """Microseconds of CPU per model call of each case."""
    found = interleaved(cases, samples, lambda what: tick(f"N={turns}: {what}"))
    return {name: spread.scaled(1e6 / turns) for name, spread in found.items()}


def in_process(turns: int) -> dict[str, Prepare]:
    """The cases without a network."""
    bench, loop = Bench(turns), Bench(turns).loop()
    return {
        "bare loop": lambda: partial(bare.loop, turns),
        "no checkpoint": lambda: partial(drive_to_end, bench.desk(kept=False)),
        "memory": lambda: partial(drive_to_end, bench.desk(kept=True)),
        "face": lambda: partial(converse, loop, turns, "lean"),
    }


def converse(loop: AgentLoop, turns: int, model: str) -> None:
    """A conversation by the public face: created, a run started, driven, returned."""
    defaults: dict[str, Any] = {
        "model": model,
        "max_iterations": turns,
        "mcp_servers": [{"alias": "rooms"}],
    }
    talk = loop.create_conversation(defaults=defaults, scope=SCOPE)
    run = loop.run(talk.id, QUESTION, scope=SCOPE)
    if run.status != "completed" or run.iterations_used != turns:
        raise AssertionError(f"{run.status} after {run.iterations_used}: {run.error}")


def t1(tick: Tick) -> list[Row]:
    """A turn in process, at N=32."""
    found = per_turn(in_process(32), 32, _SAMPLES[32], tick)
    return [
        _turn("T1", "turn, nothing stored, N=32", found, "no checkpoint", 40.0),
        _turn("T1", "turn, checkpoint to memory, N=32", found, "memory", 50.0),
        _turn("T1", "turn through `loop.run`, start to answer, N=32", found, "face"),
    ]


def _turn(
    figure: str,
    what: str,
    found: Mapping[str, Spread],
    name: str,
    limit: float | None = None,
) -> Row:
    return Row(
        figure=figure,
        what=what,
        value=found[name].median,
        baseline=found["bare loop"].median,
        limit=limit,
        spread=found[name].width,
    )


def t2(tick: Tick) -> list[Row]:
    """Flat: a late turn costs what an early one did."""
    short = {f"{name}, 32": case for name, case in in_process(32).items()}
    long = {f"{name}, 512": case for name, case in in_process(512).items()}
    found = interleaved({**short, **long}, 9, tick)
    rows = [
        Row(
            figure="T2",
            what=f"turn at N=512 against N=32, {name}",
            value=found[f"{name}, 512"].median * 1e6 / 512,
            baseline=found[f"{name}, 32"].median * 1e6 / 32,
            limit=1.2,
            judges="ratio",
            spread=found[f"{name}, 512"].width,
        )
        for name in ("no checkpoint", "memory")
    ]
    return [*rows, _ten_thousand(tick)]


def _ten_thousand(tick: Tick) -> Row:
    tick("10 000 iterations in one run")
    turns = 10_000
    found = per_turn(
        {
            "bare loop": lambda: partial(bare.loop, turns),
            "memory": lambda: partial(drive_to_end, Bench(turns).desk(kept=True)),
        },
        turns,
        1,
        tick,
    )
    limit = sys.getrecursionlimit()
    what = f"turn at N=10 000, completed at recursion limit {limit}"
    return _turn("T2", what, found, "memory")


# ---------------------------------------------------------------- over boto3


@contextmanager
def over_boto3() -> Iterator["Boto3Cases"]:
    """Cases over real HTTP, the server in a process of its own."""
    from agentloop.backends.bedrock import BedrockBackend
    from agentloop.testing.fake_bedrock.client import bedrock_client

    with server.running() as url:
        bare_client, our_client = bedrock_client(url), bedrock_client(url)
        backend = BedrockBackend(our_client)
        with AgentLoop(backend, tools={"rooms": [free_slots]}) as loop:
            yield Boto3Cases(bare_client, loop)
        door = backend.open()
        if door.reason is not None:
            raise AssertionError(f"no body was handed over: {door.reason}")


class Boto3Cases:
    """The loop by hand and ours, both with a client of the same settings."""

    def __init__(self, client: Any, loop: AgentLoop) -> None:
        self._client = client
        self._loop = loop

    def of(self, turns: int) -> dict[str, Prepare]:
        """The two cases at one length."""
        model = f"turns-{turns}"
        return {
            "bare boto3": lambda: partial(bare.boto3_loop, self._client, model, turns),
            "ours over boto3": lambda: partial(converse, self._loop, turns, model),
        }


def t3(tick: Tick) -> list[Row]:
    """Against a hand-written boto3 loop, client CPU only."""
    with over_boto3() as cases:
        return [_over_boto3(cases, turns, tick) for turns in T3_LIMITS]


def _over_boto3(cases: Boto3Cases, turns: int, tick: Tick) -> Row:
    found = per_turn(cases.of(turns), turns, _BOTO3_SAMPLES[turns], tick)
    ours = found["ours over boto3"]
    return Row(
        figure="T3",
        what=f"turn over boto3 and HTTP, N={turns}",
        value=ours.median,
        baseline=found["bare boto3"].median,
        limit=T3_LIMITS[turns],
        judges="ratio",
        spread=ours.width,
    )


def curves(tick: Tick) -> dict[str, dict[int, float]]:
    """Cost per turn at each length, for the plot."""
    drawn: dict[str, dict[int, float]] = {}
    with over_boto3() as cases:
        for turns in LENGTHS:
            samples = min(_SAMPLES[turns], 5)
            found = per_turn(in_process(turns), turns, samples, tick)
            found |= per_turn(cases.of(turns), turns, 3, tick)
            for name, spread in found.items():
                drawn.setdefault(name, {})[turns] = spread.median
    return drawn
