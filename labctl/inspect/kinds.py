"""What a frame counts as: a checksum state, with the reason where a state alone would mislead."""

from __future__ import annotations

from enum import IntEnum

from labctl.packet.checksum import Checksum, Judgement, Metadata
from labctl.packet.frame import CHECKSUM_OFFSETS


class Kind(IntEnum):
    """One column of the counts."""

    VALID = 0
    BAD = 1
    ABSENT = 2
    PARTIAL = 3
    """A frame that nothing but its sender's offload makes partial: SYN, ACK, UDP, SCTP."""
    PARTIAL_DATA = 4
    """TCP data within the MTU: left to the sender's device, or merged of smaller ones by GRO."""
    PARTIAL_MERGED = 5
    """Longer than the MTU: GRO or GSO made it, and it accuses nobody."""
    PARTIAL_MARKED = 6
    """The file's own metadata says `needs_csum`: somebody will finish it."""
    FRAGMENT = 7
    CUT = 8
    """The capture kept less than the sum covers."""
    NO_CHECKSUM = 9
    """Not IP, or a protocol without a checksum that is known here."""
    MALFORMED = 10
    """Too short for its own headers, or with lengths that contradict each other."""
    LINK = 11
    """A link type that is not known here."""


KINDS = len(Kind)
NOT_YET = 255
"""In an array of kinds: not judged yet."""

STATES: dict[Checksum, tuple[Kind, ...]] = {
    Checksum.VALID: (Kind.VALID,),
    Checksum.PARTIAL: (
        Kind.PARTIAL, Kind.PARTIAL_DATA, Kind.PARTIAL_MERGED, Kind.PARTIAL_MARKED,
    ),
    Checksum.BAD: (Kind.BAD,),
    Checksum.ABSENT: (Kind.ABSENT,),
    Checksum.UNKNOWN: (
        Kind.FRAGMENT, Kind.CUT, Kind.NO_CHECKSUM, Kind.MALFORMED, Kind.LINK,
    ),
}  # fmt: skip
"""The kinds that a state is made of."""

STATE_OF = {kind: state for state, kinds in STATES.items() for kind in kinds}

REASONS = {
    Kind.PARTIAL_DATA: "TCP data within the MTU",
    Kind.PARTIAL_MERGED: "longer than the MTU: merged by GRO or left to GSO",
    Kind.PARTIAL_MARKED: "marked needs_csum",
    Kind.FRAGMENT: "fragments",
    Kind.CUT: "cut by the capture's snap length",
    Kind.NO_CHECKSUM: "without a transport checksum",
    Kind.MALFORMED: "with lengths that cannot be",
    Kind.LINK: "of an unknown link type",
}
"""What to call the parts of a state."""


def kind_of(seen: Judgement, cut: bool) -> Kind:
    """Tell the kind of a judged frame; `cut` where the capture holds less than was on the wire."""
    if seen.state is not Checksum.UNKNOWN and seen.state is not Checksum.PARTIAL:
        return Kind[seen.state.name]
    packet = seen.packet
    if seen.state is Checksum.PARTIAL:
        if seen.metadata is Metadata.NEEDS_CSUM:
            return Kind.PARTIAL_MARKED
        if seen.gso:
            return Kind.PARTIAL_MERGED
        return Kind.PARTIAL_DATA if packet.kind == "TCP data" else Kind.PARTIAL
    if packet.fragment:
        return Kind.FRAGMENT
    if packet.kind == "runt":
        return Kind.CUT if cut else Kind.MALFORMED
    if packet.protocol_number is None:
        if packet.family not in ("ipv4", "ipv6"):
            return Kind.NO_CHECKSUM
        return Kind.CUT if cut and packet.truncated else Kind.MALFORMED
    if packet.protocol_number not in CHECKSUM_OFFSETS:
        return Kind.NO_CHECKSUM
    return Kind.CUT if cut and packet.truncated else Kind.MALFORMED
