"""Bounds on what a program says: it may be somebody else's, and may never stop.

A file that a program writes to directly has no bound that would hold for an ssh(1) whose shared
connection writes in its stead, so what is to be bounded goes through a pipe of ours.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from labctl.sandbox.deadline import Deadline
from labctl.sandbox.holes import held

_CHUNK = 1 << 18


class Output:
    """Keeps what a child says in files, and ends it where one holds more than `limit` bytes.

    Who reads along may make holes of what was read (`labctl.sandbox.holes`): they do not count.
    """

    def __init__(
        self, child: subprocess.Popen[bytes], stdout: Path, stderr: Path, limit: int
    ) -> None:
        """Begin to read; both of the child's outputs are pipes."""
        assert child.stdout
        assert child.stderr
        self._threads = [
            _reading(child.stdout, stdout, limit, child.kill),
            _reading(child.stderr, stderr, limit, child.kill),
        ]

    def settle(self, seconds: float) -> None:
        """Wait until the files hold all that an ended child has said.

        For at most `seconds`: something that it left behind may hold the pipes.
        """
        for thread in self._threads:
            thread.join(seconds)


def _reading(pipe: IO[bytes], path: Path, limit: int, end: Callable[[], None]) -> threading.Thread:
    def copy() -> None:
        with pipe, path.open("ab", buffering=0) as file:
            left = limit - file.tell()
            while left > 0 or (left := limit - held(file.fileno())) > 0:
                data = os.read(pipe.fileno(), min(_CHUNK, left))
                if not data:
                    return
                left -= len(data)
                try:
                    file.write(data)
                except OSError:  # the disk is full: what is there stays, cut
                    break
        # The pipe is closed by now, so that nobody is left waiting to write to it.
        with contextlib.suppress(OSError):
            end()

    thread = threading.Thread(target=copy, daemon=True, name="labctl-output")
    thread.start()
    return thread


def collect(
    child: subprocess.Popen[bytes], stdin: bytes, limit: int, deadline: Deadline
) -> tuple[bytes, bytes, bool]:
    """Give a child its input; return what it said to its end, and whether that was too much.

    At most `limit` bytes of each output are kept, and a child that says more is killed. Raises
    `subprocess.TimeoutExpired`, with what was said by then, when the child goes on for too long.
    """
    assert child.stdin
    assert child.stdout
    assert child.stderr
    kept = {child.stdout: bytearray(), child.stderr: bytearray()}
    over, left = False, memoryview(stdin)
    with selectors.DefaultSelector() as ready:
        for pipe in kept:
            ready.register(pipe, selectors.EVENT_READ)
        os.set_blocking(child.stdin.fileno(), False)
        ready.register(child.stdin, selectors.EVENT_WRITE)
        while ready.get_map():
            for key, _ in ready.select(deadline.left):
                if key.fileobj is child.stdin:
                    left = _write(child.stdin, left)
                    if not left:
                        ready.unregister(child.stdin)
                        child.stdin.close()
                    continue
                said = kept[cast("IO[bytes]", key.fileobj)]
                data = os.read(key.fd, _CHUNK)
                said += data[: limit - len(said) + 1]
                if len(said) > limit:
                    over = True
                    child.kill()
                if not data or over:
                    ready.unregister(key.fileobj)
            if deadline.passed and ready.get_map():
                out, err = (bytes(said[:limit]) for said in kept.values())
                raise subprocess.TimeoutExpired(child.args, deadline.seconds, out, err)
            if over:
                break
    child.wait(deadline.left or None if over else deadline.left)
    out, err = (bytes(said[:limit]) for said in kept.values())
    return out, err, over


def _write(pipe: IO[bytes], left: memoryview) -> memoryview:
    """Write what goes in; return what is left, nothing where nobody reads it any more."""
    try:
        return left[os.write(pipe.fileno(), left[:_CHUNK]) :]
    except BlockingIOError:
        return left
    except OSError:
        return left[:0]
