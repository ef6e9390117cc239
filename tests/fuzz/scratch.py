"""A folder in memory for the files that an input becomes; gone with its process."""

from __future__ import annotations

import atexit
import os
import tempfile
from functools import cache
from pathlib import Path

GIVEN = "LABCTL_FUZZ_SCRATCH"
PREFIX = "labctl-fuzz-"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@cache
def folder() -> Path:
    """Return the process's own folder; its parent's, where that will remove it.

    libFuzzer ends a process without its `atexit`.
    """
    if given := os.environ.get(GIVEN):
        return Path(given)
    made = tempfile.TemporaryDirectory(prefix=PREFIX, dir=MEMORY)
    atexit.register(made.cleanup)
    return Path(made.name)


def file_of(data: bytes, name: str) -> Path:
    """Return a file of this name that holds `data`, in place of the one before."""
    path = folder() / name
    path.write_bytes(data)
    return path
