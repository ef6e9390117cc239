"""Kernels as ELF files, as Xen wants them: its loaders take a bzImage too, but unpack it slowly."""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import tempfile
from pathlib import Path

from labctl.errors import UsageError
from labctl.images import cache

ELF = b"\x7fELF"
XEN_P2M = 15
"""XEN_ELFNOTE_INIT_P2M; the notes of smaller numbers have others' names in pyelftools."""
DOM0_BUS = b"\0xen_cpu\0"


def unpacked(kernel: Path) -> Path:
    """Return the ELF kernel inside a bzImage, or `kernel` itself where it is one already.

    It lies in the cache under the bzImage's SHA-256. Raises `UsageError` for any other file.
    """
    try:
        image = kernel.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the kernel {kernel}: {error.strerror}") from None
    if image.startswith(ELF):
        return kernel
    place = cache.root() / "kernels" / hashlib.sha256(image).hexdigest()
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as part:
            try:
                part.write(_unpack(image, kernel))
                part.flush()
                os.fsync(part.fileno())
                os.fchmod(part.fileno(), 0o644)
                Path(part.name).rename(place)
            except BaseException:
                Path(part.name).unlink()
                raise
    return place


def runs_under_xen(kernel: Path) -> bool:
    """Whether an ELF kernel can be a PV guest.

    One that can says by an ELF note where its table of memory pages goes (Xen's public/elfnote.h;
    the kernel's xen-head.S writes it where CONFIG_XEN_PV is set). Raises `UsageError` for what is
    no ELF file.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import NoteSegment

    try:
        with kernel.open("rb") as file:
            return any(
                note["n_name"] == "Xen" and str(note["n_type"]) == str(XEN_P2M)
                for segment in ELFFile(file).iter_segments("PT_NOTE")
                if isinstance(segment, NoteSegment)
                for note in segment.iter_notes()
            )
    except ELFError as error:
        raise UsageError(f"the kernel {kernel} is a broken ELF file: {error}") from None


def runs_as_dom0(kernel: Path) -> bool:
    """Whether an ELF kernel that runs under Xen can be dom0.

    Its ELF notes do not tell: Linux 6.1 names dom0 among its features without CONFIG_XEN_DOM0 too.
    Xen starts it then, and it never says a word. With it, the kernel has the bus of the machine's
    real CPUs (drivers/xen/pcpu.c).
    """
    with (
        kernel.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(DOM0_BUS) >= 0


def _unpack(image: bytes, name: Path) -> bytes:
    """Return the payload of an x86 bzImage, unpacked.

    Where it lies is said by the setup header: Documentation/arch/x86/boot.rst, fields
    `setup_sects`, `payload_offset` and `payload_length`.
    """
    import libarchive

    hint = "name a bzImage or an unpacked vmlinux for x86-64"
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        raise UsageError(f"{name} is not a Linux kernel for x86", hint)
    setup_sects = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sects + 1) * 512 + offset
    # The last four bytes of the payload are its length when unpacked, no part of the stream.
    payload = image[start : start + length - 4]
    try:
        with libarchive.memory_reader(payload, format_name="raw") as archive:
            kernel = b"".join(block for entry in archive for block in entry.get_blocks())
    except libarchive.ArchiveError as error:
        raise UsageError(f"the kernel {name} cannot be unpacked: {error}", hint) from None
    if not kernel.startswith(ELF):
        raise UsageError(f"the kernel {name} holds no ELF file", hint)
    return kernel
