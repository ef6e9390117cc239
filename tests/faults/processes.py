"""A bound on how many processes labctl may have, by a control group of its own.

The resource limit of that name (RLIMIT_NPROC) does not count for root.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class Processes:
    """Groups with the controller `pids`, of version 1 where that has it, else of version 2."""

    def __init__(self) -> None:
        self._top = ROOT / "pids" if (ROOT / "pids").is_dir() else ROOT
        self._made: list[Path] = []

    def limit(self, pid: int, more: int) -> None:
        """Let a process, and what it starts from now on, be at most so many more threads.

        Raises `OSError` where the host has no such controller, or the process has ended.
        """
        group = self._top / f"labctl-faults-{os.getpid()}-{len(self._made)}"
        group.mkdir()
        self._made.append(group)
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        (group / "pids.max").write_text(str(threads + more))
        (group / "cgroup.procs").write_text(str(pid))

    def mend(self) -> None:
        """Let there be as many as the host allows again; forget the groups that are empty."""
        for group in list(self._made):
            (group / "pids.max").write_text("max")
            with suppress(OSError):  # a lab that came up lives in it
                group.rmdir()
                self._made.remove(group)
