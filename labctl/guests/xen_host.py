"""A Xen host: the QEMU guest in which Xen, its dom0 and PV guests run (docs/xen.md).

Nothing here needs hardware that can virtualise: PV guests are what Xen runs without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import UsageError
from labctl.guests.keys import Key
from labctl.guests.spec import BOOT, MGMT_INTERFACE, Dom0, Guest, Nic
from labctl.kinds import nics
from labctl.kinds.guests.base import READY
from labctl.kinds.guests.xen_host import DOM0_MEMORY, XEN_MEMORY
from labctl.kinds.guests.xen_host import XenHost as Kind
from labctl.sandbox import atomic
from labctl.topology.model import MGMT_BRIDGE, link_local

CPU = Kind.cpu
COMMAND_LINE_LIMIT = 1023
"""Characters of a PV guest's command line: MAX_GUEST_CMDLINE in Xen's public/xen.h, less NUL."""
MGMT_MTU = 1500
BOOT_FOLDER = "/run/labctl/boot"
"""Where dom0 finds the kernels and initramfs of its guests, each by `drive_serial(file)`."""


@dataclass(frozen=True)
class Port:
    """One of the host's own NICs, in a bridge of dom0."""

    nic: Nic
    mtu: int
    """Octets; at most the bridge's."""


@dataclass(frozen=True)
class Bridge:
    """A bridge in dom0: a network of guests on the host, or a part of one of the lab."""

    name: str
    mtu: int
    addresses: tuple[str, ...] = ()
    """Of dom0 itself, such as `10.0.0.1/24`; without any the bridge is silent."""
    uplinks: tuple[Port, ...] = ()
    """What joins it with a bridge outside."""


def boot_lines(
    name: str,
    mgmt: Nic,
    bridges: Sequence[Bridge],
    settings: Sequence[str],
    client: Key,
    hostkey: Key,
) -> str:
    """Write what dom0's init reads: one setting a line (docs/images.md, the boot contract)."""
    address = f"{link_local(mgmt.mac)}/64"
    control = Bridge(MGMT_BRIDGE, MGMT_MTU, (address,), (Port(mgmt, MGMT_MTU),))
    lines = [
        f"host {name}",
        f"hostkey {hostkey.dropbear}",
        f"authorized {client.public}",
    ]
    for bridge in (control, *bridges):
        lines.append(" ".join(["bridge", bridge.name, str(bridge.mtu), *bridge.addresses]))
        for port in bridge.uplinks:
            lines.append(f"port {port.nic.mac} {port.nic.name} {port.mtu} {bridge.name}")
    return "\n".join([*lines, *settings]) + "\n"


def guest(
    name: str,
    domain: str,
    *,
    hypervisor: Path,
    kernel: Path,
    initramfs: Path,
    memory: int,
    vcpus: int,
    mgmt: Nic,
    bridges: Sequence[Bridge],
    settings: Sequence[str] = (),
    drives: Sequence[Path],
    client: Key,
    hostkey: Key,
    directory: Path,
    dom0_memory: int = DOM0_MEMORY,
    cpu: str = CPU,
    dom0_cmdline: str = Kind.cmdline,
    ready: str = READY,
) -> Guest:
    """Return a Xen host as a guest that `labctl.guests.driver.start` can start.

    `hypervisor` and `kernel` are ELF files, `settings` further lines for dom0's init
    (`spec.setting_lines`), `drives` the files that its own guests boot. Writes the configuration
    and keeps the console's log below `directory`, the lab's. Raises `UsageError` when `memory`
    (MiB) leaves nothing for guests.
    """
    least = dom0_memory + XEN_MEMORY
    if memory <= least:
        raise UsageError(
            f"{name} has {memory} MiB; Xen and dom0 alone take {least}",
            f"write memory: {least} and what its guests need",
        )
    console = directory / "console"
    console.mkdir(mode=0o700, exist_ok=True)
    # It holds the host's key, so it is private; and QEMU, another user, gets into no log folder.
    boot = directory / BOOT
    boot.mkdir(mode=0o700, exist_ok=True)
    config = boot / f"{name}.conf"
    atomic.write(config, boot_lines(name, mgmt, bridges, settings, client, hostkey))
    return Guest(
        name=name,
        domain=domain,
        memory=memory,
        vcpus=vcpus,
        kernel=hypervisor,
        initramfs=initramfs,
        cmdline=(
            "console=com1 com1=115200,8n1 bootscrub=0 spec-ctrl=no xpti=0 "
            f"dom0_max_vcpus=1 dom0_mem={dom0_memory}M,max:{dom0_memory}M"
        ),
        nics=(*(port.nic for bridge in bridges for port in bridge.uplinks), mgmt),
        console=console / f"{name}.sock",
        log=console / f"{name}.log",
        cpu=cpu,
        dom0=Dom0(kernel, dom0_cmdline),
        drives=tuple(dict.fromkeys(drives)),
        config=config,
        ready=ready,
    )


def management(tap: str, mac: str) -> Nic:
    """Return the NIC by which a Xen host, and its guests through it, are controlled."""
    return Nic(MGMT_INTERFACE, tap, mac, nics.DEFAULT, {})
