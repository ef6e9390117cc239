"""Labs of their own: a sandbox of namespaces, where libvirt is embedded in labctl's agent.

Nothing of the host is touched, and all of a lab ends with its sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from labctl.backends.base import Backend
from labctl.backends.state import State
from labctl.events import Emit
from labctl.guests import driver
from labctl.network import links
from labctl.sandbox import paths
from labctl.sandbox.base import Sandbox
from labctl.sandbox.client import Agent
from labctl.sandbox.namespaces import Namespaces
from labctl.topology.model import Topology


class Embedded(Backend):
    """labctl's own libvirt and QEMU."""

    programs: ClassVar[Mapping[str, str]] = {
        "unshare": "util-linux",
        "nsenter": "util-linux",
        "setpriv": "util-linux",
        "mount": "mount",
        "ssh": "openssh-client",
        "qemu-system-x86_64": "qemu-system-x86",
    }
    guest_programs = ("ssh", "qemu-system-x86_64")
    clones = True
    ends_with_sandbox = True
    log_folder_mode = 0o700

    def check(self, topology: Topology, emit: Emit) -> None:
        """Nothing to say: whatever a topology may have can be had."""

    def create_sandbox(self, directory: Path, agent: Agent | None) -> Sandbox:
        """Make namespaces of the lab's own."""
        return Namespaces.create(directory, agent)

    def survey(self, sandbox: Sandbox, known: State) -> None:
        """Nothing to see: there is nobody else in a lab's own sandbox."""

    def domain(self, known: State, node: str) -> str:
        """Return the node's own name."""
        return node

    def hypervisor(self, directory: Path) -> driver.Hypervisor:
        """Return the driver whose root is in the lab's directory."""
        return driver.Hypervisor(directory / "embed", capabilities=paths.cache() / "libvirt")

    def libvirt_files(self, directory: Path) -> Path | None:
        """Return the folder of the embedded driver."""
        return directory / "embed/run/qemu"

    def build_networks(self, sandbox: Sandbox, known: State) -> None:
        """Make all links; libvirt is opened beside that."""
        if self.machines(known.topology):
            # Whoever needs it first hears of what goes wrong.
            sandbox.agent().begin(driver.open_early, self.hypervisor(sandbox.directory))
        sandbox.call(links.leave_bridges_alone)
        sandbox.call(links.build, known.topology)

    def tear_down(self, sandbox: Sandbox, known: State | None) -> None:
        """Nothing to do: all of it ends with the sandbox."""
