"""A small disk of its own below a folder: it can be filled, and made read-only, for a while.

In a mount namespace of this process's, so that nothing of it stays whatever ends the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x4000, 0x40000
MNT_DETACH = 0x2
MEBIBYTE = 1 << 20
SIZE = 1024 * MEBIBYTE

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    words = (source.encode(), target.encode(), kind.encode(), flags, data.encode())
    _check(_libc.mount(*words), f"mount {target}")


class Disk:
    """A tmpfs at a folder; only root can make it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        folder.mkdir()
        _check(_libc.unshare(CLONE_NEWNS), "unshare")
        _mount("none", "/", "none", MS_REC | MS_PRIVATE, "")
        _mount("faults", str(folder), "tmpfs", 0, f"size={SIZE},mode=700")

    def fill(self) -> None:
        """Leave no room for anything."""
        with self._filler.open("ab") as file:
            for size in (MEBIBYTE, 4096):
                try:
                    while True:
                        os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
                except OSError as full:
                    if full.errno != errno.ENOSPC:
                        raise

    def protect(self) -> None:
        """Let nothing be written."""
        _mount("none", str(self.folder), "none", MS_REMOUNT | MS_RDONLY, "")

    def mend(self) -> None:
        """Let there be room again, to be written to."""
        _mount("none", str(self.folder), "none", MS_REMOUNT, f"size={SIZE},mode=700")
        self._filler.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take it away."""
        _check(_libc.umount2(str(self.folder).encode(), MNT_DETACH), "umount")
