"""What a guest's console tells of its end: the last words of its kernel, in a log of any size."""

from __future__ import annotations

import os
import re
from pathlib import Path

TAIL = 64 * 1024
"""Octets at the end of a log that are read."""
LAST_LINES = 8
"""Among so many a kernel's last words are the last thing that a guest has said, but for a trace."""
_WORDS = re.compile(
    rb"(?P<panicked>Kernel panic - not syncing: [^\n]{0,200})|(?P<off>reboot: Power down)"
    rb"|(?P<restarted>reboot: Restarting system)|(?P<halted>reboot: System halted)"
    rb"|(?P<ready>labctl: ready)"
)
_STATES = {
    "panicked": "panicked",
    "off": "powered off",
    "restarted": "restarted",
    "halted": "halted",
}


def last_event(log: Path, *, lines: int | None = None) -> tuple[str, str]:
    """Return how a guest ended by its console, and its kernel's words; both empty where it did not.

    The state is `panicked`, `powered off`, `restarted` or `halted`. With `lines`, only what stands
    in so many at the end counts: a guest that goes on says more. The words are printable ASCII:
    what writes them is not trusted.
    """
    found = list(_WORDS.finditer(_tail(log, lines)))
    if not found or found[-1].lastgroup == "ready":
        return "", ""
    # A kernel says its panic again at the end of its trace.
    last = found[-1]
    words = re.sub(r"[^ -~]+", " ", last[0].decode("ascii", "replace")).strip(" -]")
    return _STATES[str(last.lastgroup)], words


def _tail(log: Path, lines: int | None) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            text = file.read(TAIL).replace(b"\r", b"")
    except OSError:
        return b""
    kept = [line for line in text.split(b"\n") if line.strip()]
    return b"\n".join(kept if lines is None else kept[-lines:])
