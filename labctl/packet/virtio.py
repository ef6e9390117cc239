"""The virtio header: what a kernel says of a frame's checksum and segmentation beside its bytes.

struct virtio_net_hdr of include/uapi/linux/virtio_net.h, 10 bytes, as a packet socket with
PACKET_VNET_HDR reads and writes them (kernel: include/linux/virtio_net.h,
virtio_net_hdr_from_skb()).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

VNET_NEEDS_CSUM = 1
VNET_DATA_VALID = 2
"""Its flags: VIRTIO_NET_HDR_F_NEEDS_CSUM and VIRTIO_NET_HDR_F_DATA_VALID."""

GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4 = 1, 3, 4, 5
GSO_ECN = 0x80
"""Its gso_type, VIRTIO_NET_HDR_GSO_*; ECN is a flag beside one of the others."""
GSO_NAMES = {GSO_TCPV4: "tcpv4", GSO_UDP: "udp", GSO_TCPV6: "tcpv6", GSO_UDP_L4: "udp_l4"}
"""The words for them here."""
GSO_TYPES = {name: number for number, name in GSO_NAMES.items()}

EPB_CHECKSUM_NOT_READY, EPB_CHECKSUM_VALID, EPB_TCP_SEGMENTATION = 1 << 9, 1 << 10, 1 << 11
"""What a pcapng file says of the same (`epb_flags`, draft-ietf-opsawg-pcapng, section 4.3.1)."""

_HEADER = struct.Struct("<BBHHHH")
"""Little-endian, as on every x86 host."""
VNET_SIZE = _HEADER.size


@dataclass(frozen=True, slots=True)
class VnetHeader:
    """struct virtio_net_hdr."""

    flags: int
    gso_type: int
    hdr_len: int
    gso_size: int
    csum_start: int
    """Bytes from the start of the frame to where the sum starts."""
    csum_offset: int
    """Bytes from `csum_start` to the checksum field."""

    @classmethod
    def unpack(cls, data: bytes | bytearray) -> VnetHeader:
        """Read the header from its 10 bytes; raises `struct.error` for more or fewer."""
        return cls(*_HEADER.unpack(data))

    def pack(self) -> bytes:
        """Return the header's 10 bytes."""
        return _HEADER.pack(
            self.flags,
            self.gso_type,
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
        )

    @property
    def gso(self) -> str:
        """What segmentation is left to do: empty for none, else such as `tcpv4` or `udp_l4`."""
        kind = self.gso_type & ~GSO_ECN
        return GSO_NAMES.get(kind, f"type {kind}") if kind else ""


def shift(message: bytearray, by: int) -> None:
    """Move the offsets of the header that `message` begins with, as its frame grew by `by` bytes.

    That is when a VLAN tag, which the kernel keeps beside the frame and counts without, is put
    into its place.
    """
    flags, gso_type, hdr_len, gso_size, start, offset = _HEADER.unpack_from(message)
    hdr_len = hdr_len + by if hdr_len else 0
    start = start + by if flags & VNET_NEEDS_CSUM else start
    # Modulo 2^16, as the fields are: who wrote them may not be trusted.
    _HEADER.pack_into(
        message, 0, flags, gso_type, hdr_len & 0xFFFF, gso_size, start & 0xFFFF, offset
    )
