"""Labs on a system's libvirt (`--connect URI`): in the host's own namespaces, beside other things.

Nothing of the host is taken over: every name a lab needs must be free before it starts, and what it
makes is taken away by those names, which its state holds from before the first is made.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from labctl.backends.state import State
from labctl.errors import LabctlError, UsageError
from labctl.guests import driver, ssh
from labctl.network import links
from labctl.routers import namespace, programs
from labctl.topology.model import Topology
from labctl.world.base import World
from labctl.world.deadline import Deadline

NETNS = Path("/run/netns")
BRIDGED = Path("/proc/sys/net/bridge")
"""There while br_netfilter is loaded, as Docker and libvirt's nwfilter load it."""


def check(topology: Topology) -> None:
    """Raise `UsageError` unless this host has room for the topology's names, and we are root."""
    if os.geteuid() != 0:
        raise UsageError(
            "a lab on a system's libvirt makes links in the host's network, which takes root",
            "use sudo, or leave --connect away: labs of your own need no root",
        )
    wanted = {*links.names(topology)}
    wanted |= {one.peer for router in topology.routers.values() for one in router.interfaces}
    taken = sorted(wanted & {link.name for link in links.links()})
    taken += sorted(name for name in topology.routers if (NETNS / name).exists())
    if taken:
        raise UsageError(
            f"this host has links or namespaces of these names already: {', '.join(taken)}",
            "rename the networks, nodes or routers of the topology, or leave --connect away",
        )


def firewall() -> str:
    """Say that this host's firewall sees what crosses its bridges, where it does; else nothing.

    The rules are not a lab's to change: whoever set them may mean them.
    """
    names = [f"bridge-nf-call-{table}" for table in ("iptables", "ip6tables", "arptables")]
    on = []
    for name in names:
        with contextlib.suppress(OSError):
            if (BRIDGED / name).read_text().strip() != "0":
                on.append(f"net.bridge.{name}=0")
    if not on:
        return ""
    return (
        "this host's firewall sees what crosses bridges, and may drop it; if it does, as root, "
        f"run: sysctl -w {' '.join(on)}"
    )


def check_domains(world: World, known: State) -> None:
    """Raise `UsageError` when libvirt has guests of the names this lab's would get."""
    hypervisor = driver.Hypervisor(world.directory / "embed", known.uri)
    wanted = {domain(known, node) for node in known.topology.nodes}
    taken = sorted(wanted & set(world.call(driver.running, hypervisor)))
    if taken:
        raise UsageError(
            f"libvirt has guests of these names already: {', '.join(taken)}",
            "name the lab another way: --name NAME",
        )


def domain(known: State, node: str) -> str:
    """Return what libvirt calls a node; a system's libvirt has guests of others too."""
    return f"{known.name}-{node}" if known.uri else node


def dismantle(world: World, known: State) -> None:
    """Take away the guests, router programs, namespaces and links of a lab."""
    hypervisor = driver.Hypervisor(world.directory / "embed", known.uri)
    for node in known.topology.nodes:
        with contextlib.suppress(LabctlError):  # libvirtd may be gone; the links must go anyway
            world.call(driver.stop, hypervisor, domain(known, node))
    programs.end_all(world.directory)
    for router in known.topology.routers.values():
        world.call(namespace.remove, router)
    world.call(links.remove, known.topology)


def end_connections(world: World) -> None:
    """End the shared SSH connections of a lab: here they would outlive it."""
    folder = world.directory / ssh.SOCKETS
    for socket in folder.iterdir() if folder.exists() else ():
        words = ["ssh", "-F", "none", "-S", str(socket), "-O", "exit", socket.name]
        with contextlib.suppress(LabctlError):
            world.agent().run(words, Deadline(20, f"closing {socket.name}"), check=False)
