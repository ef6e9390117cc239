"""One frame at a time by the judge itself: frames of rare shapes, and the ones that are shown."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from labctl.inspect.kinds import Kind, kind_of
from labctl.packet import link_types
from labctl.packet.checksum import Judgement, classify
from labctl.packet.tunnels import VXLAN_HEADER, Inner, decapsulate, innermost
from labctl.packet.virtio import VnetHeader

DEPTH = 4
"""Frames within frames are followed so far."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One frame judged; `judgement` None where its link type is not known."""

    judgement: Judgement | None
    kind: Kind
    key: bytes | None
    """Its flow, see `flow_key`."""
    inner: Inner | None
    inner_at: int
    """Where the inner frame starts within the frame as captured."""
    bad_headers: int = 0
    """IPv4 headers whose own sum is wrong, those around what was judged among them."""


def examine(
    link: int,
    frame: bytes,
    original_length: int,
    mtu: int,
    vnet: VnetHeader | None = None,
    vni: int | None = None,
) -> Seen:
    """Judge a frame of any link type; `vni` where it was found inside a VXLAN packet.

    Of a tunnel without a transport checksum (IP in IP, GRE) what it carries is judged.
    """
    known = link_types.as_ethernet(link, frame, original_length)
    if known is None:
        return Seen(None, Kind.LINK, None, None, 0)
    carried = innermost(*known)
    ethernet = carried.frame
    seen = classify(ethernet, original_length=carried.original_length, vnet=vnet, mtu=mtu)
    inner = decapsulate(ethernet, seen.packet)
    inner_at = 0
    if inner is not None and seen.packet.l4_offset is not None:
        inner_at = seen.packet.l4_offset + VXLAN_HEADER + carried.shift
        inner_at += len(frame) - len(known[0])
    kind = kind_of(seen, cut=original_length > len(frame))
    bad = carried.bad_headers + (seen.packet.header_valid is False)
    return Seen(seen, kind, flow_key(seen, vni), inner, inner_at, bad)


def examine_all(
    link: int, frame: bytes, original_length: int, mtu: int, vnet: VnetHeader | None = None
) -> list[Seen]:
    """Judge a frame and those inside it, outermost first."""
    found = [examine(link, frame, original_length, mtu, vnet)]
    while (inner := found[-1].inner) and len(found) < DEPTH:
        found.append(
            examine(link_types.ETHERNET, inner.frame, inner.original_length, mtu, vni=inner.vni)
        )
    return found


def flow_key(seen: Judgement, vni: int | None) -> bytes | None:
    """Return the flow's addresses, ports, protocol and VXLAN network as bytes; None without IP.

    Addresses as on the wire (8 or 32 bytes), then 8 bytes: both ports, the protocol, 1 where there
    are ports, 0, 0; inside VXLAN 8 more: the network, lowest byte first. Fragments have no ports
    here, because only the first of them tells.
    """
    packet = seen.packet
    if packet.protocol_number is None or packet.src is None or packet.dst is None:
        return None
    ends = ipaddress.ip_address(packet.src).packed + ipaddress.ip_address(packet.dst).packed
    ported = packet.sport is not None and packet.dport is not None and not packet.fragment
    sport, dport = (packet.sport or 0, packet.dport or 0) if ported else (0, 0)
    key = ends + sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
    key += bytes([packet.protocol_number, ported, 0, 0])
    return key if vni is None else key + vni.to_bytes(8, "little")
