"""A running lab becomes one of another topology; what is the same in both goes on undisturbed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labctl import images
from labctl.errors import LabctlError, UsageError
from labctl.events import Event
from labctl.guests import keys, spec
from labctl.lab import interface_settings, machines, power, preflight, templates
from labctl.lab.ports import ports
from labctl.network import links
from labctl.routers import namespace
from labctl.topology import difference, model
from labctl.topology.difference import Plan

if TYPE_CHECKING:
    from labctl.lab.lab import Lab


def plan(lab: Lab, wanted: model.Topology) -> Plan:
    """Return what makes a lab one of the topology `wanted`.

    What a user stopped stays so unless its node is another. Raises `UsageError` where that cannot
    be.
    """
    return difference.plan(lab.topology, wanted)


def converge(lab: Lab, wanted: model.Topology) -> Plan:
    """Do what `plan` returns, and return it.

    All that can be told beforehand is checked first. What fails later leaves a lab that counts as
    damaged, and can only be taken down. Raises `LabctlError` for either.
    """
    if not lab._backend.ends_with_sandbox:
        raise UsageError(
            f"lab {lab.name} is on a system's libvirt, and is not changed while it runs",
            f"take it down, and bring it up again: labctl down {lab.name}",
        )
    with power.changing(lab):
        todo = plan(lab, wanted)
        if not todo:
            lab._remember(topology=wanted)  # labels, and what files are called
            return todo
        before = lab.topology
        _prepare(lab, wanted, todo)
        lab._remember(changing=True)
        _take_away(lab, before, todo)
        _adopt(lab, wanted, todo)
        _make(lab, todo)
        lab._remember(changing=False)
    return todo


def _prepare(lab: Lab, wanted: model.Topology, todo: Plan) -> None:
    """Get what is needed, and check all that can be checked; nothing of the lab is changed."""
    preflight.check_sockets(wanted, lab.directory)
    preflight.check_kinds(wanted)
    preflight.check_disks(wanted)
    lab._backend.check(wanted, lab._emit)
    booted = lab._backend.booted(wanted)
    found = {
        name: images.get(name, emit=lab._emit)
        for name in sorted({node.image for node in booted if not node.disk})
    }
    disks = {node.name: images.get_disk(node.disk, emit=lab._emit) for node in booted if node.disk}
    preflight.check(wanted, found, lab._backend, templates.cold(lab._state.cold))
    changed = todo.made("nodes")
    # What goes on has booted what it has, whatever that is called now.
    lab._remember(
        images={
            node.name: lab._state.images[node.name]
            if node.name in lab._state.images and node.name not in changed
            else found[node.image]
            for node in booted
            if not node.disk
        }
        | {name: one for name, one in lab._state.images.items() if name not in wanted.nodes},
        disks={**lab._state.disks, **disks},
    )


def _take_away(lab: Lab, before: model.Topology, todo: Plan) -> None:
    making = lab._making()
    for name in todo.gone("nodes"):
        node = before.nodes[name]
        built = machines.build(making, node)
        power.end(lab, node, built, power.ORDERLY_SECONDS)
        if name in todo.removed.get("nodes", ()):
            machines.starter(making, node).forget(built)
    for name in todo.gone("routers"):
        lab._emit(Event("router", name, "start", "it is taken away"))
        lab.router(name).stop()
        lab.sandbox.call(namespace.remove, before.routers[name])
    outer = [
        interface.tap for name in todo.gone("nodes") for interface in before.nodes[name].interfaces
    ]
    outer += [before.nodes[name].mgmt_tap for name in todo.removed.get("nodes", ())]
    bridges = [before.networks[name].bridge for name in todo.gone("networks")]
    lab.sandbox.call(links.remove_links, [*outer, *bridges])


def _adopt(lab: Lab, wanted: model.Topology, todo: Plan) -> None:
    """Let the lab be of the topology that is wanted, with keys for what is new."""
    state = lab._state
    there = wanted.nodes
    hostkeys = {name: state.hostkeys.get(name) or keys.Key.make() for name in there}
    clients = {
        name: state.clients.get(name) or keys.Key.make()
        for name, node in there.items()
        if node.guest_kind.is_endpoint
    }
    owners = {*there, *wanted.routers} - {*todo.made("nodes"), *todo.made("routers")}
    lab._remember(
        topology=wanted,
        hostkeys=hostkeys,
        clients=clients,
        images={name: one for name, one in state.images.items() if name in there},
        disks={name: one for name, one in state.disks.items() if name in there},
        starts={name: one for name, one in state.starts.items() if name in there},
        off=[name for name in state.off if name in there],
        links_down=[one for one in state.links_down if one.partition(":")[0] in owners],
    )


def _make(lab: Lab, todo: Plan) -> None:
    topology = lab.topology
    lab.sandbox.call(links.build_more, topology, todo.made("networks"), todo.made("nodes"))
    lab._build_routers([topology.routers[name] for name in todo.made("routers")])
    lab._write_ssh()
    names = todo.made("nodes")
    # What a user had stopped and is restarted runs then: it is another node.
    power.start_built(lab, power.build(lab, names), give=False)
    _introduce(lab, todo)
    for one in ports(topology):
        if one.name in todo.impaired:
            from labctl.network import netem  # here: most labs have none

            lab.place(one.host).call(netem.impair, one.outer, one.interface.impairment)
    for name in [*names, *todo.made("routers")]:
        interface_settings.impair(lab, name)
    lab._give(names)


def _introduce(lab: Lab, todo: Plan) -> None:
    """Tell nodes that went on of those that are new to them, by name, address and key."""
    new = todo.made("nodes")
    for node in lab.topology.nodes.values() if new else ():
        if node.name in new or node.name in lab._state.off:
            continue
        kind = node.guest_kind
        why = "" if kind.is_machine and not kind.boots_disk else "it is told when it starts"
        if not why:
            try:
                lab.node(node.name).run(_peers(lab, node, new))
            except LabctlError as wrong:
                why = wrong.message
        if why:
            detail = f"it does not know {', '.join(new)} by name: {why}"
            lab._emit(Event("peers", node.name, "failed", detail))


def _peers(lab: Lab, node: model.Node, names: Sequence[str]) -> str:
    """Return a shell's line by which a guest forgets what it knew of nodes, and learns it anew."""
    state, topology = lab._state, lab.topology
    those = {name: topology.nodes[name] for name in (node.name, *names)}
    there = dataclasses.replace(topology, nodes=those)
    lines = spec.boot_lines(there, node, state.client, state.clients, state.hostkeys)
    forget = " ".join(f"-e '/ {name}$/d'" for name in names)
    return f"sed -i {forget} /etc/hosts\n{spec.peers_script(spec.part_peers(lines)[1])}"
