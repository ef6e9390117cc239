"""The domain XML against golden files; `LABCTL_GOLDEN=1 pytest FILE` writes them anew."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from labctl.guests.domain import Memory, domain_xml
from labctl.guests.spec import Accel, BootDisk, Guest, Nic

GOLDEN = Path(__file__).with_name("golden")

BARE = Guest(
    name="vm1", domain="vm1", memory=128, vcpus=1, kernel=Path("/img/vmlinuz"),
    initramfs=Path("/img/initramfs"), cmdline="console=ttyS0 labctl=H4sI+/=", nics=(),
    console=Path("/run/labctl/x/console/vm1.sock"), log=Path("/run/labctl/x/console/vm1.log"),
)  # fmt: skip
VIRTIO = Nic("eth0", "vm1-eth0", "52:54:00:00:00:01", "virtio", {})
TUNED = Nic(
    "eth1", "vm1-eth1", "52:54:00:00:00:02", "virtio",
    {"csum": False, "gso": False, "guest_csum": False, "guest_tso4": True},
)  # fmt: skip
E1000 = Nic("eth0", "vm1-eth0", "52:54:00:00:00:01", "e1000", {})
MGMT = Nic("mgmt0", "vm1-mgmt0", "52:54:00:00:00:ff", "virtio", {})

TEMPLATE = Memory("/proc/7/fd/9", incoming=False)
CLONE = Memory("/proc/7/fd/9", incoming=True)

DISKS = {
    "disk": BootDisk(Path("/l/boot/vm1.qcow2"), Path("/c/disk"), Path("/l/boot/vm1.seed")),
    "disk-uefi": BootDisk(
        Path("/l/boot/vm1.qcow2"),
        Path("/c/disk"),
        None,
        Path("/u/CODE.fd"),
        Path("/l/boot/vm1.uefi"),
    ),
}

CASES: dict[str, tuple[Accel, tuple[Nic, ...], Memory | None]] = {
    "virtio-kvm": ("kvm", (VIRTIO, MGMT), None),
    "virtio-tcg": ("tcg", (VIRTIO, MGMT), None),
    "virtio-device-features": ("tcg", (VIRTIO, TUNED, MGMT), None),
    "e1000": ("tcg", (E1000, MGMT), None),
    "no-nics": ("tcg", (), None),
    "disk": ("tcg", (VIRTIO, MGMT), None),
    "disk-uefi": ("tcg", (VIRTIO, MGMT), None),
    "template": ("tcg", (E1000, TUNED, MGMT), TEMPLATE),
    "clone": ("tcg", (E1000, TUNED, MGMT), CLONE),
    "clone-kvm": ("kvm", (VIRTIO, MGMT), CLONE),
}


@pytest.mark.parametrize("case", CASES)
def test_the_domain_is_what_was_reviewed(case: str) -> None:
    accel, nics, memory = CASES[case]
    guest = dataclasses.replace(BARE, nics=nics, disk=DISKS.get(case))
    text = domain_xml(guest, accel, "x", None, memory) + "\n"
    file = GOLDEN / f"domain-{case}.xml"
    if os.environ.get("LABCTL_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text(), f"if this is meant, run again with LABCTL_GOLDEN=1: {file}"


def test_there_is_no_golden_file_without_its_test() -> None:
    assert {file.stem for file in GOLDEN.glob("domain-*.xml")} == {
        f"domain-{case}" for case in CASES
    }


def test_odd_words_cannot_break_out_of_the_domain() -> None:
    odd = dataclasses.replace(BARE, cmdline="a</cmdline><x/>&b", kernel=Path('/a "b"/<c>'))
    root = ElementTree.fromstring(domain_xml(odd, "tcg", "x"))
    assert root.findtext("os/cmdline") == "a</cmdline><x/>&b"
    assert root.findtext("os/kernel") == '/a "b"/<c>'


def test_the_domain_says_which_node_of_which_lab_it_is() -> None:
    guest = dataclasses.replace(BARE, domain="mylab-vm1")
    root = ElementTree.fromstring(domain_xml(guest, "tcg", "mylab"))
    assert root.findtext("name") == "mylab-vm1"
    node = root.find("metadata/{urn:labctl:node:1}node")
    assert node is not None
    assert (node.get("lab"), node.get("name")) == ("mylab", "vm1")


def test_the_domain_is_what_libvirt_takes() -> None:
    """The test driver parses domains as every driver does, and needs no host."""
    libvirt = pytest.importorskip("libvirt")
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    connection = libvirt.open("test:///default")
    try:
        for accel, nics, memory in CASES.values():
            text = domain_xml(dataclasses.replace(BARE, nics=nics), accel, "x", None, memory)
            # Only the kinds of domain differ between that driver and QEMU's.
            kind = "kvm" if accel == "kvm" else "qemu"
            root = ElementTree.fromstring(
                text.replace(f'<domain type="{kind}"', '<domain type="test"')
            )
            for part in ("features/tcg", "cpu/feature"):
                parent = root.find(part.split("/")[0])
                child = root.find(part)
                if parent is not None and child is not None:
                    parent.remove(child)
            domain = connection.defineXML(ElementTree.tostring(root, encoding="unicode"))
            again = domain.XMLDesc()
            domain.undefine()
            found = ElementTree.fromstring(again)
            macs = [mac.get("address") for mac in found.findall("devices/interface/mac")]
            assert macs == ([] if memory == TEMPLATE else [nic.mac for nic in nics])
    finally:
        connection.close()


def test_no_drive_is_left_out_however_many_there_are() -> None:
    drives = tuple(Path(f"/img/{number}") for number in range(800))
    root = ElementTree.fromstring(domain_xml(dataclasses.replace(BARE, drives=drives), "tcg", "x"))
    found = [(disk.find("source"), disk.find("target")) for disk in root.iter("disk")]
    files = [source.get("file") for source, _ in found if source is not None]
    names = [target.get("dev") for _, target in found if target is not None]
    assert files == [str(drive) for drive in drives]
    assert len(set(names)) == 800
    assert (names[0], names[25], names[26], names[701], names[702]) == (
        "vda",
        "vdz",
        "vdaa",
        "vdzz",
        "vdaaa",
    )
