"""What a trace found: plain data (`Trace.to_json`), and the evidence it was made from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from labctl.capture.session import Evidence
from labctl.topology.points import ObservationPoint
from labctl.tracing.flow import Flow
from labctl.tracing.icmp_errors import Complaint
from labctl.tracing.packet_trace import Outcome, PacketTrace
from labctl.tracing.translations import Translation


@dataclass(frozen=True)
class Trace:
    """What became of a flow."""

    lab: str
    source: str
    destination: str
    flow: Flow
    path: tuple[ObservationPoint, ...]
    evidence: Evidence = field(repr=False)
    forward: tuple[PacketTrace, ...] = ()
    """Packet traces from the source, in the order they began."""
    reverse: tuple[PacketTrace, ...] = ()
    """Packet traces of the answers."""
    said: tuple[str, ...] = ()
    """What the sending program said, one line a thing: `1 connected`, `1 error 111 refused`."""
    errors: dict[str, dict[str, int]] = field(default_factory=dict)
    """By how much each node's checksum error counters grew meanwhile."""
    forwarded: dict[str, dict[str, int]] = field(default_factory=dict)
    """By how much each router's counters grew, those that did not left out."""
    complaints: tuple[Complaint, ...] = ()
    translations: tuple[Translation, ...] = ()
    """The mappings of address translation that the packets showed."""
    left_out: int = 0
    """How many packets of the flow were followed and are not told of: the selection left them."""
    notes: tuple[str, ...] = ()
    """What a reader should know besides, such as captures that were cut."""
    partial: bool = False
    """Whether evidence is missing, so that what was not seen proves nothing."""
    broken: bool = False
    """Whether a part of the lab that packets pass has ended, so that a loss proves nothing."""

    @property
    def packet_traces(self) -> tuple[PacketTrace, ...]:
        """All packet traces, in the order they began."""
        return tuple(sorted((*self.forward, *self.reverse), key=lambda one: one.started_ns))

    @property
    def came(self) -> bool:
        """Whether any packet of the flow was seen."""
        return bool(self.forward or self.reverse or self.left_out)

    @property
    def ok(self) -> bool | None:
        """Whether all packets arrived unharmed; None where that could not be told."""
        if (
            self.broken
            or not self.came
            or any(one.outcome is Outcome.UNKNOWN for one in self.packet_traces)
        ):
            return None
        if not all(one.ok for one in self.packet_traces):
            return False
        return None if self.partial else True

    def seen(self) -> dict[str, dict[str, int]]:
        """Return how many frames of which kind each hop saw, whatever flow they belong to."""
        return {
            hop.hop: dict(Counter(one.judgement.kind for one in hop.observations))
            for hop in self.evidence.hops
        }

    def points(self) -> list[dict[str, Any]]:
        """Return of each hop how many frames its observer saw, and how many it missed."""
        return [
            {
                "hop": hop.hop,
                "frames": len(hop.observations),
                "missed": hop.drops,
                "errors": hop.trailer.errors if hop.trailer else None,
                "left_out": hop.left_out,
                "complete": hop.complete,
                "note": hop.note or hop.limited,
            }
            for hop in self.evidence.hops
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the trace as plain data."""
        return {
            "lab": self.lab,
            "source": self.source,
            "destination": self.destination,
            "flow": self.flow.to_json(),
            "path": [hop.name for hop in self.path],
            "well": self.ok,
            "partial": self.partial,
            "notes": list(self.notes),
            "said": list(self.said),
            "checksum_errors": self.errors,
            "router_counters": self.forwarded,
            "complaints": [one.to_json() for one in self.complaints],
            "journeys": [one.to_json() for one in self.packet_traces],
            "seen": self.seen(),
            "points": self.points(),
            "translations": [one.to_json() for one in self.translations],
            "left_out": self.left_out,
        }
