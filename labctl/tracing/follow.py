"""From evidence at every hop to packet traces: follow each packet of a flow from where it was sent.

The path is walked hop by hop; at each one the packets last seen before it are looked for (see
`correlate`), and what became of their checksum and metadata is told from the two observations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from labctl.capture.session import Evidence, HopEvidence
from labctl.packet.checksum import Checksum, Judgement, classify
from labctl.packet.frame import Packet
from labctl.packet.keys import differences
from labctl.packet.tunnels import VXLAN_HEADER, VXLAN_PORTS, decapsulate
from labctl.packet.virtio import VNET_NEEDS_CSUM
from labctl.topology.points import ObservationPoint
from labctl.tracing.clocks import GUESS_SLACK_NS, HOST, Clock, guest_clock
from labctl.tracing.drop_events import GuestDrop, with_drops
from labctl.tracing.matching import MOST_PIECES, Link, Seen, match, prepare
from labctl.tracing.packet_trace import (
    HopEvent,
    Outcome,
    PacketTrace,
    Step,
    severity,
    unusable,
)

PacketPredicate = Callable[[Packet], bool]
"""Tells the packets of a flow by their headers."""

ARRIVING_NS = 250_000_000
"""How long a capture must have gone on after a packet was seen elsewhere, so that not seeing it
proves something: longer than any usual way from hop to hop, also into a busy emulated guest."""


@dataclass
class _Trail:
    """A packet trace that is being followed."""

    packet: Packet
    steps: list[Step] = field(default_factory=list)
    last: list[Seen] = field(default_factory=list)
    """What it was at the last hop where it was seen."""


@dataclass(frozen=True, slots=True)
class _Watch:
    """How far a hop's capture can be trusted."""

    point: ObservationPoint
    evidence: HopEvidence
    clock: Clock

    def missing(self, seen_ns: int) -> Step:
        """Return the step of a packet that was not seen here, but at `seen_ns` elsewhere.

        Only a complete capture that went on for long enough proves that it did not come: until the
        earliest moment at which it may have ended, by its own clock or because it still ran when it
        was asked to end, whichever tells more. A clock that is only guessed tells little.
        """
        trailer = self.evidence.trailer
        proves = self.evidence.complete
        if trailer is not None and trailer.clock_ns:  # a record of a capture may not know its end
            ended = trailer.clock_ns - self.clock.offset_ns - self.clock.slack_ns
            ended = max(ended, self.evidence.asked_ns or 0)
            proves = proves and seen_ns + ARRIVING_NS <= ended
        what = HopEvent.NOT_SEEN if proves else HopEvent.UNKNOWN
        return Step(self.point, what)


def clocks(evidence: Evidence, path: Sequence[ObservationPoint]) -> dict[str, Clock]:
    """Return the clock of every hop of a path.

    Where the whole path is on a Xen host, its dom0's clock is the measure, put beside ours by what
    its observers' headers said.
    """
    owners = [point.context for point in path]
    found: dict[str, Clock] = {}
    if "" in owners:
        found[""] = HOST
    else:
        first = next((point.context for point in path if not point.in_guest), owners[0])
        its = [point for point in path if point.context == first]
        guesses = [evidence[point.name].clock_offset_ns for point in its]
        found[first] = Clock(max((guess for guess in guesses if guess is not None), default=0))
    # From the clocks known to those of the hops beside; a path has no more of them than hops.
    for _ in path:
        for one, other in itertools.permutations(range(len(path)), 2):
            if abs(one - other) != 1 or owners[one] in found or owners[other] not in found:
                continue
            inside, beside = evidence[path[one].name], evidence[path[other].name]
            found[owners[one]] = guest_clock(inside, beside).beyond(found[owners[other]])
    return {point.name: found[point.context] for point in path}


