"""What Xen's rings said of each packet, beside what packet sockets saw of it at the vifs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labctl.capture.session import Evidence, Observation
from labctl.capture.xenflags import beside
from labctl.experiments.evidence import PacketSelector, Step
from labctl.experiments.run_context import Arm
from labctl.experiments.text_tables import aligned
from labctl.kinds.observers.xen_rings import FlagsEvidence, FlagsSeen
from labctl.packet.checksum import Checksum

BOTH = ("csum_blank", "data_validated")
"""What netfront and netback say of a packet whose checksum covers the pseudo-header only."""
COVERS = {Checksum.PARTIAL: "pseudo-header", Checksum.VALID: "whole packet"}


@dataclass(frozen=True)
class RingTransit:
    """One packet that crossed dom0: out of its sender's ring and into its receiver's."""

    sent: Observation
    """At the sender's vif."""
    out_of: FlagsSeen | None
    """The request that the sender put on its ring; None where it was not seen."""
    into: FlagsSeen | None
    """The response that the receiver got."""


def passages(evidence: Evidence, flags: FlagsEvidence, vifs: Sequence[str]) -> list[RingTransit]:
    """Return the packets that crossed the bridge between two vifs, in the order of time."""
    found: list[RingTransit] = []
    by_vif = {vif: beside(evidence[vif].observations, flags.seen) for vif in vifs}
    for vif, other in (vifs, vifs[::-1]):
        waiting = [pair for pair in by_vif[other] if pair[0].direction == "out"]
        for observation, tx in by_vif[vif]:
            if observation.direction != "in":
                continue
            frame = observation.record.frame
            same = next((pair for pair in waiting if pair[0].record.frame == frame), None)
            if same is not None:
                waiting.remove(same)
                found.append(RingTransit(observation, tx, same[1]))
    return sorted(found, key=lambda one: one.sent.time_ns)


def check_flags(
    arm: Arm, flags: FlagsEvidence, crossed: Sequence[RingTransit], steps: Sequence[Step],
    wanted: PacketSelector, expected: Sequence[str],
) -> None:  # fmt: skip
    """Check what both rings said of one packet, the one whose way is `steps`."""
    name, words = f"flags of the {wanted.label}", _words(expected)
    if flags.why_not:
        arm.skip(name, words, flags.why_not)
        return
    at_vifs = [seen for step in steps for seen in step.told.observations]
    one = next((one for one in crossed if one.sent in at_vifs), None)
    seen = (
        [] if one is None else [(way, f) for way, f in (("out of", one.out_of), ("into", one.into))]
    )
    known = [ring for _, ring in seen if ring is not None]
    passed: bool | None = len(known) == 2 and all(set(f.names) == set(expected) for f in known)
    # Which ring request is this packet's is known by what was captured at both vifs.
    if len(known) < 2 and not (flags.complete and all(step.complete for step in steps)):
        passed = None
    told = [
        f"{way} {f.vif}'s ring: {_words(f.names)} (flags {f.flags:#x})" if f
        else f"{way} the ring: not seen"
        for way, f in seen
    ]  # fmt: skip
    observed = "; ".join(told) or "the packet did not cross the bridge"
    arm.check(
        name, f"{words} in both rings", observed, passed, evidence=[flags.note] * bool(flags.note)
    )


def lines(crossed: Sequence[RingTransit], names: dict[str, str], most: int = 14) -> list[str]:
    """Show the sums and flags of the first packets between two addresses, a row each.

    `names` tells who has which address. `pseudo` is the sum of the pseudo-header, `whole` the one a
    wire would need. Flags are told once where both rings say the same.
    """
    rows = [
        ["packet", "way", "field", "pseudo", "whole", "the field covers", "flags in both rings"]
    ]
    chosen = [
        one
        for one in crossed
        if one.sent.judgement.field is not None
        and {one.sent.judgement.packet.src, one.sent.judgement.packet.dst} == names.keys()
        and "neighbour" not in one.sent.judgement.kind  # whoever asks for a MAC tells nothing here
    ]
    for one in chosen[:most]:
        judged = one.sent.judgement
        rings = dict.fromkeys(_short(flags) for flags in (one.out_of, one.into))
        rows.append([
            judged.kind,
            " to ".join(names[end or ""] for end in (judged.packet.src, judged.packet.dst)),
            f"{judged.field:#06x}",
            "" if judged.pseudo_sum is None else f"{judged.pseudo_sum:#06x}",
            "" if judged.expected is None else f"{judged.expected:#06x}",
            COVERS.get(judged.state, str(judged.state)),
            ", then ".join(rings),
        ])  # fmt: skip
    made = aligned(rows)
    more = len(chosen) - most
    return [*made, f"  and {more} more"] if more > 0 else made


def _words(flags: Sequence[str]) -> str:
    return " and ".join(flags) or "no flag"


def _short(seen: FlagsSeen | None) -> str:
    if seen is None:
        return "not seen"
    short = {"csum_blank": "blank", "data_validated": "validated", "extra_info": "gso"}
    return " ".join(short[name] for name in short if name in seen.names) or "none"
