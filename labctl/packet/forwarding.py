"""What a router reads and changes in a frame: addresses, TTL, the IPv4 header's own sum.

Pure functions over a frame's bytes. Nothing from the transport header on is ever touched: that it
arrives as it was sent is what the experiments rest on.

A router runs this for every packet, and wants four things of it where `frame.parse` tells twenty;
so they are read here on their own, by the same definitions.
"""

from __future__ import annotations

from dataclasses import dataclass

from labctl.packet.frame import ETH_HLEN, ETH_P_IP, ETH_P_IPV6, KERNEL_VLAN_TYPES, VLAN_HLEN

# As they stand in a frame: bytes are compared sooner than numbers are made of them.
_VLAN_TYPES = frozenset(kind.to_bytes(2, "big") for kind in KERNEL_VLAN_TYPES)
_IPV4, _IPV6 = ETH_P_IP.to_bytes(2, "big"), ETH_P_IPV6.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class IpHeader:
    """Where a frame's IP header lies and where it wants to go."""

    version: int
    at: int
    """Bytes from the start of the frame to the IP header."""
    dst: bytes
    """4 or 16 bytes."""
    ttl: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A frame that is not forwarded; `why` is the name of the counter it belongs to."""

    why: str


OTHER = Refused("other")
MALFORMED = Refused("malformed")
NOT_FORWARDABLE = Refused("not_forwardable")


def read(frame: bytes | bytearray | memoryview) -> IpHeader | Refused:
    """Read what forwarding needs.

    Refused are frames that are not IP (`other`), whose IP header is broken (`malformed`, RFC 1812
    section 5.2.2), and those whose addresses no router may forward (`not_forwardable`).
    """
    at = ETH_HLEN
    kind = bytes(frame[12:14])
    while kind in _VLAN_TYPES:
        kind = bytes(frame[at + 2 : at + 4])
        at += VLAN_HLEN
    if kind == _IPV4:
        return _read_ipv4(frame, at)
    if kind == _IPV6:
        return _read_ipv6(frame, at)
    return OTHER


def _read_ipv4(frame: bytes | bytearray | memoryview, at: int) -> IpHeader | Refused:
    if len(frame) < at + 20 or frame[at] >> 4 != 4:
        return MALFORMED
    size = (frame[at] & 0x0F) * 4
    header = bytes(frame[at : at + size])
    if size < 20 or len(header) < size or int.from_bytes(header, "big") % 0xFFFF:
        return MALFORMED  # the header's words, its sum among them, must add up to 0xffff
    src, dst = header[12:16], header[16:20]
    if _private4(src) or _private4(dst):
        return NOT_FORWARDABLE
    return IpHeader(4, at, dst, header[8])


def _private4(address: bytes) -> bool:
    """Tell addresses of one host or link: this-network, loopback, link-local, multicast, 240/4."""
    return address[0] in (0, 127) or address[0] >= 224 or address[:2] == b"\xa9\xfe"


def _read_ipv6(frame: bytes | bytearray | memoryview, at: int) -> IpHeader | Refused:
    if len(frame) < at + 40 or frame[at] >> 4 != 6:
        return MALFORMED
    src, dst = bytes(frame[at + 8 : at + 24]), bytes(frame[at + 24 : at + 40])
    if _private6(src) or _private6(dst):
        return NOT_FORWARDABLE
    return IpHeader(6, at, dst, frame[at + 7])


def _private6(address: bytes) -> bool:
    """Tell addresses of one host or link: unspecified, loopback, link-local, multicast."""
    if address[0] == 0xFF or (address[0] == 0xFE and address[1] & 0xC0 == 0x80):
        return True
    return not any(address[:15]) and address[15] < 2


def age(frame: bytearray | memoryview, header: IpHeader) -> None:
    """Take one from the TTL or hop limit, and carry it into the IPv4 header's sum.

    The sum is updated, not made anew (RFC 1624 equation 3), so that a wrong one stays wrong.
    """
    at = header.at
    if header.version == 6:
        frame[at + 7] -= 1
        return
    old = frame[at + 8] << 8 | frame[at + 9]
    frame[at + 8] -= 1
    new = frame[at + 8] << 8 | frame[at + 9]
    total = (~(frame[at + 10] << 8 | frame[at + 11]) & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    frame[at + 10 : at + 12] = total.to_bytes(2, "big")
