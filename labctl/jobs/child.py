"""One job as a process of its own on this machine, in a process group of its own, until it ends.

It ends when its input does, also where who started it is killed and cannot tell it
(`ending_with_input`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from labctl.jobs.model import GRACE, Ended, How, Job
from labctl.sandbox import process

LOG = "log"
FILES = "files"
_MOST_LOG = 4096
"""Bytes of the end of its output that are read for its last words."""


PROGRAM = (sys.executable, "-P", "-m", "labctl")
"""This labctl, as a program."""


class Child:
    """A job that runs."""

    def __init__(
        self, job: Job, place: str, folder: Path, program: Sequence[str] = PROGRAM
    ) -> None:
        """Start it; raises `OSError` where that cannot be done.

        What it says goes to a file in `folder`, which is there.
        """
        self.job, self.place = job, place
        self._log = folder / LOG
        self._told: How | None = None
        own = folder / FILES if job.files else None
        if own:
            own.mkdir(mode=0o700)
            for name, text in job.files.items():
                (own / name).write_text(text)
        ours = {name: value for name, value in os.environ.items() if _is_ours(name)}
        with self._log.open("wb") as log:
            self._child = process.start_group([*program, *job.words], ours, log.fileno(), own)
        self.handle = os.pidfd_open(self._child.pid)
        """It can be read from when the process has ended (pidfd_open(2))."""
        self._end = time.monotonic() + job.deadline

    def look(self) -> Ended | None:
        """Return its end, if it has ended; end it where it has taken too long."""
        status = self._child.poll()
        if status is not None:
            return self._ended(status)
        if time.monotonic() > self._end:
            if self._told is None:
                self._told, self._end = How.DEADLINE, time.monotonic() + GRACE
                self._signal(signal.SIGTERM)
            else:
                self._signal(signal.SIGKILL)
        return None

    @property
    def left(self) -> float:
        """Seconds until it should be looked at, though nothing happened."""
        return max(0.1, self._end - time.monotonic())

    def tell_to_end(self, how: How = How.STOPPED) -> None:
        """Ask it to take its lab down and end; after `GRACE` seconds `look` ends it."""
        if self._told is None:
            self._told, self._end = how, time.monotonic() + GRACE
            self._signal(signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        """Wait for its end, at most so long; `look` tells of it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(min(self.left, seconds))

    def finish(self) -> Ended:
        """Wait for its end, which it was told of."""
        while (ended := self.look()) is None:
            self.wait(1.0)
        return ended

    def _signal(self, number: int) -> None:
        # The group is there as long as its first process is not waited for.
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self._child.pid, number)
            else:
                self._child.send_signal(number)

    def _ended(self, status: int) -> Ended:
        # Whatever it may have left behind in its group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        if self._child.stdin:
            self._child.stdin.close()
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1
        said = self._last_words()
        if self._told is How.DEADLINE:
            reason = f"it took longer than {self.job.deadline:g} s and was ended"
            return Ended(self.job, self.place, How.DEADLINE, reason)
        if self._told:
            return Ended(self.job, self.place, self._told, "it was interrupted")
        if status < 0:
            name = signal.Signals(-status).name
            return Ended(self.job, self.place, How.CRASHED, f"{name} ended its process: {said}")
        return Ended(self.job, self.place, How.ENDED, said, status)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(max(0, size - _MOST_LOG))
            return process.last_lines(log.read(_MOST_LOG).decode(errors="replace"), 2)
        return ""


def _is_ours(name: str) -> bool:
    return name.startswith(("LABCTL_", "XDG_"))


@contextlib.contextmanager
def ending_with_input() -> Iterator[None]:
    """End this process by SIGTERM when its standard input ends, for the length of a `with` block.

    That is when who started it is gone, however that went.
    """
    over = threading.Event()

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="labctl-input").start()
    try:
        yield
    finally:
        over.set()
