"""A guest's state in files: written once, checked whole whenever it is used, changed by nobody.

What a clone goes on from is a copy in memory (memfd_create(2)) that is sealed: QEMU opens its
guest's memory to write, also where it keeps its changes to itself, and a guest that broke out of it
could change what others go on from. A sealed file is changed by nobody, whoever has it open.
All clones of one start share the pages of the copy that they do not write to.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import LabctlError
from labctl.guests.spec import Saved

CHUNK = 1 << 16
_ZEROS = bytes(CHUNK)
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class DamagedError(LabctlError):
    """A template is not what was saved."""


def new_file(name: str, size: int = 0) -> int:
    """Return a new file in memory, of `size` zeros, that can be sealed; raises `OSError`."""
    file = os.memfd_create(f"labctl-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, size)
    return file


def copy(source: int, to: int) -> str:
    """Copy what is in one open file to another that is empty; return its digest.

    That is SHA-256 over each 64 KiB that are not all zeros, their place before them, and the size;
    where all is zero holes are made, and those of `source` are not read. Raises `OSError`.
    """
    digest = hashlib.sha256()
    size = os.fstat(source).st_size
    os.ftruncate(to, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA) // CHUNK * CHUNK
        except OSError:  # ENXIO: nothing but a hole is left
            break
        chunk = os.pread(source, CHUNK, at)
        if not chunk:
            break
        if chunk != _ZEROS[: len(chunk)]:
            digest.update(at.to_bytes(8, "little"))
            digest.update(chunk)
            _write(to, chunk, at)
        at += len(chunk)
    digest.update(size.to_bytes(8, "little"))
    return digest.hexdigest()


def _write(to: int, chunk: bytes, at: int) -> None:
    view = memoryview(chunk)
    while view:
        done = os.pwrite(to, view, at)
        view, at = view[done:], at + done


@contextlib.contextmanager
def opened(template: Saved) -> Iterator[tuple[int, int]]:
    """Give memory and device state of a template, each an open file, for a `with` block.

    Nobody can change them. Raises `DamagedError` where they are not what was saved, `OSError`.
    """
    files: list[int] = []
    try:
        for name, path, digest in (
            ("memory", template.memory, template.memory_digest),
            ("state", template.state, template.state_digest),
        ):
            files.append(new_file(name))
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if copy(source, files[-1]) != digest:
                    raise DamagedError(f"its {name} is not what was saved", f"rm -r {path.parent}")
            finally:
                os.close(source)
            fcntl.fcntl(files[-1], fcntl.F_ADD_SEALS, SEALS)
        yield files[0], files[1]
    finally:
        for file in files:
            os.close(file)


def keep(file: int, path: Path) -> str:
    """Write what is in an open file to a new private one; return its digest. Raises `OSError`."""
    to = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        digest = copy(file, to)
        os.fsync(to)
    finally:
        os.close(to)
    return digest
