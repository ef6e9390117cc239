"""From packet traces to statements: a packet's states along its path, where knowledge was lost.

The steps are those of the packet's packet trace, as a trace and a report tell it; nothing is looked
for here a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labctl.capture.session import Evidence, HopEvidence, Observation
from labctl.experiments.run_context import Arm
from labctl.packet.checksum import Checksum, Metadata, knowledge
from labctl.packet.frame import Packet
from labctl.topology.points import ObservationPoint
from labctl.tracing import packet_trace
from labctl.tracing.packet_trace import HopEvent, locate_fault
from labctl.tracing.recorded import first_of, follow_along


@dataclass(frozen=True)
class PacketSelector:
    """Which packet to look for: the first of its kind from an address to another."""

    label: str
    """What to call it, such as `SYN vm1 to vm2`."""
    kind: str
    """As `Judgement.kind` says: `SYN`, `SYN-ACK`, `UDP`."""
    source: str
    destination: str
    port: int
    """The server's port, wherever it stands."""

    def fits(self, packet: Packet) -> bool:
        """Tell whether a packet, as it was sent, is of this kind and between these ends."""
        return (
            packet.kind == self.kind
            and (packet.src, packet.dst) == (self.source, self.destination)
            and self.port in (packet.sport, packet.dport)
        )


@dataclass(frozen=True)
class Step:
    """One hop of a packet's way: a view of a step of its packet trace."""

    told: packet_trace.Step
    gap: str = ""
    """Why "not seen" would prove nothing here, in a few words; empty where it does."""

    @property
    def hop(self) -> ObservationPoint:
        """Where it is."""
        return self.told.point

    @property
    def seen(self) -> Observation | None:
        """What was seen, of several pieces the worst; None: not seen there."""
        return self.told.speaker

    @property
    def complete(self) -> bool:
        """Whether the observer there missed nothing, so that "not seen" can be believed."""
        return not self.gap

    @property
    def state(self) -> str:
        """What was seen, in words such as `partial, needs_csum`."""
        told = self.told
        if told.state is None:
            return f"unknown: {self.gap}" if self.gap else "not seen"
        words = knowledge(told.state, told.metadata or Metadata.NONE)
        return f"{words}, another payload" if told.damaged else words

    @property
    def line(self) -> str:
        """One line of evidence: the hop, the state, and the field's value beside its two sums."""
        text = f"{self.hop.name}: {self.state}"
        told = self.told
        if not told.seen:
            return text
        sums = [
            f"{name} {value:#06x}"
            for name, value in (
                ("field", told.field),
                ("pseudo-header sum", told.pseudo_sum),
                ("full sum", told.expected),
            )
            if value is not None
        ]
        return f"{text} ({', '.join(sums)})"


INCOMPLETE = "the capture is not complete"
TOO_SOON = "the capture ended too soon"


def walk(
    evidence: Evidence, path: Sequence[ObservationPoint], wanted: PacketSelector
) -> list[Step]:
    """Return the way of a packet along its path, a step a hop in the order it passes them.

    Raises `KeyError` where the evidence lacks a hop of the path.
    """
    found = first_of(
        follow_along(evidence, path, wanted.fits),
        wanted.kind,
        wanted.source,
        wanted.destination,
        wanted.port,
    )
    if found is not None:
        return [_view(step, evidence[step.hop]) for step in found.steps]
    return [_view(_unseen(point, evidence[point.name]), evidence[point.name]) for point in path]


def _unseen(point: ObservationPoint, hop: HopEvidence) -> packet_trace.Step:
    """Return the step of a packet that was seen nowhere."""
    return packet_trace.Step(point, HopEvent.NOT_SEEN if hop.complete else HopEvent.UNKNOWN)


def _view(step: packet_trace.Step, hop: HopEvidence) -> Step:
    if step.happened is HopEvent.NOT_SEEN:
        return Step(step)  # a capture that is not complete is never told as that
    if not hop.complete:
        return Step(step, INCOMPLETE)
    return Step(step, TOO_SOON if step.happened is HopEvent.UNKNOWN else "")


def fault_location(steps: Sequence[Step]) -> str:
    """Name the place where a packet was harmed, as its trace does; empty where it was not."""
    return locate_fault([step.told for step in steps])


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
    arm: Arm, steps: Sequence[Step], wanted: PacketSelector, expected: str, expectation: Expectation
) -> bool:
    """Check a packet's state at every hop of `steps`; says which hops differ.

    A hop that saw nothing fails where its capture is complete, and is an error where it is not.
    """
    differing: list[Step] = []
    blind: list[Step] = []
    untold: list[str] = []
    for step in steps:
        told = step.told
        if not told.seen:
            (differing if step.complete else blind).append(step)
            continue
        state, metadata = expectation(step.hop)
        fits = told.metadata is metadata if metadata else told.metadata is not Metadata.NEEDS_CSUM
        if told.metadata is Metadata.UNTOLD:
            untold.append(step.hop.name)
            fits = True
        if told.state is not state or not fits or told.damaged:
            differing.append(step)
    if differing:
        observed = "; ".join(f"{step.hop.name}: {step.state}" for step in differing)
    elif blind:
        gaps = {gap: [s.hop.name for s in blind if s.gap == gap] for gap in (INCOMPLETE, TOO_SOON)}
        observed = "; ".join(f"{gap} at {', '.join(at)}" for gap, at in gaps.items() if at)
    else:
        observed = f"so at all {len(steps)} hops"
    if untold:
        observed += f"; the metadata is not told at {', '.join(untold)}"
    all_untold = len(untold) == len(steps)  # then nothing was shown of it
    passed = None if (blind or all_untold) and not differing else not differing
    return arm.check(
        wanted.label, expected, observed, passed, evidence=[step.line for step in steps]
    )
