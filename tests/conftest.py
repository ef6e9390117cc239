"""Fixtures of the whole suite."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a developer has set for their own labs out of the tests."""
    for name in ("LABCTL_LAB", "LABCTL_RESULTS", "LABCTL_DEBUG"):
        monkeypatch.delenv(name, raising=False)
