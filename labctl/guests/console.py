"""What a guest's console has said: read within bounds, whatever the guest says.

A guest may print for as long as it runs, so of a lab's logs only the beginning and the end are
kept: the init of the lab's sandbox takes the middle out (`labctl.sandbox.init`), which leaves a
hole in the file (fallocate(2)). What is read here passes over holes (lseek(2), SEEK_DATA).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import select
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from labctl.errors import clean

CHUNK = 1 << 16
_TAIL = 1 << 16
"""Bytes that `tail` looks at."""
_END = 1 << 18
_LONGEST_LINE = 1000
LOOK_SECONDS = 0.02
_LAST, _SHORT = 4096, 90
"""Bytes that `last_line` looks at, and characters of the line that it returns."""
_CONTROL = re.compile(r"\x1b(?:\[[0-?]{0,32}[ -/]{0,4}[@-~]|[()][A-Z0-9]|[=>78])")
"""What a terminal acts on, and lines of a boot are full of (ECMA-48, 5.4)."""
IN_MODIFY = 2
"""linux/inotify.h"""
_libc = ctypes.CDLL(None, use_errno=True)


def pieces(log: Path, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield what is kept of a log from a byte on, piece by piece; words stand for what is not.

    It ends before the byte `end`, or where the log does. Raises `OSError` where it cannot be read.
    """
    with log.open("rb", buffering=0) as file:
        at = begin
        while (data := _next_data(file.fileno(), at)) is not None:
            if data > at:
                yield f"\n[labctl: {data - at} bytes of the console were not kept]\n".encode()
            room = CHUNK if end is None else min(CHUNK, end - data)
            piece = os.pread(file.fileno(), room, data) if room > 0 else b""
            if not piece:
                return
            at = data + len(piece)
            # A hole that begins within the piece reads as zeros, and no console says those.
            yield piece.rstrip(b"\0") if piece.endswith(b"\0") else piece


def _next_data(descriptor: int, at: int) -> int | None:
    """Return where the next data begins at or after a byte; None at the end of the file."""
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError as wrong:
        if wrong.errno == errno.ENXIO:
            return None
        raise


def copy(log: Path, to: Path, hidden: Iterable[str] = ()) -> None:
    """Copy what is kept of a log, without the texts that are to be `hidden`; raises `OSError`.

    A guest may have repeated what was typed.
    """
    secrets = [text.encode() for text in hidden]
    if secrets:
        said = b"".join(pieces(log))
        for secret in secrets:
            said = said.replace(secret, b"[labctl: a secret]")
        to.write_bytes(said)
        return
    with to.open("wb") as file:
        for piece in pieces(log):
            file.write(piece)


def text(log: Path) -> str:
    """Return all that is kept of a log; raises `OSError` where it cannot be read."""
    return b"".join(pieces(log)).decode(errors="replace")


def end(log: Path, size: int = _END) -> str:
    """Return the last `size` bytes of a log; empty where there is none."""
    try:
        begin = max(0, log.stat().st_size - size)
        return b"".join(pieces(log, begin)).decode(errors="replace")
    except OSError:
        return ""


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines a console printed, indented for an error message."""
    said = end(log, _TAIL)
    kept = [line.rstrip() for line in said.replace("\r", "").splitlines() if line.strip()]
    shown = [line[:_LONGEST_LINE] for line in kept[-lines:]]
    return "\n".join(f"    {line}" for line in shown) or "    (its console stayed empty)"


def last_line(log: Path) -> str:
    """Return the last line that a console printed, as it can be shown; empty without any."""
    said = _CONTROL.sub("", end(log, _LAST)).replace("\r", "\n").splitlines()
    return clean(next((line.strip() for line in reversed(said) if line.strip()), ""))[:_SHORT]


class Growth:
    """Waits until a log grows (inotify(7)), in a `with` block; one not there yet is looked for."""

    def __init__(self, log: Path) -> None:
        """Wait for a log."""
        self._log = log
        self._handle = -1

    def __enter__(self) -> Growth:
        """Begin."""
        # A user may have used up what the kernel lets them watch: looking again is as good.
        self._handle = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        name = os.fsencode(self._log)
        if self._handle >= 0 and _libc.inotify_add_watch(self._handle, name, IN_MODIFY) < 0:
            self.__exit__()
        return self

    def __exit__(self, *_error: object) -> None:
        """Let go."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def wait(self, seconds: float) -> None:
        """Return when the log has grown since the last time, or after some seconds."""
        if self._handle < 0:
            time.sleep(min(LOOK_SECONDS, seconds))
        elif select.select([self._handle], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._handle, CHUNK)


def rotate(log: Path) -> None:
    """Keep an ended guest's console, where there is one, beside the next one's."""
    if not log.exists():
        return
    number = 1
    while (older := log.with_suffix(f".{number}.log")).exists():
        number += 1
    log.replace(older)


class Watcher:
    """Looks for words in a log that grows, reading each byte once."""

    def __init__(self, log: Path, *words: bytes) -> None:
        """Prepare to look for `words`."""
        self.log = log
        self.said: dict[bytes, bytes] = {}
        """Each word that was found, and what came before it and behind it in its line."""
        self.size = 0
        """Bytes looked at so far."""
        self._words = words
        self._line = b""

    def look(self) -> dict[bytes, bytes]:
        """Look at what came since the last time; return `said`."""
        try:
            with self.log.open("rb", buffering=0) as file:
                while True:
                    data = _next_data(file.fileno(), self.size)
                    piece = b"" if data is None else os.pread(file.fileno(), CHUNK, data)
                    if data is None or not piece:
                        return self.said
                    self.size = data + len(piece)
                    self._take(piece)
        except OSError:
            return self.said

    def _take(self, piece: bytes) -> None:
        *lines, self._line = (self._line + piece).split(b"\n")
        # A word counts as soon as it is there; its line may grow until its end has come.
        for whole, line in [*((True, one) for one in lines), (False, self._line)]:
            for word in self._words:
                if word in line and (word not in self.said or not self._whole(word)):
                    self.said[word] = line[-_LONGEST_LINE:] + (b"\n" if whole else b"")
        self._line = self._line[-_LONGEST_LINE:]

    def _whole(self, word: bytes) -> bool:
        return self.said[word].endswith(b"\n")

    def line(self, word: bytes) -> str:
        """Return what follows a word in its line, once the line is whole; empty before."""
        said = self.said.get(word, b"")
        if not said.endswith(b"\n"):
            return ""
        return said.partition(word)[2].decode(errors="replace").replace("\r", "").strip()
