"""Letting this process become another program."""

from __future__ import annotations

import os
import signal
import stat
import sys
from typing import NoReturn

_CHUNK = 1 << 16


def become(words: list[str]) -> NoReturn:
    """Let this process become a program; its exit status is then ours."""
    sys.stdout.flush()
    # Python ignores both (signal(7)), and a program started in its place would do so too.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execvp(words[0], words)


def become_untrusted(words: list[str]) -> NoReturn:
    """As `become`, for a program on this host that is to do nothing to it by what is open here.

    What `/proc/self/fd` names can be opened anew, with the rights of the file and not of the
    descriptor: so a file at the input is read by a process beside, and passed on by a pipe. A
    terminal stays (see `labctl.sandbox.seccomp`).
    """
    if sys.stdin is not None and not _passes_on(os.fstat(0).st_mode):
        _pipe_input()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    become(words)


def _passes_on(mode: int) -> bool:
    """Whether what is open keeps nothing: a terminal, /dev/null, a pipe or a socket."""
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _pipe_input() -> None:
    """Put a pipe in place of the input, and a process that feeds it for as long as it is read."""
    source, sink = os.pipe()
    if os.fork():
        os.dup2(source, 0)
        for number in (source, sink):
            os.close(number)
        return
    status = 1
    try:
        os.close(source)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        while data := os.read(0, _CHUNK):
            while data:
                data = data[os.write(sink, data) :]
        status = 0
    finally:
        os._exit(status)
