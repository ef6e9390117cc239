"""Address translation on the way of a flow, by its mapping: from which end to which, and where."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from labctl.packet.frame import Packet
from labctl.packet.tunnels import VXLAN_PORTS
from labctl.tracing.packet_trace import PacketTrace, place_between

End = Literal["source", "destination"]
ENDS: tuple[End, ...] = ("source", "destination")


@dataclass(frozen=True)
class Translation:
    """One mapping, as packets of the way there showed it."""

    what: End
    before: str
    """Address and port, such as `10.0.1.1:40000`."""
    after: str
    where: str
    """The place, such as `router r1 (eth0 to eth1)`."""
    there: int = 0
    """How many packets it was applied to."""
    back: int = 0
    """How many answers had it undone."""

    @property
    def line(self) -> str:
        """The mapping in words."""
        name = "SNAT" if self.what == "source" else "DNAT"
        counts = f"{self.there} there, {self.back} undone on the way back"
        return f"{name} at {self.where}: {self.before} to {self.after} ({counts})"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def translations(
    there: Sequence[PacketTrace], back: Sequence[PacketTrace]
) -> tuple[Translation, ...]:
    """Return the mappings that packets of both ways showed, each once, in the order of the way."""
    found: dict[tuple[End, str, str, str], Translation] = {}
    for packet_trace in there:
        for what, before, after, where in _changes(packet_trace):
            key = what, before, after, where
            one = found.get(key) or Translation(what, before, after, where)
            found[key] = replace(one, there=one.there + 1)
    opposite: dict[End, End] = {"source": "destination", "destination": "source"}
    for packet_trace in back:
        for what, before, after, _ in _changes(packet_trace):
            for key, one in found.items():
                if (opposite[what], after, before) == key[:3]:
                    found[key] = replace(one, back=one.back + 1)
    return tuple(found.values())


def _changes(packet_trace: PacketTrace) -> list[tuple[End, str, str, str]]:
    """Return each change of an end between two hops that saw the packet."""
    found: list[tuple[End, str, str, str]] = []
    seen = [
        (number, step.observations[0].judgement.packet)
        for number, step in enumerate(packet_trace.steps)
        if step.observations
    ]
    points = [step.point for step in packet_trace.steps]
    for (at, one), (then, other) in itertools.pairwise(seen):
        if one.protocol_number != other.protocol_number or one.family != other.family:
            continue
        if other.dport in VXLAN_PORTS or one.dport in VXLAN_PORTS:
            continue  # into a tunnel or out of it: these are other packets' ends
        where = place_between(points[at : then + 1])
        for what in ENDS:
            before, after = _end(one, what), _end(other, what)
            if before and after and before != after:
                found.append((what, before, after, where))
    return found


def _end(packet: Packet, what: End) -> str:
    address, port = (packet.src, packet.sport) if what == "source" else (packet.dst, packet.dport)
    if address is None:
        return ""
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
