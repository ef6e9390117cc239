"""From evidence at every hop to journeys: follow each packet of a flow from where it was sent.

The path is walked hop by hop; at each one the packets last seen before it are looked for (see
`correlate`), and what became of their checksum and metadata is told from the two sightings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from labctl.capture.correlate import Link, Seen, match, prepare
from labctl.capture.correlate_clocks import HOST, Clock, guest_clock
from labctl.capture.correlate_keys import differences
from labctl.capture.frame import Packet
from labctl.capture.journey import Fate, Happening, Journey, Place, Step
from labctl.capture.judge import VNET_NEEDS_CSUM, Checksum, Judgement, Metadata, judge
from labctl.capture.session import Evidence
from labctl.capture.vxlan import HEADER, PORTS, decapsulate

Wanted = Callable[[Packet], bool]
"""Tells the packets of a flow by their headers."""

CHECKSUM_REASONS = frozenset({"TCP_CSUM", "UDP_CSUM", "ICMP_CSUM", "SKB_CSUM", "SKB_BAD_GSO"})
SILENT_REASONS = frozenset({"", "NOT_SPECIFIED", "SKB_CONSUMED", "PACKET_SOCK_ERROR"})
"""Reasons that accuse nobody: none was given, or a copy for an observer was freed."""
DROP_WINDOW_NS = 500_000_000
"""How long after it was seen a guest may take to drop a packet, on the guest's own clock."""
CHECKSUM_WINDOW_NS = 10_000_000_000
"""The same for a checksum's sake: a datagram is summed when its receiver gets to reading it
(kernel: udp_recvmsg), which in a busy emulated guest takes its time."""


@dataclass(frozen=True, slots=True)
class GuestDrop:
    """A packet that a guest's kernel said it dropped."""

    owner: str
    time_ns: int
    """Nanoseconds since the epoch on that guest's clock."""
    protocol: int
    """The ethertype."""
    reason: str
    location: str = ""


@dataclass
class _Trail:
    """A journey that is being followed."""

    packet: Packet
    steps: list[Step] = field(default_factory=list)
    last: list[Seen] = field(default_factory=list)
    """What it was at the last hop where it was seen."""


def clocks(evidence: Evidence, path: Sequence[Place]) -> dict[str, Clock]:
    """Return the clock of every hop of a path."""
    found = {}
    for number, place in enumerate(path):
        beside = [p for p in path[max(0, number - 1) : number + 2] if p.place != "guest"]
        if place.place != "guest":
            found[place.name] = HOST
        elif beside:
            found[place.name] = guest_clock(evidence[place.name], evidence[beside[0].name])
        else:
            # Two devices of one guest side by side: the clock is that of the one beside the host.
            found[place.name] = Clock(evidence[place.name].clock_offset_ns or 0, 3_000_000_000)
    for place in path:
        same = [found[p.name] for p in path if p.place == "guest" and p.owner == place.owner]
        if place.place == "guest":
            found[place.name] = min(same, key=lambda clock: clock.slack_ns)
    return found


def follow(
    evidence: Evidence,
    path: Sequence[Place],
    wanted: Wanted,
    *,
    known: Mapping[str, Clock] | None = None,
    drops: Iterable[GuestDrop] = (),
) -> list[Journey]:
    """Follow every packet of a flow along `path`, in the order they were first seen.

    A packet that fits `wanted` and was not seen at the hops before begins its journey where it
    appears. Raises `KeyError` when the evidence lacks a hop of the path.
    """
    known = known or clocks(evidence, path)
    trails: list[_Trail] = []
    before = HOST
    for number, place in enumerate(path):
        clock = known[place.name]
        here = prepare(evidence[place.name].sightings, clock.offset_ns)
        front, owners = _front(trails)
        links = match(front, here, before.slack_ns + clock.slack_ns)
        complete = evidence[place.name].complete
        _advance(trails, owners, links, here, place, complete)
        taken = {link.later for link in links}
        for index, seen in enumerate(here):
            packet = seen.sighting.judgement.packet
            if index not in taken and wanted(packet):
                trails.append(_begin(path[:number], evidence, place, seen))
        before = clock
    journeys = [_finish(trail) for trail in trails]
    journeys.sort(key=lambda journey: journey.started_ns)
    return _with_drops(journeys, tuple(drops))


