"""A topology with nothing left open: all defaults applied, all names and MAC addresses made.

This is what the rest of labctl works with. Objects are frozen and survive pickling; what is in
their dicts must not be changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
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
from typing import Literal, TypeVar, get_args

from labctl.errors import UsageError
from labctl.topology.features import DEVICE_FEATURES, DEVICE_MODELS
from labctl.topology.problems import nearest, shown

_T = TypeVar("_T")

RouterKind = Literal["namespace", "raw", "raw-vnet"]

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
class Network:
    """A bridge; `bridge` is its link name, `mtu` in octets."""

    name: str
    bridge: str
    mtu: int
    stp: bool
    subnets: tuple[IPv4Network | IPv6Network, ...]
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """A static route; a default route is 0.0.0.0/0 or ::/0."""

    to: IPv4Network | IPv6Network
    via: IPv4Address | IPv6Address


@dataclass(frozen=True)
class Interface:
    """A guest's NIC: `name` in the guest, `tap` the link name on the host's side."""

    name: str
    network: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    mac: str
    model: str
    mtu: int
    offload: Offload
    tap: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    """A guest; `memory` in MiB, `kernel` and `initramfs` in place of the image's where given."""

    name: str
    image: str
    kernel: Path | None
    initramfs: Path | None
    memory: int
    vcpus: int
    interfaces: tuple[Interface, ...]
    routes: tuple[Route, ...]
    mgmt_mac: str
    mgmt_tap: str
    labels: dict[str, str] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Router:
    """Forwards between networks."""

    name: str
    kind: RouterKind
    interfaces: tuple[RouterInterface, ...]
    routes: tuple[Route, ...]
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Topology:
    """A lab as it shall be; `source` is the file it came from, if it came from one."""

    name: str
    networks: dict[str, Network]
    nodes: dict[str, Node]
    routers: dict[str, Router]
    source: Path | None

    def digest(self) -> str:
        """Return the SHA-256 (hexadecimal) of everything but file paths and labels.

        Of a kernel or initramfs of the user's own only its presence counts: which one ran belongs
        to the run's environment.
        """
        content = dataclasses.asdict(self)
        del content["source"]
        for node in content["nodes"].values():
            node["kernel"] = node["kernel"] is not None
            node["initramfs"] = node["initramfs"] is not None
        for things in (content["networks"], content["nodes"], content["routers"]):
            for thing in things.values():
                del thing["labels"]
                for interface in thing.get("interfaces", ()):
                    del interface["labels"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode()).hexdigest()

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
            if interface.model not in DEVICE_MODELS:
                where = f"{node}'s {interface.name} is {interface.model}"
                raise UsageError(f"{where}: only virtio has device offloads", "use model: virtio")
            merged = dict(sorted({**interface.offload.device, **device}.items()))
            offload = dataclasses.replace(interface.offload, device=merged)
            interfaces.append(dataclasses.replace(interface, offload=offload))
        new = dataclasses.replace(old, interfaces=tuple(interfaces))
        return dataclasses.replace(self, nodes={**self.nodes, node: new})

    def with_router_kind(self, router: str, kind: RouterKind) -> Topology:
        """Return a copy where `router` is of this kind.

        Raises `UsageError` for an unknown router or kind.
        """
        old = _known(self.routers, router, "router")
        if kind not in get_args(RouterKind):
            raise UsageError(
                f"there is no router kind {shown(kind)}", nearest(kind, get_args(RouterKind))
            )
        new = dataclasses.replace(old, kind=kind)
        return dataclasses.replace(self, routers={**self.routers, router: new})


def _known(things: Mapping[str, _T], name: str, what: str) -> _T:
    if name not in things:
        raise UsageError(f"the topology has no {what} {shown(name)}", nearest(name, things))
    return things[name]
