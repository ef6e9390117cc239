"""Sandboxes as the kernel knows them: by their PID 1, whatever has become of their directories.

A lab's directory may go while it runs: systemd unmounts /run/user/UID when its user logs out. So
every init tells in its command line which directory it was made for, and a mark of its own. What is
believed of that is what no other user can bring about: the process has our user id, and is the
first of a process namespace below ours.
"""

from __future__ import annotations

import itertools
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

PROGRAM = Path(__file__).with_name("init.py")
PROC = Path("/proc")


def new_mark() -> str:
    """Return a mark for a sandbox that is to be: when it was made (ISO 8601, UTC), and a number."""
    return f"{datetime.now(UTC).isoformat(timespec='seconds')}/{secrets.token_hex(16)}"


@dataclass(frozen=True)
class Init:
    """The PID 1 of a sandbox that runs."""

    pid: int
    """As this process sees it."""
    directory: Path
    """The sandbox's directory, which may be gone."""
    mark: str

    @property
    def since(self) -> str:
        """When it was made: ISO 8601, UTC; empty where an earlier labctl made it."""
        made, slash, _ = self.mark.partition("/")
        return made if slash else ""


def find() -> list[Init]:
    """Return this user's inits that are to be seen in this process namespace."""
    found = (_init(entry) for entry in PROC.iterdir() if entry.name.isdigit())
    return sorted((one for one in found if one), key=lambda one: one.pid)


def mark_of(pid: int) -> str:
    """Return the mark of the init that has this pid; empty where there is none of this user's.

    Unlike the time of its start it is the same in every time namespace (time_namespaces(7)).
    """
    found = _init(PROC / str(pid))
    return found.mark if found else ""


def members(pid: int) -> list[int]:
    """Return the processes in the process namespace of this one, itself too, of any user.

    As root each QEMU of a lab is a user of its own.
    """
    ours = _namespace(PROC / str(pid))
    return [
        int(entry.name)
        for entry in PROC.iterdir()
        if entry.name.isdigit() and _namespace(entry) == ours
    ]


def guests(pid: int) -> list[str]:
    """Return the names of the guests whose QEMU runs in the sandbox of this PID 1."""
    found = set()
    for member in members(pid):
        words = [os.fsdecode(word) for word in _command(PROC / str(member))]
        for option, value in itertools.pairwise(words):
            if option == "-name" and value.startswith("guest="):
                found.add(value.removeprefix("guest=").partition(",")[0])
    return sorted(found)


def _init(folder: Path) -> Init | None:
    # Before its words: a process may make who reads those wait (they are in its own memory).
    if not _is_first_of_a_namespace(folder):
        return None
    words = [os.fsdecode(word) for word in _words(folder)]
    places = [at for at, word in enumerate(words) if Path(word).name == PROGRAM.name]
    if not places or len(words) < places[0] + 3:
        return None
    # An earlier labctl's inits end with the number of their lifeline: it has to serve as a mark.
    return Init(int(folder.name), Path(words[places[0] + 1]), words[-1])


def _words(folder: Path) -> list[bytes]:
    """Return the command line of a process of this user's; nothing for others and for zombies."""
    try:
        return _command(folder) if folder.stat().st_uid == os.geteuid() else []
    except OSError:
        return []


def _command(folder: Path) -> list[bytes]:
    try:
        return (folder / "cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []


def _namespace(folder: Path) -> str:
    try:
        return str((folder / "ns" / "pid").readlink())
    except OSError:
        return folder.name


def _is_first_of_a_namespace(folder: Path) -> bool:
    """Whether it is PID 1 in a namespace below ours (proc_pid_status(5), NSpid)."""
    # Asked of every process of the host, so by the shortest way.
    try:
        handle = os.open(f"{folder}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(handle, 8192)
        finally:
            os.close(handle)
    except OSError:
        return False
    numbers = text.partition(b"\nNSpid:")[2].partition(b"\n")[0].split()
    return len(numbers) > 1 and numbers[-1] == b"1"
