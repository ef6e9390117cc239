"""Labs on a system's libvirt (`--connect qemu:///system`), in the host's own namespaces."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from labctl.backends.shared_host import SharedHost
from labctl.backends.state import State
from labctl.errors import LabctlError, UsageError
from labctl.events import Emit, Event
from labctl.guests import driver
from labctl.network import links, planned
from labctl.network import programs as link_programs
from labctl.routers import namespace, programs
from labctl.sandbox.base import Sandbox
from labctl.topology.model import Topology

NETNS = Path("/run/netns")
BRIDGED = Path("/proc/sys/net/bridge")
"""There while br_netfilter is loaded, as Docker and libvirt's nwfilter load it."""
LOCAL = re.compile(r"qemu(\+unix)?:///")
"""What its URI begins with (libvirt: docs/uri.rst): the driver, and no other host.

A lab's links are made on this one, so a libvirtd of another could not join guests to them.
"""
FILES = Path("/run/libvirt/qemu")
"""Where a system's libvirtd keeps what ours keeps in the lab's folder."""


class SystemLibvirt(SharedHost):
    """A libvirtd of this host, whose QEMU is another user."""

    def check(self, topology: Topology, emit: Emit) -> None:
        """Raise `UsageError` for another URI, unless this host has room, and unless we are root.

        That the host's firewall may disturb the lab is told.
        """
        if not LOCAL.match(self.uri):
            raise UsageError(
                f"--connect {self.uri} is no libvirt that labctl knows to run guests by",
                "give qemu:///system, or for a real Xen host xen+ssh://root@HOST/system",
            )
        if hosts := topology.xen_hosts():
            raise UsageError(
                f"{topology.name} has a Xen host ({hosts[0].name}), "
                "which a lab on a system's libvirt cannot hold",
                "leave --connect away: the Xen host is a guest of the lab's own",
            )
        if nodes := topology.namespace_nodes():
            raise UsageError(
                f"{topology.name} has a node that is a namespace ({nodes[0].name}), "
                "which a lab on a system's libvirt cannot hold",
                "leave --connect away: such nodes are in labs of their own",
            )
        if os.geteuid() != 0:
            raise UsageError(
                "a lab on a system's libvirt makes links in the host's network, which takes root",
                "use sudo, or leave --connect away: labs of your own need no root",
            )
        wanted = {*links.names(topology)}
        wanted |= {one.peer for router in topology.routers.values() for one in router.interfaces}
        taken = sorted(wanted & {link.name for link in links.links()})
        spaces = (*topology.routers, *planned.namespaces(topology.outer_networks()))
        taken += sorted(name for name in spaces if (NETNS / name).exists())
        if taken:
            raise UsageError(
                f"this host has links or namespaces of these names already: {', '.join(taken)}",
                "rename the networks, nodes or routers of the topology, or leave --connect away",
            )
        if told := firewall():
            emit(Event("host", "firewall", "done", told))

    def libvirt_files(self, directory: Path) -> Path | None:
        """Return the folder of the system's libvirtd."""
        return FILES

    def build_networks(self, sandbox: Sandbox, known: State) -> None:
        """Make all links in the host's own network."""
        sandbox.call(links.build, known.topology)

    def boot_user(self, sandbox: Sandbox) -> tuple[int, int] | None:
        """Return the user that QEMU runs as."""
        return sandbox.call(driver.qemu_user, self.hypervisor(sandbox.directory))

    def remove(self, sandbox: Sandbox, known: State) -> None:
        """Take away the guests, programs, namespaces and links of a lab."""
        hypervisor = self.hypervisor(sandbox.directory)
        for node in known.topology.nodes:
            with contextlib.suppress(LabctlError):  # libvirtd may be gone; the links must go anyway
                sandbox.call(driver.stop, hypervisor, self.domain(known, node))
        programs.end_all(sandbox.directory)
        link_programs.end_all(sandbox.directory)
        for router in known.topology.routers.values():
            sandbox.call(namespace.remove, router)
        sandbox.call(links.remove, known.topology)


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
