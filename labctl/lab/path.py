"""The hops between two nodes, by the topology: where a packet passes and can be observed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from labctl.errors import UsageError
from labctl.topology.model import Interface, Router, RouterInterface, Topology

Place = Literal["guest", "host", "router"]


@dataclass(frozen=True)
class Hop:
    """One observation point.

    Its name tells the place: `vm1:eth0` is inside a node or router, `vm1-eth0` is the host's end of
    that interface (a TAP, or a veth at the bridge).
    """

    name: str
    place: Place
    owner: str
    """The node or router it belongs to."""
    link: str
    """The link's name where it is observed."""


def node_hops(node: str, interface: Interface) -> tuple[Hop, Hop]:
    """Return the hop inside a guest and the one at its TAP."""
    return (
        Hop(f"{node}:{interface.name}", "guest", node, interface.name),
        Hop(interface.tap, "host", node, interface.tap),
    )


def router_hops(router: str, interface: RouterInterface) -> tuple[Hop, Hop]:
    """Return the hop at the bridge's end of a router's veth and the one inside the router."""
    return (
        Hop(interface.peer, "host", router, interface.peer),
        Hop(f"{router}:{interface.name}", "router", router, interface.name),
    )


def hops(
    topology: Topology, source: str, destination: str, interface: str | None = None
) -> tuple[Hop, ...]:
    """Return the hops from one node to another over the fewest routers.

    `interface` names the one to use at both ends; None lets any be used. Raises `UsageError` when
    no chain of networks and routers joins them.
    """
    starts = _interfaces(topology, source, interface)
    goals = {one.network: one for one in _interfaces(topology, destination, interface)}
    waiting: deque[tuple[str, tuple[Hop, ...]]] = deque(
        (one.network, node_hops(source, one)) for one in starts
    )
    seen: set[str] = set()
    while waiting:
        network, walked = waiting.popleft()
        if network in goals:
            guest, tap = node_hops(destination, goals[network])
            return (*walked, tap, guest)
        if network in seen:
            continue
        seen.add(network)
        for router in topology.routers.values():
            for arriving, leaving in _passages(router, network):
                into = router_hops(router.name, arriving)
                outside, inside = router_hops(router.name, leaving)
                waiting.append((leaving.network, (*walked, *into, inside, outside)))
    raise UsageError(
        f"no network or router joins {source} and {destination}",
        "give them an interface on one network, or a router between theirs",
    )


def _interfaces(topology: Topology, node: str, name: str | None) -> list[Interface]:
    return [one for one in topology.nodes[node].interfaces if name in (None, one.name)]


def _passages(router: Router, network: str) -> list[tuple[RouterInterface, RouterInterface]]:
    return [
        (arriving, leaving)
        for arriving in router.interfaces
        if arriving.network == network
        for leaving in router.interfaces
        if leaving.network != network
    ]
