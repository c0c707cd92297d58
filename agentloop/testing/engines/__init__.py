"""The kit for engines: does an engine drive runs as this library promises?

For hosts who bring an engine of their own; the engines that are shipped pass it too.
A place (`agentloop.testing.engines.Place`) says how to get at the engine and a store
in any process, and is made by a factory that worker processes import by name:

    # myhost/places.py
    def staging(address): return StagingPlace(address)

    # tests/test_our_engine.py
    import pytest
    from agentloop.testing.engines import CHECKS, DEATHS, PARITY, death, opened, parity

    @pytest.fixture(scope="module")
    def stage():
        with opened("myhost.places:staging", "the://address") as stage:
            yield stage

    @pytest.mark.parametrize("flow", PARITY)
    def test_parity(stage, flow): parity(stage, flow)

    @pytest.mark.parametrize("where", DEATHS)
    def test_death(stage, where): death(stage, where)

    @pytest.mark.parametrize("check", CHECKS)
    def test_check(stage, check): CHECKS[check](stage)

`parity` compares what a flow leaves with what it leaves without an engine. `death`
kills a worker at an exact place. `CHECKS` are about the rest: effects, workers that
keep dying, cancels, lost starts; `SERVER_CHECKS` kill the engine's server, for those
who give `opened` a `Server`. Workers are forked and killed by signals, so the kit
needs a system that has them. It knows no engine; the recipe is in
`agentloop.runtime.rounds`.
"""

from agentloop.testing.engines.checks import (
    CHECKS,
    DEATHS,
    SERVER_CHECKS,
    BrokenPromiseError,
    death,
    parity,
)
from agentloop.testing.engines.flows import PARITY
from agentloop.testing.engines.place import Place, Server
from agentloop.testing.engines.stage import Stage, opened

__all__ = [
    "CHECKS",
    "DEATHS",
    "PARITY",
    "SERVER_CHECKS",
    "BrokenPromiseError",
    "Place",
    "Server",
    "Stage",
    "death",
    "opened",
    "parity",
]
