"""KVM or TCG: decided by a real kernel, not by a device file.

`/dev/kvm` existing proves nothing: under some nested hypervisors it opens, libvirt believes in it,
and a stock kernel never leaves its decompressor. So a guest must reach user space under KVM once a
boot of the host before `auto` trusts it.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Literal

from labctl.errors import HostError
from labctl.events import Emit, Event, silent
from labctl.guests import driver
from labctl.guests.spec import Accel, Guest
from labctl.world import paths, scratch

Policy = Literal["auto", "require", "off"]

DEVICE = Path("/dev/kvm")
PROBE_SECONDS = 10.0
"""A kernel under working KVM is in user space in about one; a wrong no costs speed, no verdict."""


def obstacle() -> str:
    """Say why KVM cannot even be tried here; empty when it can."""
    if not DEVICE.exists():
        return "there is no /dev/kvm: enable virtualisation in the firmware, or nest it"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return "/dev/kvm is not yours: as root, run: usermod -aG kvm $USER, and log in again"
    return ""


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def answer_file() -> Path:
    """Return where the answer is kept until the host boots again; who removes it asks anew."""
    return paths.cache() / "kvm.json"


def kept() -> str:
    """Say where the answer is kept, and how to ask again."""
    return f"the answer is kept until the host boots again; to ask anew: rm {answer_file()}"


def remembered() -> bool | None:
    """Return what the probe found since the host booted, or None if it has not run."""
    try:
        answer = json.loads(answer_file().read_text())
        if answer["boot"] == _boot() and answer["user"] == os.geteuid():
            return bool(answer["works"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no answer, or one that cannot be read: ask again
    return None


def _remember(works: bool) -> None:
    """Keep the answer; a cache that cannot be written to keeps none, and the next `up` asks."""
    target = answer_file()
    part = target.with_name(f".{target.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text(json.dumps({"boot": _boot(), "user": os.geteuid(), "works": works}))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def probe(kernel: Path, initramfs: Path, memory: int, cmdline: str, capabilities: Path) -> bool:
    """Boot a kernel under KVM in a world of its own; say whether it reached user space.

    `memory` (MiB) must be enough for it: else a no would be told of KVM, and kept.
    """
    with scratch.world() as world:
        directory = world.directory
        guest = Guest(
            name="probe", domain="probe", memory=memory, vcpus=1,
            kernel=kernel, initramfs=initramfs,
            cmdline=cmdline, nics=(), console=directory / "c", log=directory / "log",
        )  # fmt: skip
        hypervisor = driver.Hypervisor(directory / "embed", "", capabilities)
        return world.call(driver.reaches_user_space, hypervisor, guest, "kvm", PROBE_SECONDS)


def choose(
    policy: Policy,
    kernel: Path,
    initramfs: Path,
    memory: int,
    cmdline: str,
    capabilities: Path,
    emit: Emit = silent,
) -> Accel:
    """Decide the accelerator by a real boot, remembered until the host boots again.

    `memory` is what the kernel and initramfs need (MiB). Raises `HostError` when the policy is
    `require` and KVM does not run guests.
    """
    if policy == "off":
        return "tcg"
    why = obstacle()
    hint = "use --accel auto, or run: labctl doctor"
    works = False
    if not why:
        answer = remembered()
        if answer is None:
            emit(Event("accel", "kvm", "start", "does KVM boot a kernel on this host?"))
            answer = probe(kernel, initramfs, memory, cmdline, capabilities)
            _remember(answer)
            emit(Event("accel", "kvm", "done", "yes" if answer else "no; guests run under TCG"))
        works = answer
        why = "" if works else f"a kernel under KVM did not reach user space in {PROBE_SECONDS:g} s"
        hint = f"use --accel auto; {kept()}"
    if works:
        return "kvm"
    if policy == "require":
        raise HostError(f"KVM is required, but {why}", hint)
    return "tcg"
