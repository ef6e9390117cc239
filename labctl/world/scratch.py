"""Short-lived worlds beside the labs, for a probe or for doctor; a killed maker leaves none.

Each has a hidden folder, locked (flock(2)) by the process that made it. The kernel drops the lock
with the process, whatever ended it, and whoever makes the next world removes what is not locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import LabctlError
from labctl.world import paths
from labctl.world.init import remove
from labctl.world.space import Space

PREFIX = ".s-"
"""Short, for sockets lie below it. Hidden folders of other names are an earlier labctl's."""
WORLD = "w"


@contextlib.contextmanager
def world() -> Iterator[Space]:
    """Make a world for the length of the `with` block; raises as `Space.create` does."""
    sweep()
    with _folder() as folder:
        made = Space.create(folder / WORLD)
        try:
            yield made
        finally:
            made.end()


def sweep() -> None:
    """Remove the folders whose makers have ended, as far as their worlds have."""
    for entry in paths.runtime().iterdir():
        if entry.name.startswith(".") and entry.is_dir():
            with contextlib.suppress(OSError):
                _sweep(entry)


def _sweep(entry: Path) -> None:
    handle = _lock(entry)
    if handle is None:
        return
    try:
        if not _lives(entry / WORLD):  # else it is ending just now, or an earlier labctl's
            _remove(entry, handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=paths.runtime()))
        # Somebody may sweep it before it is locked: then the next is made.
        handle = _lock(folder)
        if handle is not None:
            break
    try:
        yield folder
    finally:
        _remove(folder, handle)
        os.close(handle)


def _lock(folder: Path) -> int | None:
    """Return a folder, open and locked; None where it is gone or somebody else has locked it."""
    with contextlib.ExitStack() as opened:
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            opened.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it locked until now may have removed it.
            if not os.path.samestat(folder.lstat(), os.fstat(handle)):
                return None
        except (FileNotFoundError, BlockingIOError):
            return None
        opened.pop_all()
        return handle


def _lives(directory: Path) -> bool:
    try:
        Space.attach(directory)
    except (OSError, ValueError, TypeError, LabctlError):
        return False
    return True


def _remove(folder: Path, handle: int) -> None:
    parent = os.open(folder.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        remove(folder.name, parent, handle)
    finally:
        os.close(parent)
