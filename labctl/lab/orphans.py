"""Labs that run although their folder has gone, or no longer tells of them.

systemd unmounts the folder of a session when the user logs out, and anybody may remove files. The
lab runs on all the same, so it is found by its PID 1 (`labctl.sandbox.init_scan`). Nothing but its
end is offered: what it knew of itself went with its folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labctl.errors import DeadlineError
from labctl.lab import naming
from labctl.sandbox import init_scan, namespaces, owned, paths
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.namespaces import Identity

MAKING = ".lock"
"""In the runtime folder: locked by whoever makes a sandbox there (`labctl.lab.state.creating`)."""
MAKING_SECONDS = 5.0
_GUEST = re.compile(r"[\w.-]{1,64}")


@dataclass(frozen=True)
class Orphan:
    """A lab that runs without its folder."""

    name: str
    directory: Path
    """Where it was made."""
    since: str
    """ISO 8601, UTC; empty where an earlier labctl made it."""
    guests: tuple[str, ...]
    """Those whose QEMU runs."""
    identity: Identity

    @property
    def problem(self) -> str:
        """What is wrong, in one line."""
        return f"it runs, but its folder {self.directory} does not tell of it any more"

    @property
    def hint(self) -> str:
        """What to do."""
        return f"all that can be done with it: labctl down {self.name}"

    def describe(self) -> dict[str, Any]:
        """Describe it as `labctl.lab.status.describe` does."""
        return {
            "name": self.name, "state": "orphaned", "directory": str(self.directory),
            "problem": self.problem, "hint": self.hint, "started": self.since,
            "parts": [
                {"name": guest, "is": "node", "state": "running", "image": "", "addresses": ""}
                for guest in self.guests
            ],
        }  # fmt: skip

    def end(self) -> None:
        """End it; raises `DeadlineError` when its PID 1 does not go."""
        namespaces.end_process(self.identity, self.directory)


def find() -> list[Orphan]:
    """Return this user's labs whose folders do not tell of them."""
    if not _inits():
        return []
    # One that is just coming up has not told its folder yet; its maker holds the lock.
    with contextlib.ExitStack() as held:
        busy = {folder for folder in paths.runtimes() if not held.enter_context(_locked(folder))}
        found = [one for one in _inits() if one.directory.parent not in busy]
    return [_orphan(one) for one in found]


def named(name: str) -> list[Orphan]:
    """Return the orphans of this name; there may be several, one after the other."""
    return [one for one in find() if one.name == name]


def _inits() -> list[init_scan.Init]:
    """Return the inits of labs of this user's folders that are not those their folders tell of."""
    folders = paths.runtimes()
    return [
        one
        for one in init_scan.find()
        if one.directory.parent in folders
        and naming.is_name(one.directory.name)
        and not _tells_of(one)
    ]


def _tells_of(one: init_scan.Init) -> bool:
    if not paths.is_ours(one.directory.parent):
        return False
    try:
        inside = os.open(one.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        told = namespaces.identity_in(inside, one.directory)
        made = owned.bears_mark(inside, one.directory)  # without it no other verb finds the lab
    finally:
        os.close(inside)
    return made and told is not None and (told.pid, told.mark) == (one.pid, one.mark)


def _orphan(one: init_scan.Init) -> Orphan:
    # What runs in a lab is not trusted, not even the words of its commands.
    guests = tuple(guest for guest in init_scan.guests(one.pid) if _GUEST.fullmatch(guest))
    identity = Identity(one.pid, one.mark, os.geteuid() != 0)
    return Orphan(one.directory.name, one.directory, one.since, guests, identity)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Give whether nobody makes a sandbox in a folder for the length of the `with` block."""
    try:
        lock = (folder / MAKING).open() if paths.is_ours(folder) else None
    except OSError:
        lock = None
    if lock is None:  # it is gone, so nobody does
        yield True
        return
    deadline = Deadline(MAKING_SECONDS, "waiting for another labctl to make its sandbox")
    with lock:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            try:
                deadline.pause(0.02)
            except DeadlineError:
                yield False
                return
        yield True
