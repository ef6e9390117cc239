"""What a guest is made of, and the configuration that it reads when it starts."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from labctl.guests import tools
from labctl.guests.console_steps import Step
from labctl.guests.keys import Key
from labctl.kinds.guests.base import READY
from labctl.topology.model import Node, Topology

BOOT = "boot"
"""The folder of a lab that holds what its guests boot, private."""
Accel = Literal["kvm", "tcg", "xen", "none"]
"""How guests run: by QEMU, or on a real Xen host; `none` where a lab has no machines."""
NO_MACHINES: Accel = "none"

MGMT_INTERFACE = "mgmt0"
PEER = (
    "no-port-forwarding,no-agent-forwarding,no-X11-forwarding,"
    'command="case $SSH_CONNECTION in *fe80:*)'
    " echo labctl: a key of a guest opens the network under test only >&2; exit 1;; esac;"
    " [ ${#SSH_ORIGINAL_COMMAND} -gt 0 ] || exec sh -l;"
    ' set -f; IFS=; exec sh -c $SSH_ORIGINAL_COMMAND"'
)
"""What stands before another guest's key in `authorized_keys`: it is good for what comes over the
network under test. The management network is the one of link-local addresses. The words are those
that both OpenSSH and dropbear know; without IFS the command stays one word."""


@dataclass(frozen=True)
class Nic:
    """One network interface of a guest, on a TAP that exists already."""

    name: str
    """Its name in the guest."""
    tap: str
    mac: str
    model: str
    device: Mapping[str, bool]
    """virtio device features by libvirt's names; those of the guest's side start with `guest_`."""


@dataclass(frozen=True)
class BootDisk:
    """A disk from which a guest boots by itself: an overlay of its own over an image."""

    overlay: Path
    """A qcow2 file, which takes what the guest writes."""
    base: Path
    """The image, which stays as it is."""
    seed: Path | None = None
    """A disk with its configuration for cloud-init, if it has one."""
    firmware: Path | None = None
    """UEFI, as QEMU maps it; None for a BIOS."""
    variables: Path | None = None
    """What UEFI keeps, a file of the guest's own."""

    def written(self) -> list[Path]:
        """Return the files that QEMU writes."""
        return [self.overlay, *([self.variables] if self.variables else [])]

    def read(self) -> list[Path]:
        """Return the files that QEMU only reads."""
        return [one for one in (self.base, self.seed, self.firmware) if one]


@dataclass(frozen=True)
class Dom0:
    """The first guest of a Xen hypervisor, which drives the others."""

    kernel: Path
    """An ELF file: Xen would take long to unpack another."""
    cmdline: str


@dataclass(frozen=True)
class Saved:
    """The state of a guest that waits to be cloned, in files of the cache: a template.

    Each is known by its digest (`labctl.guests.saved`), which is checked before it is used.
    """

    memory: Path
    memory_digest: str
    state: Path
    """Of its devices, as QEMU's migration writes it."""
    state_digest: str


@dataclass(frozen=True)
class Clone:
    """What makes of a saved guest one of its own."""

    template: Saved
    config: str = field(repr=False)
    """What it is told when it wakes: lines of `boot_lines`, but for `peers`."""
    peers: str = field(default="", repr=False)
    """The other lines: what it knows of other guests. It is told by the first command."""


