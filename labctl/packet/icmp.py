"""ICMP errors, and the beginning of the packet that one is about (RFC 792, RFC 4443)."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.packet.frame import ETH_P_IP, ETH_P_IPV6, ICMP, ICMPV6, Packet, parse

_ERRORS = {ICMP: (3, 11, 12), ICMPV6: (1, 2, 3, 4)}


@dataclass(frozen=True, slots=True)
class IcmpError:
    """What an ICMP error says."""

    kind: int
    """Its type."""
    code: int
    mtu: int
    """Bytes: what stands where errors about a packet's size tell the MTU (RFC 1191 section 4,
    RFC 4443 section 3.2); in others it means nothing."""
    quoted: Packet
    """The packet it is about."""


def read_error(frame: bytes, packet: Packet) -> IcmpError | None:
    """Read the ICMP error in a frame, parsed to `packet`; None where there is none to be read."""
    at, number = packet.l4_offset, packet.protocol_number
    if at is None or number not in _ERRORS or len(frame) < at + 8:
        return None
    kind, code = frame[at], frame[at + 1]
    if kind not in _ERRORS[number]:
        return None
    quoted = _quoted(frame[at + 8 :])
    if quoted is None:
        return None
    mtu = int.from_bytes(frame[at + 6 : at + 8] if number == ICMP else frame[at + 4 : at + 8])
    return IcmpError(kind, code, mtu, quoted)


def _quoted(header: bytes) -> Packet | None:
    if len(header) < 20:
        return None
    ethertype = ETH_P_IP if header[0] >> 4 == 4 else ETH_P_IPV6
    return parse(bytes(12) + ethertype.to_bytes(2, "big") + header, 1 << 16)
