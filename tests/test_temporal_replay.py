"""The replay gate: what earlier workflows did is what this version's would do.

A run may be under way when its workers are replaced. Temporal then replays its
history through the new code, and stops the run when the new code would have done
something else. Here every history that was kept is replayed, without a server.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.converter import DataConverter
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from agentloop.core import machine
from agentloop.core.config import Auto
from agentloop.core.phases import CallTools, Command, Infer, Log, LoopState
from agentloop.engines.temporal_texts import TextPayloads
from agentloop.engines.temporal_workflow import RunWorkflow
from tests.temporal_histories import VERSION, history_of, recorded


async def replay(file: Path) -> None:
    """Replay one kept history.

    Raises:
        NondeterminismError: this version would have done something else.
    """
    replayer = Replayer(
        workflows=[RunWorkflow],
        data_converter=DataConverter(payload_converter_class=TextPayloads),
    )
    await replayer.replay_workflow(history_of(file))


@pytest.mark.asyncio
@pytest.mark.parametrize("file", recorded(), ids=lambda file: file.stem)
async def test_kept_histories_replay(file: Path) -> None:
    """Whatever a release recorded, this one goes on with."""
    await replay(file)


@pytest.mark.asyncio
async def test_what_the_workflow_imports_is_pure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loaded inside the sandbox, none of it reads a clock, a file or chance."""
    loaded: list[str] = []

    @contextmanager
    def in_the_sandbox() -> Iterator[None]:
        loaded.append("for this history")
        yield

    monkeypatch.setattr(workflow.unsafe, "imports_passed_through", in_the_sandbox)
    await replay(kept("server_tools.1"))
    assert loaded


def test_kept_histories_hold_everything_that_a_workflow_does() -> None:
    """Every command, pauses, cancels, fresh histories, and each way to end."""
    files = [file for file in recorded() if file.parent.name == VERSION]
    kinds: Counter[str] = Counter()
    for file in files:
        for event in json.loads(file.read_text())["events"]:
            kinds[event["eventType"].removeprefix("EVENT_TYPE_")] += 1
            scheduled = event.get("activityTaskScheduledEventAttributes", {})
            kinds[scheduled.get("activityType", {}).get("name", "")] += 1
    needed = {
        "begin",
        "discover",
        "infer",
        "call_tools",
        "TIMER_STARTED",
        "TIMER_FIRED",
        "WORKFLOW_EXECUTION_SIGNALED",
        "WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
        "WORKFLOW_EXECUTION_COMPLETED",
        "ACTIVITY_TASK_FAILED",
    }
    assert needed - kinds.keys() == set()


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["server_tools.1", "rows.2", "cancelled.1"])
async def test_a_machine_with_another_order_is_found_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that infers where it called tools fails the replay of what was kept."""

    def reordered(state: LoopState) -> Command:
        command = next_command(state)
        return instead if isinstance(command, CallTools) else command

    next_command = machine.next_command
    instead = Infer(1, 1, 0.0, 0.0, Auto(), Log())
    # The sandbox loads the workflow anew and finds this one in its place.
    monkeypatch.setattr(machine, "next_command", reordered)
    with pytest.raises(NondeterminismError):
        await replay(kept(name))


def kept(name: str) -> Path:
    """A kept history of this version."""
    return next(file for file in recorded() if file.stem == name)
