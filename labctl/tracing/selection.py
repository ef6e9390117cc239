"""Which of a flow's packets are told of: those that pass a filter, or of which something holds.

All of the flow is followed all the same: an answer, or what became of a packet further on, is known
only of packets that were looked at whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from labctl.capture.session import Observation
from labctl.tracing.packet_trace import PacketTrace

Filter = Callable[[bytes, int], bool]
"""Tells of a frame, and its length on the wire, whether it passes."""


@dataclass(frozen=True)
class Selection:
    """What is asked of a packet; by default nothing."""

    passes: Filter | None = None
    where: Callable[[PacketTrace], bool] | None = None

    def counts(self, seen: Observation) -> bool:
        """Tell whether a frame passes the filter."""
        record = seen.record
        return self.passes is None or self.passes(record.frame, record.original_length)

    def keeps(self, packet_trace: PacketTrace) -> bool:
        """Tell whether a packet is told of: it passed the filter at some hop, and so on."""
        seen = (one for step in packet_trace.steps for one in step.observations)
        if self.passes is not None and not any(self.counts(one) for one in seen):
            return False
        return self.where is None or self.where(packet_trace)
