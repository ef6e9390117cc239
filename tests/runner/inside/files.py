"""Every file of the machine's own file systems, by what `lstat` says of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from .kernel import mount_table
from .machine import Machine, Things, matcher

LOCAL = frozenset(
    (
        "bcachefs",
        "btrfs",
        "devtmpfs",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "hugetlbfs",
        "mqueue",
        "overlay",
        "ramfs",
        "tmpfs",
        "vfat",
        "xfs",
    )
)
"""File systems that are walked: those of disks and memory, no interface of the kernel."""

PACKAGED = frozenset(f"/usr/share/{name}" for name in ("doc", "info", "locale", "man", "zoneinfo"))
"""Folders not looked into: thousands of files of packages, whose changes dpkg's records tell."""

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "FIFO",
}


def _told(path: str, status: os.stat_result) -> dict[str, object]:
    kind = stat.S_IFMT(status.st_mode)
    value: dict[str, object] = {
        "type": TYPES.get(kind, "?"),
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "uid": status.st_uid,
        "gid": status.st_gid,
        "inode": status.st_ino,
    }
    # A folder's time changes with each file that comes and goes, a device's with its use.
    if kind == stat.S_IFREG:
        value |= {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    elif kind == stat.S_IFLNK:
        value |= {"mtime_ns": status.st_mtime_ns}
        try:
            value["target"] = os.readlink(path)  # noqa: PTH115
        except OSError:
            value["target"] = None
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        value["device"] = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return value


def files(machine: Machine, ignore: Sequence[str] = ()) -> Things:
    """Return all files of local file systems, without what a glob of `ignore` matches."""
    ignored = matcher(ignore)
    things: Things = {}
    walked: set[tuple[str, str]] = set()
    topmost = {mount.point: mount for mount in mount_table(machine)}
    for point, mount in topmost.items():
        # What is mounted twice is walked once.
        if mount.type not in LOCAL or (mount.device, mount.root) in walked or ignored(point):
            continue
        walked.add((mount.device, mount.root))
        try:
            top = os.lstat(machine.path(point[1:]))
        except OSError:
            continue
        things[point] = _told(point, top)
        _walk(machine, point.rstrip("/"), top.st_dev, ignored, things)
    return things


def _walk(
    machine: Machine, start: str, device: int, ignored: Callable[[str], object], things: Things
) -> None:
    """Add all below a folder that is on the same device."""
    prefix = machine.root.rstrip("/")
    folders = [start]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(prefix + (folder or "/")) as scan:
                names = [entry.name for entry in scan]
        except OSError:
            continue
        for name in names:
            path = f"{folder}/{name}"
            if ignored(path):
                continue
            try:
                status = os.lstat(prefix + path)
            except OSError:
                continue
            if status.st_dev != device:
                continue  # Another mount: walked on its own where it is a local one.
            # JSON has no bytes that are no text.
            shown = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
            things[shown] = _told(prefix + path, status)
            if stat.S_ISDIR(status.st_mode) and path not in PACKAGED:
                folders.append(path)
