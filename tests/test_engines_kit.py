"""The kit for engines, on the smallest engine there can be."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentloop.testing.engines import (
    CHECKS,
    DEATHS,
    PARITY,
    Stage,
    death,
    opened,
    parity,
)


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
