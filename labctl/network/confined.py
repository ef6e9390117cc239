"""Becomes a program that carries frames in user space, with no more of the host than it needs.

    python -P -m labctl.network.confined LAUNCH

It notes its process, enters the network namespace that it is for, takes from itself all but
CAP_NET_ADMIN and CAP_NET_RAW and the sight of all files but programs, libraries and what is told,
and is replaced by the program (execve(2)). As the programs of routers it is in the lab's own
namespaces; those confine themselves (`labctl.sandbox.confine`), while this one may be anybody's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labctl.sandbox import confine, netns, process

DEVICES = (Path("/dev/net/tun"),)


@dataclass(frozen=True)
class Noted:
    """A process that does not get lost: a later one of its number began at another time."""

    pid: int
    """As it is numbered where it runs."""
    began: int
    """Clock ticks since boot (proc_pid_stat(5), starttime)."""

    def is_it(self, folder: Path) -> bool:
        """Tell whether a folder of proc(5) is that of this process, and it has not ended."""
        found = _stat(folder)
        return found is not None and found[0] not in ("Z", "X") and int(found[19]) == self.began


@dataclass(frozen=True)
class Launch:
    """What is to be started, and how."""

    note: Path
    home: Path
    view: Path
    read: tuple[Path, ...]
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    netns: str = ""
    """The named network namespace to enter; empty for the lab's own."""

    def text(self) -> str:
        """Return it as the word that this program takes."""
        return json.dumps(vars(self), default=str)

    @classmethod
    def of(cls, text: str) -> Launch:
        """Return what `text` gave."""
        about = json.loads(text)
        note, home, view = (Path(about[name]) for name in ("note", "home", "view"))
        read = tuple(map(Path, about["read"]))
        argv, environment = tuple(about["argv"]), about["environment"]
        return cls(note, home, view, read, argv, environment, about["netns"])


def _stat(folder: Path) -> list[str] | None:
    """Return the fields of a process from its state on; None where there is none."""
    try:
        return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def noted(file: Path) -> Noted | None:
    """Return the process that a file tells of; None where none was noted in full."""
    try:
        pid, began = file.read_text().split()
        return Noted(int(pid), int(began))
    except (OSError, ValueError):
        return None


def end(process: Noted) -> None:
    """End a process at once, where it still runs."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(process.pid)
        try:
            if process.is_it(Path(f"/proc/{process.pid}")):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def become(launch: Launch) -> None:
    """Note this process, confine it and replace it; raises `OSError`."""
    stat = _stat(Path("/proc/self"))
    assert stat
    launch.note.write_text(f"{os.getpid()} {stat[19]}")
    if launch.netns:
        netns.enter(launch.netns)
    confine.own_mounts()
    read = [path for path in launch.read if path.exists() and not path.is_relative_to("/usr")]
    confine.view(launch.view, read=read, write=[launch.home], devices=DEVICES)
    os.chdir(launch.home)
    confine.no_more_rights(confine.CAP_NET_ADMIN, confine.CAP_NET_RAW)
    environment = {**process.ENVIRONMENT, "HOME": str(launch.home), **launch.environment}
    os.execve(launch.argv[0], launch.argv, environment)


def main() -> int:
    """Become what the only argument tells; returns only where that cannot be."""
    try:
        become(Launch.of(sys.argv[1]))
    except OSError as wrong:
        where = f" ({os.fsdecode(wrong.filename)})" if wrong.filename else ""
        sys.stderr.write(f"it cannot be confined: {wrong.strerror}{where}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
