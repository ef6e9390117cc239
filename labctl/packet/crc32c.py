"""CRC32c, the checksum of SCTP (RFC 9260 appendix A): polynomial 0x1EDC6F41, bits reflected."""

from __future__ import annotations

_REFLECTED = 0x82F63B78


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ _REFLECTED if byte & 1 else byte >> 1
    return byte


TABLE = tuple(_entry(byte) for byte in range(256))
"""What one byte shifted out contributes."""


def crc32c(data: bytes) -> int:
    """Return the CRC32c of `data`; SCTP sends it lowest byte first."""
    crc, table = 0xFFFFFFFF, TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def sctp_crc32c(packet: bytes) -> int:
    """Return the CRC32c of an SCTP packet of at least 12 bytes, its own field taken as 0."""
    return crc32c(packet[:8] + bytes(4) + packet[12:])
