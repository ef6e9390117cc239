"""The programs of a lab's routers, by what was noted of them: whose process, and which module."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple

ANY_PROGRAM = "labctl.routers."
"""In the command line of a program that a labctl started which did not yet note the module."""


class Program(NamedTuple):
    """A program that was started: its process, as its place numbers it, and its module."""

    pid: int
    module: str


def noted(file: Path) -> Program | None:
    """Return the program that a file tells of; None where none was started."""
    try:
        pid, _, module = file.read_text().partition(" ")
    except FileNotFoundError:
        return None
    return Program(int(pid or "0"), module or ANY_PROGRAM)


def end_all(directory: Path) -> None:
    """End the programs of all routers of a lab that is on this machine, by what is left of it."""
    for file in (directory / "routers").glob("*.pid"):
        with contextlib.suppress(ValueError):  # killed while it was written
            if program := noted(file):
                _end(program)


def _end(program: Program) -> None:
    """End a program, if its number is still its own."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(program.pid)
        try:
            if program.module.encode() in Path(f"/proc/{program.pid}/cmdline").read_bytes():
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
