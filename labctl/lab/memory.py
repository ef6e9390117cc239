"""How much memory can be had here: of the host, and of the control groups this process is in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
OURS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class _Files:
    """What a version of control groups calls its files."""

    limit: str
    used: str
    inactive: str
    """The line of memory.stat: what is dropped before anybody goes without."""


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")


def free() -> int:
    """Return the MiB that can be had here, swap too; a container may have less than its host."""
    words = [line.split() for line in MEMINFO.read_text().splitlines()]
    kibibytes = {name.rstrip(":"): int(value) for name, value, *_ in words}
    # proc_meminfo(5): what programs can get without swapping.
    least = (kibibytes["MemAvailable"] + kibibytes["SwapFree"]) >> 10
    for group, files in _groups():
        with contextlib.suppress(OSError, ValueError, KeyError):
            least = min(least, _left(group, files))
    return max(least, 0)


def _groups() -> Iterator[tuple[Path, _Files]]:
    """Give this process's control group and those above it, of either version (cgroups(7)).

    In a container the path may begin above what is mounted there: then the top one is ours.
    """
    with contextlib.suppress(OSError):
        for line in OURS.read_text().splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0":
                root, files = CGROUPS, _V2
            elif "memory" in controllers.split(","):
                root, files = CGROUPS / "memory", _V1
            else:
                continue
            group = root / path.lstrip("/")
            yield group, files
            for parent in group.parents:
                if not parent.is_relative_to(root):
                    break
                yield parent, files


def _left(group: Path, files: _Files) -> int:
    """Return the MiB left to a group.

    Raises `OSError`, `ValueError` or `KeyError` where it has no limit.
    """
    limit = int((group / files.limit).read_text())  # "max" is no number
    used = int((group / files.used).read_text())
    counted = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return (limit - used + int(counted[files.inactive])) >> 20
