"""Images by name: built, listed, removed, locked anew."""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from errno import EDQUOT, ENOSPC
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from labctl.errors import LabctlError, UsageError, host_error, nearest
from labctl.events import Emit, Event, reported, silent
from labctl.images import cache, lookup, recipe, recipe_paths, releases
from labctl.images.cache import Image
from labctl.images.kernel import quickest
from labctl.images.locks import Lock
from labctl.images.recipe import LoadedRecipe
from labctl.images.tree import Entry, Tree
from labctl.sandbox import atomic, owned
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.lazy_import import Late

# Listing images must not wait for what building one needs.
if TYPE_CHECKING:
    from labctl.images import closure, disk, mirror, unpack
else:
    closure = Late("labctl.images.closure")
    disk = Late("labctl.images.disk")
    mirror = Late("labctl.images.mirror")
    unpack = Late("labctl.images.unpack")

_VMLINUZ = re.compile(r"boot/vmlinuz-([^/]+)|usr/lib/modules/([^/]+)/vmlinuz")
_BUILD_SECONDS = 900.0
_LOCK_SECONDS = 300.0


@dataclass(frozen=True)
class ListedImage:
    """A known recipe and the image it stands for now."""

    name: str
    description: str
    digest: str
    """Empty when the recipe has no usable lock."""
    image: Image | None
    """None when it is not built, or was built from an earlier recipe or lock."""
    problem: str = ""
    """What is wrong with the recipe or its lock, if anything."""


def build(name: str, *, force: bool = False, emit: Emit = silent) -> Image:
    """Build the image `name` where the cache lacks it, or in any case with `force`.

    The same recipe and lock give the same bytes. An interrupted build leaves nothing that a later
    one would take for an image. Raises `UsageError` for an unknown name or a wrong recipe,
    `LabctlError` when a package cannot be had.
    """
    loaded = recipe.load(name)
    lock = loaded.lock()
    digest = loaded.digest(lock)
    deadline = Deadline(_BUILD_SECONDS, f"building the image {name}")
    with reported(emit, "image", name), cache.builder(deadline) as scratch:
        found = cache.find(name, digest)  # another builder may have made it while we waited
        if found is not None and not force:
            return found
        return _build(loaded, lock, digest, scratch, deadline, emit)


