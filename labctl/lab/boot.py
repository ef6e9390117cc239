"""The files a guest boots, as the hypervisor reads them: its own initramfs, and copies of kernels.

A guest's configuration holds its keys, and everybody may read a command line (proc_pid_cmdline(5)).
So it is one file more in the initramfs, behind the image's: any kernel that unpacks one unpacks
both, without a driver. Each is read by the user that QEMU runs as, and by nobody else.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from labctl.errors import UsageError
from labctl.guests.spec import BOOT
from labctl.images.tree import private_file
from labctl.sandbox import atomic

CONFIG = "labctl.conf"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Files:
    """Where a lab's boot files lie, and who reads them."""

    directory: Path
    """The lab's."""
    reader: tuple[int, int] | None = None
    """The uid and gid of a system's QEMU; None where QEMU runs as the lab's own user."""

    def initramfs(self, node: str, image: Path, lines: str) -> Path:
        """Write the initramfs of a node: that of its image with the configuration behind it.

        Raises `UsageError` where the image's cannot be read, `OSError` where there is no room.
        """
        place = self._folder() / f"{node}.initramfs"
        with atomic.writing(place) as file:
            with _reading(image) as source:
                shutil.copyfileobj(source, file, _BLOCK)
            file.write(bytes(-file.tell() % 4) + private_file(CONFIG, lines.encode()))
            self._give(file.fileno())
        return place

    def kernel(self, node: str, kernel: Path) -> Path:
        """Return where QEMU reads the kernel of a node: a copy where it is another user's.

        It is named by its content, so that another file of the same name is another one, and by its
        node: libvirt takes a guest's files back when that guest ends. Raises as `initramfs` does.
        """
        if self.reader is None:
            return kernel
        with _reading(kernel) as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]
            place = self._folder() / f"{node}-{digest[:32]}"
            source.seek(0)
            with atomic.writing(place) as file:
                shutil.copyfileobj(source, file, _BLOCK)
                self._give(file.fileno())
        return place

    def _folder(self) -> Path:
        folder = self.directory / BOOT
        folder.mkdir(mode=0o700, exist_ok=True)
        if self.reader is not None:
            folder.chmod(0o711)
        return folder

    def _give(self, file: int) -> None:
        if self.reader is not None:
            os.fchown(file, *self.reader)


def _reading(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
