"""The hops between two nodes, by the topology: where a packet passes and can be observed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from labctl.errors import UsageError
from labctl.topology.model import Interface, Node, Router, RouterInterface, Topology

Place = Literal["guest", "host", "router"]


@dataclass(frozen=True)
class Hop:
    """One observation point.

    Its name tells the place: `vm1:eth0` is inside a node or router, `vm1-eth0` the host's end of
    that interface (a TAP or vif, or a veth at the bridge).
    """

    name: str
    place: Place
    owner: str
    """The node or router it belongs to."""
    link: str
    """The link's name where it is observed."""
    host: str = ""
    """The Xen host in whose dom0 it is observed, unless inside a guest; empty for the lab's own."""


def node_hops(node: Node, interface: Interface) -> tuple[Hop, Hop]:
    """Return the hop inside a guest and the one at its TAP or vif."""
    return (
        Hop(f"{node.name}:{interface.name}", "guest", node.name, interface.name),
        Hop(interface.tap, "host", node.name, interface.tap, node.host),
    )


def router_hops(router: Router, interface: RouterInterface) -> tuple[Hop, Hop]:
    """Return the hop at the bridge's end of a router's veth and the one inside the router."""
    inside = f"{router.name}:{interface.name}"
    return (
        Hop(interface.peer, "host", router.name, interface.peer, router.host),
        Hop(inside, "router", router.name, interface.name, router.host),
    )


def hops(
    topology: Topology, source: str, destination: str, interface: str | None = None
) -> tuple[Hop, ...]:
    """Return the hops from one node to another over the fewest routers.

    `interface` names the one to use at both ends; None lets any be used. Raises `UsageError` when
    no chain of networks, uplinks and routers joins them, or one end is a Xen host.
    """
    first, last = topology.nodes[source], topology.nodes[destination]
    for node in (first, last):
        if node.hypervisor:
            raise UsageError(f"{node.name} is a Xen host", "name two guests: packets pass its dom0")
    goals = {one.network: one for one in _interfaces(last, interface)}
    # A network that spans a Xen host has two bridges: where a packet is takes both to say.
    waiting: deque[tuple[str, str, tuple[Hop, ...]]] = deque(
        (one.network, first.host, node_hops(first, one)) for one in _interfaces(first, interface)
    )
    seen: set[tuple[str, str]] = set()
    while waiting:
        network, host, walked = waiting.popleft()
        if network in goals and host == last.host:
            guest, tap = node_hops(last, goals[network])
            return (*walked, tap, guest)
        if (network, host) in seen:
            continue
        seen.add((network, host))
        for beyond, crossed in _uplinks(topology, network, host):
            waiting.appendleft((network, beyond, (*walked, *crossed)))
        for router in topology.routers.values():
            if router.host != host:
                continue
            for arriving, leaving in _passages(router, network):
                into = router_hops(router, arriving)
                outside, inside = router_hops(router, leaving)
                waiting.append((leaving.network, host, (*walked, *into, inside, outside)))
    raise UsageError(
        f"no network or router joins {source} and {destination}",
        "give them an interface on one network, or a router between theirs",
    )


def _uplinks(topology: Topology, network: str, host: str) -> Iterator[tuple[str, tuple[Hop, Hop]]]:
    """Yield the other bridges of a network, and the hops to each from the one in `host`."""
    for node in topology.xen_hosts():
        for interface in node.interfaces:
            inner, outer = node_hops(node, interface)
            if interface.network == network and host == node.name:
                yield "", (inner, outer)
            elif interface.network == network and not host:
                yield node.name, (outer, inner)


def _interfaces(node: Node, name: str | None) -> list[Interface]:
    return [one for one in node.interfaces if name in (None, one.name)]


def _passages(router: Router, network: str) -> list[tuple[RouterInterface, RouterInterface]]:
    return [
        (arriving, leaving)
        for arriving in router.interfaces
        if arriving.network == network
        for leaving in router.interfaces
        if leaving.network != network
    ]
