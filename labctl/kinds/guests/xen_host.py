"""A QEMU guest that runs Xen and its dom0; PV guests and routers live on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from labctl.kinds.guests.base import GuestKind

DOM0_MEMORY = 512
"""MiB of a Xen host that its dom0 has; with 288 it does not come up."""
XEN_MEMORY = 128
"""MiB of a Xen host for the hypervisor: itself, its tables, and what it keeps of each guest."""


class XenHost(GuestKind):
    """QEMU starts Xen (multiboot), and Xen the image's kernel as dom0.

    It needs no nesting: PV guests are what Xen runs without hardware that can virtualise.
    """

    name = "xen-host"
    summary = "a QEMU guest that runs Xen: PV guests and routers live on it"
    title = "Xen host"
    short = "Xen host"
    inner = "dom0"
    hypervisor = "xen"
    passed_by = "its dom0"
    own_links = "eth[0-9]+|mgmt0"
    image = "xen-host"
    image_with_all_nics = "image: xen-host"
    kernel_options: ClassVar[Mapping[str, str]] = {
        "CONFIG_XEN_PV": "Xen",
        "CONFIG_XEN_DOM0": "being dom0",
    }
    cmdline = (
        "console=hvc0 quiet net.ifnames=0 panic=-1 mitigations=off random.trust_cpu=on "
        "cryptomgr.notests lsm= rootfstype=ramfs swiotlb=4096 noreplace-smp"
    )
    """Of dom0. `swiotlb`: 8 MiB of bounce buffers instead of 64; below 4 GiB of memory none is
    needed. `rootfstype`: a tmpfs would take half of dom0's memory at most, and the initramfs wants
    more. `noreplace-smp`: as in an ordinary guest's (`Micro.cmdline`); 0.4 s."""
    cpu = "Nehalem,+rdrand"
    """With an emulated SMAP dom0 dies early, without it newer models corrupt memory; libvirt in
    dom0 refuses qemu64. Without the instruction for random numbers a guest waits seconds for
    entropy."""
    memory = 2048
    shares: ClassVar[Mapping[str, int]] = {"dom0": DOM0_MEMORY, "Xen": XEN_MEMORY}
    vcpus = 2
    inherits = False
    built_by = "labctl.lab.xen_guests:build_host"
    started_by = "labctl.lab.qemu:Qemu"
    not_restarted = "its guests would go with it"
    not_stopped = "its guests would go with it"

    def touched(self, memory: int, inside: int) -> int:
        """Return what dom0, Xen and the guests have: Xen touches no memory that nobody uses."""
        return min(memory, sum(self.shares.values()) + inside)
