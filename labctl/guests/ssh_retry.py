"""Programs in guests, started again where the guest's server closed before they began.

dropbear 2022.83 closes a new session at once when another one's program ends between the session's
opening and its request to run something (its pull request 326, mended later). The client then
exits with 255 and says nothing, and in the guest nothing was started: trying again is safe, and
where a command announces itself first, it is proved to be so.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable

from labctl.sandbox.base import Process
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import WATCH_SECONDS, Result

ANNOUNCEMENT = "labctl: begun"
"""What a command writes to standard error before anything else."""
NEVER_BEGUN = 255
"""What ssh(1) exits with when it cannot tell how the command ended."""
MAX_ATTEMPTS = 50
"""A busy guest loses one session in twenty; this many in a row mean something else."""


def announced(line: str) -> str:
    """Return shell text that announces itself and then does `line`."""
    return f"echo '{ANNOUNCEMENT}' >&2; {line}"


def retry_until_started(go: Callable[[str], Result], line: str) -> tuple[Result, bool]:
    """Run a shell's line by `go`, again for as long as it has not begun; tell whether it has."""
    begun = False
    for _ in range(MAX_ATTEMPTS):
        result = go(announced(line))
        begun, errors = without_announcement(result.stderr)
        result = dataclasses.replace(result, stderr=errors)
        if begun or errors or result.status != NEVER_BEGUN:
            break
    return result, begun


def without_announcement(errors: str) -> tuple[bool, str]:
    """Return whether a command announced itself, and what else it wrote to standard error."""
    before, found, after = errors.partition(ANNOUNCEMENT + "\n")
    return bool(found), before + after


class RetriedCommand:
    """A program in a guest that is started again for as long as it has not begun."""

    def __init__(
        self, start: Callable[[], Process], begun: Callable[[], bool], check: Callable[[], None]
    ) -> None:
        """Start it; `begun` tells from its output whether it has got to run.

        `check` raises when there is no guest any more that could go on with it.
        """
        self._check = check
        self._check_at = time.monotonic() + WATCH_SECONDS
        self._start = start
        self._begun = begun
        self._process = start()
        self._tries = 1

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs or is started again."""
        status = self._process.poll()
        if status is None and time.monotonic() > self._check_at:
            self._check()
            self._check_at = time.monotonic() + WATCH_SECONDS
        if status == NEVER_BEGUN and not self._begun() and self._tries < MAX_ATTEMPTS:
            self._tries += 1
            self._process = self._start()
            return None
        return status

    def finish(self, deadline: Deadline) -> int:
        """Close its standard input, wait for its end, return its exit status."""
        if self._process.poll() is None:
            self._check()
        return self._process.finish(deadline)

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Signal the ssh that carries it."""
        self._process.kill(number)
