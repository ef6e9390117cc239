"""What a guest is made of, and the configuration that travels on its kernel command line."""

from __future__ import annotations

import base64
import gzip
import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from labctl.errors import UsageError
from labctl.guests.keys import Key
from labctl.topology.model import Node, Topology

Accel = Literal["kvm", "tcg", "xen"]
"""How guests run: by QEMU, or on a real Xen host."""

MGMT_INTERFACE = "mgmt0"
CMDLINE_LIMIT = 2047
"""Characters of a kernel command line on x86: COMMAND_LINE_SIZE less the closing NUL."""


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
class Dom0:
    """The first guest of a Xen hypervisor, which drives the others."""

    kernel: Path
    """An ELF file: Xen would take long to unpack another."""
    cmdline: str


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
    config: Path | None = None
    """A file that the guest reads as `opt/labctl.conf` by QEMU's fw_cfg."""


def link_local(mac: str) -> str:
    """Return the IPv6 link-local address that a MAC gives (RFC 4291, appendix A)."""
    octets = [int(part, 16) for part in mac.split(":")]
    octets[0] ^= 0x02
    identifier = bytes([*octets[:3], 0xFF, 0xFE, *octets[3:]])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


def boot_lines(topology: Topology, node: Node, client: Key, hostkeys: Mapping[str, Key]) -> str:
    """Write what the guest's init reads: one setting a line (docs/images.md, the boot contract)."""
    lines = [
        f"host {node.name}",
        f"hostkey {hostkeys[node.name].dropbear}",
        f"clientkey {client.dropbear}",
        f"authorized {client.public}",
        f"iface {node.mgmt_mac} {MGMT_INTERFACE} 1500",
    ]
    for one in node.interfaces:
        words = [one.mac, one.name, str(one.mtu), *map(str, one.addresses)]
        lines.append(f"iface {' '.join(words)}")
    lines += setting_lines(node)
    for other in topology.nodes.values():
        if other.name == node.name:
            continue
        lines += [f"peer {address} {other.name}" for address in _addresses(other)]
    return "\n".join(lines) + "\n"


def setting_lines(node: Node) -> list[str]:
    """Write what is set where the interfaces are there: a node's routes and guest offloads."""
    lines = [f"route {route.to} {route.via}" for route in node.routes]
    for interface in node.interfaces:
        if guest := interface.offload.guest:
            wanted = " ".join(f"{name} {'on' if on else 'off'}" for name, on in guest.items())
            lines.append(f"offload {interface.name} {wanted}")
    return lines


def known_lines(topology: Topology, node: Node, hostkeys: Mapping[str, Key]) -> str:
    """Write the host keys of a node's peers, once a name: packing makes the repeated key short."""
    lines = [
        f"known {name} {hostkeys[other.name].public}\n"
        for other in topology.nodes.values()
        if other.name != node.name
        for name in (other.name, *_addresses(other))
    ]
    return "".join(lines)


def _addresses(node: Node) -> list[str]:
    return [str(address.ip) for interface in node.interfaces for address in interface.addresses]


def command_line(base: str, lines: str, subject: str, optional: str = "") -> str:
    """Append the packed configuration to a kernel command line; `optional` lines where they fit.

    Raises `UsageError` when it does not fit: the kernel would cut it off silently.
    """
    for text in (lines + optional, lines):
        packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
        whole = f"{base} labctl={packed}"
        if len(whole) <= CMDLINE_LIMIT:
            break
    else:
        raise UsageError(
            f"{subject} has too much configuration for a kernel command line: "
            f"{len(whole)} characters of {CMDLINE_LIMIT}",
            "give it fewer interfaces, addresses or routes",
        )
    return whole
