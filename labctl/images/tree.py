"""What goes into an initramfs: a tree of entries in memory, and its one way out as an archive.

The archive depends on nothing but the entries: owner, times and order are fixed, so that the same
recipe gives the same bytes on every machine and to every user.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labctl.errors import UsageError

_MERGED = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib32": "usr/lib32",
    "lib64": "usr/lib64",
    "libx32": "usr/libx32",
}
"""Folders that Debian keeps as links into /usr, though its packages of bookworm still use both."""


@dataclass(frozen=True)
class Entry:
    """A regular file (`data`: its bytes, or where they lie), a symbolic link or a folder."""

    mode: int
    data: bytes | Path | None = None
    link: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether this is neither a file nor a link."""
        return self.data is None and self.link is None

    def read(self) -> bytes:
        """Return the file's bytes; empty for a link or a folder."""
        if isinstance(self.data, Path):
            return self.data.read_bytes()
        return self.data or b""


def normal(path: str) -> str:
    """Return `path` relative to the root and with /usr merged, such as `usr/bin/ip` for `/bin/ip`.

    Raises `UsageError` for a path that leaves the root.
    """
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", ".", "//")]
    if ".." in parts:
        raise UsageError(f"{path} leaves the root of the image", "use a path without ..")
    if parts and parts[0] in _MERGED:
        parts[:1] = _MERGED[parts[0]].split("/")
    return "/".join(parts)


class Tree:
    """Entries by their normal path; the folders above an entry need not be named."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def __contains__(self, path: str) -> bool:
        return normal(path) in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def add(self, path: str, entry: Entry) -> None:
        """Put `entry` at `path`, in place of what was there."""
        self.entries[normal(path)] = entry

    def resolve(self, path: str) -> str | None:
        """Return the normal path of the file that `path` leads to through links, if there is one.

        Only the last part of a path may be a link: packages of one suite agree on their folders.
        """
        path = normal(path)
        for _ in range(8):
            entry = self.entries.get(path)
            if entry is None or entry.is_folder:
                return None
            if entry.link is None:
                return path
            path = _follow(path, entry.link)
        return None

    def with_folders(self) -> Iterator[tuple[str, Entry]]:
        """Yield every entry and the folders above them, parents first, in a fixed order."""
        complete = dict(self.entries)
        for short, merged in _MERGED.items():
            if any(path.startswith(f"{merged}/") for path in self.entries):
                complete.setdefault(short, Entry(0o777, link=merged))
        for path in list(complete):
            for parent in PurePosixPath(path).parents:
                if str(parent) != ".":
                    complete.setdefault(str(parent), Entry(0o755))
        yield from sorted(complete.items(), key=lambda item: item[0].split("/"))

    def write_cpio(self, target: Path) -> None:
        """Write the tree as an uncompressed cpio archive in the "newc" format.

        The format is that of Documentation/driver-api/early-userspace/buffer-format.rst in the
        kernel. Written here because libarchive's binding cannot make a symbolic link from memory;
        uncompressed because unpacking costs an emulated guest more than reading.
        """
        with target.open("wb") as archive:
            for number, (path, entry) in enumerate(self.with_folders(), start=1):
                data = entry.read()
                kind = stat.S_IFREG
                if entry.link is not None:
                    kind, data = stat.S_IFLNK, entry.link.encode()
                elif entry.is_folder:
                    kind = stat.S_IFDIR
                archive.write(_record(path, data, number, kind | entry.mode))
            archive.write(_record("TRAILER!!!", b"", 0, 0))


def private_file(path: str, data: bytes) -> bytes:
    """Return an archive of one file that root alone may read, to stand behind an initramfs.

    The kernel unpacks one archive after another where each begins at a multiple of four bytes
    (buffer-format.rst, see `Tree.write_cpio`).
    """
    record = _record(path, data, 1, stat.S_IFREG | 0o600)
    return record + _record("TRAILER!!!", b"", 0, 0)


def _record(path: str, data: bytes, number: int, mode: int) -> bytes:
    """Return one entry of a newc archive: header, name and data, each padded to 4 bytes."""
    name = path.encode() + b"\0"
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
    # namesize, check
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    record = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    record += bytes(-len(record) % 4)
    return record + data + bytes(-len(data) % 4)


def _follow(path: str, link: str) -> str:
    """Return where a link at `path` leads, as a normal path."""
    if link.startswith("/"):
        return normal(link)
    parts = path.split("/")[:-1]
    for part in PurePosixPath(link).parts:
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return normal("/".join(parts))
