"""From a frame's bytes to what its headers say: Ethernet, VLAN, ARP, IP, TCP, UDP, SCTP, ICMP.

Pure functions over captured bytes. Nothing here raises on bad input: what cannot be read is left
out and said (`truncated`, `fragment`, a `kind` that names the ethertype).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Any

from labctl.packet.internet_checksum import ones_sum

ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
ETH_P_8021Q, ETH_P_8021AD, ETH_P_QINQ1 = 0x8100, 0x88A8, 0x9100
"""Ethertypes, include/uapi/linux/if_ether.h."""
KERNEL_VLAN_TYPES = frozenset({ETH_P_8021Q, ETH_P_8021AD})
"""The VLAN tags that Linux takes for such (eth_type_vlan() of include/linux/if_vlan.h)."""
VLAN_TYPES = KERNEL_VLAN_TYPES | {ETH_P_QINQ1}
"""Those that are looked behind in a capture."""

MPLS_TYPES = frozenset({0x8847, 0x8848})
PPPOE_SESSION = 0x8864
FOLLOWED_TYPES = MPLS_TYPES | {PPPOE_SESSION}
"""Ethertypes of headers without a checksum that an IP packet may follow: MPLS labels (RFC 3032),
PPPoE sessions (RFC 2516)."""
_PPP_PROTOCOLS = {0x0021: ETH_P_IP, 0x0057: ETH_P_IPV6}
"""PPP's numbers of IP (RFC 1332, RFC 5072)."""
_PPPOE_HLEN = 6

ETH_HLEN = 14
VLAN_HLEN = 4
"""Bytes of Ethernet's header, and of a VLAN tag."""
OUTSIDE_MTU = ETH_HLEN + 2 * VLAN_HLEN
"""Bytes of a frame that no MTU counts: Ethernet's header and at most two VLAN tags."""
LONGEST_FRAME = 1 << 19
"""Bytes; a BIG TCP super-frame is the longest there is."""

TCP, UDP, ICMP, ICMPV6, SCTP = 6, 17, 1, 58, 132
PROTOCOLS = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmpv6", SCTP: "sctp", 47: "gre"}
CHECKSUM_OFFSETS = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2, SCTP: 8}
"""Where a protocol's checksum field lies, in bytes from the start of its header."""

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTH, _DESTINATION = 0, 43, 44, 51, 60
_MOBILITY = 135
EXTENSION_HEADERS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTH, _DESTINATION, _MOBILITY})
"""IPv6's headers between its own and the transport's (RFC 8200 section 4)."""
AUTHENTICATION = _AUTH
"""IPsec's authentication header, which the transport's follows as it is (RFC 4302)."""
_HOME_ADDRESS = 0xC9
"""A destination option, RFC 6275 section 6.3."""
IPV4_FRAGMENT, IPV4_FRAGMENT_OFFSET = 0x3FFF, 0x1FFF
"""In the 16 bits of IPv4's flags and fragment offset: more-fragments or an offset, the offset."""

TCP_FIN, TCP_SYN, TCP_RST, TCP_ACK = 0x01, 0x02, 0x04, 0x10
"""Bits of `Packet.tcp_flags` (RFC 9293 section 3.1)."""

_ICMP_KINDS = {
    (ICMP, 0): "ICMP echo reply",
    (ICMP, 3): "ICMP unreachable",
    (ICMP, 5): "ICMP redirect",
    (ICMP, 8): "ICMP echo",
    (ICMP, 11): "ICMP time exceeded",
    (ICMPV6, 1): "ICMPv6 unreachable",
    (ICMPV6, 2): "ICMPv6 packet too big",
    (ICMPV6, 3): "ICMPv6 time exceeded",
    (ICMPV6, 128): "ICMPv6 echo",
    (ICMPV6, 129): "ICMPv6 echo reply",
    (ICMPV6, 133): "ICMPv6 router solicitation",
    (ICMPV6, 134): "ICMPv6 router advertisement",
    (ICMPV6, 135): "ICMPv6 neighbour solicitation",
    (ICMPV6, 136): "ICMPv6 neighbour advertisement",
}


