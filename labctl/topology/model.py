"""A topology with nothing left open: all defaults applied, all names and MAC addresses made.

This is what the rest of labctl works with. Objects are frozen and are written as JSON by their
annotations (`labctl.sandbox.codec`); what is in their dicts must not be changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path
from typing import Literal, TypeVar

from labctl.errors import UsageError, nearest, shown
from labctl.kinds import guests, nics, registry
from labctl.kinds.base import LinkPlan, Option
from labctl.kinds.guests.base import GuestKind, Hypervisor
from labctl.topology.disk_image import DiskImage
from labctl.topology.features import DEVICE_FEATURES
from labctl.topology.guest_tools import CONSOLE_ONLY, SCRIPTING, GuestTools
from labctl.topology.impairment import Impairment
from labctl.topology.login import ConsoleStep, Login
from labctl.topology.startup import StartFile

_T = TypeVar("_T")
Role = Literal["", "router"]
"""What `role:` in a topology may be; empty for none."""
ROUTER: Role = "router"
MGMT_BRIDGE = "mgmt"
"""The link name of the management bridge; no network can have it."""


@dataclass(frozen=True)
class Offload:
    """What to set at each layer; what is not named stays as it comes.

    `guest` and `tap` hold canonical ethtool features (groups first, see `features`), `device` names
    of `features.DEVICE_FEATURES`.
    """

    guest: dict[str, bool]
    tap: dict[str, bool]
    device: dict[str, bool]


@dataclass(frozen=True)
class Segment:
    """A part of a network that is made of several, or of one that is no bridge."""

    name: str
    kind: str
    """The name of a link kind (`labctl.kinds`)."""
    options: dict[str, Option]
    """What the topology says to the kind."""
    plan: LinkPlan
    """The links that it is made of."""

    @property
    def is_wire(self) -> bool:
        """Whether it joins the segments beside it, and nothing is plugged into it."""
        return bool(self.plan.ends)


@dataclass(frozen=True)
class Network:
    """What interfaces are plugged into; `mtu` in octets."""

    name: str
    bridge: str
    """The link name of its bridge, of the first one where it is of several segments."""
    mtu: int
    stp: bool
    subnets: tuple[IPv4Network | IPv6Network, ...]
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    labels: dict[str, str] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    """From one end to the other, bridges and the wires between them; empty for one bridge."""

    def bridge_of(self, segment: str) -> str:
        """Return the link that an interface in a segment is a port of; `segment` as it has it."""
        return next((one.plan.bridge for one in self.segments if one.name == segment), self.bridge)

    def joined(self) -> tuple[tuple[Segment, Segment, Segment], ...]:
        """Return every wire between the two segments that it joins: (before, wire, after)."""
        threes = zip(self.segments, self.segments[1:], self.segments[2:], strict=False)
        return tuple((one, wire, other) for one, wire, other in threes if wire.is_wire)

    def wires_at(self, segment: str) -> tuple[str, ...]:
        """Return the ends of wires that are plugged into a segment."""
        found = []
        for before, wire, after in self.joined():
            found += [wire.plan.ends[0]] if before.name == segment else []
            found += [wire.plan.ends[1]] if after.name == segment else []
        return tuple(found)

    def links(self) -> tuple[str, ...]:
        """Return the names of all links that it is made of, in the order in which they are."""
        if not self.segments:
            return (self.bridge,)
        return tuple(
            name for one in self.segments for link in one.plan.links for name in link.names
        )


@dataclass(frozen=True)
class Route:
    """A static route; a default route is 0.0.0.0/0 or ::/0."""

    to: IPv4Network | IPv6Network
    via: IPv4Address | IPv6Address


@dataclass(frozen=True)
class Interface:
    """A guest's NIC: `name` in the guest, `tap` the link name on the host's side.

    What that side is, a TAP, a vif or a veth, is said by the guest's kind (`GuestKind.outer`).
    """

    name: str
    network: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    mac: str
    model: str
    mtu: int
    offload: Offload
    tap: str
    labels: dict[str, str] = field(default_factory=dict)
    segment: str = ""
    """The segment of the network; empty where that is one bridge."""
    impairment: Impairment = field(default_factory=Impairment)
    """Of what reaches it from the network."""


def link_local(mac: str) -> str:
    """Return the IPv6 link-local address that a MAC gives (RFC 4291, appendix A)."""
    octets = [int(part, 16) for part in mac.split(":")]
    octets[0] ^= 0x02
    identifier = bytes([*octets[:3], 0xFF, 0xFE, *octets[3:]])
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


@dataclass(frozen=True)
class Node:
    """A guest; `memory` in MiB, `kernel` and `initramfs` in place of the image's where given.

    A Xen host has a `hypervisor`; its interfaces are uplinks, each in dom0's bridge of its network.
    A node with a `host` is a PV guest on that Xen host, and `mgmt_tap` is its second vif there.
    """

    name: str
    image: str
    """The name of a recipe's image; empty where it boots a `disk`."""
    kernel: Path | None
    initramfs: Path | None
    memory: int
    vcpus: int
    interfaces: tuple[Interface, ...]
    routes: tuple[Route, ...]
    mgmt_mac: str
    mgmt_tap: str
    labels: dict[str, str] = field(default_factory=dict)
    hypervisor: Hypervisor = ""
    host: str = ""
    kind: str = ""
    """The name of its guest kind, where that does not follow from its other keys."""
    clone: bool | None = None
    """Whether it may start from a saved state; None where it is for labctl to say."""
    disk: DiskImage | None = None
    """The disk image that it boots, in place of an image made by a recipe."""
    user_data: str = ""
    """What else its cloud-init is told, a mapping as JSON; empty for nothing."""
    user_data_file: Path | None = None
    """A file with that, in place of the above."""
    files: tuple[StartFile, ...] = ()
    """What is written into it when it has started."""
    exec: tuple[str, ...] = ()
    """What its shell runs then."""

    @property
    def _telling(self) -> tuple[str, str, str | None]:
        return self.hypervisor, self.host, None if self.disk else self.image

    role: Role = ""
    """`router`: it forwards between its interfaces."""
    forwarder: str = ""
    """What forwards in a router: the name of a forwarder (`labctl.kinds`); empty for its kernel."""
    forwarder_options: dict[str, Option] = field(default_factory=dict)
    """What the topology says to that."""
    login: Login | None = None
    """How to get into it by SSH, where labctl does not configure it."""
    console: tuple[ConsoleStep, ...] = ()
    """What is typed on its console when it starts."""
    console_only: bool = False
    """Whether nobody logs in: nothing is asked of it, and it is seen from outside only."""
    tools: GuestTools | None = None
    """What was found in its guest; None before, and where that is nobody's to ask."""

    @property
    def unseen(self) -> str:
        """Why nothing in it observes its interfaces; empty where something does, or may."""
        if self.console_only:
            return CONSOLE_ONLY
        return self.tools.unseen if self.tools else ""

    @property
    def is_configured(self) -> bool:
        """Whether labctl sets its names, addresses and keys: else that is for its image to do."""
        return self.login is None and not self.console_only

    @property
    def scripting(self) -> str:
        """The program that runs what labctl has it do, perl or python3; empty where none can."""
        if self.console_only:
            return ""
        if self.tools is None:
            return SCRIPTING[0]
        return next((one for one in SCRIPTING if one in self.tools.programs), "")

    @property
    def is_given(self) -> bool:
        """Whether it gets files, or commands are run in it, when it has started."""
        return bool(self.files or self.exec)

    @property
    def forwards(self) -> bool:
        """Whether paths pass it, as they pass a router."""
        return self.role == ROUTER

    @property
    def guest_kind(self) -> GuestKind:
        """Its kind (`labctl.kinds`); what its other keys tell, where that is not here.

        So whoever has a record can tell of it without its kind; what starts it asks `registry`.
        """
        found = registry.GUESTS.find(self.kind)
        return found or registry.guest(guests.derived(*self._telling))


