"""Whether the parts of a topology fit together: names, links, MTUs, offloads, files.

Works on the resolved model and reports at the place in the file. Addresses and routes are in
`addressing`, what lives on Xen hosts in `hosting`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from labctl.errors import UsageError, nearest, shown
from labctl.kinds import nics, registry
from labctl.kinds.guests.base import OuterEnd
from labctl.topology import addressing, hosting, kernels, model, schema
from labctl.topology.disk_schema import DiskImage
from labctl.topology.features import FEATURES
from labctl.topology.fields import MIN_IPV6_MTU
from labctl.topology.login_schema import Login, Secret
from labctl.topology.node_schema import StartFile
from labctl.topology.paths import absolute
from labctl.topology.tree import Loc, Report


def check(topology: model.Topology, written: schema.Topology, base: Path, report: Report) -> None:
    """Report everything that does not fit together."""
    _names(topology, report)
    _macs(topology, report)
    _links(topology, written, report)
    _offload_names(topology, report)
    _device_offloads(topology, written, report)
    _files(written, base, report)
    _groups(written, report)
    _kernels(topology, written, report)
    _patched(topology, report)
    for name, router in topology.routers.items():
        if registry.forwarder(router.kind).only_in_guests:
            what = f"the kind {router.kind} is for guests, and {name} is a namespace"
            hint = f"write a node with role: router and forwarder: {router.kind}"
            report.add(("routers", name, "kind"), what, hint)
        loc: Loc = ("routers", name, "interfaces")
        item = report.root.walk(loc)[-1]
        # Those left out for faults of their own count: they were meant to be there.
        if len(item.sequence or ()) < 2:
            hint = "a router needs at least two"
            report.add(loc, f"the router {name} has fewer than two interfaces", hint)
    for node in topology.forwarding_nodes():
        _forwarding(node, report)
    for node in topology.nodes.values():
        _forwarder(node, report)
    hosting.check(topology, written, report)
    addressing.check(topology, report)


def _kernels(topology: model.Topology, written: schema.Topology, report: Report) -> None:
    """Report a kernel for a node that boots what lies on its disk."""
    for name, node in topology.nodes.items():
        said = written.nodes[name].kernel
        if said is None or not node.guest_kind.boots_disk:
            continue
        if node.disk or not kernels.release(said):
            what = f"{name} boots a disk, and the kernel that is on it"
            report.add(("nodes", name, "kernel"), what, "leave kernel out", key=True)


def _forwarding(node: model.Node, report: Report) -> None:
    """Report a node that is to be a router and cannot."""
    loc: Loc = ("nodes", node.name)
    if not node.guest_kind.is_endpoint:
        what = f"{node.name} is a {node.guest_kind.title}: packets pass {node.guest_kind.passed_by}"
        report.add((*loc, "role"), what, "leave role out, or put a router on it", key=True)
        return
    item = report.root.walk((*loc, "interfaces"))[-1]
    if len(item.sequence or ()) < 2:
        what = f"{node.name} has the role router, and fewer than two interfaces"
        report.add((*loc, "role"), what, "a router needs at least two", key=True)


def _forwarder(node: model.Node, report: Report) -> None:
    """Report a forwarder that a node cannot have."""
    if not node.forwarder:
        return
    kind, loc = registry.forwarder(node.forwarder), ("nodes", node.name, "forwarder")
    machine = node.guest_kind.is_machine and node.guest_kind.is_endpoint
    if not node.forwards:
        what, hint = "has a forwarder, and not the role router", "add role: router"
    elif not machine:
        what = f"is a {node.guest_kind.title}, in which its kernel alone forwards"
        hint = "leave forwarder out, or write a router below routers:"
    elif not kind.in_guests:
        can = [one.name for one in registry.FORWARDERS.usable() if one.in_guests]
        what = f"cannot have the forwarder {kind.name}, which does not run in guests"
        hint = f"these do: {', '.join(can)}"
    else:
        return
    report.add(loc, f"{node.name} {what}", hint, key=True)


def _interfaces(
    topology: model.Topology,
) -> Iterator[tuple[Loc, str, model.Interface | model.RouterInterface]]:
    for name, node in topology.nodes.items():
        for index, interface in enumerate(node.interfaces):
            yield ("nodes", name, "interfaces", index), name, interface
    for name, router in topology.routers.items():
        for index, port in enumerate(router.interfaces):
            yield ("routers", name, "interfaces", index), name, port


def _names(topology: model.Topology, report: Report) -> None:
    if not topology.nodes and report.whole(("nodes",)):
        report.add(("nodes",), "there are no nodes", "a lab needs at least one")
    for name in topology.routers:
        if name in topology.nodes:
            message = f"the name {name} is a node's and a router's"
            report.add(("routers", name), message, "rename one of them", key=True)
    links = {node.mgmt_tap: name for name, node in topology.nodes.items()}
    for _, owner, interface in _interfaces(topology):
        link = interface.tap if isinstance(interface, model.Interface) else interface.peer
        links[link] = owner
    for name, network in topology.networks.items():
        if name in links:
            message = f"the network's name {name} is also the link name of an interface"
            report.add(("networks", name), message, f"it is one of {links[name]}'s", key=True)
        places = {place for one in network.segments for place in one.plan.places().values()}
        for place in places & topology.routers.keys():
            message = f"the network {name} has a namespace of the router's name {place}"
            report.add(("routers", place), message, "rename the router", key=True)
        for link in network.links():
            owner = links.setdefault(link, f"network {name}")
            if owner != f"network {name}" and (link != name or owner.startswith("network ")):
                message = f"a link of network {name} would be called {link}, as one of {owner}'s"
                report.add(("networks", name), message, "rename one of them", key=True)


def _macs(topology: model.Topology, report: Report) -> None:
    seen: dict[str, str] = {}
    for loc, owner, interface in _interfaces(topology):
        other = seen.setdefault(interface.mac, f"{owner}'s {interface.name}")
        if other != f"{owner}'s {interface.name}":
            report.add((*loc, "mac"), f"the MAC address {interface.mac} is also {other}")


def _links(topology: model.Topology, written: schema.Topology, report: Report) -> None:
    defined = set(report.root.walk(("networks",))[-1].mapping or ())  # faulty ones too
    for name, network in topology.networks.items():
        six = [*network.subnets, *network.addresses]
        if network.mtu < MIN_IPV6_MTU and any(address.version == 6 for address in six):
            _small(("networks", name, "mtu"), network.mtu, report)
    for loc, owner, interface in _interfaces(topology):
        if interface.network not in defined:
            message = f"there is no network {shown(interface.network)}"
            report.add((*loc, "network"), message, nearest(interface.network, topology.networks))
            continue
        there = topology.networks.get(interface.network)
        said = written.networks.get(interface.network)
        # Where its segments could not be planned, nothing can be said of them.
        if there and bool(there.segments) >= bool(said and said.segments):
            _plugged(loc, interface, there, report)
        if there and interface.mtu > there.mtu and report.whole(("networks", there.name)):
            message = f"mtu {interface.mtu} is more than the {there.mtu} of network {there.name}"
            report.add((*loc, "mtu"), message, "raise the network's, or lower this one")
        six = list(interface.addresses)
        if interface.mtu < MIN_IPV6_MTU and any(address.version == 6 for address in six):
            _small((*loc, "mtu"), interface.mtu, report)
        try:
            interface.impairment.check()
        except UsageError as wrong:
            report.add((*loc, "impairment"), wrong.message, wrong.hint)
        if isinstance(interface, model.Interface):
            _host_side(loc, interface, topology.nodes[owner].guest_kind.outer, report)


def _plugged(
    loc: Loc,
    interface: model.Interface | model.RouterInterface,
    network: model.Network,
    report: Report,
) -> None:
    """Report an interface that says no segment, or one that it cannot be plugged into."""
    if not report.whole(("networks", network.name)):
        return
    known = {one.name: one for one in network.segments}
    plugs = [one.name for one in network.segments if not one.is_wire]
    hint = f"it has {', '.join(plugs)}" if len(plugs) > 1 or interface.segment else ""
    if not known and interface.segment:
        what = f"network {network.name} has no segments"
        report.add((*loc, "segment"), what, "leave the key out", key=True)
    elif known and not interface.segment:
        what = f"network {network.name} has several segments, and this names none"
        report.add((*loc, "network"), what, f"{hint}: write segment: {plugs[0]}")
    elif known and interface.segment not in known:
        what = f"network {network.name} has no segment {shown(interface.segment)}"
        report.add((*loc, "segment"), what, nearest(interface.segment, plugs))
    elif known and known[interface.segment].is_wire:
        what = f"{interface.segment} is a wire, nothing can be plugged into it"
        report.add((*loc, "segment"), what, hint)


def _patched(topology: model.Topology, report: Report) -> None:
    """Report a segment that joins two nodes or wires, and has not these."""
    for network in topology.networks.values():
        if not report.whole(("networks", network.name)):
            continue
        for segment in network.segments:
            if not segment.plan.patch:
                continue
            plugged = [
                (owner, interface)
                for _, owner, interface in _interfaces(topology)
                if interface.network == network.name and interface.segment == segment.name
            ]
            count = len(plugged) + len(network.wires_at(segment.name))
            machines = [
                isinstance(one, model.Interface) and topology.nodes[owner].guest_kind.is_machine
                for owner, one in plugged
            ]
            loc: Loc = ("networks", network.name)
            what = f"the kind {segment.kind} joins two machines or wires"
            if count != 2:
                report.add(loc, f"{what}, and {segment.name} has {count}", "plug in two", key=True)
            elif not all(machines):
                hint = "plug routers and namespaces into another segment, behind a wire"
                report.add(loc, f"{what}, and no router or namespace", hint, key=True)


def _host_side(loc: Loc, interface: model.Interface, outer: OuterEnd, report: Report) -> None:
    if interface.mtu > outer.most_mtu:
        message = f"mtu {interface.mtu} is more than a {outer.name} can have"
        report.add((*loc, "mtu"), message, f"the most is {outer.most_mtu}")


def _small(loc: Loc, mtu: int, report: Report) -> None:
    report.add(loc, f"mtu {mtu} is too small for IPv6", f"IPv6 needs {MIN_IPV6_MTU} or more")


def _offload_names(topology: model.Topology, report: Report) -> None:
    """Two names of one feature in the same place: which one counts would be chance."""
    groups = report.root.walk(("groups",))[-1].mapping or ()
    places: list[Loc] = [("defaults",), *(("groups", name) for name in groups)]
    for name, node in topology.nodes.items():
        places.append(("nodes", name))
        places += [("nodes", name, "interfaces", at) for at in range(len(node.interfaces))]
    for place in places:
        for layer in ("guest", "tap"):
            loc: Loc = (*place, "offload", layer)
            found = report.root.walk(loc)
            if len(found) <= len(loc):
                continue
            seen: dict[str, str] = {}
            for name in found[-1].mapping or {}:
                first = seen.setdefault(FEATURES.get(name, name), name)
                if first != name:
                    message = f"{name} is the same feature as {first}"
                    report.add((*loc, name), message, "keep one of them", key=True)


def _device_offloads(topology: model.Topology, written: schema.Topology, report: Report) -> None:
    for name, node in topology.nodes.items():
        for index, interface in enumerate(node.interfaces):
            if registry.nic(interface.model).device_features or not interface.offload.device:
                continue
            # Point to the innermost layer that asks for it.
            mine: Loc = ("nodes", name, "interfaces", index)
            layers: list[tuple[Loc, schema.Offload | None]] = [
                (mine, written.nodes[name].interfaces[index].offload),
                *((at, layer.offload) for at, layer in written.layers(name)),
            ]
            loc = next(at for at, offload in layers if offload and offload.device)
            message = (
                f"{name}'s {interface.name} is {interface.model}, which has no device offloads"
            )
            hint = f"use model: {nics.DEFAULT}, or set them for {nics.DEFAULT} interfaces only"
            if not node.guest_kind.takes(registry.nic(nics.DEFAULT)):
                hint = (
                    "set guest or tap features; of a Xen host, only its own virtio NICs have them"
                )
            report.add((*loc, "offload", "device"), message, hint, key=True)


def _groups(written: schema.Topology, report: Report) -> None:
    """Find nodes of a group that there is not."""
    there = report.root.walk(("groups",))[-1].mapping or ()  # faulty ones too
    for name, node in written.nodes.items():
        if node.group and node.group not in there:
            hint = nearest(node.group, written.groups) if written.groups else "groups: has none"
            report.add(("nodes", name, "group"), f"there is no group {shown(node.group)}", hint)


def _files(written: schema.Topology, base: Path, report: Report) -> None:
    holders: list[tuple[Loc, schema.Defaults | schema.Group | schema.Node]] = [
        (("defaults",), written.defaults)
    ]
    holders += [(("groups", name), group) for name, group in written.groups.items() if group]
    holders += [(("nodes", name), node) for name, node in written.nodes.items()]
    for loc, holder in holders:
        files: list[tuple[Loc, str | None]] = [
            (("kernel",), holder.kernel),
            (("initramfs",), holder.initramfs),
        ]
        if isinstance(holder.user_data, str):
            files.append((("user_data",), holder.user_data))
        files += [
            (("files", path, "source"), file.source)
            for path, file in holder.files.items()
            if isinstance(file, StartFile)
        ]
        if isinstance(holder.image, DiskImage):
            files.append((("image", "file"), holder.image.file))
        if isinstance(holder, schema.Node):
            files += _secret_files(holder)
        for key, text in files:
            if text is None or (key == ("kernel",) and kernels.release(text)):
                continue
            path = absolute(base, kernels.path(text))
            try:
                there = path.is_file()
            except (OSError, ValueError):  # too long, forbidden, a zero octet
                there = False
            if not there:
                hint = f"looked for {path}"
                report.add((*loc, *key), f"there is no file {shown(text)}", hint)


def _secret_files(node: schema.Node) -> Iterator[tuple[Loc, str | None]]:
    """Yield the files that a login and the steps on a console name."""
    if isinstance(node.login, Login):
        yield ("login", "key"), node.login.key
        if node.login.password:
            yield ("login", "password", "file"), node.login.password.file
    for number, step in enumerate(node.console):
        if isinstance(step.send, Secret):
            yield ("console", number, "send", "file"), step.send.file
