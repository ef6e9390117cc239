"""From sightings to statements: a packet's states along its path, where knowledge was lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labctl.capture.session import Evidence, Sighting
from labctl.experiments.trial import Arm
from labctl.packet.checksum import Checksum, Metadata, knowledge
from labctl.topology.points import ObservationPoint


@dataclass(frozen=True)
class Wanted:
    """Which packet to look for: the first of its kind from an address to another."""

    label: str
    """What to call it, such as `SYN vm1 to vm2`."""
    kind: str
    """As `Judgement.kind` says: `SYN`, `SYN-ACK`, `UDP`."""
    source: str
    destination: str
    port: int
    """The server's port, wherever it stands."""


@dataclass(frozen=True)
class Step:
    """One hop of a packet's way."""

    hop: ObservationPoint
    seen: Sighting | None
    """None: not seen there."""
    complete: bool
    """Whether the observer there missed nothing, so that "not seen" can be believed."""

    @property
    def state(self) -> str:
        """What was seen, in words such as `partial, needs_csum`."""
        if self.seen is None:
            return "not seen" if self.complete else "unknown: the capture is not complete"
        return knowledge(self.seen.judgement.state, self.seen.judgement.metadata)

    @property
    def line(self) -> str:
        """One line of evidence: the hop, the state, and the field's value beside its two sums."""
        text = f"{self.hop.name}: {self.state}"
        if self.seen is None:
            return text
        judgement = self.seen.judgement
        sums = [
            f"{name} {value:#06x}"
            for name, value in (
                ("field", judgement.field),
                ("pseudo-header sum", judgement.pseudo_sum),
                ("full sum", judgement.expected),
            )
            if value is not None
        ]
        return f"{text} ({', '.join(sums)})"


def walk(evidence: Evidence, path: Sequence[ObservationPoint], wanted: Wanted) -> list[Step]:
    """Find a packet at every hop of its path, in the order it passes them."""
    return [Step(hop, _first(evidence, hop, wanted), evidence[hop.name].complete) for hop in path]


def _first(evidence: Evidence, hop: ObservationPoint, wanted: Wanted) -> Sighting | None:
    for seen in evidence[hop.name].sightings:
        packet = seen.judgement.packet
        if (
            seen.judgement.kind == wanted.kind
            and packet.src == wanted.source
            and packet.dst == wanted.destination
            and wanted.port in (packet.sport, packet.dport)
        ):
            return seen
    return None


def lost_between(steps: Sequence[Step]) -> tuple[ObservationPoint, ObservationPoint] | None:
    """Return the two hops between which a partial packet lost its `needs_csum`, or None."""
    for earlier, later in itertools.pairwise(steps):
        if earlier.seen is None or later.seen is None:
            continue
        if earlier.seen.judgement.metadata is Metadata.NEEDS_CSUM and later.seen.judgement.lost:
            return earlier.hop, later.hop
    return None


def culprit(steps: Sequence[Step]) -> str:
    """Name the place where the metadata was lost; empty when it was not."""
    found = lost_between(steps)
    if found is None:
        return ""
    earlier, later = found
    if earlier.in_router and later.in_router and earlier.element == later.element:
        return f"router {earlier.element} ({earlier.link} to {later.link})"
    return f"between {earlier.name} and {later.name}"


Expectation = Callable[[ObservationPoint], tuple[Checksum, Metadata | None]]
"""What a hop should show; metadata None: anything but `needs_csum`."""


def everywhere(state: Checksum, metadata: Metadata | None) -> Expectation:
    """Expect the same at every hop."""
    return lambda _hop: (state, metadata)


def until(
    last: str, path: Sequence[ObservationPoint], then: tuple[Checksum, Metadata | None]
) -> Expectation:
    """Expect `partial` with `needs_csum` up to and including the hop `last`, then `then`."""
    names = [hop.name for hop in path]
    before = set(names[: names.index(last) + 1])
    start = (Checksum.PARTIAL, Metadata.NEEDS_CSUM)
    return lambda hop: start if hop.name in before else then


def check_states(
    arm: Arm, steps: Sequence[Step], wanted: Wanted, expected: str, expectation: Expectation
) -> bool:
    """Check a packet's state at every hop of `steps`; says which hops differ.

    A hop that saw nothing fails where its capture is complete, and is an error where it is not.
    """
    differing: list[Step] = []
    blind: list[Step] = []
    for step in steps:
        if step.seen is None:
            (differing if step.complete else blind).append(step)
            continue
        state, metadata = expectation(step.hop)
        judgement = step.seen.judgement
        known = judgement.metadata
        fits = known is metadata if metadata else known is not Metadata.NEEDS_CSUM
        if judgement.state is not state or not fits:
            differing.append(step)
    if differing:
        observed = "; ".join(f"{step.hop.name}: {step.state}" for step in differing)
    elif blind:
        observed = f"the capture is not complete at {', '.join(step.hop.name for step in blind)}"
    else:
        observed = f"so at all {len(steps)} hops"
    passed = None if blind and not differing else not differing
    return arm.check(
        wanted.label, expected, observed, passed, evidence=[step.line for step in steps]
    )
