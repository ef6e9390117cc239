"""Whether a folder is the user's own: who else could put something there decides what it may hold.

State and caches are believed when they are read, and kernels in them are booted as they are. So
each folder of labctl's is looked at before it is used, and so is the way to it: whoever may rename
a folder above it may put another in its place.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import HostError

OTHERS = stat.S_IWGRP | stat.S_IWOTH


def check_private(folder: Path, variable: str) -> Path:
    """Return `folder` if it is the user's or root's and nobody else can write there, or above.

    What of it is not there cannot be wrong; who uses it tells of what else hinders. `variable`
    names what chooses another. Raises `HostError`.
    """
    ends = (Path(os.path.abspath(folder)), Path(os.path.realpath(folder)))  # noqa: PTH100
    for place in _places(*ends):
        try:
            seen = place.lstat()
        except OSError:
            continue
        if seen.st_uid not in (0, os.geteuid()):
            raise HostError(
                f"{place} belongs to {_user(seen.st_uid)}, who could change what labctl keeps "
                f"in {folder}",
                f"set {variable} to a folder of yours",
            )
        if stat.S_ISLNK(seen.st_mode):
            continue
        # In a sticky folder, such as /tmp, only the owner of a thing may rename it (inode(7)).
        sticky = place not in ends and seen.st_mode & stat.S_ISVTX
        writers = seen.st_mode & OTHERS
        if writers == stat.S_IWGRP and _is_own(seen.st_gid):
            writers = 0
        if writers and not sticky:
            raise HostError(
                f"others can write to {place} (mode {stat.S_IMODE(seen.st_mode):04o}), "
                f"and change what labctl keeps in {folder}",
                f"run: chmod go-w {place}; or set {variable} to another folder",
            )
    return folder


def _places(named: Path, real: Path) -> Iterator[Path]:
    """Yield a folder and all above it, by its name and, where links lead elsewhere, there too."""
    yield from dict.fromkeys((named, *named.parents, real, *real.parents))


def _is_own(group: int) -> bool:
    """Whether a group has no other member than this user: many systems give each user one."""
    try:
        user = pwd.getpwuid(os.geteuid())
        known = grp.getgrgid(group)
    except KeyError:
        return False
    own = group == user.pw_gid and known.gr_name == user.pw_name
    return own and set(known.gr_mem) <= {user.pw_name}


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
