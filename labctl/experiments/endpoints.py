"""The two ends of a probe: what was named becomes a guest, and an address to send to."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from labctl.errors import UsageError, nearest, shown
from labctl.lab.lab import Lab
from labctl.lab.node import Node
from labctl.topology.graph import find_path, no_endpoint
from labctl.topology.model import Node as NodeModel
from labctl.topology.model import Router, Topology

PORTS = range(1, 1 << 16)


@dataclass(frozen=True)
class Endpoints:
    """Who sends, and to what."""

    client: Node
    destination: str
    """The node or router that has the address."""
    server: Node | None
    """It, where it is a guest; None for a router, which has no programs to talk to."""
    address: str
    version: int
    """The IP version of the address: 4 or 6."""

    def guest(self, what: str) -> Node:
        """Return the guest at the other end; raises `UsageError` for a router, naming `what`."""
        if self.server is None:
            raise UsageError(
                f"{self.destination} is a router: it has no {what}",
                "name a guest, or use probes.ping",
            )
        return self.server


def resolve(
    lab: Lab, source: str, destination: str, version: int, interface: str | None
) -> Endpoints:
    """Find both ends of a probe.

    `destination` is an address of a node or router of the lab, or the name of one. For a name the
    address is the first of that IP version, on `interface` where one is named, else on the one at
    which the path from the source ends if it has one there. Raises `UsageError` for what is not in
    the lab, for a Xen host as an end, and where both ends are one.
    """
    if version not in (4, 6):
        raise UsageError(f"there is no IP version {shown(version)}", "it is 4 or 6")
    topology = lab.topology
    if source in topology.routers:
        raise UsageError(f"{source} is a router: probes start at a guest", _guests(topology))
    client = lab.node(source)
    try:
        wanted = ip_address(destination)
    except ValueError:
        name = destination
        if name not in _elements(topology):
            raise UsageError(
                f"lab {lab.name} has no node or router {shown(name)}",
                nearest(name, _elements(topology)),
            ) from None
        address = _address(topology, source, name, version, interface)
    else:
        name = _owner(lab, wanted, interface)
        address = wanted
    for end in (source, name):
        if end in topology.nodes and (wrong := no_endpoint(topology.nodes[end])):
            raise wrong
    if name == source:
        raise UsageError(f"{source} to {source} passes no network", "name another node")
    server = lab.node(name) if name in topology.nodes else None
    return Endpoints(client, name, server, str(address), address.version)


def check_port(port: int) -> None:
    """Raise `UsageError` for what is no port of TCP or UDP."""
    if port not in PORTS:
        raise UsageError(f"there is no port {shown(port)}", f"ports are 1 to {PORTS[-1]}")


def _elements(topology: Topology) -> Mapping[str, NodeModel | Router]:
    return {**topology.nodes, **topology.routers}


def _guests(topology: Topology) -> str:
    names = ", ".join(node.name for node in topology.endpoints())
    return f"the guests are: {names or 'none'}"


def _owner(lab: Lab, wanted: IPv4Address | IPv6Address, interface: str | None) -> str:
    """Return the node or router that has an address, on `interface` if one is named."""
    for name, element in _elements(lab.topology).items():
        for one in element.interfaces:
            if wanted in [address.ip for address in one.addresses]:
                if interface not in (None, one.name):
                    raise UsageError(
                        f"{name} has {wanted} on {one.name}, not on {interface}",
                        "leave the interface out: the address says enough",
                    )
                return name
    raise UsageError(
        f"nobody in lab {lab.name} has the address {wanted}",
        "name a node or router, or an address that the topology gives to one",
    )


def _address(
    topology: Topology, source: str, name: str, version: int, interface: str | None
) -> IPv4Address | IPv6Address:
    """Return the address by which a source reaches a node or router."""
    interfaces = _elements(topology)[name].interfaces
    known = [one.name for one in interfaces]
    if interface is not None and interface not in known:
        raise UsageError(f"{name} has no interface {interface}", f"it has: {', '.join(known)}")
    found = {
        one.name: [address.ip for address in one.addresses if address.version == version]
        for one in interfaces
        if interface in (None, one.name)
    }
    found = {link: addresses for link, addresses in found.items() if addresses}
    if not found:
        where = f"{name}'s {interface}" if interface else name
        others = [str(a.ip) for one in interfaces for a in one.addresses]
        raise UsageError(
            f"{where} has no IPv{version} address", f"{name} has: {', '.join(others) or 'none'}"
        )
    nearby = _last_link(topology, source, name)
    return found[nearby if nearby in found else next(iter(found))][0]


def _last_link(topology: Topology, source: str, name: str) -> str:
    """Return the interface of `name` at which the way from the source ends; empty where none is."""
    if name in topology.routers:
        near = {one.network for one in topology.nodes[source].interfaces}
        links = (one.name for one in topology.routers[name].interfaces if one.network in near)
        return next(links, "")
    if name != source:
        with contextlib.suppress(UsageError):  # nothing joins them: let the probe tell
            last = find_path(topology, source, name).traversals[-1].entry
            return last.interface if last else ""
    return ""
