"""What is up: read from a lab's directory and its sandbox's /proc, without libvirt.

What lives on a Xen host is asked of its dom0, by one command.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

from labctl import backends
from labctl.backends.dom0 import Dom0
from labctl.backends.state import State
from labctl.errors import GuestError, LabctlError
from labctl.guests import ssh
from labctl.lab import guest_state, linkstate, published, state
from labctl.lab.machines import condition_of
from labctl.lab.router import Router
from labctl.network import programs
from labctl.sandbox.base import ExecutionContext, Sandbox
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import run
from labctl.topology.model import Interface, Node, RouterInterface
from labctl.topology.model import Router as RouterModel

ASK_SECONDS = 20.0
HALF = "it is becoming one of another topology, or a change of it broke off"


def describe(folder: Path) -> dict[str, Any]:
    """Describe the lab of a directory as plain data.

    `state` is `up`, `coming up`, `damaged` (a guest, a router or a link's program does not run, an
    interface has lost its link, a dom0 does not answer, or the lab's own notes cannot be read: then
    `problem` and `hint` say more) or `dead` (its sandbox has ended; `labctl down` removes what is
    left).
    """
    try:
        return _describe(folder)
    except FileNotFoundError:  # it went down while it was looked at
        return {"name": folder.name, "state": "dead", "directory": str(folder)}


def _describe(folder: Path) -> dict[str, Any]:
    try:
        sandbox = state.attach(folder)
    except LabctlError:
        return {"name": folder.name, "state": "dead", "directory": str(folder)}
    try:
        known = state.load(folder)
    except state.NotUpError:
        return {"name": folder.name, "state": "coming up", "directory": str(folder)}
    except LabctlError as wrong:
        return {
            "name": folder.name, "state": "damaged", "directory": str(folder),
            "problem": wrong.message, "hint": wrong.hint,
        }  # fmt: skip
    guests = _states(sandbox, known)
    lost: dict[str, dict[str, str]] = {}
    if known.complete:
        with contextlib.suppress(LabctlError):  # it is ending; the rest can be told all the same
            lost = linkstate.troubles(sandbox, known)
    lost = {
        name: {one: why for one, why in its.items() if one not in _down(known, name)}
        for name, its in lost.items()
    }
    parts: list[dict[str, Any]] = []
    for node in known.topology.nodes.values():
        parts.append(
            {
                "name": node.name,
                "is": _kind_of(node, known),
                "state": guests[node.name],
                "start": known.starts.get(node.name, ""),
                "links": lost.get(node.name, {}) if guests[node.name] == "running" else {},
                "links_down": _down(known, node.name),
                "image": _image_of(node, known),
                "addresses": _addresses(node.interfaces),
                "interfaces": [_interface(one, one.tap, one.model) for one in node.interfaces],
            }
        )
    for router in known.topology.routers.values():
        kind, state_of = _router(sandbox, known, guests, router)
        parts.append(
            {
                "name": router.name,
                "is": f"router ({kind})" + (f" on {router.host}" if router.host else ""),
                "state": state_of,
                "image": "",
                "addresses": _addresses(router.interfaces),
                "links_down": _down(known, router.name),
                "interfaces": [_interface(one, one.peer, "veth") for one in router.interfaces],
            }
        )
    for one, state_of in programs.states(sandbox, known.topology):
        parts.append(
            {
                "name": one.program.name,
                "is": f"program ({one.program.program}) of {one.network}",
                "state": state_of,
                "image": "",
                "addresses": "",
            }
        )
    for network in known.topology.networks.values():
        subnets = ", ".join(str(subnet) for subnet in network.subnets)
        parts.append(
            {"name": network.name, "is": "network", "state": "", "image": "", "addresses": subnets}
        )
    if not known.complete:
        return {"name": folder.name, "state": "coming up", "directory": str(folder)}
    well = ("running", guest_state.SHUT_OFF, "")
    half = {"problem": HALF, "hint": f"run: labctl down {folder.name}"} if known.changing else {}
    damaged = known.changing or any(
        part["state"] not in well or part.get("links") for part in parts
    )
    return {
        "name": folder.name,
        "state": "damaged" if damaged else "up",
        "directory": str(folder),
        "topology": str(known.topology.source or known.topology.name),
        "accel": known.accel,
        "started": known.started,
        "published": [one.to_json() for one in published.listed(folder, sandbox)],
        "parts": parts,
        **half,
    }


def check_machine(sandbox: Sandbox, known: State, node: str) -> None:
    """Raise `GuestError` when the QEMU of a node, or of the Xen host it is on, has ended."""
    nodes = known.topology.nodes
    machine = nodes[node].host or node
    found = condition_of(sandbox, known, machine)
    if not found.runs:
        kind = nodes[machine].guest_kind
        what = f"the {kind.title} {machine}" if kind.is_host else machine
        raise guest_state.error(what, machine, found, has_console=kind.is_machine)


def dom0(sandbox: Sandbox, known: State, host: str) -> Dom0:
    """Return the dom0 of a Xen host as a place; it raises `GuestError` when the host has ended."""
    directory = backends.of(known.uri).dom0_folder(known)
    return Dom0(sandbox, host, partial(check_machine, sandbox, known, host), directory)


def check_running(sandbox: Sandbox, known: State, node: str, ask: bool = True) -> None:
    """Raise `GuestError` when a node's guest, or the Xen host it is on, has ended.

    Nobody would answer for minutes. Of a guest on a Xen host only dom0 knows, if it may be asked;
    of others it is asked whether they have lost the link that they are reached by.
    """
    check_machine(sandbox, known, node)
    guest = known.topology.nodes[node]
    if ask and not guest.host:
        _check_link(sandbox, known, node)
    if guest.host and ask and _inside(sandbox, known, guest.host)[node] == "ended":
        raise GuestError(
            f"{node} has ended, but not its Xen host {guest.host}",
            f"read what it said last: labctl logs {node}",
        )


def _check_link(sandbox: Sandbox, known: State, node: str) -> None:
    """Raise `GuestError` when a node cannot be reached, as its management link is lost."""
    if why := linkstate.troubles(sandbox, known).get(node, {}).get(linkstate.MANAGEMENT):
        raise GuestError(
            f"{node} runs, but cannot be reached: on the management network {why}",
            f"put it back, or talk to it: labctl console {node}",
        )


def _states(sandbox: Sandbox, known: State) -> dict[str, str]:
    """Return for each node whether it is `running`, `ended`, or `unknown` as dom0 is silent."""
    found = {}
    for node in known.topology.outer_nodes():
        found[node.name] = condition_of(sandbox, known, node.name).state
        if node.guest_kind.is_host:
            found |= _inside(sandbox, known, node.name)
    return found


def _inside(sandbox: Sandbox, known: State, host: str) -> dict[str, str]:
    """Return the state of each guest on a Xen host."""
    nodes = known.topology.inside(host).nodes
    if not nodes or not condition_of(sandbox, known, host).runs:
        return {node.name: "ended" for node in nodes}
    words = [*sandbox.enter(), *ssh.command(sandbox.directory, host), "ls /sys/class/net"]
    try:
        answer = run(
            words,
            deadline=Deadline(ASK_SECONDS, f"asking dom0 of {host}"),
            watch=lambda: check_machine(sandbox, known, host),
        )
    except LabctlError:
        state_of = "unknown" if condition_of(sandbox, known, host).runs else "ended"
        found = {node.name: state_of for node in nodes}
        # Of a host that the lab did not start nothing else tells.
        started = backends.of(known.uri).boots(known.topology.nodes[host])
        return found if started else found | {host: state_of}
    # A vif goes with its guest.
    up = set(answer.stdout.split())
    return {node.name: "running" if node.mgmt_tap in up else "ended" for node in nodes}


def _router(
    sandbox: Sandbox, known: State, guests: dict[str, str], router: RouterModel
) -> tuple[str, str]:
    """Return a router's kind now, or what it should be, and its state."""
    place: ExecutionContext = sandbox
    if router.host:
        if guests[router.host] != "running":
            return router.kind, guests[router.host]
        place = dom0(sandbox, known, router.host)
    try:
        kind = Router(place, sandbox.directory, router).kind
    except LabctlError:
        return router.kind, "unknown"
    finally:
        if place is not sandbox:
            place.close()
    return kind or router.kind, "running" if kind else "ended"


