"""What a guest kind is: what a node is made of, where it lives, and what starts it.

Standard library only, as all that kinds are made of. So what makes guests is named here as
`module:name` and imported when a lab comes up (`labctl.lab.machines`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from labctl.kinds.base import Effect, Kind
from labctl.kinds.nics.base import NicModel

Hypervisor = Literal["", "xen"]
"""What `hypervisor:` in a topology may be; empty for none."""
READY = "labctl: ready"
"""What the init of labctl's images says on the console when SSH answers (docs/images.md)."""
LEAST_MEMORY = 96
"""MiB, whatever is booted: with an initramfs of one's own. labctl's images need more."""


@dataclass(frozen=True)
class OuterEnd:
    """What the other end of a guest's interface is, which is a port of a bridge."""

    name: str
    """As texts call it."""
    driver: str
    """The driver behind it, where texts name one."""
    most_mtu: int
    """Octets."""

    @property
    def told(self) -> str:
        """The name, and the driver if there is one to tell."""
        return ", ".join(filter(None, (self.name, self.driver)))


TAP = OuterEnd("TAP", "", 65521)
"""Its MTU is 65535 less an Ethernet header (drivers/net/tun.c)."""
VIF = OuterEnd("vif", "netback", 65517)
"""Its MTU is 65535 less a header with a VLAN tag (xenvif_alloc, xen-netback/interface.c)."""
VETH = OuterEnd("veth", "", 65535)
"""The other end of a pair (veth_setup, drivers/net/veth.c: ETH_MAX_MTU)."""


class GuestKind(Kind):
    """What a node is. What is not said is as it is of a QEMU guest of the lab's own.

    A node's kind is written as `kind:`, or follows from its other keys (`guests.derived`).
    """

    what = "guest"
    effect = Effect.KEEPS
    """Packets begin and end in it: what becomes of their checksums is said by its NICs."""

    # --- what it is called ------------------------------------------------------------------

    title: ClassVar[str] = "QEMU guest"
    """In texts, without an article."""
    short: ClassVar[str] = "guest"
    """In drawings, where it need not be told from other guests."""
    inner: ClassVar[str] = "guest"
    """What the kernel is called that its interfaces are in."""
    outer: ClassVar[OuterEnd] = TAP
    """The other end of its interfaces; in the dom0 of its host, if it lives on one."""

    # --- where it is ------------------------------------------------------------------------

    hypervisor: ClassVar[Hypervisor] = ""
    """The hypervisor in it, on which other nodes can live: what `hypervisor:` says in YAML."""
    home: ClassVar[Hypervisor] = ""
    """The hypervisor that it lives on, on the node that `host:` names; empty for the lab itself."""
    passed_by: ClassVar[str] = ""
    """What of it packets pass, where none begins or ends in it, such as `its dom0`."""
    own_links: ClassVar[str] = ""
    """A regular expression of links that it has itself, where networks are made in it."""
    is_machine: ClassVar[bool] = True
    """Whether it boots: it has an image, memory, a console, and an interface by which labctl
    reaches it. Else it is a network namespace of the lab that bears the node's name, and its
    interfaces are veth pairs."""

    # --- what it is made of -----------------------------------------------------------------

    boots_disk: ClassVar[bool] = False
    """Whether it boots a disk image, what `image:` names as a mapping, not a kernel."""
    takes_initramfs: ClassVar[bool] = False
    """Whether an initramfs of the user's own may be one that labctl does not configure."""
    image: ClassVar[str]
    """The image it boots, where the topology names none."""
    image_with_all_nics: ClassVar[str]
    """What to write in a topology for an image that has the drivers of all NICs it can have."""
    kernel_options: ClassVar[Mapping[str, str]] = {}
    """What its kernel must be built with, each option with what a kernel lacks without it; of the
    options that `labctl.images.kernel.SEEN` can see in one."""
    cmdline: ClassVar[str]
    """The command line of its kernel."""
    cpu: ClassVar[str] = ""
    """CPU model as QEMU takes it, such as `Nehalem,+rdrand`; by default the accelerator's best."""
    memory: ClassVar[int] = 128
    """MiB, where the topology says nothing of it."""
    least_memory: ClassVar[int] = LEAST_MEMORY
    """MiB that it cannot do without, whatever its image needs."""
    shares: ClassVar[Mapping[str, int]] = {}
    """MiB of its memory that none of the nodes on it can have, by who has them."""
    vcpus: ClassVar[int] = 1
    nic: ClassVar[str] = "virtio"
    """The NIC model of its interfaces, where the topology names none."""
    mgmt_nic: ClassVar[str] = "virtio"
    """That of the interface by which it is controlled."""
    inherits: ClassVar[bool] = True
    """Whether it has the image, files and size that `defaults:` in a topology says."""
    inherits_nic: ClassVar[bool] = True
    """Whether it has the NIC model that `defaults:` in a topology says."""

    def takes(self, nic: NicModel) -> bool:
        """Tell whether it can have interfaces of a NIC model."""
        return nic.home == self.home

    # --- what runs it -----------------------------------------------------------------------

    accels: ClassVar[Sequence[str]] = ("kvm", "tcg")
    """What can run it, of those that a user chooses from."""
    nests: ClassVar[bool] = False
    """Whether it needs a KVM whose guests can be hypervisors by hardware themselves."""
    built_by: ClassVar[str]
    """The function that says what a node is made of, as `module:name`: see `lab.machines.build`."""
    started_by: ClassVar[str]
    """The class that starts what was built, as `module:name`: a `lab.machines.Starter`."""
    handled_by: ClassVar[str] = "labctl.lab.node:Node"
    """The class that runs commands in it and turns its offloads, as `module:name`: a
    `lab.node.Node`. By default all is done over SSH."""
    ready: ClassVar[str] = READY
    """What its console says when a command may be tried over SSH, the proof that it is ready; empty
    for one that does not say: then it is tried over and over."""
    saveable: ClassVar[bool] = False
    """Whether its guests can be saved while they wait, and others go on from that (docs/clones.md);
    its image must know how to wait."""
    not_restarted: ClassVar[str] = ""
    """Why it cannot be started again in a running lab, as it must for other device features; empty
    where it can. All else of its offloads may change while it runs."""

    not_stopped: ClassVar[str] = ""
    """Why it cannot be stopped and started in a running lab; empty where it can."""

    @property
    def is_host(self) -> bool:
        """Whether other nodes, and routers, can live on it."""
        return bool(self.hypervisor)

    @property
    def is_endpoint(self) -> bool:
        """Whether packets begin and end in it."""
        return not self.passed_by

    def touched(self, memory: int, inside: int) -> int:  # noqa: ARG002
        """Return how many of its `memory` MiB it takes of this host's at most.

        Nodes on it have `inside` MiB together.
        """
        return memory