_SCTP_KINDS = {
    0: "SCTP data",
    1: "SCTP INIT",
    2: "SCTP INIT-ACK",
    3: "SCTP SACK",
    4: "SCTP heartbeat",
    5: "SCTP heartbeat ACK",
    6: "SCTP ABORT",
    7: "SCTP shutdown",
    10: "SCTP COOKIE-ECHO",
    11: "SCTP COOKIE-ACK",
}
"""By the first chunk's type, RFC 9260 section 3.2."""


@dataclass(frozen=True, slots=True)
class Packet:
    """What the headers of one frame say; a field that does not apply is None."""

    family: str
    """`ipv4`, `ipv6`, `arp` or `other`."""
    kind: str
    """A short word for a reader: `SYN`, `SYN-ACK`, `UDP`, `ICMP echo`, `ARP request`, …"""
    ethertype: int
    vlan: tuple[int, ...] = ()
    """VLAN identifiers, outermost first."""
    protocol: str | None = None
    """`tcp`, `udp`, `icmp`, `icmpv6`, another known name, or the protocol's number as text."""
    protocol_number: int | None = None
    src: str | None = None
    dst: str | None = None
    sport: int | None = None
    dport: int | None = None
    tcp_flags: int | None = None
    seq: int | None = None
    """TCP sequence number, or the sequence number of an ICMP echo."""
    ack: int | None = None
    """TCP acknowledgement number, or the identifier of an ICMP echo."""
    ttl: int | None = None
    ip_id: int | None = None
    """IPv4 identification, or that of an IPv6 fragment header."""
    header_valid: bool | None = None
    """Whether the IPv4 header's own checksum holds."""
    fragment: bool = False
    truncated: bool = False
    """The capture holds less of the packet than was on the wire."""
    l3_offset: int | None = None
    l4_offset: int | None = None
    l4_length: int | None = None
    """Bytes of L4 header and payload that the IP header announces."""
    pseudo: bytes | None = None
    """The source and destination address bytes that the pseudo-header sums."""


def parse(frame: bytes, original_length: int | None = None, *, gso: bool = False) -> Packet:
    """Parse an Ethernet frame of which `original_length` bytes were on the wire.

    `gso` says that the frame is a super-frame, whose IP length field may hold 0 (BIG TCP,
    kernel: net/ipv4/af_inet.c inet_gro_complete): the frame's own length then counts.
    """
    wire = max(len(frame), original_length or 0)
    if len(frame) < ETH_HLEN:
        return Packet("other", "runt", 0, truncated=True)
    ethertype = int.from_bytes(frame[12:14], "big")
    offset, vlan = ETH_HLEN, []
    while ethertype in VLAN_TYPES and len(frame) >= offset + VLAN_HLEN:
        vlan.append(int.from_bytes(frame[offset : offset + 2], "big") & 0x0FFF)
        ethertype = int.from_bytes(frame[offset + 2 : offset + 4], "big")
        offset += VLAN_HLEN
    tags = tuple(vlan)
    if ethertype in FOLLOWED_TYPES:
        ethertype, offset = _followed(frame, ethertype, offset)
    if ethertype == ETH_P_IP:
        return _ipv4(frame, offset, wire, tags, gso)
    if ethertype == ETH_P_IPV6:
        return _ipv6(frame, offset, wire, tags, gso)
    if ethertype == ETH_P_ARP:
        return _arp(frame, offset, wire, tags)
    return Packet("other", f"ethertype 0x{ethertype:04x}", ethertype, tags)


