"""KVM or TCG: decided by a real kernel, not by a device file.

`/dev/kvm` existing proves nothing: under some nested hypervisors it opens, libvirt believes in it,
and a stock kernel never leaves its decompressor. So a guest must reach user space under KVM once a
boot of the host before `auto` trusts it.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from labctl.errors import HostError
from labctl.events import Emit, Event, silent
from labctl.guests import boot_probe, driver
from labctl.guests.spec import Accel, Guest
from labctl.sandbox import atomic, owned, paths, scratch

Policy = Literal["auto", "require", "off"]


@dataclass(frozen=True)
class Answer:
    """What a boot under KVM showed."""

    obstacle: str = ""
    """Why no kernel boots under it, in a few words; empty where one does."""

    @property
    def works(self) -> bool:
        """Whether KVM runs guests here."""
        return not self.obstacle


DEVICE = Path("/dev/kvm")
CPUS = Path("/proc/cpuinfo")
PROBE_SECONDS = 300.0
"""A kernel under working KVM is in user space in about one; where that is emulated and the machine
is very busy, it took 77."""
SILENCE_SECONDS = 10.0
"""Without a word on the console and without any progress of the guest's."""
TALKATIVE = "loglevel=6 earlyprintk=ttyS0"
"""Lets a kernel tell of itself from the start: 1.4 kB, which it does not wait for."""


def obstacle() -> HostError | None:
    """Return why KVM cannot even be tried here, and what to do; None when it can."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EACCES:
            return _not_yours()
        if error.errno == errno.EPERM:  # a cgroup's word: permissions would be EACCES
            return HostError(
                f"{DEVICE} is forbidden to this container", f"start it with --device {DEVICE}"
            )
        return _not_there(error)
    return None


def _not_there(error: OSError) -> HostError:
    """Say why the device does not open: systemd makes it before any module is there to serve it."""
    missing = error.errno == errno.ENOENT
    what = f"there is no {DEVICE}" if missing else f"{DEVICE} does not open: {error.strerror}"
    modules = {"svm": "kvm_amd", "vmx": "kvm_intel"}
    flags = _cpu_flags()
    for flag, module in modules.items():
        if flag in flags:
            inside = f"; in a container: start it with --device {DEVICE}" if missing else ""
            return HostError(what, f"as root, run: modprobe {module}{inside}")
    return HostError(
        f"{what}, and the CPU offers no virtualisation",
        "enable it in the firmware; in a virtual machine, let its host nest it",
    )


def _cpu_flags() -> list[str]:
    for line in CPUS.read_text().splitlines():
        if line.startswith("flags"):
            return line.split()
    return []


def _not_yours() -> HostError:
    """Say who may use the device, and how the user becomes one of them."""
    status = DEVICE.stat()
    mode = stat.S_IMODE(status.st_mode)
    group, members = _group(status.st_gid)
    user, own_group = _user()
    for_now = f"as root, run: setfacl -m u:{user}:rw {DEVICE}"
    is_no_way_in = mode & 0o060 != 0o060 or status.st_gid == 0 or group.isdecimal()
    if is_no_way_in or status.st_gid in (os.getgid(), *os.getgroups()):
        return HostError(f"{DEVICE} is not yours (group {group}, mode {mode:04o})", for_now)
    if user in members or own_group == status.st_gid:
        return HostError(
            f"{DEVICE} is for the group {group}, which you were not in when you logged in",
            f"log in again, or for now run: newgrp {group}",
        )
    return HostError(
        f"{DEVICE} is for the group {group} (mode {mode:04o}), and you are not in it",
        f"as root, run: usermod -aG {group} {user}, and log in again; for now, {for_now}",
    )


def _group(number: int) -> tuple[str, list[str]]:
    try:
        known = grp.getgrgid(number)
    except KeyError:
        return str(number), []
    return known.gr_name, known.gr_mem


def _user() -> tuple[str, int]:
    """Return the user's name and the group they log in with; a user may have no name."""
    try:
        known = pwd.getpwuid(os.getuid())
    except KeyError:
        return str(os.getuid()), -1
    return known.pw_name, known.pw_gid


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def answer_file() -> Path:
    """Return where the answer is kept until the host boots again; who removes it asks anew."""
    return paths.cache() / "kvm.json"


def kept() -> str:
    """Say where the answer is kept, and how to ask again."""
    return f"the answer is kept until the host boots again; to ask anew: rm {answer_file()}"


def remembered() -> Answer | None:
    """Return what the probe found since the host booted, or None if it has not run."""
    try:
        answer = json.loads(answer_file().read_text())
        if answer["boot"] == _boot() and answer["user"] == os.geteuid():
            return Answer(str(answer["obstacle"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no answer, an earlier labctl's, or one that cannot be read: ask again
    return None


def _remember(answer: Answer) -> None:
    """Keep the answer; a cache that cannot be written to keeps none, and the next `up` asks."""
    target = answer_file()
    known = {"boot": _boot(), "user": os.geteuid(), "obstacle": answer.obstacle}
    with contextlib.suppress(OSError):
        owned.make_folders(target.parent)
        atomic.write(target, json.dumps(known))


def probe(kernel: Path, initramfs: Path, memory: int, cmdline: str, capabilities: Path) -> Answer:
    """Boot a kernel under KVM in a sandbox of its own; say whether it reached user space.

    `memory` (MiB) must be enough for it: else a no would be told of KVM, and kept.
    """
    with scratch.sandbox() as sandbox:
        root = sandbox.directory / "embed"
        guest = Guest(
            name="probe", domain="probe", memory=memory, vcpus=1,
            kernel=kernel, initramfs=initramfs,
            cmdline=f"{cmdline} {TALKATIVE}", nics=(),
            console=root / "c", log=root / "c.log",
        )  # fmt: skip
        hypervisor = driver.Hypervisor(root, "", capabilities)
        return Answer(
            sandbox.call(
                boot_probe.why_no_user_space,
                hypervisor,
                guest,
                "kvm",
                SILENCE_SECONDS,
                PROBE_SECONDS,
            )
        )


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
    if lacking := obstacle():
        why, hint = lacking.message, f"{lacking.hint}; or use --accel auto"
    else:
        answer = remembered()
        if answer is None:
            emit(Event("accel", "kvm", "start", "does KVM boot a kernel on this host?"))
            answer = probe(kernel, initramfs, memory, cmdline, capabilities)
            _remember(answer)
            told = "yes" if answer.works else f"no, guests run under TCG: {answer.obstacle}"
            emit(Event("accel", "kvm", "done", told))
        if answer.works:
            return "kvm"
        why = f"no guest boots under it: {answer.obstacle}"
        hint = f"use --accel auto; {kept()}"
    if policy == "require":
        raise HostError(f"KVM is required, but {why}", hint)
    return "tcg"
