"""Functions for the tests of the agent: what is called inside must be importable there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from labctl.errors import LabctlError
from labctl.events import Emit, Event


class StubbornError(LabctlError):
    """An error of labctl's that does not survive pickling."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class Poison:
    """A value that pickles but cannot be read again."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return int, ("no number",)


def count(names: str, emit: Emit) -> int:
    for name in names:
        emit(Event("counting", name, "progress"))
    return len(names)


def stubborn() -> None:
    raise StubbornError("stubborn as a mule")


def poison() -> Poison:
    return Poison()


def same(value: int) -> int:
    return value


def fill() -> None:
    Path("/dev/full").write_text("more")
