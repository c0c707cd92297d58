"""The kit for engines, on the smallest engine there can be."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentloop.testing.engines import (
    CHECKS,
    DEATHS,
    PARITY,
    BrokenPromiseError,
    Stage,
    death,
    opened,
    parity,
    waiting,
)
from agentloop.testing.engines.ledger import Fuse
from agentloop.testing.engines.place import imported
from tests.engine_kills import hunt


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage over the queue."""
    folder: Path = tmp_path_factory.mktemp("queue")
    with opened("tests.queue_engine:place", str(folder)) as made:
        yield made


@pytest.mark.parametrize("flow", PARITY)
def test_parity(stage: Stage, flow: str) -> None:
    """A flow leaves the same run and messages as without an engine."""
    parity(stage, flow)


@pytest.mark.parametrize("where", DEATHS)
def test_death(stage: Stage, where: str) -> None:
    """A death at an exact place leaves no trace but a lost attempt."""
    death(stage, where)


@pytest.mark.parametrize("check", CHECKS)
def test_check(stage: Stage, check: str) -> None:
    """What the kit claims holds of the queue."""
    CHECKS[check](stage)


# ---------------------------------------------------------------- what the kit finds


@pytest.fixture(scope="module")
def lies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage at a place that breaks promises."""
    folder: Path = tmp_path_factory.mktemp("lies")
    with opened("tests.queue_engine:lying", str(folder)) as made:
        yield made


def test_a_call_that_is_made_twice_is_found(lies: Stage) -> None:
    """The ledger is outside of the library, and counts what really happened."""
    with pytest.raises(BrokenPromiseError, match="executions of one call"):
        CHECKS["two workers share the runs"](lies)


def test_another_answer_is_found(lies: Stage) -> None:
    """Parity is about every message."""
    parity(lies, "answer")
    with pytest.raises(BrokenPromiseError, match="server tools: wanted"):
        parity(lies, "server tools")


@pytest.mark.parametrize(
    ("fault", "check", "told"),
    [
        ("Tired", "a lease that is lost ends no run", "did not happen that run"),
        (
            "Fragile",
            "a deleted conversation leaves its runs at rest",
            "somebody came back",
        ),
        (
            "Blind",
            "a start that was lost is found when nobody repeats it",
            "did not happen that run",
        ),
        (
            "Curious",
            "nothing that was said is kept by the engine",
            "the engine keeps what was said",
        ),
    ],
)
def test_an_engine_with_a_fault_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, check: str, told: str
) -> None:
    """Each of them passes for an engine until its own check is made."""
    monkeypatch.setattr(waiting, "PATIENCE", 6.0)
    with opened("tests.queue_engine:faulty", f"{fault} {tmp_path}") as here:
        with pytest.raises(AssertionError, match=told):
            CHECKS[check](here)
        CHECKS["answers land in the order of their calls"](here)


def test_a_cancel_that_does_nothing_is_found(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was to be cancelled and completed instead is a broken promise."""
    monkeypatch.setattr(stage.loop, "cancel_run", lambda *_, **__: None)
    with pytest.raises(BrokenPromiseError, match="wanted 'AgentLoopCancelled'"):
        CHECKS["a cancel that comes before the answer ends the run"](stage)


def test_a_death_that_nobody_died_is_found(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that no worker comes by proves nothing."""
    monkeypatch.setitem(DEATHS, "nowhere", ("before nothing", 1))
    with pytest.raises(AssertionError, match="a worker comes by nowhere"):
        death(stage, "nowhere")


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    """What it had to say is shown to whoever waits for it."""
    with (
        opened("tests.queue_engine:place", str(tmp_path)) as here,
        pytest.raises(AssertionError, match="nonsense"),
    ):
        here.crew.hire(1, nonsense=1)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nowhere", ValueError),
        ("tests.queue_engine:AWAY", TypeError),
        ("tests.queue_engine:nobody", TypeError),
        ("tests.nowhere:place", ImportError),
    ],
)
def test_a_factory_is_found_by_its_name_only(name: str, error: type) -> None:
    """What cannot be found or called is refused with what is wrong."""
    with pytest.raises(error):
        imported(name)


def test_a_fuse_counts_to_thirty(tmp_path: Path) -> None:
    """More passes than that are a mistake."""
    with pytest.raises(ValueError, match="30"):
        Fuse(tmp_path).arm("after claim", 31)


def test_the_hunt_counts(stage: Stage) -> None:
    """The release command in small: workers die, and nothing is lost or doubled."""
    figures, broken = hunt(stage, 4, seed=1)
    assert figures["kills"] >= 4
    assert (figures["doubled"], figures["lost"], broken) == (0, 0, [])
    assert figures["executions"] >= figures["runs"] > 0


def test_the_hunt_finds_what_is_doubled(lies: Stage) -> None:
    """Where calls are made twice, the figures say so."""
    figures, _ = hunt(lies, 1, seed=1)
    assert figures["doubled"] > 0
