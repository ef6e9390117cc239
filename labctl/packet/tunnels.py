"""Tunnels: those over UDP, and those that have no transport checksum of their own.

Of the former VXLAN carries a frame with sums of its own (RFC 7348 section 5); the latter are IP in
IP and GRE.
"""

from __future__ import annotations

from dataclasses import dataclass

from labctl.packet.frame import ETH_HLEN, ETH_P_IP, ETH_P_IPV6, UDP, Packet, parse

VXLAN_PORTS = frozenset({4789, 8472})
"""IANA's port, and the one Linux took before there was one (its default still)."""
TUNNEL_PORTS = VXLAN_PORTS | {6081}
"""Ports of UDP tunnels, which may do without a sum over IPv6: VXLAN's, and Geneve's (RFC 8926)."""

VNI_VALID = 0x08
VXLAN_HEADER = 16
"""Bytes of UDP and VXLAN header before the inner frame."""


@dataclass(frozen=True, slots=True)
class Inner:
    """The frame inside."""

    vni: int
    frame: bytes
    original_length: int
    """Its length on the wire, in bytes, as the outer UDP header tells."""


def decapsulate(frame: bytes, packet: Packet) -> Inner | None:
    """Return what a frame, parsed to `packet`, carries; None where it is no VXLAN packet."""
    at, length = packet.l4_offset, packet.l4_length
    if (
        packet.protocol_number != UDP
        or packet.dport not in VXLAN_PORTS
        or packet.fragment
        or at is None
        or length is None
        or len(frame) < at + VXLAN_HEADER
    ):
        return None
    announced = int.from_bytes(frame[at + 4 : at + 6], "big") or length
    if not VXLAN_HEADER < announced <= length or not frame[at + 8] & VNI_VALID:
        return None
    vni = int.from_bytes(frame[at + 12 : at + 15], "big")
    return Inner(vni, frame[at + VXLAN_HEADER : at + announced], announced - VXLAN_HEADER)


IPIP, IPV6_IN_IP, GRE = 4, 41, 47
"""IP protocol numbers of tunnels that have no transport checksum (RFC 2003, 4213, 2784)."""
CARRIERS = frozenset({IPIP, IPV6_IN_IP, GRE})
_GRE_CHECKSUM, _GRE_ROUTING, _GRE_KEY, _GRE_SEQUENCE, _GRE_VERSION = (
    0x8000, 0x4000, 0x2000, 0x1000, 0x0007,
)  # fmt: skip
_ETHERNET_BRIDGING = 0x6558
"""GRE's protocol type of a whole Ethernet frame (RFC 1701, RFC 7637)."""
_MOST_CARRIERS = 4
"""Tunnels in tunnels that are looked through."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What such tunnels carry, as an Ethernet frame."""

    frame: bytes
    original_length: int
    shift: int
    """How much further a byte of it stands in the frame that it came in; may be negative."""
    bad_headers: int
    """How many IPv4 headers around it have a wrong sum."""


def innermost(frame: bytes, original_length: int) -> Carried:
    """Return the frame that tunnels without a checksum of their own carry; else the frame itself.

    A packet inside that Ethernet did not carry gets a header of zeros.
    """
    found = Carried(frame, original_length, 0, 0)
    for _ in range(_MOST_CARRIERS):
        packet = parse(found.frame, found.original_length)
        if packet.protocol_number not in CARRIERS or packet.fragment:
            break
        inside = _inside(found.frame, packet)
        if inside is None:
            break
        ethertype, at, end = inside
        bad = found.bad_headers + (packet.header_valid is False)
        captured = found.frame[at:end]
        if ethertype == _ETHERNET_BRIDGING:
            found = Carried(captured, end - at, found.shift + at, bad)
        else:
            head = bytes(12) + ethertype.to_bytes(2, "big")
            wire, shift = end - at + ETH_HLEN, found.shift + at - ETH_HLEN
            found = Carried(head + captured, wire, shift, bad)
    return found


def _inside(frame: bytes, packet: Packet) -> tuple[int, int, int] | None:
    """Return the ethertype of what a carrier carries, where that begins, and where it ends."""
    at, length = packet.l4_offset, packet.l4_length
    if at is None or length is None or len(frame) < at + 4:
        return None
    end = at + length
    if packet.protocol_number != GRE:
        kind = ETH_P_IP if packet.protocol_number == IPIP else ETH_P_IPV6
        return (kind, at, end) if end > at else None
    flags = int.from_bytes(frame[at : at + 2], "big")
    if flags & (_GRE_ROUTING | _GRE_VERSION):
        return None
    kind = int.from_bytes(frame[at + 2 : at + 4], "big")
    optional = sum(bool(flags & one) for one in (_GRE_CHECKSUM, _GRE_KEY, _GRE_SEQUENCE))
    at += 4 + 4 * optional
    return (kind, at, end) if end > at and len(frame) > at else None
