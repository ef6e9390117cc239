"""Tunnels over UDP, and what VXLAN carries (RFC 7348 section 5): a frame with sums of its own."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.packet.frame import UDP, Packet

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
