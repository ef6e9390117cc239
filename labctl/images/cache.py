"""Where built images and fetched packages lie, and how no half image ever gets there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from labctl.errors import HostError, refusal
from labctl.world import paths
from labctl.world.deadline import Deadline

_SHORT = 12
_BUILDING = ".building"


@dataclass(frozen=True)
class Image:
    """A built image: all a guest needs to boot."""

    name: str
    digest: str
    """SHA-256 in hex over recipe, lock, added files and builder."""
    kernel: Path
    """The package's kernel: unpacked, an ELF file, where QEMU can start that; else a bzImage."""
    initramfs: Path
    """An uncompressed cpio archive."""
    kernel_release: str
    """What `uname -r` says in the guest."""
    memory: int
    """MiB: the least that a guest boots it with."""
    size: int
    """Bytes of all its files together."""
    built: str
    """When, in UTC: ISO 8601."""
    hypervisor: Path | None = None
    """A Xen hypervisor, unpacked: QEMU's multiboot starts it, and it the kernel; None without."""


def root() -> Path:
    """Return labctl's folder in the user's cache (`XDG_CACHE_HOME`)."""
    return paths.cache()


def packages() -> Path:
    """Return the folder of fetched packages, each named by its SHA-256."""
    return root() / "packages"


def kernels() -> Path:
    """Return the folder of kernels unpacked for Xen, each named by the SHA-256 of its bzImage."""
    return root() / "kernels"


def place(name: str, digest: str) -> Path:
    """Return the folder of one image."""
    return root() / "images" / f"{name}-{digest[:_SHORT]}"


def find(name: str, digest: str) -> Image | None:
    """Return the image from the cache; None when it is not there whole."""
    folder = place(name, digest)
    try:
        notes = json.loads((folder / "image.json").read_text(encoding="utf-8"))
        image = Image(
            name=notes["name"],
            digest=notes["digest"],
            kernel=folder / "kernel",
            initramfs=folder / "initramfs.cpio",
            kernel_release=notes["kernel_release"],
            memory=notes["memory"],
            size=notes["size"],
            built=notes["built"],
            hypervisor=folder / "hypervisor" if (folder / "hypervisor").exists() else None,
        )
        files = [image.kernel, image.initramfs, *([image.hypervisor] if image.hypervisor else [])]
        size = sum(file.stat().st_size for file in files)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return image if (image.digest, image.size) == (digest, size) else None


def keep(folder: Path, image: Image) -> Image:
    """Move a finished image from its building folder to its place; return it as it lies there."""
    files = ("kernel", "initramfs", "hypervisor")
    notes = {key: value for key, value in asdict(image).items() if key not in files}
    (folder / "image.json").write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())  # a rename that outlives its files would be a half image
    target = place(image.name, image.digest)
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)
    kept = find(image.name, image.digest)
    assert kept is not None  # it was written a moment ago, under the lock
    return kept


@contextmanager
def builder(deadline: Deadline) -> Iterator[Path]:
    """Be the only builder of this cache; yield an empty folder in its file system.

    What an interrupted builder left is removed first: while the lock is held, nobody else owns it.
    Raises `DeadlineError` when another builder does not end in time, `HostError` when the cache
    cannot be written to, also when that shows only in the `with` block.
    """
    images = root() / "images"
    try:
        images.mkdir(parents=True, exist_ok=True)
        handle = (images / ".lock").open("w")
    except OSError as error:
        raise HostError(
            f"cannot write to the cache {images}: {error.strerror}",
            "set XDG_CACHE_HOME to a folder that you may write to",
        ) from None
    with handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                deadline.pause(0.1)
        scratch = images / _BUILDING
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            scratch.mkdir()
            yield scratch
        except OSError as error:
            raise refusal(error, root()) or error from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def folders_of(name: str | None) -> list[Path]:
    """Return the folders of every built version of an image, or of all images."""
    images = root() / "images"
    found = []
    for folder in sorted(images.glob("*-*")) if images.is_dir() else []:
        stem, _, digest = folder.name.rpartition("-")
        if len(digest) == _SHORT and folder.is_dir() and name in (None, stem):
            found.append(folder)
    return found
