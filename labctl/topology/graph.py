"""A topology as a graph: what packets pass, the ports between, and the one search for a path.

Its elements are guests, routers (some are guests too), the uplinks of Xen hosts, wires, and
segments, which join the ports of the others. What the points of a kind of element are is said by
its `ports` and nowhere else, so that a path's points follow from the elements on it. A segment has
none of its own: what passes it is seen at the ports that it joins.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from labctl.errors import UsageError
from labctl.kinds import forwarders, registry
from labctl.kinds.base import ForwarderKind, Option
from labctl.kinds.links import DEFAULT as DEFAULT_LINK
from labctl.kinds.observers.frames import FrameObserver
from labctl.topology import model
from labctl.topology.model import Interface, Network, Node, Router, Topology
from labctl.topology.points import (
    ElementKind,
    ObservationPoint,
    along_wire,
    inside_guest,
    inside_router,
    inside_uplink,
    outer_end,
)


@dataclass(frozen=True)
class Segment:
    """What joins ports: a network's bridge in the lab, or its bridge in the dom0 of a Xen host.

    Where a network has several segments, one of those that are no wires.
    """

    network: str
    host: str = ""
    """The Xen host in whose dom0 it is; empty for the lab itself."""
    name: str = ""
    """The segment's own name, where the network is no single bridge."""
    kind: str = field(default=DEFAULT_LINK, compare=False)
    """The name of its link kind (`labctl.kinds`); told of those on a path."""
    options: Mapping[str, Option] = field(default_factory=dict, compare=False)
    """What the topology says to the kind; told of those on a path, too."""


@dataclass(frozen=True)
class Port:
    """Where an element is plugged into a segment."""

    interface: str
    """The name of the interface in its element."""
    segment: Segment
    points: tuple[ObservationPoint, ...]
    """In the order of a packet that leaves the element for the segment."""


def _ports_of(node: Node) -> tuple[Port, ...]:
    """Return a port an interface: inside the guest, and its TAP, vif or veth at the bridge.

    Of a guest that nobody can look into the latter alone.
    """
    kind = node.guest_kind
    element: ElementKind = "forwarding guest" if node.forwards else "guest"

    def points(one: Interface) -> tuple[ObservationPoint, ...]:
        outer = outer_end(element, node.name, one.tap, node.host, kind.outer.name)
        if node.unseen:
            return (outer,)
        is_machine, forwards = kind.is_machine, node.forwards
        inner = inside_guest(node.name, one.name, is_machine=is_machine, forwards=forwards)
        return (inner, outer)

    return tuple(
        Port(one.name, Segment(one.network, node.host, one.segment), points(one))
        for one in node.interfaces
    )


@dataclass(frozen=True)
class GuestElement:
    """A guest, where a path begins or ends."""

    node: Node

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """One port an interface: inside the guest, and its TAP, vif or veth at the bridge."""
        return _ports_of(self.node)


@dataclass(frozen=True)
class ForwardingGuest:
    """A guest that is a router, which joins networks."""

    node: Node
    adds: ClassVar[int] = 1
    """By how many routers a path is longer for it."""

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """Those of a guest."""
        return _ports_of(self.node)

    @property
    def kind(self) -> ForwarderKind:
        """What forwards in it."""
        return registry.forwarder(self.node.forwarder or forwarders.DEFAULT)


@dataclass(frozen=True)
class Uplink:
    """A Xen host's interface, which joins the two segments of one network."""

    node: Node
    interface: Interface
    adds: ClassVar[int] = 0
    """By how many routers a path is longer for it."""

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """A port in dom0, where it is a NIC, and one in the lab, where it is a TAP."""
        host, one = self.node.name, self.interface
        outside = Segment(one.network, name=one.segment)
        end = self.node.guest_kind.outer.name
        return (
            Port(one.name, Segment(one.network, host), (inside_uplink(host, one.name),)),
            Port(one.name, outside, (outer_end("uplink", host, one.tap, end=end),)),
        )


@dataclass(frozen=True)
class RouterElement:
    """A router, which joins networks."""

    router: Router
    adds: ClassVar[int] = 1
    """By how many routers a path is longer for it."""

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """One port an interface: inside the router, and its veth's end at the bridge.

        Inside of some kinds packet sockets do not see what is forwarded (`sees_inside`).
        """
        router = self.router
        kind = registry.FORWARDERS.find(router.kind)
        sees = kind is None or kind.sees_inside  # where it is not here, as most are

        def points(one: model.RouterInterface) -> tuple[ObservationPoint, ...]:
            inner = (inside_router(router.name, one.name, router.host),) if sees else ()
            return (*inner, outer_end("router", router.name, one.peer, router.host, "veth"))

        return tuple(
            Port(one.name, Segment(one.network, router.host, one.segment), points(one))
            for one in router.interfaces
        )


@dataclass(frozen=True)
class Wire:
    """A segment that joins the two beside it, such as a veth pair."""

    network: Network
    before: model.Segment
    segment: model.Segment
    after: model.Segment
    adds: ClassVar[int] = 0
    """By how many routers a path is longer for it."""

    @property
    def name(self) -> str:
        """Network and segment, such as `lan/wire`."""
        return f"{self.network.name}/{self.segment.name}"

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """A port at each end; each has its half of the points on the way."""
        plan, places = self.segment.plan, self.segment.plan.places()
        points = tuple(along_wire(self.name, link, places[link]) for link in plan.points)
        half = len(points) // 2
        one, other = (
            Segment(self.network.name, name=part.name) for part in (self.before, self.after)
        )
        return (
            Port(plan.ends[0], one, points[:half][::-1]),
            Port(plan.ends[1], other, points[half:]),
        )


