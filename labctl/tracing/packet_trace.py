"""The trace of one packet: every hop it was seen at, what the kernel knew of it there, its end.

Plain data, made by `follow`; anything that shows packet traces (a table, JSON, a page) needs
nothing but this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from labctl.capture.session import Observation
from labctl.packet.checksum import Checksum, Judgement, Metadata, knowledge
from labctl.topology.points import ObservationPoint
from labctl.tracing.segmentation import Segmentation, segmentation


class HopEvent(StrEnum):
    """What happened to a packet between the hop before and this one."""

    SENT = "sent"
    """First seen here."""
    FORWARDED = "forwarded"
    COMPLETED = "completed"
    """Its checksum was unfinished before and is right now."""
    LOST = "metadata lost"
    """Unfinished still, and the metadata that says so is gone."""
    CORRUPTED = "corrupted"
    """The checksum is wrong now, or the payload is another."""
    MERGED = "merged"
    """Part of a larger frame now (GRO), whose field accuses nobody."""
    SEGMENTED = "segmented"
    """Several packets now (TSO, GSO, fragmentation)."""
    DROPPED = "dropped"
    """The kernel dropped it here; `Step.reason` is the kernel's."""
    NOT_SEEN = "not seen"
    UNKNOWN = "unknown"
    """Not seen, but the capture there is not complete."""


class Outcome(StrEnum):
    """How a packet trace ended."""

    ARRIVED = "arrived"
    """Seen at its last hop, unharmed, and no drop was told."""
    DOOMED = "arrived unusable"
    """Seen at its last hop with a checksum that its receiver cannot accept."""
    DROPPED = "dropped"
    """A kernel told that it dropped the packet."""
    VANISHED = "never seen again"
    """Complete captures further on did not see it."""
    UNKNOWN = "unknown"
    """The captures further on are not complete."""


FAULTS = frozenset({HopEvent.LOST, HopEvent.CORRUPTED})


