"""How an observer is started and ended, wherever it runs; `start_process` is the plainest way."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from labctl.errors import LabctlError
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import environment


class CaptureError(LabctlError):
    """An observer did not start, or what it left cannot be read."""


class Handle(Protocol):
    """A running observer."""

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        ...

    def finish(self, deadline: Deadline) -> int:
        """Close its standard input, wait for its end, return its exit status.

        Raises `DeadlineError`, the program killed, when it does not end in time.
        """
        ...

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        ...


class Spawn(Protocol):
    """Starts a program with a pipe as its standard input and its output in files."""

    def __call__(
        self, argv: Sequence[str], *, stdout: Path, stderr: Path, limit: int = 0
    ) -> Handle:
        """Start `argv`; it is ended once it has written `limit` bytes to a file (0: no limit)."""
        ...


class _Process:
    """A `Handle` over a child of this process."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def poll(self) -> int | None:
        return self._child.poll()

    def finish(self, deadline: Deadline) -> int:
        if self._child.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()
        try:
            return self._child.wait(deadline.left)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            raise deadline.error("an observer did not end") from None

    def kill(self, number: int = signal.SIGTERM) -> None:
        self._child.send_signal(number)


def start_process(
    argv: Sequence[str],
    *,
    stdout: Path,
    stderr: Path,
    limit: int = 0,  # noqa: ARG001 - only the agent of a sandbox watches over it
) -> Handle:
    """Start an observer as a child of this process, in this process's namespaces."""
    with stdout.open("wb") as out, stderr.open("wb") as err:
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environment(),
                start_new_session=True,  # Ctrl-C is ours to handle: it must not cut the streams
            )
        except OSError as wrong:
            raise CaptureError(f"cannot start {argv[0]}: {wrong.strerror}") from None
    return _Process(child)


def why_ended(status: int) -> str:
    """Say why an observer ended; on a write error its status is the errno, 1 is anything else."""
    if status in (errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EDQUOT):
        return f"its observer could not write: {os.strerror(status)}"
    return f"its observer exited with {status}" if status else ""
