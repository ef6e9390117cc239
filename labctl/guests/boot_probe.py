"""A boot that only shows whether a kernel runs under an accelerator, and what stops it.

Runs in the agent of a sandbox, as `driver` does.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.guests import console, driver, launch, ready
from labctl.guests.spec import Accel, Guest
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.remote import remote

if TYPE_CHECKING:
    import libvirt
else:
    libvirt = Late("libvirt")


RUN_SECONDS = 60.0
"""Of a virtual CPU's own time. A kernel needs one under working KVM, six where it is emulated."""
TICKS = os.sysconf("SC_CLK_TCK")


@remote
def why_no_user_space(
    hypervisor: driver.Hypervisor, guest: Guest, accel: Accel, silence: float, seconds: float
) -> str:
    """Boot a guest until its init speaks, and end it; say why it did not, empty when it did.

    A slow machine is no reason: it may take `seconds`, unless for `silence` seconds it says nothing
    and, where KVM runs it, nothing of it is run, or `RUN_SECONDS` of it were run in vain.
    """
    try:
        domain = driver.launched(hypervisor, guest, accel, "probe")
    except libvirt.libvirtError as reason:
        return f"QEMU cannot use it: {_first_words(reason.get_error_message())}"
    try:
        return _silent_or_ended(domain, hypervisor, guest, silence, seconds)
    finally:
        driver.stop(hypervisor, guest.domain)


def _silent_or_ended(
    domain: Any, hypervisor: driver.Hypervisor, guest: Guest, silence: float, seconds: float
) -> str:
    assert hypervisor.root, "it is a driver of ours"
    whole, quiet = Deadline(seconds, "user space"), Deadline(silence, "the console")
    done = (0, 0)
    log = console.Watcher(guest.log, b"labctl:")
    while b"labctl:" not in log.look():
        if last := ready.panic(guest):
            return f"the guest died: {last}"
        if not _runs(domain):
            said = hypervisor.root / "log" / "qemu" / f"{guest.domain}.log"
            return f"the guest died: {_of_qemu(said) or 'QEMU did not say why'}"
        now = log.size, _guest_ticks(hypervisor, guest)
        if now > done:
            done, quiet = now, Deadline(silence, "the console")
        if now[1] > RUN_SECONDS * TICKS:
            return f"a kernel ran for {RUN_SECONDS:g} s and did not reach user space"
        if whole.passed:
            return f"a kernel did not reach user space in {seconds:g} s"
        if quiet.passed:
            return f"a kernel {'went silent' if log.size else 'said nothing'} for {silence:g} s"
        time.sleep(ready.LOOK_SECONDS)
    return ""


def _runs(domain: Any) -> bool:
    """Whether a guest goes on; QEMU stops one, and stays, when KVM fails under it."""
    try:
        state, _ = domain.state()
    except libvirt.libvirtError as reason:
        if reason.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False
        raise
    return bool(state == libvirt.VIR_DOMAIN_RUNNING)


def _guest_ticks(hypervisor: driver.Hypervisor, guest: Guest) -> int:
    """Return how long code of the guest has run so far, in clock ticks; 0 where that is not told.

    Linux counts it for KVM (`account_guest_time`; field 43 of proc_pid_stat(5)). Where KVM is not
    whole a virtual CPU is busy all the time and yet runs nothing.
    """
    assert hypervisor.root, "it is a driver of ours"
    try:
        number = launch.pid_in(hypervisor.root / "run" / "qemu" / f"{guest.domain}.pid")
        stat = Path("/proc", str(number), "stat").read_text()
        return int(stat.rpartition(")")[2].split()[40])
    except (OSError, ValueError, IndexError):
        return 0


def _first_words(text: str) -> str:
    """Return the first thing that QEMU says in a message of libvirt's, or what libvirt says itself.

    What comes later follows from it: `failed to initialize kvm`, or all registers.
    """
    said = re.sub(r"^.*\bmonitor\b[^:]*: ", "", text.strip())
    said = re.sub(r"^(internal error|unsupported configuration|invalid argument): ", "", said)
    said = re.sub(r"^\d{4}-\d\d-\d\dT\S+Z ", "", said)
    return re.sub(r"^qemu-system-\w+: ", "", said.partition("\n")[0])


def _of_qemu(log: Path) -> str:
    """Return the first words of QEMU's own in its log, which has its command line before them."""
    try:
        lines = console.text(log).splitlines()
    except OSError:
        return ""
    begin = next((n for n, line in enumerate(lines) if not line.endswith("\\") and n), 0)
    theirs = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
    own = [line for line in lines[begin + 1 :] if line.strip() and not theirs.match(line)]
    return _first_words(own[0]) if own else ""
