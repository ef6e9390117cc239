"""Locks between processes of a user: files that no other user can hold (flock(2))."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import DeadlineError, HostError
from labctl.sandbox.deadline import Deadline

MODE = 0o600
"""Whoever may open a file may lock it, to read is enough: so nobody else may."""
LOOK_SECONDS = 0.02
LOCKS = Path("/proc/locks")


@contextlib.contextmanager
def held(path: Path, deadline: Deadline) -> Iterator[int]:
    """Hold the lock of a file for the length of the `with` block; the file is made, and stays.

    Gives the open file.

    Raises `DeadlineError`, which says who holds it, when it is not free in time; `HostError` for
    what is no file of the user's; `OSError` where it cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    handle = os.open(path, flags, MODE)
    try:
        _make_private(path, handle)
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            try:
                deadline.pause(LOOK_SECONDS)
            except DeadlineError:
                who = holder(os.fstat(handle))
                told = f"{who} holds {path}" if who else f"somebody holds {path}"
                raise deadline.error(told, "wait for its end, or end it") from None
        yield handle
    finally:
        os.close(handle)


def _make_private(path: Path, handle: int) -> None:
    """Take from others a file that an earlier labctl made for all to open."""
    seen = os.fstat(handle)
    if not stat.S_ISREG(seen.st_mode) or seen.st_uid != os.geteuid():
        raise HostError(f"{path} is no file of yours", "remove it, or use another folder")
    if stat.S_IMODE(seen.st_mode) != MODE:
        os.fchmod(handle, MODE)


def holder(seen: os.stat_result) -> str:
    """Say which process holds the lock of a file, by proc(5); empty where nobody can tell."""
    place = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}"
    with contextlib.suppress(OSError, ValueError):
        for line in LOCKS.read_text().splitlines():
            words = line.split()
            if words[1:2] == ["FLOCK"] and words[5] == place and int(words[4]) > 0:
                return _name(int(words[4]))
    return ""


def _name(pid: int) -> str:
    """Return what a process is called: by its command and its user."""
    folder = Path(f"/proc/{pid}")
    try:
        words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        shown = "".join(letter for letter in words.strip()[:60] if letter.isprintable())
        return f"process {pid} of user {folder.stat().st_uid} ({shown})"
    except OSError:
        return f"process {pid}"
