"""Giving back the part of a file that nobody needs any more, while somebody goes on appending."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

KEEP_SIZE, PUNCH_HOLE = 0x01, 0x02
"""Modes of fallocate(2), linux/falloc.h."""
_libc = ctypes.CDLL(None, use_errno=True)


def punch_hole(path: Path, begin: int, length: int) -> bool:
    """Make a hole of `length` bytes in a file from byte `begin` on (fallocate(2)).

    No byte moves. Returns False where that cannot be: the file system has no holes, or there is no
    such file any more.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        where = ctypes.c_int64(begin), ctypes.c_int64(length)
        return bool(_libc.fallocate64(handle, PUNCH_HOLE | KEEP_SIZE, *where) == 0)
    finally:
        os.close(handle)


def held(descriptor: int) -> int:
    """Return how many bytes of an open file are left behind the hole at its beginning (lseek(2)).

    Not by its blocks: a file system that compresses would have room for any number of zeros. One
    without any data counts as a whole. The descriptor is somewhere else in the file afterwards.
    """
    size = os.fstat(descriptor).st_size
    try:
        return size - os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError:
        return size
