"""ELF files made for tests: headers and notes, and nothing that runs."""

from __future__ import annotations

import struct


def elf(*notes: tuple[bytes, int], tail: bytes = b"") -> bytes:
    """An ELF file for x86-64 with these notes."""
    body = b"".join(
        struct.pack("<III", len(name) + 1, 8, kind)
        + (name + b"\0").ljust((len(name) + 4) // 4 * 4, b"\0")
        + bytes(8)
        for name, kind in notes
    )
    start = 64 + 56
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 4, 4, start, 0, 0, len(body), len(body), 4)
    return header + segment + body + tail


GUEST_NOTES = ((b"Xen", 6), (b"Linux", 15), (b"Xen", 15))
DOM0_BUS = b"xxxx\0xen_cpu\0xxxx"
