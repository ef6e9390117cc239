"""The interfaces of a lab, each with its other end at the network."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.errors import UsageError, nearest
from labctl.topology.model import Interface, RouterInterface, Topology


@dataclass(frozen=True)
class Port:
    """An interface of a node or a router, and its other end at the network."""

    owner: str
    """The node or the router."""
    interface: Interface | RouterInterface
    outer: str
    """The link at the network's bridge: a TAP, a vif, or one end of a veth pair."""
    host: str
    """The Xen host that it is on, if it is on one."""
    by_qemu: bool = False
    """Whether the carrier is QEMU's to give: that of a TAP is not the guest's."""

    @property
    def name(self) -> str:
        """What it is called: `NODE:INTERFACE`."""
        return f"{self.owner}:{self.interface.name}"


def ports(topology: Topology) -> list[Port]:
    """Return every interface of nodes and routers, in the topology's order."""
    found = []
    for node in topology.nodes.values():
        by_qemu = node.guest_kind.is_machine and not node.host
        found += [Port(node.name, one, one.tap, node.host, by_qemu) for one in node.interfaces]
    for router in topology.routers.values():
        found += [Port(router.name, one, one.peer, router.host) for one in router.interfaces]
    return found


def port(topology: Topology, word: str) -> Port:
    """Return the interface that a word names: `NODE:INTERFACE`, or NODE where it has but one.

    Raises `UsageError` for one that there is not.
    """
    owner, colon, interface = word.partition(":")
    its = [one for one in ports(topology) if one.owner == owner]
    if not its:
        known = [*topology.nodes, *topology.routers]
        raise UsageError(f"there is no node or router {owner}", nearest(owner, known))
    if not colon and len(its) == 1:
        return its[0]
    for one in its:
        if one.interface.name == interface:
            return one
    names = ", ".join(one.name for one in its)
    if not colon:
        raise UsageError(f"{owner} has several interfaces", f"name one: {names}")
    raise UsageError(f"{owner} has no interface {interface}", f"it has: {names}")
