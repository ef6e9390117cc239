"""The way of a packet through a topology, part by part: guests, bridges and routers.

A part is a box of the drawing. An uplink is none: its two ends are ports of the bridges beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from labctl.experiments.explained.model import Role, Way
from labctl.kinds import registry
from labctl.topology.graph import (
    Element,
    ForwardingGuest,
    GuestElement,
    Port,
    RouterElement,
    Segment,
    Traversal,
    Uplink,
    Wire,
    find_path,
)
from labctl.topology.model import Interface, Node, Topology
from labctl.topology.points import ObservationPoint


@dataclass(frozen=True)
class Point:
    """An observation point as it is drawn."""

    name: str
    role: Role
    kind: str
    """What it is, such as `TAP`."""


@dataclass(frozen=True)
class Part:
    """One thing on the way, with its observation points in the packet's order."""

    title: str
    kind: Literal["guest", "bridge", "router"]
    host: str
    """The Xen host it is in; empty for the lab itself."""
    points: tuple[Point, ...]
    to_next: str = ""
    """What is between this and the next part."""


_VETH = "veth pair"


def route(topology: Topology, way: Way) -> tuple[Part, ...]:
    """Return the parts between two guests, over the fewest routers.

    Where the way's nodes are not in the topology, the first and the last guest stand for them, and
    where not both have its interface, any may be used. Raises `UsageError` when nothing joins the
    two.
    """
    guests = topology.endpoints()
    source = topology.nodes.get(way.source, guests[0])
    destination = topology.nodes.get(way.destination, guests[-1])
    both = all(
        way.interface in {one.name for one in end.interfaces} for end in (source, destination)
    )
    interface = way.interface if both else None
    path = find_path(topology, source.name, destination.name, interface).traversals
    parts: list[Part] = []
    for number, here in enumerate(path):
        if isinstance(here.element, Segment):
            parts.append(_bridge(topology, here.element, path[number - 1], path[number + 1]))
        elif isinstance(here.element, GuestElement):
            parts.append(_guest(here.element, here))
        elif isinstance(here.element, RouterElement):
            parts.append(_router(here.element, here))
        elif isinstance(here.element, ForwardingGuest):
            parts.append(_forwarding(here.element, here))
        elif isinstance(here.element, Wire):
            parts.append(_along(here.element, here, path[:number]))
    return tuple(parts)


def _guest(guest: GuestElement, here: Traversal) -> Part:
    node = guest.node
    leaving = here.exit is not None
    interface = _interface(node, here.exit or here.entry)
    point = here.points[0 if leaving else -1]
    addresses = ", ".join(str(one.ip) for one in interface.addresses)
    return Part(
        f"{node.name}: {node.guest_kind.title}, {registry.nic(interface.model).told}",
        "guest",
        node.host,
        (Point(point.name, "sender guest" if leaving else "receiver guest", addresses),)
        * point.inside,  # else it is told with the bridge
        _wire(interface) if leaving else "",
    )


def _router(element: RouterElement, here: Traversal) -> Part:
    router = element.router
    into, out = (point.name for point in here.points if point.inside)
    where = " in dom0" if router.host else ""
    return Part(
        f"{router.name}: router{where}, kind {router.kind}",
        "router",
        router.host,
        (Point(into, "router in", "veth"), Point(out, "router out", "veth")),
        _VETH,
    )


def _forwarding(element: ForwardingGuest, here: Traversal) -> Part:
    node = element.node
    leaving = _interface(node, here.exit)
    inner = [point.name for point in here.points if point.inside]  # none in one nobody looks into
    roles: tuple[Role, Role] = ("router in", "router out")
    return Part(
        f"{node.name}: router, {node.guest_kind.title}, {registry.nic(leaving.model).told}",
        "router",
        node.host,
        tuple(Point(name, role, leaving.model) for name, role in zip(inner, roles, strict=False)),
        _wire(leaving),
    )


def _along(wire: Wire, here: Traversal, passed: Sequence[Traversal]) -> Part:
    """Return a wire with its points; they play the part of the bridge's port before them."""
    behind = any(isinstance(one.element, RouterElement | ForwardingGuest) for one in passed)
    role: Role = "router out host" if behind else "sender host"
    return Part(
        f"{wire.name}: {wire.segment.kind}",
        "bridge",
        "",
        tuple(Point(point.name, role, wire.segment.kind) for point in here.points),
        _VETH,
    )


def _bridge(topology: Topology, segment: Segment, before: Traversal, after: Traversal) -> Part:
    """Return the bridge between two elements, with the port of each."""
    link = topology.networks[segment.network].bridge_of(segment.name)
    return Part(
        f"{link}: bridge in dom0" if segment.host else f"{link}: bridge",
        "bridge",
        segment.host,
        tuple(
            _port(beside.element, point, first=beside is before)
            for beside, point in ((before, before.points[-1]), (after, after.points[0]))
            if not isinstance(beside.element, Wire)  # they are told with the wire
        ),
        _below(after),
    )


def _port(element: Element, point: ObservationPoint, *, first: bool) -> Point:
    """Return the port of an element at a bridge: the one a packet comes by (`first`) or goes by."""
    if isinstance(element, RouterElement | ForwardingGuest):
        end = "veth" if isinstance(element, RouterElement) else element.node.guest_kind.outer.told
        return Point(point.name, "router out host" if first else "router in host", end)
    if isinstance(element, Uplink):
        if point.inside:
            return Point(point.name, "uplink inner", f"uplink, {element.interface.model}")
        return Point(point.name, "uplink outer", element.node.guest_kind.outer.told)
    role: Role = "sender host" if first else "receiver host"
    assert isinstance(element, GuestElement)
    return Point(point.name, role, element.node.guest_kind.outer.told)


def _below(after: Traversal) -> str:
    """Say what is between a bridge and the element after it."""
    element = after.element
    if isinstance(element, Uplink):
        return _wire(element.interface)
    if isinstance(element, GuestElement | ForwardingGuest):
        return _wire(_interface(element.node, after.entry))
    return _VETH


def _interface(node: Node, port: Port | None) -> Interface:
    """Return the interface that a guest's port is of."""
    return next(one for one in node.interfaces if port and one.name == port.interface)


def _wire(interface: Interface) -> str:
    """Say what is between a NIC and its TAP or vif."""
    return registry.nic(interface.model).way_out


def points(parts: tuple[Part, ...]) -> list[Point]:
    """Return the observation points of a way, in the packet's order."""
    return [point for part in parts for point in part.points]
