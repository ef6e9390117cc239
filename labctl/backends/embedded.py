"""Labs of their own: a world of namespaces, where libvirt is embedded in labctl's agent.

Nothing of the host is touched, and all of a lab ends with its world.
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
from labctl.sandbox.base import World
from labctl.sandbox.client import Agent
from labctl.sandbox.namespaces import Space
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
    ends_with_world = True
    log_folder_mode = 0o700

    def check(self, topology: Topology, emit: Emit) -> None:
        """Nothing to say: whatever a topology may have can be had."""

    def create_world(self, directory: Path, agent: Agent | None) -> World:
        """Make namespaces of the lab's own."""
        return Space.create(directory, agent)

    def survey(self, world: World, known: State) -> None:
        """Nothing to see: there is nobody else in a lab's own world."""

    def domain(self, known: State, node: str) -> str:
        """Return the node's own name."""
        return node

    def hypervisor(self, directory: Path) -> driver.Hypervisor:
        """Return the driver whose root is in the lab's directory."""
        return driver.Hypervisor(directory / "embed", capabilities=paths.cache() / "libvirt")

    def libvirt_files(self, directory: Path) -> Path | None:
        """Return the folder of the embedded driver."""
        return directory / "embed/run/qemu"

    def build_networks(self, world: World, known: State) -> None:
        """Make all links; libvirt is opened beside that."""
        # Whoever needs it first hears of what goes wrong.
        world.agent().begin(driver.open_early, self.hypervisor(world.directory))
        world.call(links.leave_bridges_alone)
        world.call(links.build, known.topology)

    def dismantle(self, world: World, known: State | None) -> None:
        """Nothing to do: all of it ends with the world."""