def _followed(frame: bytes, ethertype: int, offset: int) -> tuple[int, int]:
    """Return the ethertype of the IP packet behind labels or PPPoE, and where it begins.

    What is not one keeps the ethertype that it came with.
    """
    if ethertype == PPPOE_SESSION:
        at = offset + _PPPOE_HLEN
        if frame[offset : offset + 2] != b"\x11\0" or len(frame) < at + 2:
            return ethertype, offset
        known = _PPP_PROTOCOLS.get(int.from_bytes(frame[at : at + 2], "big"))
        return (known, at + 2) if known else (ethertype, offset)
    at = offset
    while len(frame) > at + 4:
        last = frame[at + 2] & 1  # bottom of stack
        at += 4
        if last:
            # Nothing names what follows: its version does, as for the router that pops the label.
            known = {4: ETH_P_IP, 6: ETH_P_IPV6}.get(frame[at] >> 4)
            return (known, at) if known else (ethertype, offset)
    return ethertype, offset


def _arp(frame: bytes, at: int, wire: int, vlan: tuple[int, ...]) -> Packet:
    if len(frame) < at + 28 or frame[at : at + 6] != b"\0\1\x08\0\6\4":
        return Packet("arp", "ARP", ETH_P_ARP, vlan, truncated=len(frame) < min(wire, at + 28))
    operation = int.from_bytes(frame[at + 6 : at + 8], "big")
    return Packet(
        "arp",
        {1: "ARP request", 2: "ARP reply"}.get(operation, "ARP"),
        ETH_P_ARP,
        vlan,
        src=str(ipaddress.IPv4Address(frame[at + 14 : at + 18])),
        dst=str(ipaddress.IPv4Address(frame[at + 24 : at + 28])),
        l3_offset=at,
    )


def _ipv4(frame: bytes, at: int, wire: int, vlan: tuple[int, ...], gso: bool) -> Packet:
    ihl = (frame[at] & 0x0F) * 4 if len(frame) > at else 0
    if len(frame) < at + 20 or ihl < 20 or frame[at] >> 4 != 4:
        short = len(frame) < min(wire, at + 20)
        return Packet("ipv4", "malformed IPv4", ETH_P_IP, vlan, truncated=short)
    total, ip_id, flags = struct.unpack_from(">HHH", frame, at + 2)
    if total == 0 and gso:
        total = wire - at
    header = frame[at : at + ihl]
    fragment = bool(flags & IPV4_FRAGMENT)
    first = not flags & IPV4_FRAGMENT_OFFSET
    number, offset = header[9], at + ihl
    while number == _AUTH and first and len(frame) >= offset + 2:
        number, offset = frame[offset], offset + _auth_size(frame[offset + 1])
    return _l4(
        frame,
        offset,
        at + total - offset,
        number=number,
        first=first,
        packet=Packet(
            "ipv4",
            "",
            ETH_P_IP,
            vlan,
            src=str(ipaddress.IPv4Address(header[12:16])),
            dst=str(ipaddress.IPv4Address(header[16:20])),
            ttl=header[8],
            ip_id=ip_id,
            header_valid=ones_sum(header) == 0 if len(header) == ihl else None,
            fragment=fragment,
            truncated=len(frame) < at + total,
            l3_offset=at,
            pseudo=header[12:20],
        ),
    )


def _auth_size(length: int) -> int:
    """Return the bytes of an authentication header by its length field (RFC 4302 section 2.2)."""
    return (length + 2) * 4


def _ipv6(frame: bytes, at: int, wire: int, vlan: tuple[int, ...], gso: bool) -> Packet:
    if len(frame) < at + 40 or frame[at] >> 4 != 6:
        short = len(frame) < min(wire, at + 40)
        return Packet("ipv6", "malformed IPv6", ETH_P_IPV6, vlan, truncated=short)
    payload, number, hops = struct.unpack_from(">HBB", frame, at + 4)
    if payload == 0 and gso:
        payload = wire - at - 40
    end = at + 40 + payload
    source, target = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
    origin, final, fragment, first, ident = source, target, False, True, None
    offset = at + 40
    while number in EXTENSION_HEADERS and first:
        if len(frame) < offset + 8:
            break
        following = frame[offset]
        size = 8 + frame[offset + 1] * 8
        if number == _AUTH:
            size = _auth_size(frame[offset + 1])
        elif number == _DESTINATION:
            origin = _home_address(frame[offset : offset + size]) or origin
        elif number == _ROUTING:
            final = _final_destination(frame[offset : offset + size]) or final
        elif number == _FRAGMENT:
            size = 8
            place, ident = struct.unpack_from(">HI", frame, offset + 2)
            # An "atomic" fragment (offset 0, nothing more to come) is a whole packet: RFC 6946.
            fragment, first = bool(place & 0xFFF9), not place & 0xFFF8
        number, offset = following, offset + size
    return _l4(
        frame,
        offset,
        end - offset,
        number=number,
        first=first,
        packet=Packet(
            "ipv6",
            "",
            ETH_P_IPV6,
            vlan,
            src=str(ipaddress.IPv6Address(source)),
            dst=str(ipaddress.IPv6Address(target)),
            ttl=hops,
            ip_id=ident,
            fragment=fragment,
            truncated=len(frame) < end,
            l3_offset=at,
            pseudo=origin + final,
        ),
    )