@dataclass(frozen=True)
class Step:
    """One hop of a packet trace."""

    point: ObservationPoint
    """Where it is."""
    happened: HopEvent
    time_ns: int | None = None
    """Nanoseconds since the epoch on the host's clock; None where it was not seen."""
    state: Checksum | None = None
    """What the checksum field holds."""
    metadata: Metadata | None = None
    """What the kernel knew beside the packet."""
    field: int | None = None
    """The field's value."""
    pseudo_sum: int | None = None
    """The value that would be `partial`."""
    expected: int | None = None
    """The value that would be `valid`."""
    gso: str = ""
    gso_size: int = 0
    length: int = 0
    """Bytes of the frame (of all pieces together)."""
    pieces: int = 0
    """How many frames it was here; 0 where it was not seen."""
    reason: str = ""
    """Why the kernel dropped it, such as `TCP_CSUM`."""
    notes: tuple[str, ...] = ()
    """What else changed, such as `TTL 64 to 63`."""
    observations: tuple[Observation, ...] = dataclasses.field(default=(), repr=False, compare=False)
    """What was seen; not part of the JSON."""

    @property
    def hop(self) -> str:
        """The hop's name, such as `vm1:eth0`."""
        return self.point.name

    @property
    def owner(self) -> str:
        """The guest, router or Xen host that the hop belongs to."""
        return self.point.element

    @property
    def seen(self) -> bool:
        """Whether the packet was seen here."""
        return self.pieces > 0

    @property
    def speaker(self) -> Observation | None:
        """The observation this judgement is of: of several pieces the worst; None if not seen."""
        return min(self.observations, key=lambda one: severity(one.judgement), default=None)

    @property
    def left_to_cut(self) -> Segmentation | None:
        """What is left to cut of it here, where it is more than one packet on a wire."""
        return segmentation(self.speaker) if self.gso and self.speaker else None

    @property
    def damaged(self) -> bool:
        """Whether its payload is another one here, and its checksum does not show that."""
        return self.happened is HopEvent.CORRUPTED and self.state is not Checksum.BAD

    @property
    def knowledge(self) -> str:
        """Field and metadata in a few words, such as `partial, needs_csum`; empty if not seen."""
        if self.state is None:
            return ""
        return knowledge(self.state, self.metadata or Metadata.NONE, self.gso)

    def to_json(self) -> dict[str, Any]:
        """Return the step as plain data; numbers of the field as hexadecimal text."""
        left = self.left_to_cut
        return {
            "hop": self.hop,
            "place": _place(self.point),
            "owner": self.owner,
            "happened": str(self.happened),
            "time_ns": self.time_ns,
            "state": None if self.state is None else str(self.state),
            "metadata": None if self.metadata is None else str(self.metadata),
            "field": _hex(self.field),
            "pseudo_sum": _hex(self.pseudo_sum),
            "expected": _hex(self.expected),
            "gso": self.gso,
            "gso_size": self.gso_size,
            "segments": left.segments if left else None,
            "segmentation": left.words if left else "",
            "length": self.length,
            "pieces": self.pieces,
            "reason": self.reason,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class PacketTrace:
    """One packet from hop to hop."""

    kind: str
    """A short word, such as `SYN` or `ICMP echo`."""
    protocol: str
    source: str
    """Address as it was sent."""
    sport: int | None
    destination: str
    dport: int | None
    steps: tuple[Step, ...]
    """One for every hop of the path, in its order, seen or not."""
    outcome: Outcome
    reason: str = ""
    """The kernel's reason where `fate` is dropped."""
    remark: str = ""
    """What its receiver did with it that is no loss, such as dropping a copy; empty for nothing."""

    @property
    def label(self) -> str:
        """Kind and addresses, such as `SYN 10.0.1.1 to 10.0.2.2`."""
        return f"{self.kind} {self.source} to {self.destination}"

    @property
    def started_ns(self) -> int:
        """When it was first seen, nanoseconds since the epoch."""
        return next((s.time_ns for s in self.steps if s.time_ns is not None), 0)

    @property
    def first(self) -> Step | None:
        """The step where it was first seen."""
        return next((step for step in self.steps if step.seen), None)

    @property
    def last(self) -> Step | None:
        """The step where it was last seen."""
        return next((step for step in reversed(self.steps) if step.seen), None)

    @property
    def fault(self) -> Step | None:
        """The first step where something was done to it that its receiver will not accept."""
        return fault_in(self.steps)

    @property
    def ok(self) -> bool:
        """Whether it arrived and can be accepted."""
        return self.outcome is Outcome.ARRIVED

    def before(self, step: Step) -> Step | None:
        """Return the step before `step` where the packet was seen."""
        at = self.steps.index(step)
        return next((one for one in reversed(self.steps[:at]) if one.seen), None)

    def after(self, step: Step) -> Step | None:
        """Return the next step of the path, seen or not; None after the last."""
        at = self.steps.index(step)
        return self.steps[at + 1] if at + 1 < len(self.steps) else None

    @property
    def missed(self) -> Step | None:
        """The first step after the last observation whose complete capture did not see it.

        Where all further captures have gaps, the next step of the path; None at its end.
        """
        last = self.last
        if last is None:
            return None
        rest = self.steps[self.steps.index(last) + 1 :]
        blind = rest[0] if rest else None
        return next((step for step in rest if step.happened is HopEvent.NOT_SEEN), blind)

    @property
    def where(self) -> str:
        """The place that harmed or lost it, in words such as `router r1 (eth0 to eth1)`."""
        if self.fault is not None:
            return locate_fault(self.steps)
        last = self.last
        if last is None or self.outcome is Outcome.ARRIVED:
            return ""
        if self.outcome is Outcome.DROPPED and self.after(last) is None:
            return last.owner
        return _passage(self.steps, last, self.missed or last)

    @property
    def signature(self) -> tuple[object, ...]:
        """What two packet traces of the same kind and course have in common."""
        course = tuple((s.hop, s.happened, s.knowledge, s.reason) for s in self.steps)
        end = (self.outcome, self.reason, self.remark)
        return (self.kind, self.source, self.destination, *end, course)

    def to_json(self) -> dict[str, Any]:
        """Return the packet trace as plain data."""
        return {
            "kind": self.kind,
            "protocol": self.protocol,
            "source": self.source,
            "sport": self.sport,
            "destination": self.destination,
            "dport": self.dport,
            "fate": str(self.outcome),
            "reason": self.reason,
            "remark": self.remark,
            "where": self.where,
            "steps": [step.to_json() for step in self.steps],
        }


def severity(judgement: Judgement) -> int:
    """Return how much a judgement tells against its packet: the less, the worse it is."""
    if judgement.lost:
        return 0
    return 1 if judgement.state is Checksum.BAD else 2


def unusable(step: Step) -> bool:
    """Tell whether a receiver cannot accept a packet as it was seen here."""
    if step.state is Checksum.BAD:
        return True
    lacking = step.metadata is None or step.metadata.is_lacking
    return step.state is Checksum.PARTIAL and lacking and not step.gso


def fault_in(steps: Sequence[Step]) -> Step | None:
    """Return the first step at which a packet had been harmed; None where it was not."""
    return next((step for step in steps if step.happened in FAULTS), None)


def locate_fault(steps: Sequence[Step]) -> str:
    """Name the place where a packet was harmed, such as `router r1 (eth0 to eth1)`.

    It lies between the hop that saw the harm and the one before it that saw the packet, whatever
    is between and saw nothing: what XDP redirects passes no packet socket. Empty where no harm was
    done.
    """
    fault = fault_in(steps)
    if fault is None:
        return ""
    before = next((one for one in reversed(steps[: steps.index(fault)]) if one.seen), None)
    return _passage(steps, before, fault)


def _passage(steps: Sequence[Step], before: Step | None, after: Step) -> str:
    """Name what lies between two steps of a way; without one before, what the other is in."""
    if before is None or before is after:
        if after.point.in_router:
            return f"router {after.owner}"
        return f"{after.owner} itself" if after.point.in_guest else after.hop
    span = steps[steps.index(before) : steps.index(after) + 1]
    return place_between([step.point for step in span])


def place_between(points: Sequence[ObservationPoint]) -> str:
    """Name what lies between the first and the last of points that follow each other on a path."""
    before, after = points[0], points[-1]
    names = f"{before.name} to {after.name}"
    if before.element == after.element:
        through = before.at_bridge and after.at_bridge  # in by one interface, out by another
        if through or sum(point.in_router for point in points) > 1:
            router = "router " if after.of_router else ""
            return f"{router}{after.element} ({before.link} to {after.link})"
        if before.in_guest or after.in_guest:
            return f"{after.element}'s network device ({names})"
        return f"the veth of {after.element} ({names})"
    if before.at_bridge and after.at_bridge and len(points) == 2:
        return f"the bridge between {before.name} and {after.name}"
    return f"between {before.name} and {after.name}"


def _place(point: ObservationPoint) -> str:
    """Return the word that the JSON of a step has for where its hop is."""
    if point.at_bridge:
        return "host"
    return "router" if point.in_router else "guest"


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:#06x}"


def summary(packet_traces: Sequence[PacketTrace]) -> list[tuple[PacketTrace, int]]:
    """Put packet traces of the same course together: the first of each, and how many there were."""
    counted: dict[tuple[object, ...], tuple[PacketTrace, int]] = {}
    for packet_trace in packet_traces:
        first, count = counted.get(packet_trace.signature, (packet_trace, 0))
        counted[packet_trace.signature] = (first, count + 1)
    return list(counted.values())
