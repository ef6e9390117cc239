"""Files and folders that may be believed: nobody but this user, or root, can have written them.

State and caches are believed when they are read, and kernels in them are booted as they are. So
each folder of labctl's is looked at before it is used, and so is the way to it (`check_private`):
whoever may rename a folder above it may put another in its place.

Who can write to a folder can put another file in place of any in it, so a folder is judged too. A
file that others might write to serves where they cannot pass through its folder: an older labctl
made files by the user's umask. Both are judged by what was opened; no symbolic link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import HostError

OTHERS = stat.S_IWGRP | stat.S_IWOTH
MOST = 64 << 20
"""Bytes of a file that is read whole."""
MOST_LINKS = 40
"""On the way to a folder: so many the kernel follows."""
_ACL = "system.posix_acl_access"
TRUSTED = (0,)
"""Users whose files may be believed beside the user's own: root could do anything anyway."""


class NotOwnedError(HostError):
    """A folder or file that somebody else can write to."""


@contextlib.contextmanager
def folder(path: Path) -> Iterator[int]:
    """Open a folder for the length of the `with` block.

    Raises `NotOwnedError`; `OSError` where there is none.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        check(handle, path)
        yield handle
    finally:
        os.close(handle)


def read(name: str, within: int, path: Path) -> bytes:
    """Return what is in a file of a folder that is open as `within`; `path` is for errors.

    Raises `NotOwnedError`, also for a file that is none or holds more than `MOST`; `OSError`.
    """
    # Without O_NONBLOCK opening a pipe would wait for who writes to it.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(name, flags, dir_fd=within), "rb") as file:
        others = bool(os.fstat(within).st_mode & (stat.S_IRWXG | stat.S_IRWXO))
        check(file.fileno(), path, others)
        data = file.read(MOST + 1)
    if len(data) > MOST:
        raise NotOwnedError(f"{path} is larger than labctl makes it", f"remove it: rm {path}")
    return data


def check_in(name: str, within: int, path: Path) -> None:
    """Raise as `read` does unless a file is there, and could be believed; its content is not read.

    Raises `OSError` where it is no file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(name, flags, dir_fd=within)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is no file", str(path))
        check(handle, path)
    finally:
        os.close(handle)


def read_in(path: Path) -> bytes:
    """Return what is in a file, by the rules for it and its folder; raises as both do."""
    with folder(path.parent) as within:
        return read(path.name, within, path)


def check(handle: int, path: Path, others: bool = True) -> None:
    """Raise `NotOwnedError` unless what is open is this user's or root's, and theirs alone.

    `others` says whether anybody else gets there at all.
    """
    seen = os.fstat(handle)
    if not (stat.S_ISDIR(seen.st_mode) or stat.S_ISREG(seen.st_mode)):
        raise NotOwnedError(f"{path} is not a file", f"remove it: rm {path}")
    if seen.st_uid not in (os.geteuid(), *TRUSTED):
        raise NotOwnedError(
            f"{path} belongs to another user (uid {seen.st_uid}), so labctl does not use it",
            "remove it, or use a folder of your own",
        )
    if others and seen.st_mode & OTHERS:
        raise NotOwnedError(
            f"{path} can be written to by others, so labctl does not use it",
            f"run: chmod go-w {path}",
        )


def check_private(folder: Path, variable: str) -> Path:
    """Return `folder` if it is the user's or root's and nobody else can write there, or above.

    What of it is not there cannot be wrong; who uses it tells of what else hinders. `variable`
    names what chooses another. Raises `HostError`.
    """
    ends = (Path(os.path.abspath(folder)), Path(os.path.realpath(folder)))  # noqa: PTH100
    for place in dict.fromkeys(_places(folder)):
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
        if writers == stat.S_IWGRP and _is_own(seen.st_gid) and not _has_list(place):
            writers = 0
        if writers and not sticky:
            raise HostError(
                f"others can write to {place} (mode {stat.S_IMODE(seen.st_mode):04o}), "
                f"and change what labctl keeps in {folder}",
                f"run: chmod go-w {place}; or set {variable} to another folder",
            )
    return folder


def _places(folder: Path) -> Iterator[Path]:
    """Yield all that is passed on the way to a folder, as path_resolution(7) goes it.

    A link leads on, maybe to another link: whoever can replace any of them decides where it ends.
    """
    rest = list(reversed(folder.absolute().parts[1:]))
    place, links = Path("/"), 0
    yield place
    while rest:
        part = rest.pop()
        if part == "..":
            place = place.parent
            continue
        here = place / part
        yield here
        try:
            target = here.readlink()
        except OSError:  # no link, or not there
            place = here
            continue
        links += 1
        if links > MOST_LINKS:
            return  # the kernel gives up too (ELOOP)
        if target.is_absolute():
            place = Path("/")
        rest += reversed([part for part in target.parts if part != "/"])


def _has_list(place: Path) -> bool:
    """Whether an access list gives more users rights than the mode tells (acl(5)).

    The bits of the group are then the most that any of them may have.
    """
    try:
        return _ACL in os.listxattr(place, follow_symlinks=False)
    except OSError:
        return False


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