def follow(
    evidence: Evidence,
    path: Sequence[ObservationPoint],
    wanted: PacketPredicate,
    *,
    known: Mapping[str, Clock] | None = None,
    drops: Iterable[GuestDrop] = (),
    until_ns: int | None = None,
) -> list[PacketTrace]:
    """Follow every packet of a flow along `path`, in the order they were first seen.

    A packet that fits `wanted` and was not seen at the hops before begins its packet trace where it
    appears. Packet traces that begin after `until_ns` on the host's clock are left out: those of a
    flow that goes on while the captures end, one after the other. Raises `KeyError` when the
    evidence lacks a hop of the path.
    """
    known = known or clocks(evidence, path)
    trails: list[_Trail] = []
    before = HOST
    for number, point in enumerate(path):
        clock = known[point.name]
        here = prepare(evidence[point.name].observations, clock.offset_ns)
        front, owners = _front(trails)
        links = match(front, here, before.slack_ns + clock.slack_ns)
        _advance(trails, owners, links, here, _Watch(point, evidence[point.name], clock))
        taken = {link.later for link in links}
        for index, seen in enumerate(here):
            packet = seen.observation.judgement.packet
            if index not in taken and wanted(packet):
                watches = [_Watch(p, evidence[p.name], known[p.name]) for p in path[:number]]
                trails.append(_begin(watches, point, seen))
        before = clock
    packet_traces = [_finish(trail) for trail in trails]
    packet_traces.sort(key=lambda packet_trace: packet_trace.started_ns)
    last = path[-1]
    packet_traces = with_drops(packet_traces, drops, last, evidence[last.name].observations)
    if until_ns is None:
        return packet_traces
    if all(point.context for point in path):
        until_ns += GUESS_SLACK_NS  # all of them are beside our clock by a guess only
    return [one for one in packet_traces if one.started_ns <= until_ns]


def _front(trails: Sequence[_Trail]) -> tuple[list[Seen], list[list[_Trail]]]:
    """Return what is to be looked for next, in time order, and whose it is."""
    merged: dict[int, tuple[Seen, list[_Trail]]] = {}
    for trail in trails:
        for seen in trail.last:
            merged.setdefault(id(seen.observation), (seen, []))[1].append(trail)
    ordered = sorted(merged.values(), key=lambda pair: pair[0].time_ns)
    return [seen for seen, _ in ordered], [owners for _, owners in ordered]


def _advance(
    trails: Sequence[_Trail],
    owners: Sequence[Sequence[_Trail]],
    links: Sequence[Link],
    here: Sequence[Seen],
    watch: _Watch,
) -> None:
    found: dict[int, list[Link]] = {}
    sharing: dict[int, set[int]] = {}
    for link in links:
        for trail in owners[link.earlier]:
            found.setdefault(id(trail), []).append(link)
            sharing.setdefault(link.later, set()).add(id(trail))
    for trail in trails:
        mine = found.get(id(trail))
        if not mine:
            trail.steps.append(watch.missing(trail.last[-1].time_ns))
            continue
        seen = [here[index] for index in dict.fromkeys(link.later for link in mine)]
        company = max(len(sharing[link.later]) for link in mine) - 1
        damaged = any(link.damaged for link in mine)
        trail.steps.append(_step(watch.point, trail.packet, seen, trail.last, damaged, company))
        trail.last = seen[:MOST_PIECES]


def _begin(passed: Sequence[_Watch], point: ObservationPoint, seen: Seen) -> _Trail:
    trail = _Trail(seen.observation.judgement.packet)
    trail.steps = [watch.missing(seen.time_ns) for watch in passed]
    step = _step(point, trail.packet, [seen], [], False, 0)
    if passed:
        step = replace(step, notes=(*step.notes, "not seen before"))
    trail.steps.append(step)
    trail.last = [seen]
    return trail


