"""Profiles of the property tests: `--hypothesis-profile nightly` runs at least 10,000 schedules of the core."""

from hypothesis import settings

settings.register_profile("nightly", max_examples=10_000, deadline=None)
