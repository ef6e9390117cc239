"""Paths that a topology file names."""

from __future__ import annotations

from pathlib import Path


def absolute(base: Path, text: str) -> Path:
    """Return a path of the file's as an absolute one; `~` is the user's home."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # no such user: take it as it is written
        path = Path(text)
    return base.absolute() / path
