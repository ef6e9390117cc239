"""What is left to cut of a super-frame, in words: into how many segments, of what size, by whom."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.capture.session import Observation
from labctl.packet.frame import UDP
from labctl.packet.keys import traits

NAMES = {
    "tcpv4": "TCP over IPv4 (TSO)",
    "tcpv6": "TCP over IPv6 (TSO)",
    "udp": "UDP into fragments (UFO)",
    "udp_l4": "UDP (USO)",
}
"""By the word of the virtio header's type: whose segmentation it is."""


@dataclass(frozen=True)
class Segmentation:
    """A frame that is more than one packet on a wire."""

    kind: str
    """The virtio header's type, or `merged`: longer than the MTU, nothing says how to cut it."""
    size: int
    """Bytes of payload of a segment; 0 where nothing says."""
    payload: int
    """Bytes of payload of all of them."""

    @property
    def segments(self) -> int | None:
        """Into how many it is to be cut; None where nothing says."""
        return -(-self.payload // self.size) if self.size else None

    @property
    def words(self) -> str:
        """Say it, such as `3 segments of 1448 bytes left to cut: TCP over IPv4 (TSO)`."""
        if self.kind == "merged" or not self.segments:
            return f"{self.payload} bytes of payload in one frame, longer than the MTU (GRO or GSO)"
        what = f"{self.segments} segment{'s'[: self.segments != 1]} of {self.size} bytes"
        return f"{what} left to cut: {NAMES.get(self.kind, self.kind)}"


def segmentation(seen: Observation) -> Segmentation | None:
    """Return what is left to cut of a frame; None for a packet of its own."""
    judgement = seen.judgement
    if not judgement.gso:
        return None
    parts = traits(seen.record.frame, judgement.packet, judgement.gso, judgement.gso_size)
    length = judgement.packet.l4_length or 0
    # The capture may have cut the frame; the header in front of the payload is there mostly.
    header = 0
    if parts is not None:
        captured = len(seen.record.frame) - (judgement.packet.l4_offset or 0)
        header = 8 if parts.number == UDP else max(0, min(captured, length) - len(parts.payload))
    return Segmentation(judgement.gso, judgement.gso_size, max(0, length - header))
