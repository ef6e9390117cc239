"""What makes a packet the same packet: the parts of it that no honest hop changes.

MAC addresses, TTL and checksums change at every router, addresses and ports where they are
translated, options where they are clamped, the cut into segments where hardware or the kernel
splits and merges. What stays is compared from the strictest key to the loosest.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from labctl.packet.frame import ICMP, ICMPV6, SCTP, TCP, TCP_SYN, UDP, Packet, parse
from labctl.packet.tunnels import decapsulate

_CONGESTION = 0xC0  # CWR and ECE: a split leaves CWR on its first segment only (RFC 3168)

_HALF, _SPACE = 1 << 31, 1 << 32

Key = Callable[["Traits"], Hashable | None]
"""Gives what to compare; None where the packet has nothing of the kind."""


@dataclass(frozen=True, slots=True)
class Traits:
    """One packet's parts, taken apart by how lasting they are."""

    number: int
    """The IP protocol's number."""
    ends: tuple[str | None, int | None, str | None, int | None]
    """Source and its port, destination and its port: what address translation changes."""
    ip_id: int | None
    fragment: bool
    body: bytes
    """The transport header and payload without ports and checksum."""
    header: tuple[int, ...]
    """TCP flags, sequence and acknowledgement number; ICMP type, code and sequence number."""
    payload: bytes
    start: int | None
    """The sequence number of the first byte of a TCP payload."""
    whole: bool
    """Whether all of the packet was captured."""
    gso_size: int
    """Bytes of payload a segment of this super-frame will have; 0 for a packet of its own."""


def traits(frame: bytes, packet: Packet, gso: str = "", gso_size: int = 0) -> Traits | None:
    """Take a parsed frame apart; None for what is not IP or has no transport part."""
    at, length, number = packet.l4_offset, packet.l4_length, packet.protocol_number
    if at is None or length is None or number is None or length < 0:
        return None
    part = frame[at : at + length]
    first = packet.sport is not None
    header: tuple[int, ...] = ()
    payload, start, body = part, None, part
    if number == TCP and first and packet.seq is not None and packet.ack is not None:
        flags = (packet.tcp_flags or 0) & ~_CONGESTION
        header = (flags, packet.seq, packet.ack)
        payload = part[(part[12] >> 4) * 4 :]
        start = (packet.seq + (1 if flags & TCP_SYN else 0)) & 0xFFFFFFFF
        body = part[4:16] + part[18:]
    elif number == UDP and first:
        payload, body = part[8:], part[4:6] + part[8:]
    elif number in (ICMP, ICMPV6) and len(part) >= 8 and not packet.fragment:
        header = (part[0], part[1], int.from_bytes(part[6:8], "big"))
        payload, body = part[8:], part[:2] + part[4:]
    elif number == SCTP and not packet.fragment:
        payload, body = part[12:], part[4:8] + part[12:]
    return Traits(
        number=number,
        ends=(packet.src, packet.sport, packet.dst, packet.dport),
        ip_id=packet.ip_id,
        fragment=packet.fragment,
        body=body,
        header=header,
        payload=payload,
        start=start,
        whole=len(part) == length,
        gso_size=gso_size if gso else 0,
    )


def inner_traits(frame: bytes, packet: Packet) -> Traits | None:
    """Return the traits of what a VXLAN packet carries; None for any other packet."""
    inner = decapsulate(frame, packet)
    return traits(inner.frame, parse(inner.frame, inner.original_length)) if inner else None


def _exact(one: Traits) -> Hashable:
    return one.number, one.ends, one.ip_id, one.body


def _translated(one: Traits) -> Hashable:
    return one.number, one.ip_id, one.fragment, one.body


def _renumbered(one: Traits) -> Hashable:
    return one.number, one.fragment, one.body


def _clamped(one: Traits) -> Hashable | None:
    """The same TCP segment though its options differ; the same echo though its identifier does."""
    return (one.number, one.header, one.payload) if one.header else None


def _damaged(one: Traits) -> Hashable | None:
    """The same headers around another payload."""
    if one.fragment:
        return None
    return one.number, one.ends, one.ip_id, one.header, len(one.body)


def _damaged_translated(one: Traits) -> Hashable | None:
    if one.number != TCP:
        return None
    return one.header, len(one.payload), one.ip_id


KEYS: tuple[tuple[Key, bool], ...] = (
    (_exact, False),
    (_translated, False),
    (_renumbered, False),
    (_clamped, False),
    (_damaged, True),
    (_damaged_translated, True),
)
"""Keys from the strictest to the loosest, each with whether a match by it means damage."""


def differences(before: Packet, after: Packet) -> list[str]:
    """Say what of a packet's addresses and TTL a hop changed, in words such as `TTL 64 to 63`.

    IPv6 has a hop limit in its place (RFC 8200 section 3).
    """
    words = []
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("source", _end(before.src, before.sport), _end(after.src, after.sport)),
        ("destination", _end(before.dst, before.dport), _end(after.dst, after.dport)),
        ("hop limit" if after.family == "ipv6" else "TTL", before.ttl, after.ttl),
        ("VLAN", _tags(before), _tags(after)),
    )
    for name, old, new in pairs:
        if old != new and before.family == after.family:
            words.append(f"{name} {old} to {new}")
    return words


def _end(address: str | None, port: int | None) -> str:
    text = address or "none"
    if port is None:
        return text
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _tags(packet: Packet) -> str:
    return ".".join(map(str, packet.vlan)) or "none"


def after(base: int, number: int | None) -> int:
    """Return how far a sequence number lies after `base`, across the wrap (RFC 9293, 3.4)."""
    distance = ((number or 0) - base) % _SPACE
    return distance - _SPACE if distance >= _HALF else distance
