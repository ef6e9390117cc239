"""What is to be drawn of a lab: its nodes, routers and bridges, and the interfaces between them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from labctl.kinds import links
from labctl.topology.model import Network, Segment, Topology
from labctl.topology.points import ObservationPoint


@dataclass(frozen=True)
class Element:
    """A node, a router or a network; a Xen host with anything in it is a frame."""

    key: str
    kind: Literal["node", "router", "network"]
    name: str
    what: str
    """Its kind in words, such as `guest` or `dom0 bridge`."""
    labels: str = ""
    host: str = ""
    """Key of the frame it is in; empty for none."""


@dataclass(frozen=True)
class Edge:
    """An interface: `owner` is plugged into `network`; its two hops, inside and outside.

    An uplink's owner is the bridge in dom0, a wire's the bridge before it.
    """

    owner: str
    network: str
    inside: str
    outside: str
    labels: str = ""


@dataclass(frozen=True)
class Map:
    """What is to be drawn, in the order of the main row."""

    elements: tuple[Element, ...]
    edges: tuple[Edge, ...]
    row: tuple[str, ...]
    """Keys of the elements in the main row."""
    frames: tuple[Element, ...] = ()
    """Xen hosts that enclose elements."""
    left_out: int = 0
    """Elements that are not drawn, because they are many."""


MOST = 64
"""Elements of a drawing. More cannot be told apart; and each is put where its lines cross fewest,
which took 4 s for 200 and did not end for 6,000."""


def bounded(drawn: Map) -> Map:
    """Return a map with what is nearest to its row, `MOST` elements in all, if it has more."""
    if len(drawn.elements) <= MOST:
        return drawn
    beside: dict[str, list[str]] = {}
    for edge in drawn.edges:
        beside.setdefault(edge.owner, []).append(edge.network)
        beside.setdefault(edge.network, []).append(edge.owner)
    near = dict.fromkeys(drawn.row)
    for key in (waiting := list(near)):  # grows while it is gone through
        for other in beside.get(key, ()):
            if len(near) < MOST and other not in near:
                near[other] = None
                waiting.append(other)
    for one in drawn.elements:  # what is joined to nothing near
        if len(near) < MOST:
            near.setdefault(one.key)
    elements = tuple(one for one in drawn.elements if one.key in near)
    edges = tuple(edge for edge in drawn.edges if edge.owner in near and edge.network in near)
    hosts = {one.host for one in elements}
    frames = tuple(frame for frame in drawn.frames if frame.key in hosts)
    left_out = len(drawn.elements) - len(elements)
    return Map(elements, edges, drawn.row, frames, left_out)


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in labels.items())


def of_topology(
    topology: Topology,
    path: Sequence[ObservationPoint],
    kinds: Mapping[str, str] | None = None,
) -> Map:
    """Return the map of a topology whose main row is what `path` passes.

    `kinds` says what forwards in its routers, where that is known.
    """
    known = kinds or {}
    xen = {node.name for node in topology.xen_hosts()}
    elements = {}
    edges = []
    for node in topology.nodes.values():
        kind = node.guest_kind
        # What lives in the lab itself is told from what lives on a host.
        what = kind.title if xen and not kind.home else kind.short
        if node.forwards:
            what = ", ".join((_router("router", known.get(node.name)), what))
        elements[node.name] = Element(
            node.name, "node", node.name, what, _labels(node.labels), node.host
        )
        for nic in node.interfaces:
            inside = f"{node.name}:{nic.name}"
            outer = _bridge(nic.network, node.host, nic.segment)
            owner = _bridge(nic.network, node.name) if kind.is_host else node.name
            edges.append(Edge(owner, outer, inside, nic.tap, _labels(nic.labels)))
    for router in topology.routers.values():
        what = _router("router in dom0" if router.host else "router", known.get(router.name))
        elements[router.name] = Element(
            router.name, "router", router.name, what, _labels(router.labels), router.host
        )
        for port in router.interfaces:
            inside = f"{router.name}:{port.name}"
            bridge = _bridge(port.network, router.host, port.segment)
            edges.append(Edge(router.name, bridge, inside, port.peer, _labels(port.labels)))
    inner = {name: topology.inside(name).networks for name in xen}
    spanning = {network.name for networks in inner.values() for network in networks}
    for network in topology.outer_networks():
        what = "lab bridge" if network.name in spanning else "network"
        for segment in network.segments:
            if not segment.is_wire:
                key = _bridge(network.name, "", segment.name)
                elements[key] = _segment(network, segment, key, what)
        if not network.segments:
            elements[_bridge(network.name, "")] = _network(network, "", what)
        edges += _wires(network)
    for host, networks in inner.items():
        for network in networks:
            elements[_bridge(network.name, host)] = _network(network, host, "dom0 bridge")
    frames = [elements.pop(name) for name in topology.nodes if name in xen and inner[name]]
    edges = [edge for edge in edges if {edge.network, edge.owner} <= elements.keys()]
    row = _row(path, {hop: e for e in edges for hop in (e.inside, e.outside)})
    return Map(tuple(elements.values()), tuple(edges), row or tuple(elements)[:1], tuple(frames))


def _router(words: str, kind: str | None) -> str:
    return f"{words}, {kind}" if kind else words


def _bridge(network: str, host: str, segment: str = "") -> str:
    """Return the key of a network's bridge in the lab, or in the dom0 of a Xen host."""
    if segment:
        return f"net {network}/{segment}"
    return f"net {network} in {host}" if host else f"net {network}"


