"""Whether addresses and routes of a topology fit together."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

from labctl.topology import model
from labctl.topology.tree import Loc, Report

_Owner = model.Node | model.Router
_Interface = IPv4Interface | IPv6Interface


def check(topology: model.Topology, report: Report) -> None:
    """Report every address and route that does not fit."""
    sound = {name for name in topology.networks if report.whole(("networks", name))}
    seen: dict[tuple[str, IPv4Address | IPv6Address], str] = {}
    for loc, address, network, holder in _addresses(topology):
        _host_part(loc, address, report)
        # Link-local addresses need to be unique on their link alone (RFC 4291, section 2.5.6).
        scope = network if address.ip.is_link_local else ""
        if (scope, address.ip) in seen:
            other = seen[scope, address.ip]
            report.add(loc, f"the address {address.ip} is also {other}'s")
        seen.setdefault((scope, address.ip), holder)
        if network in sound:
            _in_subnet(loc, address, topology.networks[network], report)
    for loc, owner in _owners(topology):
        _routes(loc, owner, report)


def _owners(topology: model.Topology) -> Iterator[tuple[Loc, _Owner]]:
    for name, node in topology.nodes.items():
        yield ("nodes", name), node
    for name, router in topology.routers.items():
        yield ("routers", name), router


def _addresses(topology: model.Topology) -> Iterator[tuple[Loc, _Interface, str, str]]:
    """Yield place, address, network and holder of every address."""
    for name, network in topology.networks.items():
        for at, address in enumerate(network.addresses):
            yield ("networks", name, "addresses", at), address, name, f"network {name}"
    for loc, owner in _owners(topology):
        interfaces: tuple[model.Interface | model.RouterInterface, ...] = owner.interfaces
        for index, interface in enumerate(interfaces):
            for at, address in enumerate(interface.addresses):
                here = (*loc, "interfaces", index, "addresses", at)
                yield here, address, interface.network, f"{owner.name}'s {interface.name}"


def _host_part(loc: Loc, address: _Interface, report: Report) -> None:
    if kind := _special(address.ip, address.network):
        report.add(loc, f"{address} is {kind} address, not a host's")


def _special(ip: IPv4Address | IPv6Address, network: IPv4Network | IPv6Network) -> str:
    """Say whose address of a network this is, where it cannot be a host's; else nothing."""
    if network.prefixlen >= network.max_prefixlen - 1:  # /31, /127 and hosts: every address counts
        return ""
    if ip == network.network_address:
        return "the network's own" if ip.version == 4 else "the routers' anycast"
    if ip.version == 4 and ip == network.broadcast_address:
        return "the network's broadcast"
    return ""


def _in_subnet(loc: Loc, address: _Interface, network: model.Network, report: Report) -> None:
    if not network.subnets or (address.version == 6 and address.ip.is_link_local):
        return
    around = [
        subnet
        for subnet in network.subnets
        if subnet.version == address.version and address.ip in subnet
    ]
    if not around:
        subnets = ", ".join(str(subnet) for subnet in network.subnets)
        report.add(loc, f"{address} is outside network {network.name}", f"its subnets: {subnets}")
    elif address.network.prefixlen not in [subnet.prefixlen for subnet in around]:
        message = f"{address} and the subnet {around[0]} differ in prefix length"
        report.add(loc, message, f"did you mean {address.ip}/{around[0].prefixlen}?")


def _routes(loc: Loc, owner: _Owner, report: Report) -> None:
    mine = [address for interface in owner.interfaces for address in interface.addresses]
    networks = {address.network for address in mine}
    own = {address.ip for address in mine}
    complete = report.whole((*loc, "interfaces")) or not owner.interfaces
    seen: set[object] = set()
    for index, route in enumerate(owner.routes):
        here: Loc = (*loc, "routes", index)
        if route.to.version != route.via.version:
            message = f"{route.to} is IPv{route.to.version}, but its gateway {route.via} is not"
            report.add((*here, "via"), message, f"name an IPv{route.to.version} gateway")
            continue
        if route.to in seen:
            report.add((*here, "to"), f"{owner.name} has a route to {route.to} already")
        seen.add(route.to)
        if route.to in networks:
            message = f"{owner.name} has an interface on {route.to}: it needs no route there"
            report.add((*here, "to"), message, "leave the route out")
        if route.via in own:
            message = f"the gateway {route.via} is {owner.name}'s own address"
            report.add((*here, "via"), message, "name the router's address")
        elif complete and not any(route.via in network for network in networks):
            same = [network for network in networks if network.version == route.via.version]
            reach = ", ".join(sorted(str(network) for network in same)[:4])
            hint = f"on its interfaces: {reach}" if reach else "it has no address of that family"
            report.add((*here, "via"), f"{owner.name} cannot reach the gateway {route.via}", hint)
        elif route.via.version == 4:  # IPv6's anycast address is each router's of the network
            kinds = [_special(route.via, network) for network in networks if route.via in network]
            if kind := next(filter(None, kinds), ""):
                message = f"the gateway {route.via} is {kind} address, not a router's"
                report.add((*here, "via"), message, "name the router's address")
