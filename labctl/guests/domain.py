"""The domain XML of a guest, by ElementTree (https://libvirt.org/formatdomain.html)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from labctl.guests.spec import Accel, BootDisk, Guest, Nic, drive_serial
from labctl.kinds import registry

NAMESPACE = "urn:labctl:node:1"
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
EMULATOR = "/usr/bin/qemu-system-x86_64"
NO_UUID = "00000000-0000-0000-0000-000000000000"
"""What is no identity to Linux (dmi_save_uuid): all clones of a template would share another."""
FIRST_SLOT = 2
"""On the PCI bus, of a guest's NICs: the first that libvirt finds free. 31 is the last one."""
TB_CACHE_MIB = 128
"""Bounds what TCG keeps of translated code; its default grows with the host's memory."""

SLOW_FEATURES = ("erms", "fsrm", "smap", "la57", "pku")
"""Of a CPU, which make Linux do what takes long under TCG: copy and clear memory by single bytes
(`rep movsb`), end a block of translated code at each `stac` and `clac`, walk a fifth level of page
tables at each miss of the TLB, and look after a register at each switch of tasks."""


@dataclass(frozen=True)
class Memory:
    """A guest's memory in a file, of which a template is saved or a clone goes on."""

    file: str
    """As QEMU opens it."""
    incoming: bool
    """Whether the guest goes on from a saved state, with its changes to itself; else the file is
    its memory, and keeps what it writes."""


def _add(parent: Element, tag: str, text: str = "", **attributes: str) -> Element:
    element = SubElement(parent, tag, attributes)
    if text:
        element.text = text
    return element


def _interface(devices: Element, nic: Nic, slot: int | None = None) -> None:
    interface = _add(devices, "interface", type="ethernet")
    _add(interface, "mac", address=nic.mac)
    # managed='no': the TAP is ours, made and enslaved already.
    _add(interface, "target", dev=nic.tap, managed="no")
    _add(interface, "model", type=nic.model)
    if nic.device:
        driver = _add(interface, "driver")
        host = {name: value for name, value in nic.device.items() if not name.startswith("guest_")}
        guest = {
            name.removeprefix("guest_"): value
            for name, value in nic.device.items()
            if name.startswith("guest_")
        }
        for side, values in (("host", host), ("guest", guest)):
            if values:
                words = {name: "on" if value else "off" for name, value in values.items()}
                _add(driver, side, **words)
    _add(interface, "rom", enabled="no")  # no network boot: saves firmware time
    if slot is not None:
        _add(interface, "address", type="pci", slot=hex(slot))


def disk_name(index: int) -> str:
    """Return the name of a disk by its number from 0: vda to vdz, then vdaa, as Linux counts.

    It is `sd_format_disk_name` of drivers/scsi/sd.c, which virtio_blk has a copy of.
    """
    letters = ""
    while index >= 0:
        index, letter = divmod(index, 26)
        letters = ascii_lowercase[letter] + letters
        index -= 1
    return f"vd{letters}"


def _drive(devices: Element, name: str, file: Path) -> None:
    disk = _add(devices, "disk", type="file", device="disk")
    _add(disk, "driver", name="qemu", type="raw")
    _add(disk, "source", file=str(file))
    _add(disk, "target", dev=name, bus="virtio")
    _add(disk, "serial", drive_serial(file))
    _add(disk, "readonly")


def _boot_disk(devices: Element, disk: BootDisk) -> None:
    """Add the disk that a guest boots from, and its seed.

    The overlay goes with the lab, so QEMU need not wait until anything lies on the host's disk.
    """
    first = _add(devices, "disk", type="file", device="disk")
    _add(first, "driver", name="qemu", type="qcow2", cache="unsafe")
    _add(first, "source", file=str(disk.overlay))
    _add(first, "target", dev=disk_name(0), bus="virtio")
    _add(first, "boot", order="1")
    if disk.seed:
        _drive(devices, disk_name(1), disk.seed)


def _firmware(system: Element, disk: BootDisk) -> None:
    if disk.firmware:
        _add(system, "loader", str(disk.firmware), readonly="yes", type="pflash")
        _add(system, "nvram", str(disk.variables))
    else:
        # It says on the console what it boots, or that there is nothing to boot.
        _add(system, "bios", useserial="yes")


def _initrd(guest: Guest) -> str:
    """Return what QEMU takes as `-initrd`: for Xen, multiboot modules with their command lines.

    A comma parts two modules and a doubled one stands for itself (load_multiboot in QEMU's
    hw/i386/multiboot.c); libvirt hands the text on as it is.
    """
    if guest.dom0 is None:
        return str(guest.initramfs)
    modules = (f"{guest.dom0.kernel} {guest.dom0.cmdline}", str(guest.initramfs))
    return ",".join(module.replace(",", ",,") for module in modules)


def _cpu(domain: Element, model: str, accel: Accel) -> None:
    if model:
        cpu = _add(domain, "cpu", mode="custom", match="exact", check="none")
        name, *features = model.split(",")
        _add(cpu, "model", name, fallback="forbid")
        for feature in features:
            _add(cpu, "feature", policy="require", name=feature.removeprefix("+"))
    elif accel == "tcg":
        # All that TCG knows, for the vector instructions halve an SSH handshake, but these.
        cpu = _add(domain, "cpu", mode="maximum", check="none")
        for name in SLOW_FEATURES:
            _add(cpu, "feature", policy="disable", name=name)
    else:
        cpu = _add(domain, "cpu", mode="host-passthrough", check="none", migratable="off")
        # QEMU 7.2 aborts on AMD hosts whose kernel offers this MSR but refuses its value:
        # "failed to set MSR 0x10a". A lab has no use for it.
        _add(cpu, "feature", policy="disable", name="arch-capabilities")
        # A guest that has it cannot be saved (kvm_arch_init_vcpu, invtsc_mig_blocker).
        _add(cpu, "feature", policy="disable", name="invtsc")