def _segment(network: Network, segment: Segment, key: str, what: str) -> Element:
    """Return a segment; one that is the whole network is called as that is."""
    alone = len(network.segments) == 1
    kind = what if segment.kind == links.DEFAULT else segment.kind
    name = network.name if alone else f"{network.name}/{segment.name}"
    return Element(key, "network", name, kind, _labels(network.labels), "")


def _wires(network: Network) -> list[Edge]:
    """Return the wires of a network, each with its first and last point."""
    edges = []
    for before, wire, after in network.joined():
        one, other = (_bridge(network.name, "", part.name) for part in (before, after))
        points = wire.plan.points or wire.plan.ends
        edges.append(Edge(one, other, points[0], points[-1], f"{wire.name}: {wire.kind}"))
    return edges


def _network(network: Network, host: str, what: str) -> Element:
    key = _bridge(network.name, host)
    return Element(key, "network", network.name, what, _labels(network.labels), host)


def of_path(path: Sequence[ObservationPoint]) -> Map:
    """Return the map of what a path alone tells: its nodes and routers, bridges between them.

    An uplink of a Xen host is between two bridges.
    """
    ports = _ports(path)
    elements: dict[str, Element] = {}
    edges: list[Edge] = []
    at = ""  # the bridge where the packet is; empty while it is in something else

    def bridge() -> str:
        key = f"net {len(elements)}"
        elements[key] = Element(key, "network", "bridge", "network")
        return key

    for number, (inside, outside, leaving) in enumerate(ports):
        between = at and number + 1 < len(ports)
        if between and inside.of_uplink:
            beyond = bridge()
            ends = (at, beyond) if leaving else (beyond, at)
            edges.append(Edge(*ends, inside.name, outside.name))
            at = beyond
            continue
        kind: Literal["node", "router"] = "node" if inside.in_guest else "router"
        what = "guest" if kind == "node" else "router"
        if leaving:
            elements.setdefault(inside.element, Element(inside.element, kind, inside.element, what))
        at = at or bridge()
        elements.setdefault(inside.element, Element(inside.element, kind, inside.element, what))
        edges.append(Edge(inside.element, at, inside.name, outside.name))
        if not leaving:
            at = ""
    return Map(tuple(elements.values()), tuple(edges), tuple(elements))


def _ports(
    path: Sequence[ObservationPoint],
) -> list[tuple[ObservationPoint, ObservationPoint, bool]]:
    """Return the interfaces on a path: the hops inside and outside, whether it leaves its owner."""
    found = []
    for one, other in itertools.pairwise(path):
        if one.element == other.element and one.inside is not other.inside:
            leaving = other.at_bridge
            found.append((one, other, True) if leaving else (other, one, False))
    return found


def _row(path: Sequence[ObservationPoint], edges: Mapping[str, Edge]) -> tuple[str, ...]:
    row: list[str] = []
    for hop in path:
        edge = edges.get(hop.name)
        if edge is None:
            continue
        key = edge.network if hop.at_bridge else edge.owner
        if key not in row:
            row.append(key)
    return tuple(row)
