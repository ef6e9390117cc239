"""Overlays: a qcow2 file takes what a guest writes, over a disk image that stays as it is.

Made by qemu-img(1). The format of the base is always named: QEMU would else guess it by what a
guest may have written there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from labctl.errors import HostError
from labctl.images.disk_cache import Disk
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import ENVIRONMENT, run

PROGRAM, PACKAGE = "qemu-img", "qemu-utils"


def check_installed() -> None:
    """Raise `HostError` where qemu-img is not installed."""
    if not shutil.which(PROGRAM, path=ENVIRONMENT["PATH"]):
        hint = f"as root, run: apt-get install {PACKAGE}"
        raise HostError(f"{PROGRAM} is not installed, which disk images need", hint)


def create(disk: Disk, path: Path, *, deadline: Deadline, size: int | None = None) -> None:
    """Make an empty overlay of `disk` at `path`, where nothing may lie.

    `size` in bytes is that of the guest's disk, by default the image's own; the part beyond that
    reads as zeros. Raises `HostError` where qemu-img is not installed, `CommandError` for what it
    refuses, `DeadlineError`.
    """
    if path.exists():  # qemu-img would write over it
        raise FileExistsError(f"{path} is there already")
    size = disk.facts.virtual_size if size is None else size
    # -u: the image is not opened; what it is was seen by `disk_format`, and not as this user.
    words = [PROGRAM, "create", "-q", "-u", "-f", "qcow2", "-F", disk.facts.format]
    words += ["-b", str(disk.path), str(path), str(size)]
    run(words, deadline=deadline, package=PACKAGE)
    path.chmod(0o600)