def _saved_words(memory: Memory, guest: Guest) -> list[str]:
    """Return the words that give QEMU the memory of a template or a clone.

    libvirt's own is then never touched. A template has the virtio NICs of its clones as devices
    that are plugged into nothing.
    """
    file = f"size={guest.memory}M,mem-path={memory.file},share={'off' if memory.incoming else 'on'}"
    words = ["-object", f"memory-backend-file,id=saved,{file}", "-machine", "memory-backend=saved"]
    if memory.incoming:
        return [*words, "-incoming", "defer"]
    for index, nic in enumerate(guest.nics):
        if registry.nic(nic.model).device_features:
            device = f"virtio-net-pci,bus=pci.0,addr={FIRST_SLOT + index:#x},romfile="
            words += ["-device", device]
    return [*words, "-uuid", NO_UUID]


def domain_xml(
    guest: Guest,
    accel: Accel,
    lab: str,
    ids: tuple[int, int] | None = None,
    memory: Memory | None = None,
) -> str:
    """Write the domain of a guest that boots a kernel directly, or its disk; no USB, no video.

    With `ids` its QEMU is of that user and group, by their numbers, instead of libvirt's. With
    `memory` it is a template or a clone.
    """
    domain = Element("domain", type="kvm" if accel == "kvm" else "qemu")
    _add(domain, "name", guest.domain)
    metadata = _add(domain, "metadata")
    ElementTree.register_namespace("labctl", NAMESPACE)
    _add(metadata, f"{{{NAMESPACE}}}node", lab=lab, name=guest.name)
    _add(domain, "memory", str(guest.memory), unit="MiB")
    _add(domain, "vcpu", str(guest.vcpus))
    if memory:
        # By it, made anew by libvirt, a kernel with a driver for it (vmgenid) notices as well that
        # it is another guest now.
        _add(domain, "genid")
    system = _add(domain, "os")
    _add(system, "type", "hvm", arch="x86_64", machine="pc")
    if guest.disk:
        _firmware(system, guest.disk)
    elif not (memory and memory.incoming):  # a clone has its kernel in its memory
        _add(system, "kernel", str(guest.kernel))
        _add(system, "initrd", _initrd(guest))
        _add(system, "cmdline", guest.cmdline)
    if guest.config:
        entries = _add(domain, "sysinfo", type="fwcfg")
        _add(entries, "entry", name="opt/labctl.conf", file=str(guest.config))
    features = _add(domain, "features")
    _add(features, "acpi")
    if accel == "tcg":
        tcg = _add(features, "tcg")
        _add(tcg, "tb-cache", str(TB_CACHE_MIB), unit="MiB")
    _cpu(domain, guest.cpu, accel)
    _add(domain, "clock", offset="utc")
    _add(domain, "on_poweroff", "destroy")
    # A guest that restarted by itself would be another one, without what the lab had set in it.
    _add(domain, "on_reboot", "destroy")
    _add(domain, "on_crash", "destroy")
    devices = _add(domain, "devices")
    _add(devices, "emulator", EMULATOR)
    if guest.disk:
        _boot_disk(devices, guest.disk)
    for index, file in enumerate(guest.drives):
        _drive(devices, disk_name(index), file)
    for index, nic in enumerate(guest.nics):
        if memory is None:
            _interface(devices, nic)
        elif memory.incoming:
            _interface(devices, nic, FIRST_SLOT + index)
    serial = _add(devices, "serial", type="unix")
    _add(serial, "source", mode="bind", path=str(guest.console))
    _add(serial, "log", file=str(guest.log), append="on")
    _add(serial, "target", type="isa-serial", port="0")
    _add(devices, "controller", type="usb", model="none")
    _add(devices, "memballoon", model="none")
    if not memory:
        # A clone gets its random numbers with its configuration, and each device takes time.
        rng = _add(devices, "rng", model="virtio")
        _add(rng, "backend", "/dev/urandom", model="random")
    if ids:
        # relabel: whose the files are is not changed, for they may be anybody's.
        label = _add(domain, "seclabel", type="static", model="dac", relabel="no")
        _add(label, "label", f"+{ids[0]}:+{ids[1]}")
    # With this capability libvirt asks QEMU for each feature of the CPU, eight hundred questions
    # one after another (qemuProcessFetchGuestCPU), before the guest may run; without it, for one
    # word of all. It only serves migration.
    ElementTree.register_namespace("qemu", QEMU_NAMESPACE)
    capabilities = _add(domain, f"{{{QEMU_NAMESPACE}}}capabilities")
    _add(capabilities, f"{{{QEMU_NAMESPACE}}}del", capability="cpu-unavailable-features")
    # libvirt starts QEMU with -no-shutdown: it would wait, as if it ran, for a libvirt to end it,
    # and between two commands there is none. So it ends by itself with its guest, also after a
    # restart or a panic, which resets the machine: libvirt has that shut down (set-action of QMP).
    words = _add(domain, f"{{{QEMU_NAMESPACE}}}commandline")
    more = ["-incoming", "defer"] if guest.incoming and not memory else []
    if memory:
        more = _saved_words(memory, guest)
    for word in ("-action", "shutdown=poweroff", *more):
        _add(words, f"{{{QEMU_NAMESPACE}}}arg", value=word)
    ElementTree.indent(domain)
    return ElementTree.tostring(domain, encoding="unicode")
