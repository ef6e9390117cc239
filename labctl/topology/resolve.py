"""From the shape of a file to the resolved model: defaults, names, MAC addresses.

Always succeeds for a valid shape; what does not fit together is found afterwards (`check`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

from labctl.kinds import forwarders, guests, registry
from labctl.kinds.base import Option
from labctl.topology import disk_image, impairment_schema, kernels, model, node_schema, schema
from labctl.topology.disk_schema import DiskImage
from labctl.topology.features import in_order
from labctl.topology.fields import LINK_NAME
from labctl.topology.impairment import Impairment, reading
from labctl.topology.login_schema import Login
from labctl.topology.paths import absolute
from labctl.topology.startup import MODE, StartFile

DEFAULT_MTU = 1500


class _Names:
    """Makes MAC addresses and link names: from the names alone, the same on every host."""

    def __init__(self, topology: str, macs: Iterable[str], links: Iterable[str]) -> None:
        self._topology = topology
        self._macs = set(macs)
        self._links = set(links)

    def _digest(self, *words: str) -> str:
        # The separator cannot be in a name, so that ("a", "bc") and ("ab", "c") differ.
        return hashlib.sha256("\0".join(words).encode()).hexdigest()

    def mac(self, owner: str, interface: str) -> str:
        """Return 52:54:00 (QEMU's usual prefix) and three octets of a hash, unlike all others."""
        attempt = 0
        while True:
            tail = self._digest(self._topology, owner, interface, str(attempt))[:6]
            mac = f"52:54:00:{tail[:2]}:{tail[2:4]}:{tail[4:]}"
            if mac not in self._macs:
                self._macs.add(mac)
                return mac
            attempt += 1

    def link(self, owner: str, interface: str) -> str:
        """Return `owner-interface`, or where it is too long a shortened form, unlike all others."""
        link = f"{owner}-{interface}"
        if len(link) <= LINK_NAME:
            return link  # should it be a network's name too, `check` tells
        attempt = 0
        while True:
            mark = self._digest(owner, str(attempt))[:5]
            keep = LINK_NAME - len(interface) - len(mark) - 1
            link = f"{owner[:keep]}{mark}-{interface}"
            if link not in self._links:
                self._links.add(link)
                return link
            attempt += 1


def resolve(
    written: schema.Topology,
    name: str,
    base: Path,
    source: Path | None,
    segments: Mapping[str, tuple[model.Segment, ...]],
    options: Mapping[str, dict[str, Option]],
) -> model.Topology:
    """Return the resolved model of `written`.

    `name` serves where the file gives none; paths are relative to `base`. `segments` are those of
    each network, `options` what is said to what forwards in each router.
    """
    name = written.name or name
    explicit = [interface.mac for interface in _interfaces(written) if interface.mac]
    links = [link for one in segments.values() for part in one for link in part.plan.links]
    taken = [name for link in links for name in link.names]
    names = _Names(name, explicit, [*written.networks, *taken])
    networks = {
        key: _network(key, network or schema.Network(), segments[key])
        for key, network in written.networks.items()
    }
    # In the order of names, so that moving a node in the file changes nothing.
    nodes = {
        key: replace(
            _node(key, written.nodes[key], inherited(written, key), networks, names, base),
            forwarder_options=options.get(key, {}),
        )
        for key in sorted(written.nodes)
    }
    routers = {
        key: _router(key, written.routers[key], networks, names, options[key])
        for key in sorted(written.routers)
    }
    return model.Topology(
        name=name,
        networks=networks,
        nodes={key: nodes[key] for key in written.nodes},
        routers={key: routers[key] for key in written.routers},
        source=source,
    )


def _interfaces(
    written: schema.Topology,
) -> Iterator[schema.Interface | schema.RouterInterface]:
    for node in written.nodes.values():
        yield from node.interfaces
    for router in written.routers.values():
        yield from router.interfaces


def _network(
    name: str, written: schema.Network, segments: tuple[model.Segment, ...]
) -> model.Network:
    bridges = [one.plan.bridge for one in segments if not one.is_wire]
    return model.Network(
        name=name,
        bridge=bridges[0] if bridges else name,
        mtu=written.mtu,
        stp=written.stp,
        subnets=tuple(written.subnets),
        addresses=tuple(written.addresses),
        labels=dict(written.labels),
        segments=segments,
    )


def _plugged(
    written: schema.Interface | schema.RouterInterface, there: model.Network | None
) -> str:
    """Return the segment that an interface is in, by default the only one there is."""
    if written.segment is not None:
        return written.segment
    plugs = [one.name for one in there.segments if not one.is_wire] if there else []
    return plugs[0] if len(plugs) == 1 else ""


def _mtu(written: int | None, network: str, networks: dict[str, model.Network]) -> int:
    if written is not None:
        return written
    return networks[network].mtu if network in networks else DEFAULT_MTU


def _node(
    name: str,
    written: schema.Node,
    defaults: schema.Group,
    networks: dict[str, model.Network],
    names: _Names,
    base: Path,
) -> model.Node:
    labels = defaults.labels
    host = written.host or ""
    asked = written.image or defaults.image or ""
    telling = (host, asked if isinstance(asked, str) else None)
    usual = guests.derived(written.hypervisor or "", *telling)
    kind = registry.guest(written.kind or usual)
    hypervisor = written.hypervisor or kind.hypervisor
    if not kind.inherits:
        # A guest's image and size are none for a host of guests; what defaults say of NICs is.
        defaults = schema.Group(model=defaults.model, offload=defaults.offload)
    nic = written.model or (defaults.model if kind.inherits_nic else None) or kind.nic

    def own_file(key: str) -> Path | None:
        # An explicit null takes the image's again, whatever the defaults say.
        holder = written if key in written.model_fields_set else defaults
        text: str | None = getattr(holder, key)
        if text is None or (key == "kernel" and kernels.release(text)):
            return None
        return absolute(base, kernels.path(text))

    interfaces = []
    for index, interface in enumerate(written.interfaces):
        eth = f"eth{index}"
        interfaces.append(
            model.Interface(
                name=eth,
                network=interface.network,
                addresses=tuple(interface.addresses),
                mac=interface.mac or names.mac(name, eth),
                model=interface.model or nic,
                mtu=_mtu(interface.mtu, interface.network, networks),
                offload=_offload(defaults.offload, written.offload, interface.offload),
                tap=names.link(name, eth),
                labels=dict(interface.labels),
                segment=_plugged(interface, networks.get(interface.network)),
                impairment=_impairment(interface.impairment),
            )
        )
    image = written.image or defaults.image or kind.image
    kernel = (written if "kernel" in written.model_fields_set else defaults).kernel or ""
    if isinstance(image, str):
        image = kernels.image(image, kernels.release(kernel))
    told = (written if "user_data" in written.model_fields_set else defaults).user_data
    if written.user_data is None and not kind.boots_disk:
        told = None  # what the defaults say is for the others
    return model.Node(
        name=name,
        image=image if isinstance(image, str) else "",
        kernel=own_file("kernel"),
        initramfs=own_file("initramfs"),
        memory=written.memory or defaults.memory or kernels.memory(kind, kernels.release(kernel)),
        vcpus=written.vcpus or defaults.vcpus or kind.vcpus,
        interfaces=tuple(interfaces),
        routes=tuple(_route(route) for route in written.routes),
        mgmt_mac=names.mac(name, "mgmt"),
        mgmt_tap=names.link(name, "mgmt"),
        labels={**labels, **written.labels},
        hypervisor=hypervisor,
        host=host,
        # Not where it follows: then a topology that says it is the same as one that does not.
        kind="" if kind.name == guests.derived(hypervisor, *telling) else kind.name,
        clone=defaults.clone if written.clone is None else written.clone,
        user_data=json.dumps(told, sort_keys=True) if isinstance(told, dict) else "",
        user_data_file=absolute(base, told) if isinstance(told, str) else None,
        disk=None if isinstance(image, str) else _disk(image, base),
        role=written.role or "",
        # The kernel, said or not, is the same.
        forwarder=written.forwarder if written.forwarder not in (None, forwarders.DEFAULT) else "",
        login=written.login.resolve(base) if isinstance(written.login, Login) else None,
        console=tuple(step.resolve(base) for step in written.console),
        console_only=written.login == "console" or bool(written.console and not written.login),
        files=tuple(
            _start_file(path, file, base)
            for path, file in {**defaults.files, **written.files}.items()
        ),
        exec=(*defaults.exec, *written.exec),
    )


def inherited(written: schema.Topology, node: str) -> schema.Group:
    """Return what a node inherits: what its group says, over the defaults.

    Commands and labels of both count, the group's later and over the others.
    """
    defaults = written.defaults
    group = written.groups.get(written.nodes[node].group or "") or schema.Group()
    told = {key: getattr(defaults, key) for key in defaults.model_fields_set}
    told |= {key: getattr(group, key) for key in group.model_fields_set}
    told["offload"] = _layered(defaults.offload, group.offload)
    told["files"] = {**defaults.files, **group.files}
    told["exec"] = [*defaults.exec, *group.exec]
    return schema.Group.model_construct(set(told), **told)


def _layered(*layers: schema.Offload | None) -> schema.Offload:
    """Return offloads of which the later layers count."""
    found: dict[str, dict[str, bool]] = {"guest": {}, "tap": {}, "device": {}}
    for layer in layers:
        for part, features in found.items():
            features.update(getattr(layer, part) if layer else {})
    return schema.Offload.model_construct(None, **found)


def _start_file(path: str, written: str | node_schema.StartFile, base: Path) -> StartFile:
    if isinstance(written, str):
        return StartFile(path, written)
    return StartFile(
        path,
        written.text or "",
        absolute(base, written.source) if written.source else None,
        MODE if written.mode is None else written.mode,
    )


def _disk(written: DiskImage, base: Path) -> disk_image.DiskImage:
    known = written.known_format
    assert known  # the shape is refused without one
    return disk_image.DiskImage(
        format=known,
        firmware=written.firmware,
        url=written.url or "",
        file=absolute(base, written.file) if written.file else None,
        sha256=written.sha256 or "",
    )


def _router(
    name: str,
    written: schema.Router,
    networks: dict[str, model.Network],
    names: _Names,
    options: dict[str, Option],
) -> model.Router:
    interfaces = tuple(
        model.RouterInterface(
            name=f"eth{index}",
            network=interface.network,
            addresses=tuple(interface.addresses),
            mac=interface.mac or names.mac(name, f"eth{index}"),
            mtu=_mtu(interface.mtu, interface.network, networks),
            peer=names.link(name, f"eth{index}"),
            labels=dict(interface.labels),
            segment=_plugged(interface, networks.get(interface.network)),
            impairment=_impairment(interface.impairment),
        )
        for index, interface in enumerate(written.interfaces)
    )
    return model.Router(
        name=name,
        kind=written.kind,
        interfaces=interfaces,
        routes=tuple(_route(route) for route in written.routes),
        labels=dict(written.labels),
        host=written.host or "",
        options=options,
    )


def _impairment(written: impairment_schema.Impairment | None) -> Impairment:
    """Return what is written; one that has no effect by itself is told by `check`."""
    return reading(written.words(), part=True) if written else Impairment()


def _route(written: schema.Route) -> model.Route:
    everything = "0.0.0.0/0" if written.via.version == 4 else "::/0"
    to = everything if written.to == "default" else written.to
    return model.Route(ip_network(to), written.via)


def _offload(*layers: schema.Offload | None) -> model.Offload:
    guest: dict[str, bool] = {}
    tap: dict[str, bool] = {}
    device: dict[str, bool] = {}
    for layer in layers:
        if layer is not None:
            guest |= layer.guest
            tap |= layer.tap
            device |= layer.device
    return model.Offload(in_order(guest), in_order(tap), dict(sorted(device.items())))
