"""What a path makes of a packet: its checksum at every point, worked out from what elements do.

Nothing here looks at a lab. It begins with what the sender's kernel leaves, and applies what each
element of the path does to an unfinished checksum (`labctl.kinds.base.Effect`), in order:

- KEEPS: as skb_copy_header() and dev_queue_xmit() do, which leave `ip_summed` alone.
- LOSES: an unfinished packet stays `partial` and has no metadata any more; one that is finished has
  none to lose. A super-frame goes no further: its size of pieces (`gso_size`) is in the same virtio
  header (virtio 1.2, 5.1.6), and without that packet_snd() refuses what is longer than the MTU.
- COMPLETES: what has its metadata becomes `valid`, as by skb_checksum_help(), and a super-frame is
  cut on that occasion (skb_gso_segment()). Who looks at the metadata to know what is to be done
  does nothing for a packet that has lost it.
- VERIFIES: what is not `valid` is dropped, whatever is known of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from labctl.kinds import registry
from labctl.kinds.base import Effect, Kind, LinkKind, Option, Passing
from labctl.kinds.nics.base import NicModel
from labctl.packet.checksum import Checksum, Metadata
from labctl.topology.graph import (
    ForwardingGuest,
    GuestElement,
    PacketPath,
    Port,
    RouterElement,
    Segment,
    Traversal,
    Uplink,
    Wire,
)
from labctl.topology.points import ObservationPoint

State = tuple[Checksum, Metadata | None]
"""A checksum field and the metadata beside it; None is any but `needs_csum`."""
UNFINISHED: State = (Checksum.PARTIAL, Metadata.NEEDS_CSUM)
LOST: State = (Checksum.PARTIAL, Metadata.NONE)
FINISHED: State = (Checksum.VALID, None)

LEFT_UNFINISHED = frozenset({"tcp", "udp"})
"""The protocols whose checksum a sender leaves to others (__tcp_v4_send_check(), udp4_hwcsum()).
That of ICMP is made in software from the start (icmp_push_reply(), ping_v4_sendmsg())."""


@dataclass(frozen=True)
class Ends:
    """What is different about the ends of a path than drivers have it by themselves."""

    finished_by: Collection[str] = ()
    """The guests that finish the checksums of what they send, or forward where they are routers."""
    completing: Collection[str] = ()
    """The points, by name, whose link takes nothing unfinished: tx-checksumming is off there, so
    its kernel finishes what it sends by that link (validate_xmit_skb())."""


AS_THEY_COME = Ends()


@dataclass(frozen=True)
class Change:
    """Where an element changed a packet."""

    effect: Effect
    element: str
    """The name of the guest, router or Xen host; of the network, for a segment."""
    before: ObservationPoint | None
    """The last point where it is seen as it was."""
    after: ObservationPoint | None
    """The first point where it is seen changed; None where it is seen nowhere any more."""


@dataclass(frozen=True)
class Expected:
    """What is to be seen of a packet."""

    states: Mapping[str, State]
    """By the names of the points it reaches, in order."""
    unreached: tuple[str, ...] = ()
    """The points it does not reach, because it is dropped before."""
    changes: tuple[Change, ...] = ()
    begin: State = UNFINISHED
    """As the sender's kernel leaves it."""
    end: State = UNFINISHED
    """As it arrives, or as it was dropped."""

    @property
    def lost(self) -> Change | None:
        """Where its metadata is lost; None where it is not."""
        return next((one for one in self.changes if one.effect is Effect.LOSES), None)

    @property
    def dropped(self) -> Change | None:
        """Where it is dropped on the way; None where it gets to its destination's kernel."""
        last = self.changes[-1] if self.changes else None
        return last if last and last.after is None else None

    @property
    def accepted(self) -> bool:
        """Whether the destination's kernel hands it to its socket.

        It does so with a packet whose sum is right, and with one that is known to be unfinished:
        that never met a wire (skb_csum_unnecessary() is true of CHECKSUM_PARTIAL). Else it is
        dropped, and counted as `TcpInCsumErrors` (tcp_v4_rcv()).
        """
        return self.dropped is None and self.end != LOST

    def state(self, point: ObservationPoint) -> State:
        """Return the state at a point it reaches."""
        return self.states[point.name]

    @property
    def words(self) -> str:
        """The same in words, such as `partial with needs_csum at every hop`."""
        if not self.changes:
            if self.begin == FINISHED:
                return "valid, without needs_csum, at every hop"
            return "partial with needs_csum at every hop"
        start = "valid" if self.begin == FINISHED else "partial with needs_csum"
        told = []
        for number, one in enumerate(self.changes):
            before = one.before.name if one.before else one.element
            if one.after is None:
                told.append(f"{'' if number else f'{start} '}as far as {before}, dropped there")
            elif one.effect is Effect.LOSES:
                where = "partial everywhere; needs_csum"
                told.append(f"{where} up to {before}, none after it")
            elif number:
                told.append(f"valid from {one.after.name} on")
            else:
                told.append(f"{start} as far as {before}, valid from {one.after.name} on")
        return "; ".join(told)


