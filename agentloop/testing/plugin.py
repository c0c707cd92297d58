"""The pytest plugin: fixed ids, a clock that is moved by hand, a loop on a script.

Nothing but pytest is imported until a fixture is used, so that having the plugin
installed costs a test run nothing.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from agentloop.testing.bench import Bench
    from agentloop.testing.fixed import CountedIds, HandClock


@pytest.fixture
def agentloop_ids() -> "CountedIds":
    """Ids that count: `00000000-0000-4000-8000-000000000001`, and so on."""
    from agentloop.testing.fixed import CountedIds

    return CountedIds()


@pytest.fixture
def agentloop_clock() -> "HandClock":
    """A clock that stands still until the test moves it."""
    from agentloop.testing.fixed import HandClock

    return HandClock()


@pytest.fixture
def agentloop_bench(
    agentloop_ids: "CountedIds", agentloop_clock: "HandClock"
) -> Iterator["Bench"]:
    """A loop over a scripted model and a store in memory, all of it fixed.

    At the end of the test the script must be used up, unless the test failed
    already with an exception of its own.
    """
    from agentloop.testing.bench import Bench

    bench = Bench(agentloop_ids, agentloop_clock)
    with bench:
        yield bench
        bench.backend.assert_done()
