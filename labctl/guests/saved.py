"""A guest's state in files: written once, checked whole whenever it is used, changed by nobody.

What a clone goes on from is a copy in memory (memfd_create(2)) that is sealed: QEMU opens its
guest's memory to write, also where it keeps its changes to itself, and a guest that broke out of it
could change what others go on from. A sealed file is changed by nobody, whoever has it open.
All clones of one start share the pages of the copy that they do not write to.

It is copied and checked while the QEMU that goes on from it starts. That one has it open to write
by then, but has run nothing of a guest, and does not before the copy is checked and sealed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    os.ftruncate(to, os.fstat(source).st_size)
    return digest(source, to)


def digest(source: int, to: int | None = None) -> str:
    """Return the digest of what is in an open file, as `copy` does, which also copies it."""
    found = hashlib.sha256()
    size = os.fstat(source).st_size
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
            found.update(at.to_bytes(8, "little"))
            found.update(chunk)
            if to is not None:
                _write(to, chunk, at)
        at += len(chunk)
    found.update(size.to_bytes(8, "little"))
    return found.hexdigest()


def _write(to: int, chunk: bytes, at: int) -> None:
    view = memoryview(chunk)
    while view:
        done = os.pwrite(to, view, at)
        view, at = view[done:], at + done


class Copies:
    """Copies in memory of a template's files, which become what was saved while others go on."""

    def __init__(self, memory: int, state: int, check: Future[None]) -> None:
        """Hold two open files until `check` is done."""
        self.memory = memory
        """An open file of its whole size. Until it is checked a QEMU may open it, but not run."""
        self.state = state
        self._check = check

    def check(self) -> None:
        """Wait until both are copied and sealed: nobody changes them any more.

        Raises `DamagedError` where they are not what was saved, `OSError`.
        """
        self._check.result()


@contextlib.contextmanager
def opened(template: Saved) -> Iterator[Copies]:
    """Give memory and device state of a template for a `with` block, checked beside it.

    To copy 128 MiB and make their digest takes 0.1 s, and so does starting the QEMU that goes on
    from them. Raises `OSError`.
    """
    with contextlib.ExitStack() as stack:
        pairs: list[tuple[int, int]] = []
        for name, path in (("memory", template.memory), ("state", template.state)):
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            stack.callback(os.close, source)
            pairs.append((source, new_file(name, os.fstat(source).st_size)))
            stack.callback(os.close, pairs[-1][1])
        pool = stack.enter_context(ThreadPoolExecutor(1, "labctl-template"))
        check = pool.submit(_check, template, pairs)
        yield Copies(pairs[0][1], pairs[1][1], check)


def _check(template: Saved, pairs: Sequence[tuple[int, int]]) -> None:
    """Copy each first file to the second, which is sealed; raises as `Copies.check` does."""
    digests = template.memory_digest, template.state_digest
    for name, digest, (source, to) in zip(("memory", "state"), digests, pairs, strict=True):
        if copy(source, to) != digest:
            folder = template.memory.parent
            raise DamagedError(f"its {name} is not what was saved", f"rm -r {folder}")
        fcntl.fcntl(to, fcntl.F_ADD_SEALS, SEALS)


def keep(file: int, path: Path) -> str:
    """Write what is in an open file to a new private one; return its digest. Raises `OSError`."""
    to = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        digest = copy(file, to)
        os.fsync(to)
    finally:
        os.close(to)
    return digest
