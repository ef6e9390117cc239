"""Fixtures of the whole suite."""

from __future__ import annotations

import pytest
from hypothesis import settings

# How long an example takes is the machine's affair, and no test's.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a developer has set for their own labs out of the tests."""
    for name in ("LABCTL_LAB", "LABCTL_RESULTS", "LABCTL_DEBUG"):
        monkeypatch.delenv(name, raising=False)
