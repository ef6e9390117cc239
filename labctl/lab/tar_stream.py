"""The tar archive of a guest or a stranger, read as a stream from somebody who may lie.

Python's tarfile takes a header's word for how much memory a long name may have, and, before 3.11.4,
for where a file is to lie. What is read here is what tar(1) of GNU and of busybox write for files
and folders: the ustar header (POSIX.1-1988) with GNU's long names and large sizes; everything is
bounded, and all that is neither a file nor a folder is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from labctl.errors import GuestError

BLOCK = 512
_CHUNK = 1 << 18
MOST_MEMBERS = 100_000
MOST_BYTES = 4 << 30
"""Of all files together: what a stranger sends must have an end."""
LONGEST_PATH = 4096
"""Octets (PATH_MAX of Linux)."""
_DEEPEST = 128
_LATEST = (1 << 33) - 1
"""Seconds: the most that a time of ustar's can be."""
_FILE, _FOLDER, _LONG_NAME, _LONG_LINK = b"0\x007", b"5", b"L", b"K"


class TarError(GuestError):
    """The stream is no tar archive, a damaged one, or one that nobody should unpack."""


class NothingError(TarError):
    """Nothing came at all: whoever should have sent it says why."""


@dataclass(frozen=True)
class Member:
    """A file or a folder of the archive."""

    path: tuple[str, ...]
    """Its path in parts, the first of which is what was asked for; no part is `..` or empty."""
    is_folder: bool
    mode: int
    """Permissions, those of `0o777` alone."""
    mtime: int
    size: int


class Reader:
    """Reads members one after the other; the data of each is to be read before the next."""

    def __init__(self, stream: BinaryIO, root: str) -> None:
        """Read an archive all of whose members must be `root`, or below it."""
        self._stream = stream
        self._root = root
        self._left = 0
        self._padding = 0
        self._bytes = 0
        self._begun = False
        self.skipped = 0
        """How many members were left out: links, devices, sockets."""

    def members(self) -> Iterator[Member]:
        """Yield files and folders. Raises `TarError`."""
        name = b""
        for _ in range(2 * MOST_MEMBERS):
            self._drop()
            head = self._head()
            if head == bytes(BLOCK):
                return
            size = _number(head[124:136])
            if _number(head[148:156]) != sum(head[:148]) + 32 * 8 + sum(head[156:]):
                raise TarError("this is no tar archive: the checksum of a header is wrong")
            kind = head[156:157]
            if kind in (_LONG_NAME, _LONG_LINK):
                text = self._long(size)
                name = text if kind == _LONG_NAME else name
                continue
            name, used = b"", name or _name(head)
            self._left, self._padding = size, -size % BLOCK
            if kind in _FILE or kind == _FOLDER:
                if kind == _FOLDER and size:
                    raise TarError("a folder of the archive claims to have bytes")
                self._bytes += size
                if self._bytes > MOST_BYTES:
                    raise TarError(f"it is more than {MOST_BYTES >> 30} GiB", "copy it in parts")
                mode = _number(head[100:108]) & 0o777
                mtime = min(_number(head[136:148]), _LATEST)
                yield Member(self._parts(used), kind == _FOLDER, mode, mtime, size)
            else:
                self.skipped += 1
        raise TarError(f"it has more than {MOST_MEMBERS:,} files", "copy it in parts")

    def _head(self) -> bytes:
        first = self._stream.read(1)
        if not first and not self._begun:
            raise NothingError("nothing came")
        self._begun = True
        return first + self._exactly(BLOCK - 1) if first else self._exactly(BLOCK)

    def data(self) -> Iterator[bytes]:
        """Yield the bytes of the member that was yielded last."""
        while self._left:
            data = self._stream.read(min(_CHUNK, self._left))
            if not data:
                raise TarError("the archive ends in the middle")
            self._left -= len(data)
            yield data

    def _drop(self) -> None:
        """Pass by what is left of a member."""
        for _ in self.data():
            pass
        self._exactly(self._padding)
        self._padding = 0

    def _long(self, size: int) -> bytes:
        if size > LONGEST_PATH + 1:
            raise TarError(f"a name in the archive is longer than {LONGEST_PATH} octets")
        text = self._exactly(size).rstrip(b"\0")
        self._exactly(-size % BLOCK)
        return text

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._stream.read(count - len(data))
            if not more:
                raise TarError("the archive ends in the middle")
            data += more
        return data

    def _parts(self, name: bytes) -> tuple[str, ...]:
        """Return a path in parts; raises `TarError` for one that leads out of what was asked for.

        Octets that are no UTF-8 stay what they are (os.fsdecode).
        """
        text = name.decode("utf-8", "surrogateescape")
        parts = text.rstrip("/").split("/")
        if parts[:1] == ["."]:
            parts = parts[1:]
        wrong = any(part in ("", ".", "..") or "\0" in part for part in parts)
        if wrong or not parts or parts[0] != self._root or len(parts) > _DEEPEST:
            raise TarError(f"it holds a file that was not asked for: {text[:200]}")
        return tuple(parts)


def _name(head: bytes) -> bytes:
    name = head[:100].split(b"\0", 1)[0]
    # GNU's old magic has other fields where the prefix is.
    prefix = head[345:500].split(b"\0", 1)[0] if head[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _number(field: bytes) -> int:
    """Read octal digits, or GNU's base 256."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise TarError("this is no tar archive: a number in a header is none")
    return int(text, 8)
