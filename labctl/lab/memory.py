"""Memory: how much can be had here, of the host and control groups, and what guests take of it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import HostError
from labctl.topology.model import Node, Topology

MEMINFO = Path("/proc/meminfo")
OURS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
QEMU_MEMORY = 160
"""MiB that a guest's QEMU takes beside the guest's memory; seen under TCG: 160 to 230."""
CLONE_MEMORY = 80
"""MiB that a clone takes with its QEMU, beside the memory that all clones share; seen under TCG: 58
to 77."""


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


def check(topology: Topology, needed: int) -> None:
    """Raise `HostError` where this host has not so many MiB left."""
    left = free()
    if left < needed:
        raise HostError(
            f"{topology.name} takes about {needed} MiB of memory, and this host has {left} left",
            "end other labs (labctl status) or programs, or leave nodes out of the topology",
        )


def needed(topology: Topology, clones: Collection[str] = ()) -> int:
    """Return the MiB that a topology's guests take of this host at most, nearly.

    Of `clones` it is what they take when they are up: what they do not write to they share, and a
    guest that boots nothing further seldom writes to much.
    """
    nodes = topology.outer_machines()
    kinds = {(node.image, node.memory) for node in nodes if node.name in clones}
    shared = sum(size for _, size in kinds)
    own = (CLONE_MEMORY if node.name in clones else of_node(topology, node) for node in nodes)
    return shared + sum(own)


def of_node(topology: Topology, node: Node) -> int:
    """Return the MiB that a node's guest takes at most, nearly, if it boots."""
    kind = node.guest_kind
    on_it = topology.inside(node.name).nodes if kind.is_host else ()
    return kind.touched(node.memory, sum(one.memory for one in on_it)) + QEMU_MEMORY


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
