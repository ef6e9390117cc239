"""Watches over the guest while this process is one that talks to it, and ends that with the guest.

TCP notices after two minutes that a guest is gone, and ssh(1) waits for it. This process has become
ssh by then, so that the terminal, its signals and its exit status are ssh's own; so a process of
its own looks after the guest.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from labctl.cli.options import print_error
from labctl.errors import LabctlError

LOOK_SECONDS = 1.0


def guard(check: Callable[[bool], None]) -> None:
    """End whatever this process becomes when `check` raises `LabctlError`, and say why.

    `check` is called each second, the first time with True: there is time to look closer where a
    command has not ended within that. Whatever else goes wrong ends the watch and nothing more.
    """
    me = os.getpid()
    handle = os.pidfd_open(me)
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os.close(handle)
        return
    # In a child of the child: what this process becomes may wait for children of its own.
    with contextlib.suppress(BaseException):
        if os.fork() == 0:
            _watch(me, handle, check)
    os._exit(0)


def _watch(pid: int, handle: int, check: Callable[[bool], None]) -> None:
    os.setsid()  # the keys of the terminal are for the other one
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)  # whoever reads our output waits for its end
    first = True
    while not select.select([handle], [], [], LOOK_SECONDS)[0]:
        try:
            check(first)
        except LabctlError as gone:
            print_error(gone)
            _end(pid, handle)
            return
        first = False


def _end(pid: int, handle: int) -> None:
    """End ssh(1), which is the process itself or, where nsenter(1) waits for it, its child."""
    for child in _children(pid) or [pid]:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGTERM)
    if not select.select([handle], [], [], LOOK_SECONDS)[0]:
        signal.pidfd_send_signal(handle, signal.SIGTERM)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
