"""Profiles of hypothesis: the same examples in CI, new ones at a desk."""

import os

from hypothesis import HealthCheck, settings

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("desk", deadline=None, suppress_health_check=_SLOW)
settings.register_profile(
    "ci", settings.get_profile("desk"), derandomize=True, print_blob=True
)
settings.load_profile("ci" if os.environ.get("CI") else "desk")
