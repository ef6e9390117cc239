"""What is up: read from a lab's directory and its world's /proc, without libvirt.

What lives on a Xen host is asked of its dom0, by one command.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

from labctl.errors import GuestError, LabctlError
from labctl.guests import ssh
from labctl.lab import real, shared, state
from labctl.lab.dom0 import DIRECTORY, Dom0
from labctl.lab.router import Router
from labctl.topology.model import Interface, Node, RouterInterface
from labctl.topology.model import Router as RouterModel
from labctl.world.base import Place, World
from labctl.world.deadline import Deadline
from labctl.world.process import run

ASK_SECONDS = 20.0


def describe(folder: Path) -> dict[str, Any]:
    """Describe the lab of a directory as plain data.

    `state` is `up`, `coming up`, `damaged` (a guest or router has ended, or a dom0 does not answer)
    or `dead` (its world has ended; `labctl down` removes what is left).
    """
    try:
        return _describe(folder)
    except FileNotFoundError:  # it went down while it was looked at
        return {"name": folder.name, "state": "dead", "directory": str(folder)}


def _describe(folder: Path) -> dict[str, Any]:
    try:
        world = state.attach(folder)
    except LabctlError:
        return {"name": folder.name, "state": "dead", "directory": str(folder)}
    try:
        known = state.load(folder)
    except LabctlError:
        return {"name": folder.name, "state": "coming up", "directory": str(folder)}
    guests = _states(world, known)
    parts: list[dict[str, Any]] = []
    for node in known.topology.nodes.values():
        parts.append(
            {
                "name": node.name,
                "is": _kind_of(node, known),
                "state": guests[node.name],
                "image": known.images[node.name].name if node.name in known.images else "",
                "addresses": _addresses(node.interfaces),
            }
        )
    for router in known.topology.routers.values():
        kind, state_of = _router(world, known, guests, router)
        parts.append(
            {
                "name": router.name,
                "is": f"router ({kind})" + (f" on {router.host}" if router.host else ""),
                "state": state_of,
                "image": "",
                "addresses": _addresses(router.interfaces),
            }
        )
    for network in known.topology.networks.values():
        subnets = ", ".join(str(subnet) for subnet in network.subnets)
        parts.append(
            {"name": network.name, "is": "network", "state": "", "image": "", "addresses": subnets}
        )
    if not known.complete:
        return {"name": folder.name, "state": "coming up", "directory": str(folder)}
    damaged = any(part["state"] in ("ended", "unknown") for part in parts)
    return {
        "name": folder.name,
        "state": "damaged" if damaged else "up",
        "directory": str(folder),
        "topology": str(known.topology.source or known.topology.name),
        "accel": known.accel,
        "started": known.started,
        "parts": parts,
    }


def check_running(world: World, known: state.State, node: str) -> None:
    """Raise `GuestError` when a node's guest, or the Xen host it is on, has ended.

    Nobody would answer for minutes.
    """
    host = known.topology.nodes[node].host
    for name in (host, node) if host else (node,):
        outer = not known.topology.nodes[name].host
        ended = not _runs(world, known, name) if outer else _states(world, known)[name] == "ended"
        if ended:
            raise GuestError(f"{name} has ended", f"read what it said last: labctl logs {name}")


def dom0(world: World, known: state.State, host: str) -> Dom0:
    """Return the dom0 of a Xen host as a place; it raises `GuestError` when the host has ended."""
    directory = real.folder(known) if real.is_meant(known.uri) else DIRECTORY
    return Dom0(world, host, partial(check_host, world, known, host), directory)


def check_host(world: World, known: state.State, host: str) -> None:
    """Raise `GuestError` when a Xen host has ended; asks nobody."""
    if not _runs(world, known, host):
        raise GuestError(f"the Xen host {host} has ended", f"read its console: labctl logs {host}")


def _states(world: World, known: state.State) -> dict[str, str]:
    """Return for each node whether it is `running`, `ended`, or `unknown` as dom0 is silent."""
    topology = known.topology
    found = {
        node.name: "running" if _runs(world, known, node.name) else "ended"
        for node in topology.outer_nodes()
    }
    for host in topology.xen_hosts():
        nodes = topology.inside(host.name).nodes
        if found[host.name] == "ended" or not nodes:
            found |= {node.name: "ended" for node in nodes}
            continue
        words = [*world.enter(), *ssh.command(world.directory, host.name), "ls /sys/class/net"]
        try:
            links = run(words, deadline=Deadline(ASK_SECONDS, f"asking dom0 of {host.name}")).stdout
        except LabctlError:
            found |= {node.name: "unknown" for node in nodes}
            if real.is_meant(known.uri):
                found[host.name] = "unknown"
            continue
        # A vif goes with its guest.
        up = set(links.split())
        found |= {node.name: "running" if node.mgmt_tap in up else "ended" for node in nodes}
    return found


def _runs(world: World, known: state.State, node: str) -> bool:
    """Whether a node's QEMU runs, by the pid file that libvirt keeps."""
    if real.is_meant(known.uri):
        return True  # as far as can be told without asking it
    folder = Path("/run/libvirt/qemu") if known.uri else world.directory / "embed/run/qemu"
    with contextlib.suppress(OSError, ValueError):
        return world.runs(int((folder / f"{shared.domain(known, node)}.pid").read_text()))
    return False


def _router(
    world: World, known: state.State, guests: dict[str, str], router: RouterModel
) -> tuple[str, str]:
    """Return a router's kind now, or what it should be, and its state."""
    place: Place = world
    if router.host:
        if guests[router.host] != "running":
            return router.kind, guests[router.host]
        place = dom0(world, known, router.host)
    try:
        kind = Router(place, world.directory, router).kind
    except LabctlError:
        return router.kind, "unknown"
    finally:
        if place is not world:
            place.close()
    return kind or router.kind, "running" if kind else "ended"


def _kind_of(node: Node, known: state.State) -> str:
    if node.hypervisor:
        return "real Xen host" if real.is_meant(known.uri) else "Xen host"
    return f"node on {node.host}" if node.host else "node"


def _addresses(interfaces: tuple[Interface, ...] | tuple[RouterInterface, ...]) -> str:
    return ", ".join(str(address) for one in interfaces for address in one.addresses)
