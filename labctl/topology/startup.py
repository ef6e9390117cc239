"""What a node is given when it has started: files, and commands that run in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MOST_SOURCE = 64 << 20
"""Octets of a file of this machine that is put into a node."""
MODE = 0o644


@dataclass(frozen=True)
class StartFile:
    """A file that is written into a node."""

    path: str
    """Where, absolute."""
    text: str = ""
    """What it holds, unless it has a source."""
    source: Path | None = None
    """The file of this machine that it is a copy of."""
    mode: int = MODE
    """Its permission bits."""