def drive_serial(drive: Path) -> str:
    """Return the serial number by which a guest finds a drive: virtio has room for 20 bytes."""
    return hashlib.sha256(str(drive).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Guest:
    """All that is needed to start one guest."""

    name: str
    domain: str
    """What libvirt calls it; unlike `name` unique beside the guests of others."""
    memory: int
    """MiB."""
    vcpus: int
    kernel: Path
    """Not used where it has a `disk`, and neither are the next two."""
    initramfs: Path
    cmdline: str
    nics: tuple[Nic, ...]
    """The interfaces under test in their order, then the management interface."""
    console: Path
    """UNIX socket of its serial console."""
    log: Path
    """Everything its console ever said."""
    cpu: str = ""
    """CPU model as QEMU takes it, such as `Nehalem,+rdrand`; by default the accelerator's best."""
    dom0: Dom0 | None = None
    """Where `kernel` is a Xen hypervisor: what it starts first, with `initramfs`."""
    drives: tuple[Path, ...] = ()
    """Files that the guest reads as disks, each with the serial number `drive_serial(file)`."""
    ready: str = READY
    """What its console says when a command may be tried; empty for one that never says it."""
    config: Path | None = None
    """A file that the guest reads as `opt/labctl.conf` by QEMU's fw_cfg."""
    lines: str = field(default="", repr=False)
    """Its configuration, where it is still to be put behind `initramfs` (`boot_lines`)."""
    clone: Clone | None = None
    """Where it does not boot, but goes on from a template of its kernel and initramfs."""
    incoming: bool = False
    """Whether it goes on from a state of its own (`labctl.guests.saved_lab`)."""
    disk: BootDisk | None = None
    """Where it boots from a disk, in place of kernel and initramfs."""
    settling: str = field(default="", repr=False)
    """Shell text that its first command begins with: it ends when all is set up in the guest."""
    steps: tuple[Step, ...] = field(default=(), repr=False)
    """What is done on its console before all else."""
    console_only: bool = False
    """Whether it is ready then: nobody logs in to it."""
    user: str = ""
    """Who logs in, where that is not root by labctl's key."""
    question: str = tools.QUESTION
    """Shell text that it ends with, which tells what there is in the guest (`guests.tools`)."""
    patience: float = 0.0
    """Seconds that it may take to be ready; 0 for what labctl's own images may."""

    def files(self) -> list[Path]:
        """Return all files that QEMU reads for this guest."""
        more = [self.dom0.kernel] if self.dom0 else []
        more += [self.config] if self.config else []
        booted = [] if self.clone else [self.kernel, self.initramfs]
        if self.disk:
            booted = self.disk.read()
        return [*booted, *more, *self.drives]


def boot_lines(
    topology: Topology,
    node: Node,
    control: Key,
    clients: Mapping[str, Key],
    hostkeys: Mapping[str, Key],
) -> str:
    """Write what the guest's init reads: one setting a line (docs/images.md, the boot contract).

    Of the `control` key, labctl's own way in, the guest learns the public half. `clients` has the
    key by which each node may log in to the others, over the network under test.
    """
    others = [other for other in topology.nodes.values() if other.name != node.name]
    lines = [f"host {node.name}", f"hostkey {hostkeys[node.name].dropbear}"]
    if node.name in clients:
        lines.append(f"clientkey {clients[node.name].dropbear}")
    lines.append(f"authorized {control.public}")
    lines += [
        f"authorized {PEER} {clients[one.name].public}" for one in others if one.name in clients
    ]
    lines.append(f"iface {node.mgmt_mac} {MGMT_INTERFACE} 1500")
    for interface in node.interfaces:
        words = [interface.mac, interface.name, str(interface.mtu)]
        lines.append(f"iface {' '.join([*words, *map(str, interface.addresses)])}")
    lines += setting_lines(node)
    for other in others:
        lines += [f"peer {address} {other.name}" for address in _addresses(other)]
        names = (other.name, *_addresses(other))
        lines += [f"known {name} {hostkeys[other.name].public}" for name in names]
    return "\n".join(lines) + "\n"


PEER_FILES = {
    "authorized": "/root/.ssh/authorized_keys",
    "peer": "/etc/hosts",
    "known": "/root/.ssh/known_hosts",
}
"""Where a guest keeps what it knows of others, by the word of the line."""


def part_peers(lines: str) -> tuple[str, str]:
    """Return the lines of `boot_lines` that a guest needs to be reached, and those on its peers."""
    own: list[str] = []
    peers: list[str] = []
    for line in lines.splitlines(keepends=True):
        is_peers = line.startswith(("peer ", "known ", f"authorized {PEER}"))
        (peers if is_peers else own).append(line)
    return "".join(own), "".join(peers)


def peers_script(peers: str) -> str:
    """Return the words of a shell that put lines on peers where a guest keeps them.

    They start no program.
    """
    text: dict[str, list[str]] = {}
    for line in peers.splitlines():
        word, _, rest = line.partition(" ")
        text.setdefault(word, []).append(rest)
    said = []
    for word, rests in text.items():
        # What stands before each peer's key is most of a large lab's lines: it is told once.
        before = f"{PEER} " if word == "authorized" else ""
        words = shlex.quote(before.replace("\\", "\\\\").replace("%", "%%") + "%s\\n")
        keys = " ".join(shlex.quote(rest.removeprefix(before)) for rest in rests)
        said.append(f"printf {words} {keys} >>{PEER_FILES[word]}")
    return "\n".join(said)


def setting_lines(node: Node) -> list[str]:
    """Write what is set where the interfaces are there: a node's routes and guest offloads."""
    lines = [f"route {route.to} {route.via}" for route in node.routes]
    for interface in node.interfaces:
        if guest := interface.offload.guest:
            wanted = " ".join(f"{name} {'on' if on else 'off'}" for name, on in guest.items())
            lines.append(f"offload {interface.name} {wanted}")
    return lines


def _addresses(node: Node) -> list[str]:
    return [str(address.ip) for interface in node.interfaces for address in interface.addresses]
