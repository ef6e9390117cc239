"""Whether what lives on Xen hosts fits: homes, NIC models, memory, uplinks, names in dom0.

A network is one segment. Its parts, a bridge in the lab itself and one in each Xen host that uses
it, are joined by the uplinks of those hosts, and by nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from labctl.errors import nearest, shown
from labctl.kinds import nics, registry
from labctl.kinds.nics import veth
from labctl.topology import model, schema
from labctl.topology.tree import Loc, Report


def check(topology: model.Topology, written: schema.Topology, report: Report) -> None:
    """Report everything that does not fit."""
    for loc, holder in _things(topology):
        if holder.host:
            _home(loc, holder, topology, report)
    for node in topology.nodes.values():
        _kind(node, topology, written, report)
        _models(node, topology, written, report)
        _least(node, report)
        if not node.guest_kind.is_machine:
            _of_machines(node, written.nodes[node.name], report)
    for host in topology.xen_hosts():
        _memory(host, topology, report)
        _loops(host, report)
    _joined(topology, report)
    _names(topology, report)


def _things(topology: model.Topology) -> Iterator[tuple[Loc, model.Node | model.Router]]:
    for name, node in topology.nodes.items():
        yield ("nodes", name), node
    for name, router in topology.routers.items():
        yield ("routers", name), router


def _doubtful(report: Report, loc: Loc, *keys: str) -> bool:
    """Tell whether one of these keys at `loc` was left out for a fault of its own."""
    found = report.root.walk(loc)
    inside = found[-1].mapping or {} if len(found) > len(loc) else {}
    return any(inside[key].dead for key in keys if key in inside)


def _home(
    loc: Loc, thing: model.Node | model.Router, topology: model.Topology, report: Report
) -> None:
    here: Loc = (*loc, "host")
    if isinstance(thing, model.Node) and thing.guest_kind.is_host:
        message = f"{thing.name} is a {thing.guest_kind.title}: it cannot live on another"
        report.add(here, message, "leave out host, or hypervisor", key=True)
        return
    hosts = [node.name for node in topology.xen_hosts()]
    if thing.host not in topology.nodes:
        if thing.host in (report.root.walk(("nodes",))[-1].mapping or ()):
            return  # it is there, with faults of its own
        hint = nearest(thing.host, hosts) if hosts else "no node has hypervisor: xen"
        report.add(here, f"there is no node {shown(thing.host)}", hint)
    elif thing.host not in hosts and not _doubtful(report, ("nodes", thing.host), "hypervisor"):
        hint = nearest(thing.host, hosts) if hosts else f"write hypervisor: xen in {thing.host}"
        report.add(here, f"{thing.host} is not a Xen host", hint)


def _fits(node: model.Node) -> bool:
    """Tell whether a node lives where its kind does, and has its kind's hypervisor."""
    kind = node.guest_kind
    return node.hypervisor == kind.hypervisor and bool(node.host) == bool(kind.home)


def _kind(
    node: model.Node, topology: model.Topology, written: schema.Topology, report: Report
) -> None:
    """Find a kind that is written and does not fit the node's other keys."""
    loc: Loc = ("nodes", node.name)
    kind = node.guest_kind
    if (node.user_data or node.user_data_file) and not kind.boots_disk:
        hint = "only guests that boot a disk have one: image: debian, or an image of your own"
        message = f"{node.name} is a {kind.title} without cloud-init"
        report.add((*loc, "user_data"), message, hint, key=True)
    if not node.is_configured:
        key = "login" if written.nodes[node.name].login else "console"
        if not kind.boots_disk and not (node.initramfs and kind.takes_initramfs):
            hint = "only guests have one that boot a disk image, or an initramfs of your own"
            report.add(
                (*loc, key),
                f"{node.name} is a {kind.title}: labctl is in it anyway",
                hint,
                key=True,
            )
        elif node.console_only and node.is_given:
            message = f"{node.name} has a console only: it gets no files, and no command runs in it"
            report.add((*loc, key), message, "leave out files and exec, or say login", key=True)
        elif node.user_data or node.user_data_file:
            message = f"{node.name} has {key}, so no cloud-init is told anything"
            report.add((*loc, key), message, "leave out user_data, or this", key=True)
        elif any(one.offload.guest for one in node.interfaces):
            message = f"{node.name} has {key}, so labctl does not set offloads in it"
            report.add(
                (*loc, key),
                message,
                "leave out offload: {guest: …}; tap and device can be set",
                key=True,
            )
    if not written.nodes[node.name].kind or _fits(node):
        return
    if _doubtful(report, loc, "host", "hypervisor", "kind"):
        return
    if node.hypervisor != kind.hypervisor:
        why, hint = "has no hypervisor", "leave out kind, or hypervisor"
    elif kind.home:
        hosts = [host.name for host in topology.xen_hosts()]
        why, hint = "lives on a Xen host", f"add host: {hosts[0] if hosts else 'NAME'}"
    elif kind.is_host:
        return  # `_home` tells
    else:
        why, hint = "lives on no other node", "leave out kind, or host"
    report.add((*loc, "kind"), f"{node.name} is of the kind {kind.name}, which {why}", hint)


