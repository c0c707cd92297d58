"""Profiles of hypothesis, the same examples in CI; and fixtures every module uses."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("desk", deadline=None, suppress_health_check=_SLOW)
settings.register_profile(
    "ci", settings.get_profile("desk"), derandomize=True, print_blob=True
)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, also where the suite runs in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
