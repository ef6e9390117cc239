"""What labs have in common that share a host with other things: a system's, or a real Xen host.

Nothing of the host is taken over: every name a lab needs must be free before it starts, and what it
makes is taken away by those names, which its state holds from before the first is made.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from labctl.backends.base import Backend
from labctl.backends.state import State
from labctl.errors import LabctlError, UsageError
from labctl.guests import driver, ssh
from labctl.sandbox.base import Sandbox
from labctl.sandbox.client import Agent
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.host import Host


class SharedHost(Backend):
    """A libvirt that serves others too. What it runs guests by is its own business."""

    programs: ClassVar[Mapping[str, str]] = {"ssh": "openssh-client"}
    ends_with_sandbox = False
    log_folder_mode = 0o711

    def create_sandbox(self, directory: Path, agent: Agent | None) -> Sandbox:
        """Make the lab's directory; it lives in this host's own namespaces."""
        return Host.create(directory)

    def survey(self, sandbox: Sandbox, known: State) -> None:
        """Raise `UsageError` when libvirt has guests of the names this lab's would get."""
        wanted = {self.domain(known, node) for node in known.topology.nodes}
        taken = sorted(
            wanted & set(sandbox.call(driver.running, self.hypervisor(sandbox.directory)))
        )
        if taken:
            raise UsageError(
                f"libvirt has guests of these names already: {', '.join(taken)}",
                "name the lab another way: --name NAME",
            )

    def domain(self, known: State, node: str) -> str:
        """Return a name that tells of the lab: this libvirt has guests of others too."""
        return f"{known.name}-{node}"

    def hypervisor(self, directory: Path) -> driver.Hypervisor:
        """Return the libvirt of the URI."""
        return driver.Hypervisor(None, self.uri)

    def tear_down(self, sandbox: Sandbox, known: State | None) -> None:
        """Take away what the lab has made, and end its SSH connections."""
        end_connections(sandbox)  # whoever was killed may have left one that hangs
        if known:
            self.remove(sandbox, known)
        end_connections(sandbox)

    @abstractmethod
    def remove(self, sandbox: Sandbox, known: State) -> None:
        """Take away what the lab has made, by its names; what is gone is no error."""


def end_connections(sandbox: Sandbox) -> None:
    """End the shared SSH connections of a lab: here they would outlive it."""
    folder = sandbox.directory / ssh.SOCKETS
    for socket in folder.iterdir() if folder.exists() else ():
        words = ["ssh", "-F", "none", "-S", str(socket), "-O", "exit", socket.name]
        with contextlib.suppress(LabctlError):
            sandbox.agent().run(words, Deadline(20, f"closing {socket.name}"), check=False)
