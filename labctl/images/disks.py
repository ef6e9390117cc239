"""Disk images as topologies name them: fetched, checked, decompressed, and kept in the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import LabctlError, UsageError
from labctl.events import Emit, Event, reported, silent
from labctl.images import decompress, disk_cache, disk_format, download, overlay
from labctl.images.disk_cache import Disk, Facts
from labctl.sandbox import user_cache
from labctl.sandbox.deadline import Deadline
from labctl.topology.disk_image import DiskImage

_SECONDS = 3600.0
"""To hash, copy or decompress one image."""
_SIDES = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
"""What tells one state of a file from another."""


def get_disk(image: DiskImage, *, emit: Emit = silent) -> Disk:
    """Return a disk image from the cache, fetching it first where it is not there.

    Raises `UsageError` for a URL that nothing pins and for an image of another format,
    `LabctlError` for one that cannot be had, is not what is pinned, or names other files,
    `HostError` where this host has no room or no qemu-img.
    """
    if image.url and not image.sha256:
        raise UsageError(f"nothing says the digest of {image.url}", "write its sha256, or lock it")
    if image.sha256 and (found := _cached(image, image.sha256)):
        return found
    return _from_url(image, emit) if image.url else _from_file(image, emit)


def fetch_unpinned(image: DiskImage, *, emit: Emit = silent) -> Disk:
    """Return the disk image that a URL gives now, whatever its digest; raises as `get_disk`."""
    assert image.url
    assert not image.sha256
    return _from_url(image, emit)


def _cached(image: DiskImage, sha256: str) -> Disk | None:
    """Return an image of the cache; raises `UsageError` where that is of another format."""
    found = disk_cache.find(sha256)
    if found and found.facts.format != image.format:
        raise UsageError(
            f"{image.source} is {found.facts.format}, and its format is said to be {image.format}",
            f"write format: {found.facts.format}",
        )
    return found


def _from_url(image: DiskImage, emit: Emit) -> Disk:
    overlay.check_installed()
    with reported(emit, "image", image.name), download.part_of(image.url) as part:
        found = _cached(image, image.sha256) if image.sha256 else None
        if found is None:  # else another process has fetched it meanwhile
            sha256 = download.fetch(part, emit, pinned=bool(image.sha256))
            try:
                _check_digest(image, sha256)
                found = _cached(image, sha256) or _take(image, sha256, part.path, emit, move=True)
            except UsageError:
                raise  # the image is well, and need not be fetched again
            except LabctlError:
                part.discard()  # there is nothing to go on from
                raise
        part.discard()
        return found


def _check_digest(image: DiskImage, sha256: str) -> None:
    if image.sha256 and sha256 != image.sha256:
        raise LabctlError(
            f"{image.source} is not what is pinned: its SHA-256 is {sha256}, "
            f"pinned is {image.sha256}",
            "if it was changed on purpose: labctl image lock --renew FILE, or write the new digest",
        )


def _from_file(image: DiskImage, emit: Emit) -> Disk:
    """Return what is in a file of the user's, from a copy: it may change while guests run."""
    path = image.file
    assert path
    overlay.check_installed()
    before = _state(path)
    key = user_cache.key(Path(__file__).parent, [str(path), *map(str, before)])
    known: str | None = user_cache.load(disk_cache.DIGESTS, key, str)
    if known and not image.sha256 and (found := _cached(image, known)):
        return found
    with reported(emit, "image", image.name):
        emit(Event("image", image.name, "progress", "reading it"))
        sha256 = _digest(path)
        _check_digest(image, sha256)
        found = _cached(image, sha256) or _take(image, sha256, path, emit, move=False)
        if _state(path) != before:
            disk_cache.remove(sha256)
            raise LabctlError(f"{path} was changed while it was read", "run it again")
    user_cache.keep(disk_cache.DIGESTS, key, sha256, str)
    return found


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file of the user's; raises `UsageError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unread(path, error) from None


def _unread(path: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot read {path}: {error.strerror}", "look at file: of its image:")


def _state(path: Path) -> tuple[int, ...]:
    """Return what tells one state of a file of the user's from another."""
    try:
        seen = path.stat()
    except OSError as error:
        raise _unread(path, error) from None
    return tuple(getattr(seen, side) for side in _SIDES)


def _take(image: DiskImage, sha256: str, path: Path, emit: Emit, *, move: bool) -> Disk:
    """Put an image into the cache, decompressed; of one that is not, the file itself may `move`."""
    how = decompress.compression(path)
    with disk_cache.making() as folder:
        target = folder / disk_cache.FILE
        if move and not how:
            size = disk_format.check(path, image.format, image.source)
            with path.open("rb") as file:
                os.fsync(file.fileno())  # takes long, and what was moved is lost where it is killed
            path.rename(target)
        else:
            what = "decompressing it" if how else "copying it"
            emit(Event("image", image.name, "progress", what, 0.9))
            deadline = Deadline(_SECONDS, f"{what.removesuffix(' it')} {image.source}")
            source = decompress.blocks(path, how, image.source) if how else _plain(path)
            with target.open("xb") as file:
                decompress.write_sparse(source, file, deadline, image.source)
            size = disk_format.check(target, image.format, image.source)
        return disk_cache.keep(folder, Facts(sha256, image.format, image.source, size))


def _plain(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(decompress.BLOCK):
            yield block
