"""QEMU guests that boot disk images: what they are made of, and how they start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from labctl.errors import HostError, UsageError
from labctl.guests import cloud_init, console, driver, seed
from labctl.guests.spec import BOOT, BootDisk, Guest
from labctl.images import overlay
from labctl.images.disk_cache import Disk, Facts
from labctl.lab import by_hand, qemu
from labctl.lab.machines import Making, Starter
from labctl.sandbox.deadline import Deadline
from labctl.topology.disk_image import Firmware
from labctl.topology.model import Node

OVERLAY_SECONDS = 60.0
ENDS = ("qcow2", "uefi")
"""Of the names of files that a guest writes."""
PATIENCE = 600.0
"""Seconds until a guest is ready: under TCG a distribution's own image takes minutes."""
UEFI = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
)
"""Where Debian and Ubuntu have it (the package ovmf): code, and an empty store of variables."""


@dataclass(frozen=True)
class BuiltDisk:
    """A guest, and what its disk and its seed are made of when it starts."""

    guest: Guest
    disk: Disk
    firmware: Firmware
    seed: Mapping[str, str]
    """The files of its seed; empty for one that labctl does not configure."""


def build(making: Making, node: Node) -> BuiltDisk:
    """Return what a guest is made of; its overlay and its seed are written when it starts.

    Raises `UsageError` where a system's libvirt is to run it.
    """
    if making.boot_user is not None:
        raise UsageError(
            f"{node.name} boots a disk image, which a system's libvirt may not read in your cache",
            "leave --connect away: labs of your own need no system libvirt",
        )
    kind, known = node.guest_kind, making.known
    guest = Guest(
        name=node.name,
        domain=making.domain(node),
        memory=node.memory,
        vcpus=node.vcpus,
        kernel=Path(),
        initramfs=Path(),
        cmdline="",
        nics=qemu.nics(node),
        console=making.consoles / f"{node.name}.sock",
        log=making.consoles / f"{node.name}.log",
        cpu=kind.cpu,
        ready=kind.ready,
        patience=PATIENCE,
    )
    if node.is_configured:
        guest = replace(guest, settling=cloud_init.settling(node))
        files = cloud_init.files(known.topology, node, known.client, known.clients, known.hostkeys)
    else:
        guest, files = by_hand.guest(making, node, guest), {}
    firmware = node.disk.firmware if node.disk else "bios"
    return BuiltDisk(guest, base(making, node), firmware, files)


def base(making: Making, node: Node) -> Disk:
    """Return the image that a node's overlay is over: a user's own, or one made by a recipe."""
    if node.disk:
        return making.disk(node)
    image = making.image(node)
    if image.disk is None:
        raise UsageError(f"{node.name} boots a disk, and its image {image.name} has none")
    seen = image.disk.stat()
    facts = Facts(image.digest, "raw", image.name, seen.st_size)
    return Disk(facts, image.disk, seen.st_size, seen.st_mtime_ns, image.built)


def uefi() -> tuple[Path, Path]:
    """Return the files of UEFI: its code, and an empty store of variables.

    Raises `HostError` where it is not installed.
    """
    for code, variables in UEFI:
        if os.path.exists(code) and os.path.exists(variables):  # noqa: PTH110 - plain words
            return Path(code), Path(variables)
    raise HostError(
        f"there is no UEFI for guests ({UEFI[0][0]})", "as root, run: apt-get install ovmf"
    )


class DiskGuests(Starter):
    """Starts guests by libvirt's QEMU driver, each from an overlay of its own."""

    def start(self, built: Sequence[BuiltDisk], host: str) -> Collection[str]:
        """Start guests; there is no `host`, for they are the lab's own. None is a clone."""
        assert not host, "QEMU guests live in the lab itself"
        making = self.making
        guests = [self._with_files(one) for one in built]
        making.sandbox.agent().call_with_events(
            driver.start,
            making.hypervisor,
            guests,
            making.known.accel,
            making.known.name,
            making.directory,
            emit=making.emit,
        )
        return ()

    def stop(self, built: BuiltDisk) -> None:
        """End a guest at once, as by its power cable; its disk stays for the next start."""
        self.making.sandbox.call(driver.stop, self.making.hypervisor, built.guest.domain)
        console.rotate(built.guest.log)

    def shut_down(self, built: BuiltDisk, seconds: float) -> bool:
        """Press its power button, so that its file systems are whole."""
        making = self.making
        return making.sandbox.call(driver.shut_down, making.hypervisor, built.guest.domain, seconds)

    def forget(self, built: BuiltDisk) -> None:
        """Remove what it wrote."""
        for end in ENDS:
            (self._folder() / f"{built.guest.name}.{end}").unlink(missing_ok=True)

    def to_go_on(self, built: BuiltDisk, *, cloned: bool) -> Guest:  # noqa: ARG002 - none is
        """Return the guest on its disk."""
        return replace(self._with_files(built), incoming=True)

    def written(self, built: BuiltDisk) -> Sequence[Path]:
        """Return its overlay, and what UEFI keeps."""
        files = (self._folder() / f"{built.guest.name}.{end}" for end in ENDS)
        return [file for file in files if file.exists()]

    def _folder(self) -> Path:
        return self.making.directory / BOOT

    def _with_files(self, built: BuiltDisk) -> Guest:
        """Return a guest with its overlay, empty at its first start, and its seed."""
        folder = self._folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        name = built.guest.name
        layer = folder / f"{name}.qcow2"
        if not layer.exists():
            making = folder / f"{name}.new"
            making.unlink(missing_ok=True)
            deadline = Deadline(OVERLAY_SECONDS, f"making the disk of {name}")
            overlay.create(built.disk, making, deadline=deadline)
            making.rename(layer)
        place = None
        if built.seed:
            place = folder / f"{name}.seed"
            seed.write(place, built.seed)
        firmware = variables = None
        if built.firmware == "uefi":
            firmware, empty = uefi()
            variables = folder / f"{name}.uefi"
            if not variables.exists():
                making = folder / f"{name}.new"
                shutil.copyfile(empty, making)
                making.chmod(0o600)
                making.rename(variables)
        disk = BootDisk(layer, built.disk.path, place, firmware, variables)
        return replace(built.guest, disk=disk)