def _models(
    node: model.Node, topology: model.Topology, written: schema.Topology, report: Report
) -> None:
    """Find NICs of a kind that does not exist where their node lives."""
    loc: Loc = ("nodes", node.name)
    kind = node.guest_kind
    if not _fits(node) or _doubtful(report, loc, "host", "hypervisor", "kind"):
        return
    for index, interface in enumerate(node.interfaces):
        nic = registry.nic(interface.model)
        if kind.takes(nic):
            continue
        # Point to the innermost layer that asks for it.
        mine: Loc = (*loc, "interfaces", index)
        layers: list[tuple[Loc, str | None]] = [
            (mine, written.nodes[node.name].interfaces[index].model),
            *((at, layer.model) for at, layer in written.layers(node.name)),
        ]
        place = next((at for at, word in layers if word), loc)
        name = f"{node.name}'s {interface.name}"
        wrong = f"{name} cannot be {nic.name}"
        if nic.home == kind.home or not kind.is_machine:
            message = f"{wrong}: {node.name} is of the kind {kind.name}"
            hint = f"write model: {kind.nic}"
        elif nic.home == veth.Veth.home:
            message = f"{wrong}: that is an interface of a namespace, and {node.name} is a machine"
            hint = f"write model: {kind.nic}"
        elif kind.home:
            message = f"{wrong}: {node.name} lives on {node.host}"
            hint = f"guests of a Xen host have model: {kind.nic}, which is their default"
        elif kind.is_host:
            message = f"{wrong}: it is the {kind.title}'s own NIC, which QEMU makes"
            hint = "write model: virtio, or e1000"
        else:
            message = f"{wrong}: {node.name} does not live on a Xen host"
            hosts = [host.name for host in topology.xen_hosts()]
            home = hosts[0] if hosts else "NAME"
            hint = f"add host: {home} to {node.name}, or write model: {nics.DEFAULT}"
        report.add((*place, "model"), message, hint)


def _least(node: model.Node, report: Report) -> None:
    """Find a node with less memory than its kind can do with; of hosts `_memory` tells more."""
    kind = node.guest_kind
    here: Loc = ("nodes", node.name)
    if kind.shares or _doubtful(report, here, "memory", "kind"):
        return
    if node.memory < kind.least_memory:
        message = f"memory {node.memory} is too little for {node.name}, which is of the kind"
        hint = f"write memory: {kind.least_memory} or more"
        report.add((*here, "memory"), f"{message} {kind.name}", hint)


def _of_machines(node: model.Node, said: schema.Node, report: Report) -> None:
    """Find what is said of a machine, of a node that is none."""
    kind = node.guest_kind
    for key in ("image", "kernel", "initramfs", "clone", "memory", "vcpus"):
        if getattr(said, key) is not None:
            message = f"{node.name} is of the kind {kind.name}, which is no machine: it has no"
            here = ("nodes", node.name, key)
            report.add(here, f"{message} {_CALLED.get(key, key)}", f"leave {key} out", key=True)


_CALLED = {"clone": "saved state", "vcpus": "CPUs"}


def _memory(host: model.Node, topology: model.Topology, report: Report) -> None:
    guests = [node for node in topology.inside(host.name).nodes if not node.guest_kind.is_host]
    places: list[Loc] = [("defaults",), *(("nodes", node.name) for node in (host, *guests))]
    places += [("groups", name) for name in report.root.walk(("groups",))[-1].mapping or ()]
    if any(_doubtful(report, loc, "memory") for loc in places):
        return
    inside = sum(node.memory for node in guests)
    kind = host.guest_kind
    shares = {**kind.shares, "its guests": inside} if guests else kind.shares
    needed = sum(shares.values())
    if host.memory < needed:
        parts = ", ".join(f"{memory} for {who}" for who, memory in shares.items())
        message = f"memory {host.memory} is too little for the {kind.title} {host.name}: {parts}"
        report.add(("nodes", host.name, "memory"), message, f"write memory: {needed} or more")


def _loops(host: model.Node, report: Report) -> None:
    seen: set[str] = set()
    for index, interface in enumerate(host.interfaces):
        if interface.network in seen:
            message = f"{host.name} has two uplinks on network {interface.network}: a loop"
            here = ("nodes", host.name, "interfaces", index, "network")
            report.add(here, message, "leave one of them out")
        seen.add(interface.network)


def _joined(topology: model.Topology, report: Report) -> None:
    """Find networks in more places than one that lack an uplink between them."""
    places: dict[str, dict[str, str]] = {}  # network: place: who is the first one there
    for loc, thing in _things(topology):
        nested = isinstance(thing, model.Node) and thing.guest_kind.is_host and thing.host
        if nested or _doubtful(report, loc, "host"):
            continue
        for interface in thing.interfaces:
            places.setdefault(interface.network, {}).setdefault(thing.host, thing.name)
    for host in topology.xen_hosts():
        item = report.root.walk(("nodes", host.name))[-1]
        nics = (item.mapping or {}).get("interfaces")
        if host.host or (nics and (nics.dead or nics.hurt())):  # one left out may be the uplink
            continue
        uplinks = {interface.network for interface in host.interfaces}
        for name, users in places.items():
            if name in uplinks or host.name not in users or name not in topology.networks:
                continue
            others = [f"on {place}" for place in sorted(users) if place in topology.nodes]
            others.remove(f"on {host.name}")
            if "" in users:  # the others join there, not with each other
                others = [f"in the lab itself ({users['']})"]
            if others:
                message = f"network {name} is on {host.name} and {' and '.join(others)}"
                hint = f"add {{network: {name}}} to {host.name}'s interfaces"
                here = ("nodes", host.name, "interfaces")
                report.add(here, f"{message}, with no uplink of {host.name}'s", hint, key=True)


def _names(topology: model.Topology, report: Report) -> None:
    for host in topology.xen_hosts():
        for network in topology.inside(host.name).networks:
            if network.segments:
                message = f"network {network.name} is on the Xen host {host.name}, and no bridge"
                hint = "there every network is one bridge: leave out kind and segments"
                report.add(("networks", network.name), message, hint, key=True)
            if re.fullmatch(host.guest_kind.own_links, network.bridge):
                message = f"a network on a Xen host cannot be named {network.name}"
                hint = f"a NIC of {host.name} has this name"
                report.add(("networks", network.name), message, hint, key=True)
