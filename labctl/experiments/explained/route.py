"""The way of a packet through a topology, part by part: guests, bridges, uplinks, routers.

A network is one segment, but it may have a bridge in the lab and one in each Xen host; the uplinks
of those hosts join them. So a place on the way is a network and the host whose dom0 it is in, and
"" is the lab itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from labctl.errors import UsageError
from labctl.experiments.explained.model import Role, Way
from labctl.topology.model import Interface, Node, Router, RouterInterface, Topology

Port = Literal["vif", "TAP", "veth", "NIC"]


@dataclass(frozen=True)
class Point:
    """An observation point, named as hops are: `vm1:eth0` inside, `vm1-eth0` the other end."""

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


_Place = tuple[str, str]
_RING = "Xen rings and grants, event channel"
_VIRTIO = "virtqueue, QEMU, /dev/net/tun"
_VETH = "veth pair"


def route(topology: Topology, way: Way) -> tuple[Part, ...]:
    """Return the parts between two guests, over the fewest places.

    Where the way's nodes are not in the topology, the first and the last guest stand for them.
    Raises `UsageError` when nothing joins the two.
    """
    guests = [node for node in topology.nodes.values() if not node.hypervisor]
    source = topology.nodes.get(way.source, guests[0])
    destination = topology.nodes.get(way.destination, guests[-1])
    goals = {
        (one.network, destination.host): one for one in _interfaces(destination, way.interface)
    }
    waiting: deque[tuple[_Place, tuple[_Step, ...]]] = deque(
        ((one.network, source.host), (_Leave(source, one),))
        for one in _interfaces(source, way.interface)
    )
    seen: set[_Place] = set()
    while waiting:
        place, steps = waiting.popleft()
        if place in goals:
            return _parts(topology, (*steps, _Arrive(destination, goals[place])))
        if place not in seen:
            seen.add(place)
            waiting += [(then, (*steps, step)) for then, step in _onward(topology, place)]
    raise UsageError(f"no network or router joins {source.name} and {destination.name}")


@dataclass(frozen=True)
class _Leave:
    node: Node
    interface: Interface


@dataclass(frozen=True)
class _Arrive:
    node: Node
    interface: Interface


@dataclass(frozen=True)
class _Uplink:
    node: Node
    interface: Interface
    outward: bool


@dataclass(frozen=True)
class _Through:
    router: Router
    arriving: RouterInterface
    leaving: RouterInterface


_Step = _Leave | _Arrive | _Uplink | _Through


def _interfaces(node: Node, name: str | None) -> list[Interface]:
    named = [one for one in node.interfaces if name in (None, one.name)]
    return named or list(node.interfaces)


def _onward(topology: Topology, place: _Place) -> Iterator[tuple[_Place, _Step]]:
    network, host = place
    for node in topology.xen_hosts():
        for uplink in node.interfaces:
            if uplink.network == network and host in ("", node.name):
                outward = host == node.name
                yield (network, "" if outward else node.name), _Uplink(node, uplink, outward)
    for router in topology.routers.values():
        for arriving in router.interfaces:
            for leaving in router.interfaces:
                onward = leaving.network != network and arriving.network == network
                if onward and router.host == host:
                    yield (leaving.network, host), _Through(router, arriving, leaving)


def _parts(topology: Topology, steps: tuple[_Step, ...]) -> tuple[Part, ...]:
    """Put a bridge between any two steps, with the port of each."""
    parts: list[Part] = []
    last: tuple[str, str, Point] | None = None  # the network, the host, the port before the bridge
    for step in steps:
        before, after = _ports(step)
        if last is not None and before is not None:
            network, host, port = last
            link = topology.networks[network].bridge
            title = f"{link}: bridge in dom0" if host else f"{link}: bridge"
            parts.append(Part(title, "bridge", host, (port, before), _below(step)))
        own = _part(step)
        if own is not None:
            parts.append(own)
        last = after
    return tuple(parts)


def _ports(step: _Step) -> tuple[Point | None, tuple[str, str, Point] | None]:
    """Return the port a packet leaves a bridge by to this step, and the one it comes back by."""
    if isinstance(step, _Through):
        router, into, out = step.router, step.arriving, step.leaving
        return (
            Point(into.peer, "router in host", "veth"),
            (out.network, router.host, Point(out.peer, "router out host", "veth")),
        )
    node, interface = step.node, step.interface
    if isinstance(step, _Uplink):
        inner = Point(f"{node.name}:{interface.name}", "uplink inner", f"uplink, {interface.model}")
        outer = Point(interface.tap, "uplink outer", "TAP")
        network = interface.network
        if step.outward:
            return inner, (network, "", outer)
        return outer, (network, node.name, inner)
    kind = "vif, netback" if node.host else "TAP"
    if isinstance(step, _Leave):
        return None, (interface.network, node.host, Point(interface.tap, "sender host", kind))
    return Point(interface.tap, "receiver host", kind), None


def _below(step: _Step) -> str:
    """What is between a bridge and this step."""
    if isinstance(step, _Through):
        return _VETH
    return _wire(step.node, step.interface)


def _wire(node: Node, interface: Interface) -> str:
    if node.host:
        return _RING
    return _VIRTIO if interface.model == "virtio" else f"{interface.model} of QEMU, /dev/net/tun"


def _part(step: _Step) -> Part | None:
    if isinstance(step, _Uplink):
        return None
    if isinstance(step, _Through):
        router = step.router
        names = [f"{router.name}:{one.name}" for one in (step.arriving, step.leaving)]
        points = (
            Point(names[0], "router in", "veth"),
            Point(names[1], "router out", "veth"),
        )
        where = " in dom0" if router.host else ""
        title = f"{router.name}: router{where}, kind {router.kind}"
        return Part(title, "router", router.host, points, _VETH)
    node, interface = step.node, step.interface
    leaving = isinstance(step, _Leave)
    role: Role = "sender guest" if leaving else "receiver guest"
    addresses = ", ".join(str(one.ip) for one in interface.addresses)
    driver = "netfront" if node.host else interface.model
    title = f"{node.name}: {'Xen PV guest' if node.host else 'QEMU guest'}, {driver}"
    point = Point(f"{node.name}:{interface.name}", role, addresses)
    between = _wire(node, interface) if leaving else ""
    return Part(title, "guest", node.host, (point,), between)


def points(parts: tuple[Part, ...]) -> list[Point]:
    """Return the observation points of a way, in the packet's order."""
    return [point for part in parts for point in part.points]