def _home_address(options: bytes) -> bytes | None:
    """Return the address that the pseudo-header has in the source's place, of a mobile node.

    A receiver puts it there before it looks at the checksum (RFC 6275 section 9.3.1).
    """
    at = 2
    while at + 2 <= len(options):
        if options[at] == 0:  # Pad1 has no length
            at += 1
            continue
        size = options[at + 1]
        if options[at] == _HOME_ADDRESS and size == 16 and at + 18 <= len(options):
            return options[at + 2 : at + 18]
        at += 2 + size
    return None


def _final_destination(routing: bytes) -> bytes | None:
    """Return the address the pseudo-header uses while segments are left (RFC 8200 section 8.1)."""
    if len(routing) < 24 or routing[3] == 0:
        return None
    if routing[2] == 4:  # segment routing lists the last segment first (RFC 8754 section 2)
        return routing[8:24]
    return routing[-16:]


def _l4(frame: bytes, at: int, length: int, *, number: int, first: bool, packet: Packet) -> Packet:
    """Complete `packet` with what the transport header says."""
    name = PROTOCOLS.get(number, str(number))
    found: dict[str, Any] = {
        "protocol": name,
        "protocol_number": number,
        "l4_offset": at,
        "l4_length": length,
        "kind": f"{name.upper()} fragment" if packet.fragment else name.upper(),
    }
    if length < 0:
        found["kind"] = f"malformed {name.upper()}"
    elif first and number == TCP and len(frame) >= at + 14 and length >= 20:
        sport, dport, seq, ack, _, flags = struct.unpack_from(">HHIIBB", frame, at)
        found |= {"sport": sport, "dport": dport, "seq": seq, "ack": ack, "tcp_flags": flags}
        found["kind"] = _tcp_kind(flags, length - (frame[at + 12] >> 4) * 4)
    elif first and number == UDP and len(frame) >= at + 4 and length >= 8:
        found["sport"], found["dport"] = struct.unpack_from(">HH", frame, at)
    elif first and number == SCTP and len(frame) >= at + 4 and length >= 12:
        found["sport"], found["dport"] = struct.unpack_from(">HH", frame, at)
        if len(frame) > at + 12 and length >= 16 and not packet.fragment:
            found["kind"] = _SCTP_KINDS.get(frame[at + 12], f"SCTP chunk {frame[at + 12]}")
    elif first and number in (ICMP, ICMPV6) and len(frame) >= at + 2 and length >= 2:
        kind = frame[at]
        found["kind"] = _ICMP_KINDS.get((number, kind), f"{name.upper()} type {kind}")
        if kind in ((8, 0) if number == ICMP else (128, 129)) and len(frame) >= at + 8:
            found["ack"], found["seq"] = struct.unpack_from(">HH", frame, at + 4)
    fields = {slot: getattr(packet, slot) for slot in Packet.__slots__}
    return Packet(**(fields | found))


def _tcp_kind(flags: int, payload: int) -> str:
    if flags & TCP_RST:
        return "RST"
    if flags & TCP_SYN:
        return "SYN-ACK" if flags & TCP_ACK else "SYN"
    if flags & TCP_FIN:
        return "FIN"
    return "TCP data" if payload > 0 else "ACK"
