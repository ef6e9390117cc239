"""Which interfaces of a lab's guests have lost their links, and where."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from labctl.errors import LabctlError
from labctl.lab import condition, real, state
from labctl.topology.model import MGMT_BRIDGE, Node
from labctl.world import linkflags
from labctl.world.base import World
from labctl.world.deadline import Deadline
from labctl.world.linkflags import IFF_RUNNING, IFF_UP
from labctl.world.process import run

ASK_SECONDS = 20.0
MANAGEMENT = "management"
"""Stands for the interface that labctl reaches a node by."""


def troubles(world: World, known: state.State) -> dict[str, dict[str, str]]:
    """Return by node and interface why it has no link; what is well is left out.

    Of guests on a Xen host and of their host's uplinks only the host's end is known, of a real Xen
    host nothing. Raises `LabctlError` when it cannot be told.
    """
    if real.is_meant(known.uri):
        return {}
    program = [sys.executable, "-I", "-S", str(Path(linkflags.__file__))]
    answer = run(world.words(program), deadline=Deadline(ASK_SECONDS, "reading a lab's links"))
    try:
        flags: dict[str, int] = json.loads(answer.stdout)
    except ValueError:
        raise LabctlError("a lab's links cannot be read", "run: labctl doctor") from None
    found = {}
    for node in known.topology.outer_nodes():
        down = condition.taken_down(condition.told_by_libvirt(world, known, node.name))
        lost = {
            name: why
            for name, tap, bridge in _links(known, node)
            if (why := _trouble(tap, bridge, flags, down))
        }
        if lost:
            found[node.name] = lost
    return found


def _links(known: state.State, node: Node) -> list[tuple[str, str, str]]:
    """Return each interface of a node with its TAP and the bridge that this is in."""
    bridges = known.topology.bridges(node)
    ours = [(one.name, one.tap, bridges[one.name]) for one in node.interfaces]
    return [*ours, (MANAGEMENT, node.mgmt_tap, MGMT_BRIDGE)]


def _trouble(tap: str, bridge: str, flags: dict[str, int], down: set[str]) -> str:
    for link, what in ((tap, "TAP"), (bridge, "bridge")):
        if link not in flags:
            return f"its {what} {link} is gone"
        if not flags[link] & IFF_UP:
            return f"its {what} {link} is down"
    if not flags[tap] & IFF_RUNNING:
        return f"its TAP {tap} has no carrier"
    if tap in down:
        return "libvirt has taken its link down"
    return ""
