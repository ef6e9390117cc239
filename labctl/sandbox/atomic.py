"""Files that appear under their name whole or not at all: the one way labctl writes them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PRIVATE = 0o600


@contextlib.contextmanager
def writing(path: Path, mode: int = PRIVATE, *, sync: bool = False) -> Iterator[IO[bytes]]:
    """Give a new file that has the name `path` when the `with` block ends well, and else is gone.

    Until then it lies beside `path` under a name that nobody can guess, made so that it is new and
    no link is followed (mkstemp(3)): in a folder that others write to, theirs is not written to.
    With `sync` it is on disk before it has its name, and its name before this returns. Raises
    `OSError`, also where something that is no file has the name: a device or a pipe would be lost.
    """
    if not _may_give_way(path):
        raise OSError(errno.EEXIST, "it is there, and no file", str(path))
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            if sync:
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    if sync:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _may_give_way(path: Path) -> bool:
    """Whether nothing has a name, or what a file may replace: another one, or a link."""
    try:
        kind = path.lstat().st_mode
    except OSError:
        return True  # who makes the file tells of what else hinders
    return stat.S_ISREG(kind) or stat.S_ISLNK(kind) or stat.S_ISDIR(kind)


def write(path: Path, data: bytes | str, mode: int = PRIVATE, *, sync: bool = False) -> None:
    """Write a file whole or not at all, text as UTF-8; see `writing`."""
    with writing(path, mode, sync=sync) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def public() -> int:
    """Return the mode that a user's own programs give a new file: 0666 less their umask."""
    # Reading it by umask(2) would change it for other threads meanwhile.
    with open("/proc/self/status", "rb") as status:  # noqa: PTH123 - as bytes, line by line
        for line in status:
            if line.startswith(b"Umask:"):
                return 0o666 & ~int(line.split()[1], 8)
    return PRIVATE