def _build(
    loaded: LoadedRecipe, lock: Lock, digest: str, scratch: Path, deadline: Deadline, emit: Emit
) -> Image:
    name = loaded.name
    folder = cache.packages()
    debs = mirror.fetch(loaded, lock.packages, folder, scratch, deadline=deadline, emit=emit)
    source = Tree()
    # A package that the recipe no longer names, but the lock does, is no part of the image.
    for package in (*lock.of_kernel, *loaded.recipe.wanted):
        emit(Event("image", name, "progress", f"unpacking {package}", 0.92))
        unpack.unpack(debs[package], scratch / "stage", source)
        deadline.check()
    release, packaged = _kernel(source, lock.kernel_package)
    # Where a disk of this image has it too.
    source.add(f"boot/vmlinuz-{release}", packaged)
    emit(Event("image", name, "progress", "writing the initramfs", 0.96))
    folder = scratch / "image"
    folder.mkdir()
    kernel = quickest(packaged.read(), Path(lock.kernel_package))
    (folder / "kernel").write_bytes(kernel)
    if loaded.recipe.hypervisor:
        (folder / "hypervisor").write_bytes(_hypervisor(source, loaded.recipe.hypervisor))
    tree = compose(loaded, source, release, scratch / "modules", deadline=deadline)
    tree.write_cpio(folder / "initramfs.cpio")
    if loaded.recipe.disk:
        emit(Event("image", name, "progress", "writing the disk", 0.97))
        place, work = folder / cache.DISK, scratch / "disk"
        disk.write(loaded, source, release, folder / "initramfs.cpio", work, place, deadline)
    deadline.check()
    return cache.keep(
        folder,
        Image(
            name=name,
            digest=digest,
            kernel=folder / "kernel",
            initramfs=folder / "initramfs.cpio",
            kernel_release=release,
            memory=loaded.memory,
            size=sum(file.stat().st_size for file in folder.iterdir()),
            built=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def _kernel(source: Tree, package: str) -> tuple[str, Entry]:
    """Return the release of the kernel in a package, and its file; `LabctlError` for not one.

    Since Linux 7 Debian's lies beside its modules, and is copied to /boot when it is installed.
    """
    found = {
        match[1] or match[2]: source.entries[path]
        for path in source
        if (match := _VMLINUZ.fullmatch(path))
    }
    if len(found) != 1:
        raise LabctlError(
            f"the package {package} holds {len(found)} kernels, not one",
            "name a package linux-image-… as the recipe's `kernel`",
        )
    return next(iter(found.items()))


def _hypervisor(source: Tree, package: str) -> bytes:
    """Return the unpacked Xen of a package; raises `UsageError` where it holds not one."""
    found = [path for path in source if fnmatchcase(path, "boot/xen-*.gz")]
    if len(found) != 1:
        raise UsageError(
            f"the package {package} holds {len(found)} hypervisors, not one",
            "name a package xen-hypervisor-… as the recipe's `hypervisor`",
        )
    return gzip.decompress(source.entries[found[0]].read())


def compose(
    loaded: LoadedRecipe, source: Tree, release: str, scratch: Path, *, deadline: Deadline
) -> Tree:
    """Return what a recipe chooses from its unpacked packages, with all that comes along.

    `scratch` is a folder to work in, not made yet. Raises `UsageError` or `LabctlError` naming what
    the recipe wants and the packages lack.
    """
    wanted = loaded.recipe
    tree = Tree()
    closure.copy_with_libraries(source, closure.choose(source, wanted.files, wanted.exclude), tree)
    if wanted.modules:
        closure.copy_modules(source, release, wanted.modules, tree, scratch, deadline=deadline)
    for applet in wanted.applets:
        path = f"usr/bin/{applet}"
        if path in tree or f"usr/sbin/{applet}" in tree:
            raise UsageError(
                f"{applet} is named in `applets`, but a package brings it",
                "take it out of `applets`",
            )
        tree.add(path, Entry(0o777, link="busybox"))
    for place, target in wanted.links.items():
        tree.add(place, Entry(0o777, link=target))
    for place, text in wanted.text.items():
        tree.add(place, Entry(0o644, text.encode()))
    for place, (mode, data) in loaded.added.items():
        tree.add(place, Entry(mode, data))
    for folder in ("dev", "proc", "root", "run", "sys", "tmp"):
        tree.add(folder, Entry(0o755))
    return tree


def list_images() -> list[ListedImage]:
    """Return every known recipe with the image it stands for now, sorted by name.

    Of images with other kernels, those that were built.
    """
    listed = []
    with_kernels = {folder.name.rpartition("-")[0] for folder in cache.folders_of(None)}
    built = sorted(name for name in with_kernels if releases.split(name)[1])
    for name in sorted([*recipe_paths.names(), *built]):
        try:
            loaded = recipe.load(name)
        except UsageError as error:
            listed.append(ListedImage(name, "", "", None, str(error)))
            continue
        description = loaded.recipe.description
        if loaded.release:
            kernel = loaded.release.kernel_package.removeprefix("linux-image-")
            description = f"{releases.split(name)[0]} with the kernel {kernel}"
        try:
            digest = loaded.digest(loaded.lock())
        except UsageError as error:
            listed.append(ListedImage(name, description, "", None, str(error)))
            continue
        listed.append(ListedImage(name, description, digest, cache.find(name, digest)))
    return listed


def remove(name: str | None = None) -> list[str]:
    """Remove the built versions of an image, or of all images with all else that building keeps.

    That is the fetched packages, the unpacked kernels and the digests of recipes. Returns the names
    of the removed folders. Guests that run keep what they booted: QEMU holds the files open, those
    that it hands to a Xen host too.
    Raises `UsageError` for a name that is neither a recipe's nor that of a built image,
    `LabctlError` where a folder holds what labctl has not made: that stays.
    """
    with cache.builder(Deadline(_BUILD_SECONDS, "waiting for a build to end")):
        folders = cache.folders_of(name)
        if name is not None and not folders and name not in recipe_paths.names():
            raise UsageError(f"there is no image {name}", nearest(name, recipe_paths.names()))
        for folder in folders:
            cache.remove(folder)
        if name is None:
            for rest in (cache.packages(), cache.kernels(), cache.root() / lookup.KIND):
                owned.remove(rest)
            cache.remove_packages()
    left = [folder for folder in folders if os.path.lexists(folder)]
    if left:
        raise LabctlError(
            f"{left[0]} holds what labctl did not make, which stays", "look at it, and remove it"
        )
    return [folder.name for folder in folders]


def lock(name: str, *, emit: Emit = silent) -> Path:
    """Pin the packages of a recipe at what the archive has now; return the lock file written.

    Raises `UsageError` for an unknown image or package, `LabctlError` when the archive cannot be
    read.
    """
    deadline = Deadline(_LOCK_SECONDS, f"locking the image {name}")
    with reported(emit, "image", name):
        if name not in recipe_paths.names() and name in recipe_paths.kernels():
            file = releases.lock_file(name)
            emit(Event("image", name, "progress", "reading the archive's index"))
            what, content = "kernels", _pin_release(releases.load(name), deadline)
        else:
            loaded = recipe.load(name)
            emit(Event("image", name, "progress", "reading the archive's index"))
            file = loaded.lock_file
            what, content = "packages", mirror.pin(loaded.recipe, deadline=deadline).content()
        text = (
            f"# The {what} of {name}, pinned; written by `labctl image lock {name}`.\n"
            + yaml.safe_dump(content, sort_keys=False)
        )
        try:
            atomic.write(file, text, atomic.public())
        except OSError as error:
            if error.errno in (ENOSPC, EDQUOT):
                raise host_error(error, file) or error from None
            raise UsageError(
                f"cannot write {file}: {error.strerror}",
                "copy the recipe to your own folder (docs/images.md) and lock it there",
            ) from None
    return file


def _pin_release(release: releases.Release, deadline: Deadline) -> dict[str, Any]:
    """Return the lock of a release's kernels, of each flavour what the archive has now."""
    wanted = [
        recipe.Recipe(suite=release.suite, kernel=flavour, memory=1, packages=[], files=[])
        for flavour in releases.FLAVOURS
    ]
    pinned = [mirror.pin(one, deadline=deadline).content() for one in wanted]
    memory = {"memory": release.memory} if release.memory else {}
    return {"suite": release.suite, **memory, "kernels": pinned}
