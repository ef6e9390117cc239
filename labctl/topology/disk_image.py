"""A disk image that a node boots, as a topology names it: where it is, and what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

Format = Literal["qcow2", "raw", "vmdk", "vhdx"]
"""What the bytes of an image mean, by QEMU's names."""
Firmware = Literal["bios", "uefi"]
"""What starts the boot loader of an image."""
SUFFIXES: dict[str, Format] = {
    ".qcow2": "qcow2",
    ".raw": "raw",
    ".vmdk": "vmdk",
    ".vhdx": "vhdx",
}
"""Names that tell a format. Not `.img`: some are qcow2 (Ubuntu's), others raw (Fedora's)."""
COMPRESSED = (".xz", ".gz", ".zst")


@dataclass(frozen=True)
class DiskImage:
    """A disk image, never written to; it has either a `url` or a `file`."""

    format: Format
    firmware: Firmware = "bios"
    url: str = ""
    """Where it is downloaded from, by HTTP or HTTPS."""
    file: Path | None = None
    """A file on this machine, absolute."""
    sha256: str = ""
    """Of the file as it is downloaded, maybe compressed: 64 hexadecimal digits in lower case.
    Empty where neither the topology nor its lock says it."""

    @property
    def source(self) -> str:
        """The URL, or the path of the file: what errors and listings call it."""
        return self.url or str(self.file)

    @property
    def name(self) -> str:
        """The last part of the source, for where there is little room."""
        return file_name(self.source)

    def identity(self) -> dict[str, str]:
        """Return what tells it from other images, wherever it comes from, for a digest.

        Of a file without a digest that is its format alone: which one it was belongs to a run.
        """
        content = self.sha256 or self.url
        return {"content": content, "format": self.format, "firmware": self.firmware}


def file_name(source: str) -> str:
    """Return the last part of the path of a URL, or of a path."""
    path = unquote(urlsplit(source).path) if "://" in source else source
    return PurePosixPath(path).name or source


def told_format(source: str) -> Format | None:
    """Return the format that a name tells, by its suffix before that of a compression."""
    name = PurePosixPath(file_name(source).lower())
    if name.suffix in COMPRESSED:
        name = name.with_suffix("")
    return SUFFIXES.get(name.suffix)