def _judged(seen: Seen, packet: Packet) -> tuple[Judgement, str]:
    """Return the judgement on the packet followed, and words on what it travels in.

    Inside a VXLAN packet it is the inner packet that is followed, and the virtio header speaks of
    the checksum that its csum_start points at.
    """
    outer, record = seen.observation.judgement, seen.observation.record
    inner = decapsulate(record.frame, outer.packet)
    if inner is None or packet.dport in VXLAN_PORTS:
        return outer, ""
    begins = (outer.packet.l4_offset or 0) + VXLAN_HEADER
    flags, start = record.vnet.flags, record.vnet.csum_start
    if flags & VNET_NEEDS_CSUM and start < begins:
        flags &= ~VNET_NEEDS_CSUM
    vnet = replace(record.vnet, flags=flags, csum_start=max(0, start - begins))
    judgement = classify(inner.frame, original_length=inner.original_length, vnet=vnet)
    return judgement, f"inside VXLAN {inner.vni}, the outer {outer.describe()}"


def _step(
    point: ObservationPoint,
    packet: Packet,
    seen: Sequence[Seen],
    before: Sequence[Seen],
    damaged: bool,
    company: int,
) -> Step:
    """Tell what happened on the way here; of several pieces the worst one speaks."""
    now, carrier = min((_judged(one, packet) for one in seen), key=lambda pair: severity(pair[0]))
    notes = [carrier] if carrier else []
    happened = HopEvent.SENT
    if before:
        then = min((_judged(one, packet)[0] for one in before), key=severity)
        happened = _happened(then, now, damaged, len(seen) > len(before), company > 0)
        notes += differences(then.packet, now.packet)
        if damaged:
            if now.state in (Checksum.VALID, Checksum.PARTIAL):
                notes.append("another payload, which its checksum does not show")
            else:
                notes.append("another payload")
        if len(seen) > 1 and len(seen) != len(before):
            notes.append(f"in {len(seen)} pieces")
        if company:
            notes.append(f"merged with {company} other{'s'[: company != 1]}")
    elif now.lost:
        happened = HopEvent.LOST
    elif now.state is Checksum.BAD:
        happened = HopEvent.CORRUPTED
    return Step(
        point=point,
        happened=happened,
        time_ns=seen[0].time_ns,
        state=now.state,
        metadata=now.metadata,
        field=now.field,
        pseudo_sum=now.pseudo_sum,
        expected=now.expected,
        gso=now.gso,
        gso_size=now.gso_size,
        length=sum(one.observation.record.original_length for one in seen),
        pieces=len(seen),
        notes=tuple(notes),
        observations=tuple(one.observation for one in seen),
    )


def _happened(then: Judgement, now: Judgement, damaged: bool, more: bool, shared: bool) -> HopEvent:
    if damaged or (now.state is Checksum.BAD and then.state is not Checksum.BAD):
        return HopEvent.CORRUPTED
    if now.lost and not then.lost:
        return HopEvent.LOST
    if then.state is Checksum.PARTIAL and now.state is Checksum.VALID:
        return HopEvent.COMPLETED
    if shared or (now.gso and not then.gso):
        return HopEvent.MERGED
    return HopEvent.SEGMENTED if more else HopEvent.FORWARDED


def _finish(trail: _Trail) -> PacketTrace:
    packet = trail.packet
    steps = tuple(trail.steps)
    last = max(index for index, step in enumerate(steps) if step.seen)
    if last < len(steps) - 1:
        # What a later complete capture did not see is gone, whatever a cut one before it missed.
        blind = steps[last + 1].happened is HopEvent.UNKNOWN
        gone = any(step.happened is HopEvent.NOT_SEEN for step in steps[last + 1 :])
        outcome = Outcome.VANISHED if gone else Outcome.UNKNOWN if blind else Outcome.VANISHED
    else:
        outcome = Outcome.DOOMED if unusable(steps[last]) else Outcome.ARRIVED
    return PacketTrace(
        kind=packet.kind,
        protocol=packet.protocol or "",
        source=packet.src or "",
        sport=packet.sport,
        destination=packet.dst or "",
        dport=packet.dport,
        steps=steps,
        outcome=outcome,
    )
