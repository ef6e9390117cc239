"""Kernels as ELF files, which Xen and QEMU start at once: a bzImage has to unpack itself first."""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from labctl.errors import UsageError
from labctl.images import cache
from labctl.sandbox import owned
from labctl.sandbox.deadline import Deadline

ELF = b"\x7fELF"
XEN_P2M = 15
"""XEN_ELFNOTE_INIT_P2M; the notes of smaller numbers have others' names in pyelftools."""
PVH_ENTRY = 18
"""XEN_ELFNOTE_PHYS32_ENTRY."""
_WAIT_SECONDS = 900.0
"""For another build of this cache: as long as one may take."""
DOM0_BUS = b"\0xen_cpu\0"


def unpacked(kernel: Path) -> Path:
    """Return the ELF kernel inside a bzImage, or `kernel` itself where it is one already.

    It lies in the cache under the bzImage's SHA-256. Raises `UsageError` for any other file,
    `HostError` where the cache cannot be written to.
    """
    try:
        with kernel.open("rb") as file:
            if file.read(len(ELF)) == ELF:
                return kernel
            file.seek(0)
            image = file.read()
    except OSError as error:
        raise UsageError(f"cannot read the kernel {kernel}: {error.strerror}") from None
    place = cache.kernels() / hashlib.sha256(image).hexdigest()
    if not place.is_file():
        # As a build does it: what a killed one leaves is removed by the next, and `image rm` waits.
        with cache.builder(Deadline(_WAIT_SECONDS, "waiting for a build to end")) as scratch:
            part = scratch / "kernel"
            with part.open("wb") as file:
                file.write(_unpack(image, kernel))
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o600)  # it may be a kernel that others may not read
            owned.claim(place.parent)
            part.rename(place)
    return place


def runs_under_xen(kernel: Path) -> bool:
    """Whether an ELF kernel can be a PV guest.

    One that can says by an ELF note where its table of memory pages goes (Xen's public/elfnote.h;
    the kernel's xen-head.S writes it where CONFIG_XEN_PV is set). Raises `UsageError` for what is
    no ELF file.
    """
    with kernel.open("rb") as file:
        return _has_note(file, XEN_P2M, kernel)


def _has_note(kernel: BinaryIO, number: int, name: Path) -> bool:
    """Whether an ELF kernel has Xen's note of this number; `UsageError` for what is no ELF file."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import NoteSegment

    try:
        return any(
            note["n_name"] == "Xen" and str(note["n_type"]) == str(number)
            for segment in ELFFile(kernel).iter_segments("PT_NOTE")
            if isinstance(segment, NoteSegment)
            for note in segment.iter_notes()
        )
    except ELFError as error:
        raise UsageError(f"the kernel {name} is a broken ELF file: {error}") from None


def quickest(packaged: bytes, name: Path) -> bytes:
    """Return a packaged kernel in the form that QEMU starts soonest.

    That is the ELF file inside, where it has an entry point for PVH (QEMU's load_elfboot; the
    kernel's CONFIG_PVH): to unpack itself costs a guest 0.2 s under TCG. Else it is left as it is.
    """
    with contextlib.suppress(UsageError):
        kernel = _unpack(packaged, name)
        if _has_note(io.BytesIO(kernel), PVH_ENTRY, name):
            return kernel
    return packaged


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


SEEN: Mapping[str, Callable[[Path], bool]] = {
    "CONFIG_XEN_PV": runs_under_xen,
    "CONFIG_XEN_DOM0": runs_as_dom0,
}
"""Options a kernel was built with that can be seen in it, an ELF file (`GuestKind.kernel_options`);
each raises `UsageError` for what is no kernel."""
