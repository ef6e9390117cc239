"""Deadlines on the monotonic clock, each naming the stage it bounds."""

from __future__ import annotations

import time
from dataclasses import dataclass

from labctl.errors import DeadlineError


@dataclass(frozen=True)
class Remaining:
    """What is sent of a deadline (see `labctl.sandbox.codec`)."""

    seconds: float
    stage: str
    left: float


class Deadline:
    """A point in time by which `stage` must be over."""

    def __init__(self, seconds: float, stage: str) -> None:
        """Start the clock: `seconds` from now."""
        self.seconds = seconds
        self.stage = stage
        self._end = time.monotonic() + seconds

    def travelling(self) -> Remaining:
        """Travel as the seconds left: another machine, such as a dom0, has another clock."""
        return Remaining(self.seconds, self.stage, self.left)

    @classmethod
    def landed(cls, value: Remaining) -> Deadline:
        """Start the clock again."""
        deadline = cls(value.seconds, value.stage)
        deadline._end = time.monotonic() + value.left
        return deadline

    @property
    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether nothing is left."""
        return self.left == 0.0

    def error(self, why: str = "", hint: str = "", detail: str = "") -> DeadlineError:
        """Build the error that says this deadline passed."""
        tail = f": {why}" if why else ""
        message = f"{self.stage} took longer than {self.seconds:g} s{tail}"
        return DeadlineError(message, hint, detail)

    def check(self, why: str = "", hint: str = "") -> None:
        """Raise `DeadlineError` if the deadline has passed."""
        if self.passed:
            raise self.error(why, hint)

    def pause(self, seconds: float) -> None:
        """Sleep for `seconds` or until the deadline, whichever comes first, then check it."""
        time.sleep(min(seconds, self.left))
        self.check()
