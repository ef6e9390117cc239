"""A QEMU guest that boots a kernel and an initramfs; its image is small by default."""

from __future__ import annotations

from labctl.kinds.guests.base import GuestKind


class Micro(GuestKind):
    """QEMU boots the image's kernel; the node's configuration is one more file of its initramfs."""

    name = "micro"
    summary = "a QEMU guest that boots a kernel and an initramfs"
    image = "micro"
    image_with_all_nics = "image: micro-generic and memory: 160"
    cmdline = (
        "console=ttyS0 quiet net.ifnames=0 panic=-1 tsc=reliable no_timer_check mitigations=off"
        " random.trust_cpu=on cryptomgr.notests noreplace-smp"
        " init_on_alloc=0 lsm= psi=0"
    )
    """From `noreplace-smp` on: what takes time under TCG and is of no use in a lab. With one CPU,
    the kernel would patch lock prefixes out of its own code (alternatives_smp_unlock), 0.2 s of a
    boot. `init_on_alloc`: each page that is allocated would be cleared first. `lsm`, `psi`: calls
    at each system call and switch of tasks, for security modules that have no policy here, and for
    statistics that nobody reads."""
    takes_initramfs = True
    saveable = True
    built_by = "labctl.lab.qemu:build"
    started_by = "labctl.lab.qemu:Qemu"