Joining = Uplink | RouterElement | ForwardingGuest | Wire
"""What joins segments."""
Element = GuestElement | Segment | Joining


@dataclass(frozen=True)
class Traversal:
    """An element on a path, and the ports that a packet comes and goes by.

    At a segment these are the ports of the elements before and after it.
    """

    element: Element
    entry: Port | None
    """None where the path begins."""
    exit: Port | None
    """None where it ends."""

    @property
    def points(self) -> tuple[ObservationPoint, ...]:
        """The points passed, in order."""
        if isinstance(self.element, Segment):
            return ()  # they are those of the elements before and after it
        into = self.entry.points[::-1] if self.entry else ()
        return (*into, *(self.exit.points if self.exit else ()))


@dataclass(frozen=True)
class PacketPath:
    """The way of a packet: guest, segment, router or uplink, segment, and so on to a guest."""

    traversals: tuple[Traversal, ...]

    @property
    def points(self) -> tuple[ObservationPoint, ...]:
        """All points passed, in order."""
        return tuple(point for one in self.traversals for point in one.points)


def observed(
    points: Sequence[ObservationPoint], observers: Sequence[str]
) -> tuple[ObservationPoint, ...]:
    """Return a path's points with those that further observers have beside them.

    Raises `UsageError` for an observer that there is not, or that sees no frames. One that does not
    look into a kernel, such as a guest's, has no points there. A packet goes out by a link and
    comes in by the next, all along a path. Where it goes out a further observer is taken to be
    passed before the packet socket, which is the last thing before the driver
    (`dev_hard_start_xmit`), where it comes in after it.
    """
    found: list[ObservationPoint] = []
    kinds = [_of_frames(name) for name in observers]
    for number, point in enumerate(points):
        more = [
            dataclasses.replace(point, name=f"{point.name}@{kind.name}", observer=kind.name)
            for kind in kinds
            if point.looks_into in kind.looks_into
        ]
        found += [*more, point] if number % 2 == 0 else [point, *more]
    return tuple(found)


def _of_frames(name: str) -> FrameObserver:
    kind = registry.observer(name)
    if not isinstance(kind, FrameObserver):
        what = f"the observer {name} sees no frames at a link: {kind.summary}"
        raise UsageError(what, "take another one: labctl kinds")
    return kind


def points_of(topology: Topology) -> dict[str, ObservationPoint]:
    """Return all observation points of a topology by their names."""
    guests = [GuestElement(node) for node in topology.endpoints()]
    return {
        point.name: point
        for element in (*guests, *_joining(topology))
        for port in element.ports
        for point in port.points
    }


def find_path(
    topology: Topology, source: str, destination: str, interface: str | None = None
) -> PacketPath:
    """Return the path from one guest to another over the fewest routers.

    `interface` names the one to use at both ends; None lets any be used. Raises `UsageError` when
    no chain of networks, uplinks and routers joins them, or one end is a Xen host.
    """
    first, last = topology.nodes[source], topology.nodes[destination]
    for node in (first, last):
        if wrong := no_endpoint(node):
            raise wrong
    begin, end = GuestElement(first), GuestElement(last)
    goals = {port.segment: port for port in _usable(end, interface)}
    joined: dict[Segment, list[tuple[Joining, Port]]] = {}
    for element in _joining(topology):
        if isinstance(element, ForwardingGuest) and element.node in (first, last):
            continue  # a path begins and ends in its ends, and passes neither
        for port in element.ports:
            joined.setdefault(port.segment, []).append((element, port))
    # What was passed, and the port at the segment reached; those over the fewest routers first.
    waiting: deque[tuple[tuple[Traversal, ...], Port]] = deque(
        ((Traversal(begin, None, port),), port) for port in _usable(begin, interface)
    )
    seen: set[Segment] = set()
    while waiting:
        walked, here = waiting.popleft()
        segment = here.segment
        if segment in goals:
            goal = goals[segment]
            rest = (Traversal(_told(topology, segment), here, goal), Traversal(end, goal, None))
            return PacketPath((*walked, *rest))
        if segment in seen:
            continue
        seen.add(segment)
        for element, entry in joined.get(segment, ()):
            for beyond in element.ports:
                if beyond.segment == segment:
                    continue
                reached = Traversal(_told(topology, segment), here, entry)
                passed = (reached, Traversal(element, entry, beyond))
                put = waiting.append if element.adds else waiting.appendleft
                put(((*walked, *passed), beyond))
    raise UsageError(
        f"no network or router joins {source} and {destination}",
        "give them an interface on one network, or a router between theirs",
    )


def no_endpoint(node: Node) -> UsageError | None:
    """Return the error of a node that is to be the end of a path, and cannot be; else None."""
    kind = node.guest_kind
    if kind.is_endpoint:
        return None
    hint = f"name two guests: packets pass {kind.passed_by}"
    return UsageError(f"{node.name} is a {kind.title}", hint)


def _told(topology: Topology, segment: Segment) -> Segment:
    """Return a segment with its kind and what that is told."""
    for one in topology.networks[segment.network].segments:
        if one.name == segment.name:
            return dataclasses.replace(segment, kind=one.kind, options=one.options)
    return segment


def _joining(topology: Topology) -> Iterable[Joining]:
    """Yield what joins segments, in the order in which the search tries them."""
    for node in topology.xen_hosts():
        for interface in node.interfaces:
            yield Uplink(node, interface)
    for network in topology.networks.values():
        for before, wire, after in network.joined():
            yield Wire(network, before, wire, after)
    for router in topology.routers.values():
        yield RouterElement(router)
    for node in topology.forwarding_nodes():
        yield ForwardingGuest(node)


def _usable(guest: GuestElement, interface: str | None) -> list[Port]:
    return [port for port in guest.ports if interface in (None, port.interface)]