def _down(known: State, owner: str) -> list[str]:
    """Return the interfaces of a node or router whose links were taken down by choice."""
    names = (one.partition(":") for one in known.links_down)
    return [interface for name, _, interface in names if name == owner]


def _image_of(node: Node, known: State) -> str:
    if node.disk:
        return node.disk.name
    return known.images[node.name].name if node.name in known.images else ""


def _kind_of(node: Node, known: State) -> str:
    kind = node.guest_kind
    if kind.is_host:
        return kind.title if backends.of(known.uri).boots(node) else f"real {kind.title}"
    name = "router" if node.forwards else "node"
    forwarder = f", {node.forwarder}" if node.forwarder else ""
    what = f"{name} ({node.kind or kind.name}{forwarder})" if node.kind or node.forwards else name
    if node.console_only:
        return f"{what}, console only"
    return f"{what} on {node.host}" if node.host else what


def _addresses(interfaces: tuple[Interface, ...] | tuple[RouterInterface, ...]) -> str:
    return ", ".join(str(address) for one in interfaces for address in one.addresses)


def _interface(one: Interface | RouterInterface, outer: str, kind: str) -> dict[str, Any]:
    """Return an interface as plain data; `outer` is its other end, at the network's bridge."""
    return {
        "name": one.name,
        "network": one.network,
        "segment": one.segment,
        "mac": one.mac,
        "mtu": one.mtu,
        "kind": kind,
        "outer": outer,
        "addresses": [str(address) for address in one.addresses],
    }
