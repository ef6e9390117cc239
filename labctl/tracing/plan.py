"""Where a flow is to be observed, and between which addresses it goes."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.errors import UsageError
from labctl.lab.lab import Lab
from labctl.topology.graph import PacketPath, find_path, observed
from labctl.topology.points import ObservationPoint, inside_guest, inside_router
from labctl.tracing.flow import Flow, Protocol


def plan(
    lab: Lab,
    source: str,
    destination: str,
    protocol: Protocol,
    port: int | None,
    *,
    version: int | None = None,
    to: str = "",
    at: Sequence[str] = (),
    observers: Sequence[str] = (),
) -> tuple[Flow, tuple[ObservationPoint, ...]]:
    """Return the flow and the hops to observe it at.

    `to` is an address of the destination that the topology does not know, `at` names further
    devices as OWNER:LINK, `observers` what is to look beside the packet sockets. Raises
    `UsageError` for what the lab does not have.
    """
    for name in (source, destination):
        if name in lab.topology.routers:
            raise UsageError(f"{name} is a router", "name two nodes; a trace passes the routers")
        lab.node(name)
    if source == destination:
        raise UsageError(f"{source} is both ends", "name two different nodes")
    if lab.topology.nodes[source].console_only:
        raise UsageError(
            f"{source} has a console only: nothing can be sent from it",
            f"trace the other way: labctl trace {destination} {source}",
        )
    route = find_path(lab.topology, source, destination)
    path = route.points
    if to:
        flow = Flow(protocol, port, 6 if ":" in to else 4, "", to)
    else:
        flow = _addressed(lab, route, protocol, port, version)
    for name in at:
        path = _with_device(lab, path, name)
    return flow, observed(path, observers)


def _addressed(
    lab: Lab,
    route: PacketPath,
    protocol: Protocol,
    port: int | None,
    version: int | None,
) -> Flow:
    first, last = route.points[0].element, route.points[-1].element
    leaves, comes = route.traversals[0].exit, route.traversals[-1].entry
    assert leaves
    assert comes
    wanted = [version] if version else [4, 6]
    for number, one in enumerate(wanted):
        try:
            there = lab.node(first).address(one, leaves.interface)
            back = lab.node(last).address(one, comes.interface)
        except UsageError:
            if number == len(wanted) - 1:
                raise
            continue
        return Flow(protocol, port, one, there, back)
    raise AssertionError("unreachable")


def _with_device(
    lab: Lab, path: tuple[ObservationPoint, ...], name: str
) -> tuple[ObservationPoint, ...]:
    """Put a device that the topology does not know beside the hops of its owner."""
    owner, _, link = name.partition(":")
    if not link or any(hop.name == name for hop in path):
        hint = "write OWNER:LINK, such as vm1:vxlan0"
        raise UsageError(f"{name!r} is not a further device", hint)
    if owner in lab.topology.routers:
        its = [i for i, hop in enumerate(path) if hop.element == owner and hop.in_router]
        hop = inside_router(owner, link, lab.topology.routers[owner].host)
        if its:
            return (*path[: its[0] + 1], hop, *path[its[0] + 1 :])
    elif owner in (hop.element for hop in path if hop.of_guest):
        node = lab.topology.nodes[owner]
        hop = inside_guest(
            owner, link, is_machine=node.guest_kind.is_machine, forwards=node.forwards
        )
        its = [i for i, hop in enumerate(path) if hop.element == owner and hop.in_router]
        if node.forwards and its:
            return (*path[: its[0] + 1], hop, *path[its[0] + 1 :])
        return (hop, *path) if owner == path[0].element else (*path, hop)
    raise UsageError(f"{owner} is not on the way", f"the way: {', '.join(h.name for h in path)}")