@dataclass(frozen=True)
class _Stage:
    """One thing on the way: either a point, or what an element does between two points."""

    element: str
    point: ObservationPoint | None = None
    effect: Effect = Effect.KEEPS


def expect(
    path: PacketPath,
    protocol: str,
    version: int,
    ends: Ends = AS_THEY_COME,
    *,
    gso: bool = False,
    forwarder: Callable[[str], Kind] = registry.forwarder,
    link: Callable[[str], Kind] = registry.link,
) -> Expected:
    """Work out what is to be seen of a packet that the source of a path sends to its destination.

    `protocol` is `tcp`, `udp` or `icmp`, `version` 4 or 6; `gso` makes it a super-frame. What a
    router does is asked of `forwarder(kind)`, what a segment of a network does of `link(kind)`;
    both raise `UsageError` for a kind that cannot be had.
    """
    source = _name(path.traversals[0])
    finished = (
        protocol not in LEFT_UNFINISHED
        or source in ends.finished_by
        or (path.points[0].inside and path.points[0].name in ends.completing)
    )
    begin = state = FINISHED if finished else UNFINISHED
    states: dict[str, State] = {}
    changes: list[tuple[Effect, str, ObservationPoint | None]] = []
    after: list[ObservationPoint | None] = []
    unreached: list[str] = []
    seen: ObservationPoint | None = None
    dropped = False

    def effect_in(here: Traversal) -> Effect:
        return _within(here, Passing(protocol, version, gso=gso), forwarder, link)

    def takes_unfinished(here: Traversal) -> bool:
        if not isinstance(here.element, Wire):
            return True
        kind = link(here.element.segment.kind)
        options = here.element.segment.options
        return not isinstance(kind, LinkKind) or kind.takes_unfinished(options)

    for stage in _stages(path, ends, effect_in, takes_unfinished):
        if stage.point is not None:
            if dropped:
                unreached.append(stage.point.name)
                continue
            states[stage.point.name] = state
            seen = stage.point
            after += [seen] * (len(changes) - len(after))
        elif not dropped:
            then, gone = _passed(stage.effect, state, gso=gso)
            if gone or then != state:
                changes.append((stage.effect, stage.element, seen))
            gso = gso and stage.effect is not Effect.COMPLETES
            state, dropped = then, gone
    after += [None] * (len(changes) - len(after))
    made = (Change(*one, behind) for one, behind in zip(changes, after, strict=True))
    return Expected(states, tuple(unreached), tuple(made), begin, state)


def _passed(effect: Effect, state: State, *, gso: bool) -> tuple[State, bool]:
    """Return the state of a packet behind an effect, and whether it is dropped there."""
    if effect is Effect.VERIFIES:
        return state, state != FINISHED
    if effect is Effect.LOSES:
        return (LOST if state == UNFINISHED else state), gso
    if effect is Effect.COMPLETES and state == UNFINISHED:
        return FINISHED, False
    return state, False