@dataclass(frozen=True)
class RouterInterface:
    """A router's interface: `name` in its namespace, `peer` the veth's end at the bridge."""

    name: str
    network: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    mac: str
    mtu: int
    peer: str
    labels: dict[str, str] = field(default_factory=dict)
    segment: str = ""
    """The segment of the network; empty where that is one bridge."""
    impairment: Impairment = field(default_factory=Impairment)
    """Of what reaches it from the network."""


@dataclass(frozen=True)
class Router:
    """Forwards between networks; in dom0 of the Xen host `host`, if it has one."""

    name: str
    kind: str
    """What forwards in it: the name of a forwarder (`labctl.kinds`)."""
    interfaces: tuple[RouterInterface, ...]
    routes: tuple[Route, ...]
    labels: dict[str, str] = field(default_factory=dict)
    host: str = ""
    options: dict[str, Option] = field(default_factory=dict)
    """What the topology says to its kind."""


@dataclass(frozen=True)
class Inside:
    """What there is on one Xen host, in the topology's order."""

    networks: tuple[Network, ...]
    """The bridges in dom0. `addresses` are those of the bridge there: the uplink's, or the
    network's own where it is on this host only."""
    nodes: tuple[Node, ...]
    routers: tuple[Router, ...]
    uplinks: dict[str, Interface]
    """By network: the Xen host's interface that dom0 puts into the bridge of that network."""


