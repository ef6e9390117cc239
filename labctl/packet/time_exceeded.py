"""The ICMP error of a router at which a packet's TTL or hop limit has ended."""

from __future__ import annotations

from labctl.packet.forwarding import IpHeader
from labctl.packet.frame import EXTENSION_HEADERS, ICMP, ICMPV6
from labctl.packet.internet_checksum import ones_sum, pseudo_header_sum

_TYPE = {4: 11, 6: 3}
"""Time exceeded (RFC 792, RFC 4443 section 3.3); code 0 is: in transit."""
_MOST = {4: 576, 6: 1280}
"""Bytes of an error with all its headers (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c))."""
_IPV4_ERRORS = frozenset({3, 4, 5, 11, 12})
_IPV6_HEADER = 40
_TTL = 64
_INTERNETWORK_CONTROL = 0xC0
"""Precedence of ICMP errors (RFC 1812 section 4.3.2.5)."""


def time_exceeded(
    frame: bytes | bytearray | memoryview, header: IpHeader, source: bytes
) -> bytes | None:
    """Return the frame that tells a packet's sender of its end; None where nobody may be told.

    It goes from `source`, an address of the router of the packet's IP version. Its link-layer
    header is the packet's own: who sends it puts the MAC addresses in. Nobody is told of an ICMP
    error, nor of a fragment other than the first (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4).
    """
    at, version = header.at, header.version
    # Its own length counts: what lies behind it fills the frame.
    size = int.from_bytes(frame[at + 2 : at + 4], "big") if version == 4 else 0
    packet = bytes(frame[at : at + size] if size else frame[at:])
    if _untold(packet, version):
        return None
    around = 28 if version == 4 else _IPV6_HEADER + 8
    quoted = packet[: _MOST[version] - around]
    message = bytearray(bytes([_TYPE[version], 0]) + bytes(6) + quoted)
    if version == 4:
        to = packet[12:16]
        message[2:4] = _checksum(ones_sum(bytes(message)))
        head = bytearray(
            bytes([0x45, _INTERNETWORK_CONTROL])
            + (20 + len(message)).to_bytes(2, "big")
            + bytes([0, 0, 0, 0, _TTL, ICMP, 0, 0])
            + source
            + to
        )
        head[10:12] = _checksum(ones_sum(bytes(head)))
    else:
        to = packet[8:24]
        sum_of_both = pseudo_header_sum(source + to, ICMPV6, len(message)) + ones_sum(
            bytes(message)
        )
        message[2:4] = _checksum(sum_of_both % 0xFFFF)
        length = len(message).to_bytes(2, "big")
        head = bytearray(bytes([0x60, 0, 0, 0]) + length + bytes([ICMPV6, _TTL]) + source + to)
    return bytes(frame[:at]) + bytes(head) + bytes(message)


def _checksum(residue: int) -> bytes:
    """Return what completes a sum of this residue."""
    return (0xFFFF - residue).to_bytes(2, "big")


def _untold(packet: bytes, version: int) -> bool:
    """Tell a packet that no error may be about."""
    if version == 4:
        if int.from_bytes(packet[6:8], "big") & 0x1FFF:
            return True
        at = (packet[0] & 15) * 4
        return packet[9] == ICMP and (len(packet) <= at or packet[at] in _IPV4_ERRORS)
    number, at = packet[6], _IPV6_HEADER
    while number in EXTENSION_HEADERS and len(packet) >= at + 8:
        if number == 44:
            if int.from_bytes(packet[at + 2 : at + 4], "big") & 0xFFF8:
                return True
            size = 8
        else:
            size = 8 + packet[at + 1] * (4 if number == 51 else 8)
        number, at = packet[at], at + size
    # Below 128 are errors (RFC 4443 section 2.1).
    return number == ICMPV6 and (len(packet) <= at or packet[at] < 128)
