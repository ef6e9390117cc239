"""Debian packages and kernels taken apart, without any of their scripts and without root."""

from __future__ import annotations

import struct
import tarfile
from itertools import count
from pathlib import Path

import libarchive
from debian.debfile import DebError, DebFile

from labctl.errors import LabctlError
from labctl.images.tree import Entry, Tree, normal

_DULL = ("usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/lintian/")


def unpack(package: Path, stage: Path, tree: Tree) -> None:
    """Add the files and links of a .deb to `tree`; the bytes go to numbered files in `stage`.

    Numbers and not names, so that nothing in a package can point outside `stage`.
    Raises `LabctlError` when the file is not a Debian package.
    """
    stage.mkdir(parents=True, exist_ok=True)
    numbers = count(len(list(stage.iterdir())))
    try:
        with DebFile(filename=str(package)) as deb, deb.data.tgz() as data:
            for member in data:
                path = normal(member.name)
                if not path or path.startswith(_DULL):
                    continue
                if member.issym():
                    tree.add(path, Entry(0o777, link=member.linkname))
                elif member.islnk():
                    tree.add(path, tree.entries[normal(member.linkname)])
                elif member.isfile():
                    source = data.extractfile(member)
                    assert source is not None  # isfile() promises it
                    staged = stage / str(next(numbers))
                    staged.write_bytes(source.read())
                    tree.add(path, Entry(member.mode & 0o755, staged))
    except (DebError, tarfile.TarError, KeyError, EOFError) as error:
        raise LabctlError(
            f"{package.name} is not a Debian package that can be read: {error}"
        ) from None


def unpack_kernel(image: bytes) -> bytes:
    """Return the ELF kernel inside an x86 bzImage, or `image` itself where there is none to find.

    A guest then skips the decompressor: QEMU starts an ELF kernel by its PVH note
    (XEN_ELFNOTE_PHYS32_ENTRY), and Xen wants one anyway. Where the payload lies is said by the
    setup header: Documentation/arch/x86/boot.rst, fields setup_sects, payload_offset and
    payload_length.
    """
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        return image
    setup_sects = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sects + 1) * 512 + offset
    # The last four bytes of the payload are its length when unpacked, no part of the stream.
    payload = image[start : start + length - 4]
    try:
        with libarchive.memory_reader(payload, format_name="raw") as archive:
            kernel = b"".join(block for entry in archive for block in entry.get_blocks())
    except libarchive.ArchiveError:
        return image
    has_note = kernel.startswith(b"\x7fELF") and struct.pack("<III4s", 4, 8, 18, b"Xen\0") in kernel
    return kernel if has_note else image
