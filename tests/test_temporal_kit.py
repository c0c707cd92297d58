"""The kit for engines on Temporal: flows, a few deaths, the server too."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentloop.testing.engines import (
    CHECKS,
    PARITY,
    SERVER_CHECKS,
    Stage,
    death,
    opened,
    parity,
)
from tests.temporal_server import TemporalProcess

A_HANDFUL = (
    "once it has the run",
    "before the first answer to the engine",
    "after an inference",
    "before the calls are answered",
    "after finalize",
)
"""The other places where a worker can die are for the release command."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage over a server of its own, which may be killed."""
    folder: Path = tmp_path_factory.mktemp("temporal")
    server = TemporalProcess(folder)
    server.start()
    where = f"{server.address}/kit {folder}"
    try:
        with opened("tests.temporal_place:place", where, server=server) as made:
            yield made
    finally:
        server.kill()


@pytest.mark.parametrize("flow", PARITY)
def test_parity(stage: Stage, flow: str) -> None:
    """A flow leaves the same run and messages as without an engine."""
    parity(stage, flow)


@pytest.mark.parametrize("where", A_HANDFUL)
def test_death(stage: Stage, where: str) -> None:
    """A death at an exact place leaves no trace but a lost attempt."""
    death(stage, where)


@pytest.mark.parametrize("check", CHECKS)
def test_check(stage: Stage, check: str) -> None:
    """What the kit claims holds on Temporal."""
    CHECKS[check](stage)


@pytest.mark.parametrize("check", SERVER_CHECKS)
def test_server(stage: Stage, check: str) -> None:
    """Temporal's own death is outlived."""
    SERVER_CHECKS[check](stage)
