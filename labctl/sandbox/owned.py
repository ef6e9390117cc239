"""Folders that labctl made, and only those are ever removed: each bears a mark inside.

The mark names the folder it is in by path and inode, so a copy of it proves nothing elsewhere. A
folder gets its name when its mark is in it, and loses its name before its mark: so a kill at any
moment leaves a folder that is marked, or none. Before and after it lies in a folder beside it,
`STAGING`, whose lock (flock(2)) its maker holds; what is in that without a maker is a leftover,
removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from labctl.errors import HostError
from labctl.sandbox.init import MARK, remove_inside

STAGING = ".labctl-new"
PART = "part"
_LONGEST = 8192


def make(directory: Path, mode: int = 0o700) -> None:
    """Make a folder that bears the mark from the moment it has its name.

    An empty folder of the user's gives way. Raises `FileExistsError` where anything else has that
    name, `HostError` where something that labctl did not make lies where it would be staged,
    `OSError` where it cannot be made.
    """
    with _staging(directory.parent) as staging:
        if os.path.lexists(directory) and not _is_empty(directory):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(directory))
        os.mkdir(PART, 0o700, dir_fd=staging)
        inside = _open(PART, staging)
        try:
            _write_mark(inside, directory)
            os.fchmod(inside, mode)
            os.rename(PART, directory, src_dir_fd=staging)
        finally:
            os.close(inside)


def mark(folder: Path, directory: Path) -> None:
    """Mark a folder just made, in one that bears the mark, which will be moved to `directory`."""
    inside = _open(folder)
    try:
        _write_mark(inside, directory)
    finally:
        os.close(inside)


def make_folders(folder: Path) -> None:
    """Make a folder and what is missing above it, each for its owner alone, whatever the umask.

    Raises `OSError` where one cannot be made.
    """
    for part in (*reversed(folder.parents), folder):
        with contextlib.suppress(FileExistsError):
            if not part.is_dir():
                part.mkdir(mode=0o700)


def claim(folder: Path, mode: int = 0o700) -> bool:
    """Make a folder, or take an empty one of the user's; say whether it bears the mark.

    The folders above it are made as well, without a mark. Raises `OSError` where it cannot be made.
    """
    if not os.path.lexists(folder):
        make_folders(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=mode)
    try:
        inside = _open(folder)
    except NotADirectoryError:
        return False
    try:
        if bears_mark(inside, folder):
            return True
        if not _holds_nothing(inside):
            return False
        _write_mark(inside, folder)
        return True
    finally:
        os.close(inside)


def is_made(directory: Path) -> bool:
    """Whether labctl, as this user, has made the folder that has this path."""
    try:
        inside = _open(directory)
    except OSError:
        return False
    try:
        return bears_mark(inside, directory)
    finally:
        os.close(inside)


def made_in(parent: Path) -> list[Path]:
    """Return the folders in one that labctl made, but hidden ones; the one changed last first."""
    found = []
    with contextlib.suppress(OSError):
        for folder in parent.iterdir():
            if not folder.name.startswith(".") and is_made(folder):
                found.append((folder.stat().st_mtime, folder))
    return [folder for _, folder in sorted(found, reverse=True)]


def may_be_made(directory: Path) -> bool:
    """Whether labctl has made what lies at a path, or an empty folder of the user's does."""
    return is_made(directory) or _is_empty(directory)


def bears_mark(inside: int, directory: Path) -> bool:
    """Whether the folder open as `inside` bears the mark of `directory`, made by this user."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(MARK, flags, dir_fd=inside), "rb") as file:
            owners = {os.fstat(inside).st_uid, os.fstat(file.fileno()).st_uid}
            if owners != {os.geteuid()} or not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return False
            return file.read(_LONGEST) == _mark(inside, directory)
    except OSError:
        return False


def remove(directory: Path) -> bool:
    """Remove a folder if it bears the mark; say whether it did. What cannot be removed stays."""
    try:
        inside = _open(directory)
    except OSError:
        return False
    try:
        made = bears_mark(inside, directory)
        if made:
            remove_handle(directory, inside)
        return made
    finally:
        os.close(inside)


def remove_handle(directory: Path, inside: int) -> None:
    """Remove the folder open as `inside`, which was found to bear the mark of `directory`.

    Another one that has its name by now stays.
    """

    def is_there() -> bool:
        return os.path.samestat(directory.lstat(), os.fstat(inside))

    with contextlib.suppress(OSError, HostError):
        if is_there():
            with _staging(directory.parent) as staging:
                if is_there():
                    os.rename(directory, PART, dst_dir_fd=staging)


def _is_empty(directory: Path) -> bool:
    """Whether something is a folder of this user's with nothing in it."""
    try:
        inside = _open(directory)
    except OSError:
        return False
    try:
        return os.fstat(inside).st_uid == os.geteuid() and not os.listdir(inside)
    finally:
        os.close(inside)


