"""A process of a test's own that stands for the PID 1 of a sandbox."""

from __future__ import annotations

import pytest

from labctl.sandbox import init_scan
from labctl.sandbox.namespaces import Identity, start_ticks


@pytest.fixture
def any_process_is_an_init(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every process that runs bear the mark that `standing` gives it."""
    monkeypatch.setattr(init_scan, "mark_of", _mark)


def standing(pid: int) -> Identity:
    """Return the identity of a sandbox whose PID 1 is this process."""
    return Identity(pid, _mark(pid), user=False)


def ended(pid: int) -> Identity:
    """Return the identity of a sandbox whose PID 1 had this pid, and is gone."""
    return Identity(pid, "the mark of another", user=False)


def _mark(pid: int) -> str:
    return f"{pid}/{start_ticks(pid)}" if start_ticks(pid) >= 0 else ""
