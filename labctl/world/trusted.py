"""Files that may be believed: nobody but this user, or root, can have written them.

Who can write to a folder can put another file in place of any in it, so a folder is judged too. A
file that others might write to serves where they cannot pass through its folder: an older labctl
made files by the user's umask. Both are judged by what was opened; no symbolic link is followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import HostError

MOST = 64 << 20
"""Bytes of a file that is read whole."""
TRUSTED = (0,)
"""Users whose files may be believed beside the user's own: root could do anything anyway."""


class NotOwnedError(HostError):
    """A folder or file that somebody else can write to."""


@contextlib.contextmanager
def folder(path: Path) -> Iterator[int]:
    """Open a folder for the length of the `with` block.

    Raises `NotOwnedError`; `OSError` where there is none.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        check(handle, path)
        yield handle
    finally:
        os.close(handle)


def read(name: str, within: int, path: Path) -> bytes:
    """Return what is in a file of a folder that is open as `within`; `path` is for errors.

    Raises `NotOwnedError`, also for a file that is none or holds more than `MOST`; `OSError`.
    """
    # Without O_NONBLOCK opening a pipe would wait for who writes to it.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(name, flags, dir_fd=within), "rb") as file:
        others = bool(os.fstat(within).st_mode & (stat.S_IRWXG | stat.S_IRWXO))
        check(file.fileno(), path, others)
        data = file.read(MOST + 1)
    if len(data) > MOST:
        raise NotOwnedError(f"{path} is larger than labctl makes it", f"remove it: rm {path}")
    return data


def read_in(path: Path) -> bytes:
    """Return what is in a file, by the rules for it and its folder; raises as both do."""
    with folder(path.parent) as within:
        return read(path.name, within, path)


def check(handle: int, path: Path, others: bool = True) -> None:
    """Raise `NotOwnedError` unless what is open is this user's or root's, and theirs alone.

    `others` says whether anybody else gets there at all.
    """
    seen = os.fstat(handle)
    if not (stat.S_ISDIR(seen.st_mode) or stat.S_ISREG(seen.st_mode)):
        raise NotOwnedError(f"{path} is not a file", f"remove it: rm {path}")
    if seen.st_uid not in (os.geteuid(), *TRUSTED):
        raise NotOwnedError(
            f"{path} belongs to another user (uid {seen.st_uid}), so labctl does not use it",
            "remove it, or use a folder of your own",
        )
    if others and seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotOwnedError(
            f"{path} can be written to by others, so labctl does not use it",
            f"run: chmod go-w {path}",
        )
