"""What routers and hosts complained of: ICMP errors about packets of a flow, seen at the hops."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from labctl.capture.session import Evidence, Observation
from labctl.packet.frame import ICMP
from labctl.packet.icmp import read_error

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
    for seen in evidence.observations():
        told = _complaint(seen, ends)
        if told:
            found.setdefault((told.sender, told.text), told)
    return tuple(found.values())


def _complaint(seen: Observation, ends: frozenset[str]) -> Complaint | None:
    packet = seen.judgement.packet
    error = read_error(seen.record.frame, packet)
    if error is None or not {error.quoted.src, error.quoted.dst} <= ends:
        return None  # of another flow, such as one that was tried before
    table = _IPV4 if packet.protocol_number == ICMP else _IPV6
    what, text = table.get(
        (error.kind, error.code), ("other", f"ICMP type {error.kind} code {error.code}")
    )
    mtu = error.mtu if what == "mtu" else None
    return Complaint(what, text, packet.src or "", seen.hop, mtu or None)