def _stages(
    path: PacketPath,
    ends: Ends,
    effect_in: Callable[[Traversal], Effect],
    takes_unfinished: Callable[[Traversal], bool],
) -> Iterator[_Stage]:
    """Yield the points of a path in order, with what is done to a packet between them."""
    for here in path.traversals:
        name = _name(here)
        if isinstance(here.element, Segment):
            yield _Stage(name, effect=effect_in(here))
            continue
        if here.entry:
            nic, points = _nic(here, here.entry), here.entry.points[::-1]
            # What sends by a link finishes before the observer of that link sees the packet.
            if (nic and not nic.takes_unfinished) or not takes_unfinished(here):
                yield _Stage(name, effect=Effect.COMPLETES)
            yield from _sent(name, points[:1], ends)
            if nic:
                yield _Stage(name, effect=nic.received)
            yield from (_Stage(name, point) for point in points[1:])
        yield _Stage(name, effect=effect_in(here))
        if isinstance(here.element, ForwardingGuest) and name in ends.finished_by:
            yield _Stage(name, effect=Effect.COMPLETES)
        if here.exit:
            # The first is of the link that its kernel sends by, where that is seen.
            sent = 0 if isinstance(here.element, Uplink) or _is_unseen(here) else 1
            yield from _sent(name, here.exit.points[:sent], ends)
            if nic := _nic(here, here.exit):
                yield _Stage(name, effect=nic.effect)
            yield from (_Stage(name, point) for point in here.exit.points[sent:])


def _sent(name: str, points: tuple[ObservationPoint, ...], ends: Ends) -> Iterator[_Stage]:
    """Yield points of which the first is of the link that a kernel sends the packet by."""
    if points and points[0].name in ends.completing:
        yield _Stage(name, effect=Effect.COMPLETES)
    yield from (_Stage(name, point) for point in points)


def _within(
    here: Traversal,
    passing: Passing,
    forwarder: Callable[[str], Kind],
    link: Callable[[str], Kind],
) -> Effect:
    """Return what an element does to what passes it, apart from its NICs."""
    kind: Kind
    options: Mapping[str, Option]
    match here.element:
        case RouterElement(router):
            kind, options = forwarder(router.kind), router.options
        case ForwardingGuest() as guest:
            kind, options = guest.kind, guest.node.forwarder_options
        case Segment() as segment:
            kind, options = link(segment.kind), segment.options
        case Wire(segment=wire):
            kind, options = link(wire.kind), wire.options
        case _:
            return Effect.KEEPS
    entry, exit_ = (port.interface if port else "" for port in (here.entry, here.exit))
    return kind.effect_on(replace(passing, entry=entry, exit=exit_, options=options))


def _nic(here: Traversal, port: Port) -> NicModel | None:
    """Return the NIC between the two ends of a port; None where there is none.

    A router has veth pairs: veth_xmit() hands the skb itself to the other end.
    """
    if isinstance(here.element, Uplink):
        # Its two ends are ports of their own; what is between them is told at the outer one.
        return None if port.points[0].inside else registry.nic(here.element.interface.model)
    if isinstance(here.element, GuestElement | ForwardingGuest):
        models = {one.name: one.model for one in here.element.node.interfaces}
        return registry.nic(models[port.interface])
    return None


def _is_unseen(here: Traversal) -> bool:
    """Tell a guest that nobody looks into, whose outer ends are all that is seen of it."""
    element = here.element
    return isinstance(element, GuestElement | ForwardingGuest) and bool(element.node.unseen)


def _name(here: Traversal) -> str:
    if isinstance(here.element, RouterElement):
        return here.element.router.name
    if isinstance(here.element, Segment):
        return here.element.network
    if isinstance(here.element, Wire):
        return here.element.name
    return here.element.node.name
