"""Steps on a console: what a guest is waited to say there, and what is typed then.

Whatever a guest says is foreign: what is looked at is bounded, and matching a text with `*` in it
takes time in proportion to the two (each piece is looked for once, behind the one before).
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labctl.errors import GuestError
from labctl.guests import console
from labctl.sandbox.deadline import Deadline

LONGEST_LINE = 2000
"""Characters of a line that are looked at: its last ones."""
MOST_AT_ONCE = 1 << 18
"""Octets that are looked at before it is asked whether there is still time."""
_CONTROL = re.compile(rb"\x1b\[[0-?]{0,32}[ -/]{0,4}[@-~]|\x1b[()][A-Z0-9]|\x1b[=>78]|[\x00\x07\r]")
"""What a terminal acts on, and prompts are full of (ECMA-48, 5.4)."""
ENTER = b"\r"


@dataclass(frozen=True)
class Step:
    """A step, with its secret in it."""

    expect: str
    send: str | None = field(repr=False)
    within: float


def matched(pattern: str, line: str) -> int:
    """Return where in a line a pattern ends that is in it; -1 where it is not."""
    at = 0
    for piece in pattern.split("*"):
        found = line.find(piece, at)
        if found < 0:
            return -1
        at = found + len(piece)
    return at


class Reader:
    """Reads on in a console's log from where it was made, line by line."""

    def __init__(self, log: Path) -> None:
        """Begin at the beginning."""
        self._log = log
        self._at = 0
        self._line = b""

    def find(self, pattern: str) -> bool:
        """Read what there is, at most so much; tell whether a pattern came, and stay behind it."""
        if self._take(pattern):
            return True
        left = MOST_AT_ONCE
        try:
            with self._log.open("rb", buffering=0) as file:
                while left > 0:
                    piece = os.pread(file.fileno(), console.CHUNK, self._at)
                    if not piece:
                        return False
                    self._at += len(piece)
                    left -= len(piece)
                    self._line += piece
                    if self._take(pattern):
                        return True
        except OSError:
            pass
        return False

    def _take(self, pattern: str) -> bool:
        """Look for a pattern in the lines there are; what is passed over is let go."""
        *lines, last = self._line.split(b"\n")
        for number, line in enumerate([*lines, last]):
            text = _CONTROL.sub(b"", line[-LONGEST_LINE:]).decode(errors="replace")
            end = matched(pattern, text)
            if end >= 0:
                rest = [text[end:].encode(), *lines[number + 1 :]]
                if number < len(lines):
                    rest.append(last)
                self._line = b"\n".join(rest)
                return True
        self._line = last[-LONGEST_LINE:]
        return False


def run(
    name: str,
    steps: Sequence[Step],
    place: Path,
    log: Path,
    check: Callable[[], None],
    tell: Callable[[str], None],
) -> None:
    """Do steps one after another on the console at the socket `place`, which writes to `log`.

    `check` raises when there is no guest any more. Raises `GuestError` for what did not come in its
    time, with the last lines of the console.
    """
    if not steps:
        return
    reader = Reader(log)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line, console.Growth(log) as growth:
        joined = False
        for number, step in enumerate(steps, 1):
            tell(f"waiting for {step.expect!r} on its console (step {number} of {len(steps)})")
            deadline = Deadline(step.within, f"{step.expect!r} on the console of {name}")
            while not reader.find(step.expect):
                check()
                _drain(line, joined)
                if deadline.passed:
                    raise GuestError(
                        f"the console of {name} did not say {step.expect!r} in {step.within:g} s "
                        f"(step {number} of {len(steps)}); its last lines are below",
                        "correct the step, or give it more time: within: SECONDS",
                        console.tail(log),
                    )
                growth.wait(min(0.25, deadline.left))
            if step.send is None:
                continue
            if not joined:
                _join(line, place, name)
                joined = True
            _type(line, step.send.encode() + ENTER, name, deadline)


def _join(line: socket.socket, place: Path, name: str) -> None:
    try:
        line.connect(str(place))
    except OSError as wrong:
        raise GuestError(f"the console of {name} cannot be joined: {wrong.strerror}") from None
    line.setblocking(False)


def _type(line: socket.socket, text: bytes, name: str, deadline: Deadline) -> None:
    """Write to a console, and let go of what it says meanwhile: that is in its log."""
    while text:
        _drain(line, joined=True)
        try:
            text = text[line.send(text) :]
        except BlockingIOError:
            deadline.pause(0.05)
        except OSError as wrong:
            raise GuestError(f"the console of {name} takes nothing: {wrong.strerror}") from None


def _drain(line: socket.socket, joined: bool) -> None:
    try:
        while joined and line.recv(console.CHUNK):
            pass
    except OSError:
        pass
