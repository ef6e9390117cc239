"""Where built images and fetched packages lie, and how no half image ever gets there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from labctl.errors import HostError, host_error
from labctl.sandbox import lock, owned, paths
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.init import MARK

DISK = "disk.raw"
_SHORT = 12
_BUILDING = ".building-"


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
    disk: Path | None = None
    """A disk, raw, that boots kernel and initramfs by itself; None without."""


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
            hypervisor=_there(folder / "hypervisor"),
            disk=_there(folder / DISK),
        )
        files = filter(None, (image.kernel, image.initramfs, image.hypervisor, image.disk))
        size = sum(file.stat().st_size for file in files)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return image if (image.digest, image.size) == (digest, size) else None


def _there(file: Path) -> Path | None:
    return file if file.exists() else None


def keep(folder: Path, image: Image) -> Image:
    """Move a finished image from its building folder to its place; return it as it lies there."""
    files = ("kernel", "initramfs", "hypervisor", "disk")
    notes = {key: value for key, value in asdict(image).items() if key not in files}
    (folder / "image.json").write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())  # a rename that outlives its files would be a half image
    target = place(image.name, image.digest)
    if os.path.lexists(target) and not remove(target):
        raise HostError(f"{target} is there already, and labctl did not make it", "move it away")
    owned.mark(folder, target)
    folder.rename(target)
    kept = find(image.name, image.digest)
    assert kept is not None  # it was written a moment ago, under the lock
    return kept


@contextmanager
def builder(deadline: Deadline) -> Iterator[Path]:
    """Be the only builder of this cache; yield an empty folder in its file system.

    What an interrupted builder left is removed first.
    Raises `DeadlineError` when another builder does not end in time, `HostError` when the cache
    cannot be written to, also when that shows only in the `with` block.
    """
    images = root() / "images"
    with ExitStack() as stack:
        try:
            owned.claim(images)
            stack.enter_context(lock.held(images / ".lock", deadline))
        except OSError as error:
            raise HostError(
                f"cannot write to the cache {images}: {error.strerror}",
                "set XDG_CACHE_HOME to a folder that you may write to",
            ) from None
        try:
            yield stack.enter_context(owned.temporary(images, _BUILDING))
        except OSError as error:
            raise host_error(error, root()) or error from None


def remove(folder: Path) -> bool:
    """Remove the folder of an image, if it is one that labctl made; say whether it is gone.

    Earlier ones bear no mark; they are known by what they say of themselves, and only what an image
    has is removed.
    """
    if owned.remove(folder):
        return not os.path.lexists(folder)
    try:
        notes = json.loads((folder / "image.json").read_text(encoding="utf-8"))
        if place(notes["name"], notes["digest"]) != folder or folder.is_symlink():
            return False
        for name in ("kernel", "initramfs.cpio", "hypervisor", DISK, "image.json", MARK):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def remove_packages() -> None:
    """Remove packages from a folder without a mark: those that are what their names say."""
    for file in packages().glob("*.deb"):
        with suppress(OSError), file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() == file.stem:
                file.unlink()
    with suppress(OSError):
        packages().rmdir()


def is_of(image: str, name: str | None) -> bool:
    """Tell whether an image is the one called `name`, or that one with another kernel."""
    return name in (None, image, image.partition("@")[0])


def folders_of(name: str | None) -> list[Path]:
    """Return the folders of every built version of an image, or of all images.

    Those with other kernels than its own are versions of it too.
    """
    images = root() / "images"
    found = []
    for folder in sorted(images.glob("*-*")) if images.is_dir() else []:
        stem, _, digest = folder.name.rpartition("-")
        if len(digest) == _SHORT and folder.is_dir() and is_of(stem, name):
            found.append(folder)
    return found