def _front(trails: Sequence[_Trail]) -> tuple[list[Seen], list[list[_Trail]]]:
    """Return what is to be looked for next, in time order, and whose it is."""
    merged: dict[int, tuple[Seen, list[_Trail]]] = {}
    for trail in trails:
        for seen in trail.last:
            merged.setdefault(id(seen.sighting), (seen, []))[1].append(trail)
    ordered = sorted(merged.values(), key=lambda pair: pair[0].time_ns)
    return [seen for seen, _ in ordered], [owners for _, owners in ordered]


def _advance(
    trails: Sequence[_Trail],
    owners: Sequence[Sequence[_Trail]],
    links: Sequence[Link],
    here: Sequence[Seen],
    place: Place,
    complete: bool,
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
            trail.steps.append(_missing(place, complete))
            continue
        seen = [here[index] for index in dict.fromkeys(link.later for link in mine)]
        company = max(len(sharing[link.later]) for link in mine) - 1
        damaged = any(link.damaged for link in mine)
        trail.steps.append(_step(place, trail.packet, seen, trail.last, damaged, company))
        trail.last = seen


def _begin(passed: Sequence[Place], evidence: Evidence, place: Place, seen: Seen) -> _Trail:
    trail = _Trail(seen.sighting.judgement.packet)
    trail.steps = [_missing(one, evidence[one.name].complete) for one in passed]
    step = _step(place, trail.packet, [seen], [], False, 0)
    if passed:
        step = replace(step, notes=(*step.notes, "not seen before"))
    trail.steps.append(step)
    trail.last = [seen]
    return trail


def _missing(place: Place, complete: bool) -> Step:
    what = Happening.NOT_SEEN if complete else Happening.UNKNOWN
    return Step(place.name, place.place, place.owner, what)


def _judged(seen: Seen, packet: Packet) -> tuple[Judgement, str]:
    """Return the judgement on the packet followed, and words on what it travels in.

    Inside a VXLAN packet it is the inner packet that is followed, and the virtio header speaks of
    the checksum that its csum_start points at.
    """
    outer, record = seen.sighting.judgement, seen.sighting.record
    inner = decapsulate(record.frame, outer.packet)
    if inner is None or packet.dport in PORTS:
        return outer, ""
    begins = (outer.packet.l4_offset or 0) + HEADER
    flags, start = record.vnet.flags, record.vnet.csum_start
    if flags & VNET_NEEDS_CSUM and start < begins:
        flags &= ~VNET_NEEDS_CSUM
    vnet = replace(record.vnet, flags=flags, csum_start=max(0, start - begins))
    judgement = judge(inner.frame, original_length=inner.original_length, vnet=vnet)
    return judgement, f"inside VXLAN {inner.vni}, the outer {outer.describe()}"


def _rank(judgement: Judgement) -> int:
    if judgement.lost:
        return 0
    return 1 if judgement.state is Checksum.BAD else 2


def _step(
    place: Place,
    packet: Packet,
    seen: Sequence[Seen],
    before: Sequence[Seen],
    damaged: bool,
    company: int,
) -> Step:
    """Tell what happened on the way here; of several pieces the worst one speaks."""
    now, carrier = min((_judged(one, packet) for one in seen), key=lambda pair: _rank(pair[0]))
    notes = [carrier] if carrier else []
    happened = Happening.SENT
    if before:
        then = min((_judged(one, packet)[0] for one in before), key=_rank)
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
        happened = Happening.LOST
    elif now.state is Checksum.BAD:
        happened = Happening.CORRUPTED
    return Step(
        hop=place.name,
        place=place.place,
        owner=place.owner,
        happened=happened,
        time_ns=seen[0].time_ns,
        state=now.state,
        metadata=now.metadata,
        field=now.field,
        pseudo_sum=now.pseudo_sum,
        expected=now.expected,
        gso=now.gso,
        gso_size=now.gso_size,
        length=sum(one.sighting.record.original_length for one in seen),
        pieces=len(seen),
        notes=tuple(notes),
        sightings=tuple(one.sighting for one in seen),
    )


def _happened(
    then: Judgement, now: Judgement, damaged: bool, more: bool, shared: bool
) -> Happening:
    if damaged or (now.state is Checksum.BAD and then.state is not Checksum.BAD):
        return Happening.CORRUPTED
    if now.lost and not then.lost:
        return Happening.LOST
    if then.state is Checksum.PARTIAL and now.state is Checksum.VALID:
        return Happening.COMPLETED
    if shared or (now.gso and not then.gso):
        return Happening.MERGED
    return Happening.SEGMENTED if more else Happening.FORWARDED


def _finish(trail: _Trail) -> Journey:
    packet = trail.packet
    steps = tuple(trail.steps)
    last = max(index for index, step in enumerate(steps) if step.seen)
    if last < len(steps) - 1:
        # What a later complete capture did not see is gone, whatever a cut one before it missed.
        blind = steps[last + 1].happened is Happening.UNKNOWN
        gone = any(step.happened is Happening.NOT_SEEN for step in steps[last + 1 :])
        fate = Fate.VANISHED if gone else Fate.UNKNOWN if blind else Fate.VANISHED
    else:
        fate = Fate.DOOMED if _unusable(steps[last]) else Fate.ARRIVED
    return Journey(
        kind=packet.kind,
        protocol=packet.protocol or "",
        source=packet.src or "",
        sport=packet.sport,
        destination=packet.dst or "",
        dport=packet.dport,
        steps=steps,
        fate=fate,
    )


def _unusable(step: Step) -> bool:
    if step.state is Checksum.BAD:
        return True
    return (
        step.state is Checksum.PARTIAL and step.metadata is not Metadata.NEEDS_CSUM and not step.gso
    )


def _with_drops(journeys: list[Journey], drops: Sequence[GuestDrop]) -> list[Journey]:
    """Give the drops that guests told of to the journeys that ended there.

    A drop names no packet; it belongs to the one last seen there shortly before, of the same
    family, whose checksum fits the reason: for a checksum's sake only a harmed packet is dropped.
    An ICMP answer has no socket once the raw ones have had their copies (kernel: ping_rcv).
    """
    free = [drop for drop in drops if drop.reason not in SILENT_REASONS]
    for number, journey in enumerate(journeys):
        last = journey.last
        if last is None or last.place != "guest" or journey.after(last) is not None:
            continue
        seen = last.sightings[-1]
        fitting = [
            drop
            for drop in free
            if drop.owner == last.owner
            and drop.protocol == seen.judgement.packet.ethertype
            and (drop.reason in CHECKSUM_REASONS) == _unusable(last)
            and not (drop.reason == "NO_SOCKET" and journey.protocol.startswith("icmp"))
            and 0 <= drop.time_ns - seen.time_ns + _JITTER_NS <= _window(drop)
        ]
        if not fitting:
            continue
        drop = min(fitting, key=lambda one: abs(one.time_ns - seen.time_ns))
        free.remove(drop)
        dropped = replace(last, reason=drop.reason)
        if last.happened is Happening.FORWARDED:
            dropped = replace(dropped, happened=Happening.DROPPED)
        steps = (*journey.steps[:-1], dropped)
        journeys[number] = replace(journey, steps=steps, fate=Fate.DROPPED, reason=drop.reason)
    return journeys


def _window(drop: GuestDrop) -> int:
    return CHECKSUM_WINDOW_NS if drop.reason in CHECKSUM_REASONS else DROP_WINDOW_NS


_JITTER_NS = 20_000_000
"""How far apart two readings of a guest's two clocks may lie, in an emulated guest."""
