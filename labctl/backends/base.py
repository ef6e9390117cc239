"""What a lab asks of whatever runs its guests: one class for each, found by `labctl.backends.of`.

Everything that differs from one to another is a method or a constant here; what a lab does in which
order is the same for all (`labctl.lab.lab`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from labctl.backends.dom0 import DIRECTORY, Dom0
from labctl.backends.state import State
from labctl.events import Emit
from labctl.guests import driver
from labctl.guests.spec import Accel
from labctl.sandbox.base import Sandbox
from labctl.sandbox.client import Agent
from labctl.sandbox.lazy_import import Late
from labctl.topology.model import MGMT_BRIDGE, Node, Topology

if TYPE_CHECKING:
    from labctl.guests import xen
else:
    xen = Late("labctl.guests.xen")


@dataclass(frozen=True)
class Backend(ABC):
    """What runs the guests of a lab."""

    uri: str
    """The libvirt URI that was given by `--connect`; empty for labctl's own."""

    programs: ClassVar[Mapping[str, str]]
    """Programs of this machine that a lab needs, and the Debian package of each."""
    guest_programs: ClassVar[Collection[str]] = ("ssh",)
    """Those of them that a lab without machines does not need."""
    makes_taps: ClassVar[bool] = True
    """Whether links of guests are made on this machine, which takes /dev/net/tun."""
    accel: ClassVar[Accel | None] = None
    """How guests run where there is no choice; else the user has it, between KVM and TCG."""
    clones: ClassVar[bool] = False
    """Whether guests can start from templates."""
    ends_with_sandbox: ClassVar[bool]
    """Whether all that a lab makes ends with its sandbox. If not, `dismantle` takes it away by the
    state, which therefore is written before anything is made."""
    log_folder_mode: ClassVar[int]
    """Of the folder of consoles: a QEMU of another user passes through it."""

    # --- before anything is made --------------------------------------------------------------

    @abstractmethod
    def check(self, topology: Topology, emit: Emit) -> None:
        """Raise `UsageError` for a topology, or a URI, with which there can be no lab.

        What may disturb the lab and is not ours to change is told by an event.
        """

    def boots(self, node: Node) -> bool:
        """Whether a lab starts this node; what it does not start is there before and after it."""
        return True

    def booted(self, topology: Topology) -> list[Node]:
        """Return the nodes that a lab boots, which are those that need an image."""
        nodes = (node for node in topology.nodes.values() if node.guest_kind.is_machine)
        return [node for node in nodes if self.boots(node)]

    def machines(self, topology: Topology) -> list[Node]:
        """Return the nodes that a lab starts as QEMU guests of this machine."""
        return [node for node in topology.outer_machines() if self.boots(node)]

    @abstractmethod
    def create_sandbox(self, directory: Path, agent: Agent | None) -> Sandbox:
        """Make the place of a lab; an `agent` may have been started for it ahead.

        Raises `HostError` where it cannot be made.
        """

    @abstractmethod
    def survey(self, sandbox: Sandbox, known: State) -> None:
        """Look at what is there already, and change nothing.

        Raises `UsageError` for names that are taken, `HostError` where a lab cannot be.
        """

    # --- names, and the ways to things --------------------------------------------------------

    @abstractmethod
    def domain(self, known: State, node: str) -> str:
        """Return what libvirt calls a node."""

    def mgmt_bridge(self, known: State) -> str:
        """Return the name of the bridge over which a lab's guests are controlled."""
        return MGMT_BRIDGE

    def ssh_through(self, topology: Topology) -> str:
        """Return the node through which all guests are reached by SSH; empty where none is."""
        return ""

    @abstractmethod
    def hypervisor(self, directory: Path) -> driver.Hypervisor:
        """Return how the guests of the lab in `directory` are driven."""

    def xen_host(self, known: State, name: str, directory: Path) -> xen.XenHost:
        """Return a Xen host of the lab in `directory`, and the way to it."""
        log = directory / "console" / f"{name}.log"
        return xen.XenHost(name, directory, log, self.domain(known, name))

    def dom0_folder(self, known: State) -> Path:
        """Return the folder in a dom0 that holds all that is of the lab."""
        return DIRECTORY

    def libvirt_files(self, directory: Path) -> Path | None:
        """Return the folder where libvirt keeps files of the QEMU guests that run.

        None where there are none on this machine: nothing can be told of a host without asking it.
        `directory` is the lab's.
        """
        return None

    # --- coming up ----------------------------------------------------------------------------

    @abstractmethod
    def build_networks(self, sandbox: Sandbox, known: State) -> None:
        """Make the networks that are not on a Xen host, and let libvirt get ready beside that."""

    def boot_user(self, sandbox: Sandbox) -> tuple[int, int] | None:
        """Return the uid and gid that read what guests boot; None for the lab's own user.

        Raises `HostError` where that cannot be told.
        """
        return None

    def dom0_files(self, known: State, *files: Path) -> Mapping[Path, str]:
        """Return where a dom0 has files of this machine, as far as not as drives."""
        return {}

    def prepare_dom0(  # noqa: B027 - a Xen host of the lab's has it all
        self, sandbox: Sandbox, known: State, dom0: Dom0, guests: Sequence[xen.XenGuest], emit: Emit
    ) -> None:
        """Make what routers and guests on a Xen host need, if it did not come with the host."""

    def settle_dom0(self, known: State, dom0: Dom0) -> None:  # noqa: B027
        """Check and change what a Xen host's own scripts have made for guests that now run."""

    # --- going --------------------------------------------------------------------------------

    @abstractmethod
    def tear_down(self, sandbox: Sandbox, known: State | None) -> None:
        """Take away what does not end with the sandbox, however far its making came.

        `known` is None where nothing was made yet but connections. Raises `LabctlError` where
        something stays; the lab's directory is to stay then too, for another try.
        """
