"""What the counts of a capture say about where it was made and what became of its checksums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labctl.inspect.batch import Ints
from labctl.inspect.flows import Flow
from labctl.inspect.kinds import STATES, Kind
from labctl.packet.checksum import Checksum


@dataclass(frozen=True)
class Host:
    """What one address sent."""

    address: str
    vni: int | None
    """The VXLAN network it was seen in; None outside."""
    counts: Ints
    """Packets by `Kind`."""

    @classmethod
    def of(cls, flows: Sequence[tuple[Flow, Ints]]) -> list[Host]:
        """Add up the flows by their source."""
        found: dict[tuple[str, int | None], Ints] = {}
        for flow, counts in flows:
            key = (flow.src, flow.vni)
            found[key] = found[key] + counts if key in found else counts.copy()
        return [cls(address, vni, counts) for (address, vni), counts in found.items()]

    @property
    def merges(self) -> bool:
        """Whether its `partial` data is most likely GRO's work: whatever cannot be is valid."""
        counts = self.counts
        return bool(counts[Kind.PARTIAL_DATA] and not counts[Kind.PARTIAL] and counts[Kind.VALID])

    @property
    def offloads(self) -> int:
        """How many packets it sent whose sum was left open."""
        if self.merges:
            return 0
        return int(self.counts[Kind.PARTIAL] + self.counts[Kind.PARTIAL_DATA])

    def __str__(self) -> str:
        return self.address if self.vni is None else f"{self.address} (in VXLAN {self.vni})"


def explain(
    counts: Ints,
    pairs: Ints,
    hosts: Sequence[Host],
    flows: Sequence[tuple[Flow, Ints]],
    unmarked: Sequence[str] | None,
) -> list[str]:
    """Return sentences, the most important first.

    `unmarked`: in a file with metadata, the interfaces that saw `partial` without `needs_csum`;
    None for files of others than labctl.
    """
    every = counts + pairs.sum(axis=0)
    if not every.any():
        return ["The file holds no frames."]
    said = _bad(every, flows)
    said += _open(every, _senders(pairs, hosts), flows, unmarked)
    said += _tunnelled(pairs)
    said += _merged(every, hosts)
    if every[Kind.CUT]:
        said.append(
            f"{_are(every[Kind.CUT], 'packet')} not to be judged: the capture kept only "
            "the beginning; capture whole frames (tcpdump -s 0)."
        )
    if every[Kind.LINK]:
        said.append(
            f"{_are(every[Kind.LINK], 'frame')} of a link type unknown here and not judged."
        )
    if said:
        return said
    if every[Kind.VALID]:
        return ["Every checksum that can be judged is right."]
    return ["No frame has a transport checksum that can be judged."]


def _are(number: int, thing: str) -> str:
    return f"1 {thing} is" if number == 1 else f"{int(number):,} {thing}s are"


def _bad(every: Ints, flows: Sequence[tuple[Flow, Ints]]) -> list[str]:
    if not every[Kind.BAD]:
        return []
    flow, most = max(flows, key=lambda one: int(one[1][Kind.BAD]))
    share = f"all in {flow}" if most[Kind.BAD] == every[Kind.BAD] else f"most in {flow}"
    return [
        f"{_are(every[Kind.BAD], 'checksum')} neither right nor a pseudo-header's sum ({share}): "
        "something changed these packets without mending their sum; receivers drop them."
    ]


def _senders(pairs: Ints, hosts: Sequence[Host]) -> list[Host]:
    """Return who left sums open.

    A tunnel's sum counts on that of the packet inside: where all that is open inside lies in such
    packets, it is theirs to be told, and those who sent it into the tunnel are not further senders.
    """
    senders = [host for host in hosts if host.offloads]
    inside = sum(host.offloads for host in senders if host.vni is not None)
    carried = pairs[Kind.PARTIAL, [Kind.PARTIAL, Kind.PARTIAL_DATA]].sum()
    if inside and inside == carried:
        senders = [host for host in senders if host.vni is None] or senders
    return senders


def _open(
    every: Ints,
    senders: Sequence[Host],
    flows: Sequence[tuple[Flow, Ints]],
    unmarked: Sequence[str] | None,
) -> list[str]:
    """Speak of sums that were left open, and of who left them so."""
    said = []
    if every[Kind.PARTIAL_MARKED]:
        said.append(
            f"{_are(every[Kind.PARTIAL_MARKED], 'packet')} partial and marked needs_csum: "
            "whoever sends them to a wire completes them."
        )
    if not senders:
        return said
    number = sum(host.offloads for host in senders)
    partial = f"{_are(number, 'packet')} partial"
    if unmarked is not None:
        return [
            f"{partial} without needs_csum beside them: nobody will complete these, and the "
            f"receiver drops them. Where the mark is missing: {', '.join(unmarked)}.",
            *said,
        ]
    if len(senders) == 1:
        return [
            f"{partial}, all sent by {senders[0]}: the capture was made at this sender (on it, or "
            "on the host of that guest) before its device completed the sums, which is no fault; "
            "behind that device the same packets would be dropped by their receiver.",
            *said,
        ]
    offloading = {(host.address, host.vni) for host in senders}
    both = sum((flow.src, flow.vni) in offloading and (flow.dst, flow.vni) in offloading
               for flow, _ in flows)  # fmt: skip
    where = "in both directions" if both else "never in both directions of a flow"
    return [
        f"{partial}, sent by {len(senders)} hosts, {where}: no device has completed sums here, as "
        "on a bridge, TAP or veth between machines of one host. They arrive as long as every hop "
        "passes the mark needs_csum on; after a hop that loses it the receiver drops them. This "
        "file holds no such marks: labctl trace shows them.",
        *said,
    ]


def _tunnelled(pairs: Ints) -> list[str]:
    open_inside = pairs[:, [Kind.PARTIAL, Kind.PARTIAL_DATA]]
    done = [Kind.VALID, *STATES[Checksum.ABSENT], Kind.BAD]
    number = int(open_inside[done].sum())
    if not number:
        return []
    return [
        f"{_are(number, 'frame')} inside VXLAN partial within an outer packet that is complete "
        "or has no sum: unless this is still the encapsulating host, whose device does the inner "
        "sum, they come out of the tunnel unfinished and are dropped."
    ]


def _merged(every: Ints, hosts: Sequence[Host]) -> list[str]:
    said = []
    if every[Kind.PARTIAL_MERGED]:
        said.append(
            f"{_are(every[Kind.PARTIAL_MERGED], 'partial frame')} longer than the MTU: merged by "
            "GRO or not yet cut by GSO, which writes the pseudo-header's sum; they accuse nobody."
        )
    number = int(np.sum([host.counts[Kind.PARTIAL_DATA] for host in hosts if host.merges]))
    if number:
        said.append(
            f"{_are(number, 'partial TCP data frame')} of senders whose other packets are valid: "
            "most likely merged by GRO at a receiver; they accuse nobody."
        )
    return said
