"""What is up: read from a lab's directory and its world's /proc, without libvirt or an agent."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from labctl.errors import GuestError, LabctlError
from labctl.lab import shared, state
from labctl.lab.router import Router
from labctl.topology.model import Interface, RouterInterface
from labctl.world.base import World


def describe(folder: Path) -> dict[str, Any]:
    """Describe the lab of a directory as plain data.

    `state` is `up`, `coming up`, `damaged` (a guest or router has ended) or `dead` (its world has
    ended; `labctl down` removes what is left).
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
    guests = _running(world, known)
    parts: list[dict[str, Any]] = []
    for node in known.topology.nodes.values():
        parts.append(
            {
                "name": node.name,
                "is": "node",
                "state": "running" if node.name in guests else "ended",
                "image": known.images[node.name].name,
                "addresses": _addresses(node.interfaces),
            }
        )
    for router in known.topology.routers.values():
        kind = Router(world, folder, router).kind
        parts.append(
            {
                "name": router.name,
                "is": f"router ({kind or router.kind})",
                "state": "running" if kind else "ended",
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
    damaged = any(part["state"] == "ended" for part in parts)
    return {
        "name": folder.name,
        "state": "damaged" if damaged else "up",
        "directory": str(folder),
        "topology": str(known.topology.source or known.topology.name),
        "accel": known.accel,
        "started": known.started,
        "parts": parts,
    }


def check_running(folder: Path, node: str) -> None:
    """Raise `GuestError` when a node's guest has ended: nobody would answer for minutes."""
    if node not in _running(state.attach(folder), state.load(folder)):
        raise GuestError(f"{node} has ended", f"read what it said last: labctl logs {node}")


def _running(world: World, known: state.State) -> set[str]:
    """Return the nodes whose QEMU runs, by the pid files that libvirt keeps."""
    folder = Path("/run/libvirt/qemu") if known.uri else world.directory / "embed/run/qemu"
    found = set()
    for node in known.topology.nodes:
        pid_file = folder / f"{shared.domain(known, node)}.pid"
        with contextlib.suppress(OSError, ValueError):
            if world.runs(int(pid_file.read_text())):
                found.add(node)
    return found


def _addresses(interfaces: tuple[Interface, ...] | tuple[RouterInterface, ...]) -> str:
    return ", ".join(str(address) for one in interfaces for address in one.addresses)