def _holds_nothing(inside: int) -> bool:
    """Whether an open folder is this user's, and empty but for a mark whose writer was killed."""
    if os.fstat(inside).st_uid != os.geteuid():
        return False
    return all(
        name == MARK and not os.stat(MARK, dir_fd=inside, follow_symlinks=False).st_size
        for name in os.listdir(inside)
    )


def _open(name: str | Path, parent: int | None = None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent)


def _mark(inside: int, directory: Path) -> bytes:
    """Return the text of the mark of a folder that is open, and has or will have this path."""
    path = os.path.join(os.path.realpath(directory.parent), directory.name)
    return (
        b"labctl has made this folder, and removes it with all that is in it.\n"
        b"inode %d\npath %b\n" % (os.fstat(inside).st_ino, os.fsencode(path))
    )


def _write_mark(inside: int, directory: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(MARK, flags, 0o600, dir_fd=inside)
    try:
        os.ftruncate(handle, os.write(handle, _mark(inside, directory)))  # of a longer one before
    finally:
        os.close(handle)


@contextlib.contextmanager
def _staging(parent: Path) -> Iterator[int]:
    """Be the only one that makes or removes folders in `parent`; give an open folder to do it in.

    It is empty, and goes at the end with all that is in it. Raises `HostError` for one that labctl
    did not make.
    """
    folder = parent / STAGING
    while True:
        try:
            made = claim(folder)
        except FileNotFoundError:  # somebody removes it just now
            continue
        if not made:
            raise HostError(
                f"{folder} is there already, and labctl did not make it",
                "move it away, or name another folder for labctl's files",
            )
        # Taken when its last user has let go. By then that one may have removed it.
        handle = _lock(folder, wait=True)
        if handle is None:
            continue
        if bears_mark(handle, folder):
            break
        os.close(handle)
    try:
        remove_inside(handle)  # of makers that were killed
        yield handle
    finally:
        remove_inside(handle)
        with contextlib.suppress(OSError):
            if os.listdir(handle) == [MARK]:
                os.unlink(MARK, dir_fd=handle)
                folder.rmdir()
        os.close(handle)


def _lock(directory: Path, *, wait: bool = False) -> int | None:
    """Return a folder, open and locked; None where it is gone or somebody else has locked it."""
    try:
        handle = _open(directory)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # Whoever had it locked until now may have removed it.
        if os.path.samestat(directory.lstat(), os.fstat(handle)):
            return handle
    except OSError:
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[bool]:
    """Hold the lock of a folder for the length of the `with` block, if nobody has it; say so."""
    handle = _lock(directory)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


@contextlib.contextmanager
def temporary(parent: Path, prefix: str, mode: int = 0o700) -> Iterator[Path]:
    """Make a folder for the length of the `with` block; a killed maker's is the next one's to take.

    It is locked while its maker lives (`sweep`). Raises as `make` does.
    """
    sweep(parent, prefix)
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        with contextlib.suppress(FileExistsError):
            make(folder, mode)
            # Somebody may sweep it before it is locked: then the next is made.
            handle = _lock(folder)
            if handle is not None:
                break
    try:
        yield folder
    finally:
        remove_handle(folder, handle)
        os.close(handle)


def sweep(
    parent: Path, prefix: str, is_over: Callable[[Path], bool] = lambda _folder: True
) -> None:
    """Remove the folders of `temporary` whose makers have ended, those that are over.

    Only what bears the mark is looked at: of other things a name proves nothing.
    """
    with contextlib.suppress(OSError):
        for folder in sorted(parent.iterdir()):
            if folder.name.startswith(prefix) and is_made(folder):
                with locked(folder) as free:
                    if free and is_over(folder):
                        remove(folder)
