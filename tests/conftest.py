"""Fixtures of the whole suite."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

SLOW = "slow: takes many minutes under emulation; run it with make test ARGS=--slow"

# How long an example takes is the machine's affair, and no test's.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# A shell lets what a script starts in the background ignore SIGINT, and so would every program that
# a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--slow`: also what takes several minutes a test."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is slow unless asked for, each counted and with its reason."""
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason=SLOW))


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a developer has set for their own labs out of the tests."""
    for name in ("LABCTL_LAB", "LABCTL_RESULTS", "LABCTL_DEBUG", "LABCTL_COLD"):
        monkeypatch.delenv(name, raising=False)
