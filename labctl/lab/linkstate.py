"""Which interfaces of a lab's guests have lost their links, and where."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from labctl import backends
from labctl.backends.state import State
from labctl.errors import LabctlError
from labctl.lab import guest_state
from labctl.sandbox import linkflags
from labctl.sandbox.base import Sandbox
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.linkflags import IFF_RUNNING, IFF_UP
from labctl.sandbox.process import run
from labctl.topology.model import MGMT_BRIDGE, Node

ASK_SECONDS = 20.0
MANAGEMENT = "management"
"""Stands for the interface that labctl reaches a node by."""


def troubles(sandbox: Sandbox, known: State) -> dict[str, dict[str, str]]:
    """Return by node and interface why it has no link; what is well is left out.

    Of guests on a Xen host and of their host's uplinks only the host's end is known, of a real Xen
    host nothing. Raises `LabctlError` when it cannot be told.
    """
    nodes = [*backends.of(known.uri).machines(known.topology), *known.topology.namespace_nodes()]
    if not nodes:
        return {}
    program = [sys.executable, "-I", "-S", str(Path(linkflags.__file__))]
    answer = run(sandbox.words(program), deadline=Deadline(ASK_SECONDS, "reading a lab's links"))
    try:
        flags: dict[str, int] = json.loads(answer.stdout)
    except ValueError:
        raise LabctlError("a lab's links cannot be read", "run: labctl doctor") from None
    found = {}
    for node in nodes:
        down = guest_state.taken_down(guest_state.told_by_libvirt(sandbox, known, node.name))
        lost = {
            name: why
            for name, tap, bridge in _links(known, node)
            if (why := _trouble(tap, node.guest_kind.outer.name, bridge, flags, down))
        }
        if lost:
            found[node.name] = lost
    return found


def _links(known: State, node: Node) -> list[tuple[str, str, str]]:
    """Return each interface of a node with its outer end and the bridge that this is in."""
    bridges = known.topology.bridges(node)
    ours = [(one.name, one.tap, bridges[one.name]) for one in node.interfaces]
    mgmt = [(MANAGEMENT, node.mgmt_tap, MGMT_BRIDGE)] if node.guest_kind.is_machine else []
    return [*ours, *mgmt]


def _trouble(tap: str, end: str, bridge: str, flags: dict[str, int], down: set[str]) -> str:
    for link, what in ((tap, end), (bridge, "bridge")):
        if link not in flags:
            return f"its {what} {link} is gone"
        if not flags[link] & IFF_UP:
            return f"its {what} {link} is down"
    if not flags[tap] & IFF_RUNNING:
        return f"its {end} {tap} has no carrier"
    if tap in down:
        return "libvirt has taken its link down"
    return ""
