"""What routers and hosts complained of: ICMP errors about packets of a flow, seen at the hops."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from labctl.capture.frame import ICMP, ICMPV6, Packet, parse
from labctl.capture.session import Evidence, Sighting

What = Literal["mtu", "no route", "closed port", "prohibited", "ttl", "other"]

_IPV4: dict[tuple[int, int], tuple[What, str]] = {
    (3, 0): ("no route", "network unreachable"),
    (3, 1): ("no route", "host unreachable"),
    (3, 2): ("other", "protocol unreachable"),
    (3, 3): ("closed port", "port unreachable"),
    (3, 4): ("mtu", "fragmentation needed"),
    (3, 9): ("prohibited", "network prohibited"),
    (3, 10): ("prohibited", "host prohibited"),
    (3, 13): ("prohibited", "prohibited by a filter"),
    (11, 0): ("ttl", "TTL exceeded"),
}
_IPV6: dict[tuple[int, int], tuple[What, str]] = {
    (1, 0): ("no route", "no route to it"),
    (1, 1): ("prohibited", "prohibited by a filter"),
    (1, 3): ("no route", "address unreachable"),
    (1, 4): ("closed port", "port unreachable"),
    (2, 0): ("mtu", "packet too big"),
    (3, 0): ("ttl", "hop limit exceeded"),
}
_ERRORS = {ICMP: (3, 11, 12), ICMPV6: (1, 2, 3, 4)}


@dataclass(frozen=True)
class Complaint:
    """An ICMP error about a packet of the flow."""

    what: What
    text: str
    """Such as `fragmentation needed`."""
    sender: str
    """The address that complains."""
    hop: str
    """Where it was first seen."""
    mtu: int | None = None
    """Bytes that would fit, where it tells."""

    @property
    def line(self) -> str:
        """One line for a reader."""
        mtu = f" (MTU {self.mtu})" if self.mtu else ""
        return f"{self.sender} complains: {self.text}{mtu}, first seen at {self.hop}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "what": self.what,
            "text": self.text,
            "sender": self.sender,
            "hop": self.hop,
            "mtu": self.mtu,
        }


def complaints(evidence: Evidence, addresses: Iterable[str]) -> tuple[Complaint, ...]:
    """Return the errors about packets between `addresses`, each told once."""
    ends = frozenset(addresses)
    found: dict[tuple[str, str], Complaint] = {}
    for seen in evidence.sightings():
        packet = seen.judgement.packet
        if packet.protocol_number not in _ERRORS or packet.l4_offset is None:
            continue
        told = _complaint(seen, packet, ends)
        if told:
            found.setdefault((told.sender, told.text), told)
    return tuple(found.values())


def _complaint(seen: Sighting, packet: Packet, ends: frozenset[str]) -> Complaint | None:
    at, frame = packet.l4_offset or 0, seen.record.frame
    if len(frame) < at + 8:
        return None
    kind, code = frame[at], frame[at + 1]
    number = packet.protocol_number or 0
    if kind not in _ERRORS[number]:
        return None
    quoted = _quoted(frame[at + 8 :])
    if quoted is None or not {quoted.src, quoted.dst} <= ends:
        return None  # of another flow, such as one that was tried before
    table = _IPV4 if number == ICMP else _IPV6
    what, text = table.get((kind, code), ("other", f"ICMP type {kind} code {code}"))
    mtu = None
    if what == "mtu":
        mtu = int.from_bytes(frame[at + 6 : at + 8] if number == ICMP else frame[at + 4 : at + 8])
    return Complaint(what, text, packet.src or "", seen.hop, mtu or None)


def _quoted(header: bytes) -> Packet | None:
    """Parse the beginning of the packet that an error is about (RFC 792, RFC 4443)."""
    if len(header) < 20:
        return None
    kind = b"\x08\x00" if header[0] >> 4 == 4 else b"\x86\xdd"
    return parse(bytes(12) + kind + header, 1 << 16)