@dataclass(frozen=True)
class Topology:
    """A lab as it shall be; `source` is the file it came from, if it came from one."""

    name: str
    networks: dict[str, Network]
    nodes: dict[str, Node]
    routers: dict[str, Router]
    source: Path | None

    def digest(self) -> str:
        """Return the SHA-256 (hexadecimal) of what makes it this topology (`topology.digest`)."""
        from labctl.topology.digest import digest  # which knows this module

        return digest(self)

    def bridges(self, thing: Node | Router) -> dict[str, str]:
        """Return the link that each interface of a node or router is a port of, by its name."""
        return {
            one.name: self.networks[one.network].bridge_of(one.segment) for one in thing.interfaces
        }

    def xen_hosts(self) -> tuple[Node, ...]:
        """Return the nodes that others may live on."""
        return tuple(node for node in self.nodes.values() if node.guest_kind.is_host)

    def endpoints(self) -> tuple[Node, ...]:
        """Return the nodes in which packets begin and end: all but hosts of others, and routers."""
        nodes = (node for node in self.nodes.values() if node.guest_kind.is_endpoint)
        return tuple(node for node in nodes if not node.forwards)

    def forwarding_nodes(self) -> tuple[Node, ...]:
        """Return the nodes that are routers."""
        return tuple(node for node in self.nodes.values() if node.forwards)

    def unseen(self, names: Collection[str] | None = None) -> list[str]:
        """Say of which nodes, of all or of those named, nobody looks into them, and why.

        What cannot be told of those is taken for nothing: their outer ends are the nearest hops.
        """
        return [
            f"{node.name} is seen from outside only: {node.unseen}"
            for node in self.nodes.values()
            if node.unseen and node.guest_kind.is_endpoint and (names is None or node.name in names)
        ]

    def answers(self, name: str) -> bool:
        """Tell whether a node or router can be asked anything: not one that has a console only."""
        return name not in self.nodes or not self.nodes[name].console_only

    def with_tools(self, found: Mapping[str, GuestTools | None]) -> Topology:
        """Return a copy that has what was found in guests, by their names."""
        new = {
            name: dataclasses.replace(self.nodes[name], tools=one) for name, one in found.items()
        }
        return dataclasses.replace(self, nodes={**self.nodes, **new})

    def outer_nodes(self) -> tuple[Node, ...]:
        """Return the nodes that are in the lab itself, Xen hosts among them."""
        return tuple(node for node in self.nodes.values() if not node.host)

    def outer_machines(self) -> tuple[Node, ...]:
        """Return the nodes that are QEMU guests of the lab itself, Xen hosts among them."""
        return tuple(node for node in self.outer_nodes() if node.guest_kind.is_machine)

    def namespace_nodes(self) -> tuple[Node, ...]:
        """Return the nodes that are network namespaces of the lab."""
        return tuple(node for node in self.nodes.values() if not node.guest_kind.is_machine)

    def outer_routers(self) -> tuple[Router, ...]:
        """Return the routers that are in the lab itself, not in a dom0."""
        return tuple(router for router in self.routers.values() if not router.host)

    def outer_networks(self) -> tuple[Network, ...]:
        """Return the networks with a bridge in the lab itself: all but those in a Xen host only."""
        outer = _used(self.outer_nodes(), self.outer_routers())
        everywhere = _used(self.nodes.values(), self.routers.values())
        return tuple(
            network
            for name, network in self.networks.items()
            if name in outer or name not in everywhere
        )

    def inside(self, host: str) -> Inside:
        """Return what there is on a Xen host; raises `UsageError` for a node that is none."""
        node = _known({node.name: node for node in self.xen_hosts()}, host, "Xen host")
        nodes = tuple(node for node in self.nodes.values() if node.host == host)
        routers = tuple(router for router in self.routers.values() if router.host == host)
        uplinks = {interface.network: interface for interface in node.interfaces}
        networks = []
        used = _used(nodes, routers)
        for name, network in self.networks.items():
            if name in uplinks:
                networks.append(dataclasses.replace(network, addresses=uplinks[name].addresses))
            elif name in used:  # without an uplink it is on this host alone
                networks.append(network)
        return Inside(tuple(networks), nodes, routers, uplinks)

    def with_device_offload(self, node: str, device: Mapping[str, bool]) -> Topology:
        """Return a copy where every interface of `node` has these device features set too.

        Raises `UsageError` for an unknown node or feature, or a NIC that is not virtio.
        """
        old = _known(self.nodes, node, "node")
        for feature in device:
            if feature not in DEVICE_FEATURES:
                hint = nearest(feature, DEVICE_FEATURES)
                raise UsageError(f"a virtio device has no feature {shown(feature)}", hint)
        interfaces = []
        for interface in old.interfaces:
            if not registry.nic(interface.model).device_features:
                where = f"{node}'s {interface.name} is {interface.model}"
                can = old.guest_kind.takes(registry.nic(nics.DEFAULT))
                hint = f"use model: {nics.DEFAULT}" if can else "set guest or tap features"
                raise UsageError(f"{where}: only virtio has device offloads", hint)
            merged = dict(sorted({**interface.offload.device, **device}.items()))
            offload = dataclasses.replace(interface.offload, device=merged)
            interfaces.append(dataclasses.replace(interface, offload=offload))
        new = dataclasses.replace(old, interfaces=tuple(interfaces))
        return dataclasses.replace(self, nodes={**self.nodes, node: new})

    def with_router_kind(self, router: str, kind: str) -> Topology:
        """Return a copy where `router` is of this kind, with its options left out.

        It may be a node that is one. Raises `UsageError` for an unknown router or kind, or one that
        needs options.
        """
        node = self.nodes.get(router)
        if node and node.forwards:
            registry.options(registry.forwarder(kind), {})
            other = dataclasses.replace(node, forwarder=kind, forwarder_options={})
            return dataclasses.replace(self, nodes={**self.nodes, router: other})
        old = _known(self.routers, router, "router")
        registry.options(registry.forwarder(kind), {})
        new = dataclasses.replace(old, kind=kind, options={})
        return dataclasses.replace(self, routers={**self.routers, router: new})


def _used(nodes: Iterable[Node], routers: Iterable[Router]) -> set[str]:
    """Return the names of the networks that these have interfaces on."""
    at_nodes = {interface.network for node in nodes for interface in node.interfaces}
    return at_nodes | {port.network for router in routers for port in router.interfaces}


def _known(things: Mapping[str, _T], name: str, what: str) -> _T:
    if name not in things:
        raise UsageError(f"the topology has no {what} {shown(name)}", nearest(name, things))
    return things[name]
