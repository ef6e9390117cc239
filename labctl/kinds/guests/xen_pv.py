"""A paravirtual guest of Xen's, on a Xen host of the lab's or on a real one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from labctl.kinds.guests.base import VIF, GuestKind


class XenPv(GuestKind):
    """Xen starts the guest's kernel without any hardware that can virtualise."""

    name = "xen-pv"
    summary = "a Xen PV guest, on the Xen host that host: names"
    title = "Xen PV guest"
    short = "PV guest"
    outer = VIF
    home = "xen"
    image = "micro"
    image_with_all_nics = "image: micro"
    kernel_options: ClassVar[Mapping[str, str]] = {"CONFIG_XEN_PV": "Xen"}
    cmdline = (
        "console=hvc0 quiet net.ifnames=0 panic=-1 mitigations=off random.trust_cpu=on"
        " cryptomgr.notests lsm= audit=0 tsc=reliable no_timer_check noreplace-smp"
    )
    nic = "xen"
    mgmt_nic = "xen"
    inherits_nic = False
    accels = ()  # its host is what is run
    built_by = "labctl.lab.xen_guests:build_pv"
    started_by = "labctl.lab.xen_guests:Pv"
    not_restarted = "its NIC has no device features"
    not_stopped = "it comes and goes with its Xen host"
