"""Settings for all tests: one Hypothesis profile, named in the report's header."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

_IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
_PROFILE = "ci" if _IN_CI else "default"

# Shared machines stall at random, so a deadline an example would only report that.
# In CI the examples are the same on every run: a failure belongs to the change.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile(_PROFILE)


def pytest_report_header(config: pytest.Config) -> str:
    """Name the profile, so that a failure says whether its examples were random."""
    profile = settings.get_profile(_PROFILE)
    return (
        f"hypothesis examples: profile {_PROFILE}, derandomize={profile.derandomize}, "
        f"max_examples={profile.max_examples}"
    )
