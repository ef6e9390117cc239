"""Where disk images lie: each in a folder named by its digest, and never changed once it is there.

A folder appears by one rename, with the image and its notes inside. Guests write to overlays
(`labctl.images.overlay`), whose base it is. What is being downloaded lies beside, in `parts`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from labctl.errors import HostError, LabctlError, host_error
from labctl.sandbox import codec, documents, owned, paths, trusted
from labctl.topology.disk_image import Format, file_name

FILE, NOTES = "disk", "disk.json"
VERSION = 1
"""Of the notes."""
MODE = 0o444
"""Of an image: whoever opens it to write, such as a guest without an overlay, is refused."""
DIGESTS = "disk-digests"
_MAKING = ".making-"
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Facts:
    """What is known of an image before it lies in the cache."""

    sha256: str
    """Of the file as it was downloaded, in hex: what a topology or a lock pins."""
    format: Format
    source: str
    """The URL or the path that it came from first."""
    virtual_size: int
    """Bytes of the disk that a guest sees."""


@dataclass(frozen=True)
class Disk:
    """A disk image in the cache: the base of overlays."""

    facts: Facts
    path: Path
    size: int
    """Bytes of the file; of one with holes it takes less on the disk."""
    modified: int
    """When the file was last changed, in nanoseconds since the epoch: by labctl, or never again."""
    kept: str
    """Since when it lies there, in UTC: ISO 8601."""

    @property
    def name(self) -> str:
        """The last part of what it came from."""
        return file_name(self.facts.source)


@dataclass(frozen=True)
class _Notes:
    facts: Facts
    size: int
    modified: int
    kept: str


def root() -> Path:
    """Return the folder of disk images."""
    return paths.cache() / "disks"


def parts() -> Path:
    """Return the folder of what is not downloaded whole yet."""
    return root() / "parts"


def digests() -> Path:
    """Return the folder of digests of files that were read before, which are the user's own."""
    return paths.cache() / DIGESTS


def place(sha256: str) -> Path:
    """Return the folder of one image."""
    return root() / sha256


def find(sha256: str) -> Disk | None:
    """Return an image from the cache; None when it is not there as labctl has put it there."""
    folder = place(sha256)
    path = folder / FILE
    try:
        with trusted.folder(folder) as within:
            data = trusted.read(NOTES, within, folder / NOTES)
        notes: _Notes = documents.loads(data, _Notes, NOTES, VERSION)
        seen = path.lstat()
    except (OSError, LabctlError, codec.CodecError):
        return None
    same = (notes.facts.sha256, notes.size, notes.modified)
    if not stat.S_ISREG(seen.st_mode) or same != (sha256, seen.st_size, seen.st_mtime_ns):
        return None
    return Disk(notes.facts, path, notes.size, notes.modified, notes.kept)


@contextmanager
def making() -> Iterator[Path]:
    """Give an empty folder in the cache's file system, for one image; it goes at the end.

    What an interrupted maker left is removed first. Raises `HostError` when the cache cannot be
    written to, also when that shows only in the `with` block.
    """
    try:
        owned.claim(root())
        with owned.temporary(root(), _MAKING) as folder:
            yield folder
    except OSError as error:
        raise host_error(error, root()) or error from None


def keep(folder: Path, facts: Facts) -> Disk:
    """Move an image, the file `FILE` of a folder of `making`, to its place; return it from there.

    Of two processes that do it at once either may be the one. Raises `HostError` where something
    that labctl did not make has its place.
    """
    path = folder / FILE
    path.chmod(MODE)
    with path.open("rb") as file:
        os.fsync(file.fileno())  # a rename that outlives its file would be half an image
        seen = os.fstat(file.fileno())
    now = datetime.now(UTC).isoformat(timespec="seconds")
    notes = _Notes(facts, seen.st_size, seen.st_mtime_ns, now)
    (folder / NOTES).write_bytes(documents.dumps(notes, _Notes, NOTES, VERSION))
    target = place(facts.sha256)
    for _ in range(2):
        if found := find(facts.sha256):
            return found
        if os.path.lexists(target) and not owned.remove(target):
            raise HostError(
                f"{target} is there already, and labctl did not make it", "move it away"
            )
        owned.mark(folder, target)
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # somebody was quicker
                raise
    found = find(facts.sha256)
    if found is None:
        raise HostError(f"{target} cannot be made", "look at what lies there")
    return found


def listed() -> list[Disk]:
    """Return all images of the cache, sorted by what they came from."""
    folders = sorted(root().iterdir()) if root().is_dir() else []
    found = [find(one.name) for one in folders if _DIGEST.fullmatch(one.name)]
    return sorted((one for one in found if one), key=lambda one: (one.facts.source, one.path))


def remove_rest() -> None:
    """Remove what fetching keeps besides images: parts, digests, what killed makers have left."""
    for folder in (parts(), digests()):
        owned.remove(folder)
    owned.sweep(root(), _MAKING)


def remove(sha256: str) -> bool:
    """Remove an image; say whether labctl had made it."""
    return owned.remove(place(sha256))
