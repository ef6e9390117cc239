"""Making a template: a guest of no lab is booted until it waits to be cloned, and is saved.

It has no NIC, no disk and no secret, and draws none. Runs in the agent of a sandbox of its own, as
`driver` does.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.errors import GuestError
from labctl.guests import console, driver, launch, monitor, ready, saved
from labctl.guests.domain import EMULATOR, Memory, domain_xml
from labctl.guests.spec import Accel, Guest, Saved
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.process import last_lines
from labctl.sandbox.remote import remote

if TYPE_CHECKING:
    import libvirt
else:
    libvirt = Late("libvirt")

VERSION = 1
"""Of templates: raised when those of before could not be cloned, or clones would differ."""
WAITING = b"labctl: waiting"
OLDEST = (5, 18)
"""Linux: an older one, told to reseed, goes on with random numbers that it has drawn ahead, and
those are the same in all clones (RNDRESEEDCRNG with invalidation of all batches)."""
UNASKED = (b"labctl: ready", b"labctl: no configuration", b"press Enter for a shell")
"""What an image says that does not know how to wait."""
MEMORY, STATE = "memory", "state"


@dataclass(frozen=True)
class Made:
    """What came of making a template."""

    saved: Saved | None
    obstacle: str = ""
    """Why what the guest boots cannot be cloned, however often it is tried."""


class _UnfitError(GuestError):
    """What a guest boots cannot be cloned."""


@remote
def shape(guest: Guest, accel: Accel) -> list[str]:
    """Return all that clones of a guest depend on, but for the content of what it boots.

    A template serves where this is the same: the machine, and who emulates it on what. No driver
    of libvirt's is asked, whose first answer takes longer than all of this.
    """
    nowhere = Path("file")
    plain = replace(guest, kernel=nowhere, initramfs=nowhere, console=nowhere, log=nowhere)
    xml = domain_xml(plain, accel, "", None, Memory("file", incoming=False))
    emulator = Path(EMULATOR).stat()
    host = os.uname()
    cpu = host_cpu() if accel == "kvm" else ""
    return [
        f"template {VERSION}", xml, str(libvirt.getVersion()),
        f"{emulator.st_size} {emulator.st_mtime_ns}", host.release, host.version, host.machine, cpu,
    ]  # fmt: skip


def host_cpu() -> str:
    """Return what the host's first CPU is, by proc_cpuinfo(5): KVM's guests have the same."""
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    lines = (line.partition(":") for line in first.splitlines())
    return "\n".join(f"{name} {value}" for name, _, value in lines if name.strip() in wanted)


@remote
def make(hypervisor: driver.Hypervisor, guest: Guest, accel: Accel, folder: Path) -> Made:
    """Boot a guest, save it in two files of `folder` and end it.

    Raises `GuestError` or `DeadlineError` where it did not get so far, `HostError`, `OSError`.
    """
    assert hypervisor.root, "it is a driver of ours"
    connection = driver.connect(hypervisor)
    guest.log.touch(mode=0o600)
    memory, state = saved.new_file("memory", guest.memory << 20), saved.new_file("state")
    try:
        domain = launch.paused(connection, hypervisor.root, guest, accel, "template", memory)
        try:
            domain.resume()
            _until_waiting(domain, guest)
            domain.suspend()
            monitor.save(domain, state)
        finally:
            driver.stop(hypervisor, guest.domain)  # from here on nobody writes to its memory
        files = folder / MEMORY, folder / STATE
        digests = saved.keep(memory, files[0]), saved.keep(state, files[1])
        return Made(Saved(files[0], digests[0], files[1], digests[1]))
    except _UnfitError as unfit:
        return Made(None, unfit.message)
    except libvirt.libvirtError as reason:
        raise GuestError(
            f"a template cannot be made: {last_lines(reason.get_error_message())}"
        ) from None
    finally:
        os.close(memory)
        os.close(state)


def _until_waiting(domain: Any, guest: Guest) -> None:
    deadline = Deadline(ready.READY_SECONDS, "booting a guest to be a template")
    log = console.Watcher(guest.log, WAITING, ready.TROUBLE, *UNASKED)
    with console.Growth(guest.log) as growth:
        while True:
            log.look()
            if trouble := log.line(ready.TROUBLE):
                raise _UnfitError(f"the image cannot be cloned: {trouble[:200]}")
            if any(word in log.said for word in UNASKED):
                raise _UnfitError("the image does not know how to wait to be cloned")
            if release := log.line(WAITING):
                break
            if panic := ready.panic(guest):
                raise _UnfitError(f"it did not boot: {panic}")
            if not driver.is_active(domain):
                raise GuestError("a guest to be a template ended while it booted")
            if deadline.passed:
                raise deadline.error("it never waited to be cloned")
            growth.wait(min(ready.GROW_SECONDS, deadline.left))
    version = re.match(r"(\d{1,5})\.(\d{1,5})", release)
    if not version or (int(version[1]), int(version[2])) < OLDEST:
        raise _UnfitError(
            f"its kernel {release[:60]} is older than {'.'.join(map(str, OLDEST))}, "
            "so clones would share random numbers"
        )
