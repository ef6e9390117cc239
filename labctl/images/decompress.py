"""Decompression of disk images: xz, gzip and Zstandard, told by what a file begins with."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from labctl.errors import LabctlError
from labctl.images.archives import libarchive
from labctl.sandbox.deadline import Deadline

MOST = 1 << 38
"""Bytes of a decompressed image: 256 GiB."""
BLOCK = 1 << 18
_MAGIC = {
    b"\xfd7zXZ\x00": "xz",  # The .xz File Format, 2.1.1.1
    b"\x1f\x8b": "gzip",  # RFC 1952, 2.3.1
    b"\x28\xb5\x2f\xfd": "zstd",  # RFC 8878, 3.1.1
}
_ZEROS = bytes(BLOCK)


def compression(path: Path) -> str:
    """Return how a file is compressed, empty where it is not."""
    with path.open("rb") as file:
        begin = file.read(max(map(len, _MAGIC)))
    return next((how for magic, how in _MAGIC.items() if begin.startswith(magic)), "")


def blocks(path: Path, how: str, source: str) -> Iterator[bytes]:
    """Yield what is in a compressed file, in parts of at most `BLOCK` bytes.

    Raises `LabctlError`, which names `source`, where it is damaged or cut.
    """
    try:
        if how == "gzip":  # libarchive does not look at its checksum (RFC 1952, CRC32)
            with gzip.open(path) as plain:
                while block := plain.read(BLOCK):
                    yield block
        else:
            yield from _by_libarchive(path, how)
    except (EOFError, zlib.error, gzip.BadGzipFile, _Damaged) as error:
        raise LabctlError(f"{source} cannot be decompressed: {error}") from None


class _Damaged(Exception):  # noqa: N818 - it does not leave this module
    pass


def _by_libarchive(path: Path, how: str) -> Iterator[bytes]:
    """Yield likewise; libarchive bounds the memory that a file may ask for, at 1 GiB."""
    library = libarchive()
    try:
        with library.file_reader(str(path), format_name="raw", filter_name=how) as archive:
            for entry in archive:
                for block in entry.get_blocks(BLOCK):
                    yield bytes(block)
    except library.ArchiveError as error:
        raise _Damaged(error.msg) from None


def write_sparse(source: Iterator[bytes], target: IO[bytes], deadline: Deadline, what: str) -> int:
    """Write blocks to an empty file, holes where they hold zeros; return how many bytes it has.

    `what` it is that is written, for errors. Raises `LabctlError` where it is more than `MOST`,
    `DeadlineError`, `OSError` where the disk refuses.
    """
    size = 0
    for block in source:
        deadline.check()
        size += len(block)
        if size > MOST:
            raise LabctlError(f"{what} is larger than {MOST >> 30} GiB")
        if block == _ZEROS[: len(block)]:
            target.seek(size)
        else:
            target.write(block)
    target.truncate(size)
    return size
