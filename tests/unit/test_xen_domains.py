"""What a Xen host and its guests are told, without either."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import threading
import time
import tty
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

from labctl import shipped
from labctl.errors import UsageError
from labctl.guests import keys, xen, xen_host
from labctl.guests.domain import domain_xml
from labctl.guests.spec import Guest, Nic, drive_serial

MGMT = xen_host.management("xen1-mgmt", "52:54:00:00:00:01")
UPLINK = Nic("eth0", "xen1-eth0", "52:54:00:00:00:02", "e1000", {})
BRIDGES = (
    xen_host.Bridge("lan", 9000, uplinks=(xen_host.Port(UPLINK, 1400),)),
    xen_host.Bridge("left", 1500, ("10.0.0.1/24",)),
)


def host(folder: Path, memory: int = 1024) -> Guest:
    return xen_host.guest(
        "xen1",
        "lab-xen1",
        hypervisor=Path("/i/xen"),
        kernel=Path("/i/vmlinux"),
        initramfs=Path("/i/dom0,1.cpio"),
        memory=memory,
        vcpus=2,
        mgmt=MGMT,
        bridges=BRIDGES,
        drives=[Path("/i/guest"), Path("/i/guest.cpio"), Path("/i/guest")],
        client=keys.Key.make(),
        hostkey=keys.Key.make(),
        directory=folder,
    )


def guest(cmdline: str = xen.CMDLINE, bridges: Mapping[str, str] | None = None) -> xen.XenGuest:
    nics = (
        Nic("eth0", "vm1-eth0", "52:54:00:00:00:03", "xen", {}),
        Nic("mgmt0", "vm1-mgmt", "52:54:00:00:00:04", "xen", {}),
    )
    one = Guest(
        name="vm1", domain="lab-vm1", memory=128, vcpus=1, kernel=Path("/i/guest"),
        initramfs=Path("/i/guest.cpio"), cmdline=cmdline, nics=nics,
        console=Path("/c"), log=Path("/l"),
    )  # fmt: skip
    return xen.XenGuest(one, bridges or {"vm1-eth0": "lan", "vm1-mgmt": "mgmt"}, "host vm1\n")


def text(root: ElementTree.Element, path: str) -> str:
    found = root.findtext(path)
    assert found is not None
    return found


def test_the_host_boots_xen_with_dom0_and_its_files_as_modules_and_drives(tmp_path: Path) -> None:
    one = host(tmp_path)
    root = ElementTree.fromstring(domain_xml(one, "tcg", "lab"))
    assert text(root, "os/kernel") == "/i/xen"
    kernel, _, initramfs = text(root, "os/initrd").rpartition(" noreplace-smp,")
    assert kernel.startswith("/i/vmlinux console=hvc0 ")
    assert initramfs == "/i/dom0,,1.cpio"  # QEMU takes a doubled comma for one
    assert "dom0_mem=512M,max:512M" in text(root, "os/cmdline")
    assert text(root, "cpu/model") == "Nehalem"
    assert [feature.attrib for feature in root.iter("feature")] == [
        {"policy": "require", "name": "rdrand"}
    ]
    serials = [disk.findtext("serial") for disk in root.iter("disk")]
    assert serials == [drive_serial(Path("/i/guest")), drive_serial(Path("/i/guest.cpio"))]
    (entry,) = root.iter("entry")
    config = Path(entry.attrib["file"])
    assert config.stat().st_mode & 0o777 == 0o600
    targets = [target.attrib["dev"] for target in root.findall("devices/interface/target")]
    assert targets == ["xen1-eth0", "xen1-mgmt"]


def test_dom0_is_told_of_its_bridges_and_ports(tmp_path: Path) -> None:
    one = host(tmp_path)
    assert one.config
    told = [line for line in one.config.read_text().splitlines() if line[:4] in ("brid", "port")]
    assert told == [
        "bridge mgmt 1500 fe80::5054:ff:fe00:1/64",
        "port 52:54:00:00:00:01 mgmt0 1500 mgmt",
        "bridge lan 9000",
        "port 52:54:00:00:00:02 eth0 1400 lan",
        "bridge left 1500 10.0.0.1/24",
    ]


def test_a_host_without_memory_for_guests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="xen1 has 640 MiB; Xen and dom0 alone take 640"):
        host(tmp_path, memory=640)


def test_a_guest_is_a_pv_domain_with_named_vifs_on_bridges() -> None:
    one = guest()
    root = ElementTree.fromstring(xen.guest_xml(one, "lab"))
    assert root.attrib == {"type": "xen"}
    machine = root.find("os/type")
    assert machine is not None
    assert (machine.text, machine.attrib["machine"]) == ("linux", "xenpv")
    assert text(root, "os/kernel") == xen.boot_file(Path("/i/guest"))
    assert text(root, "os/initrd") == xen.initramfs_of("lab-vm1")
    vifs = [
        tuple(sorted(part.items()) for part in interface.iterfind("*"))
        for interface in root.iter("interface")
    ]
    assert vifs[0] == (
        [("address", "52:54:00:00:00:03")],
        [("bridge", "lan")],
        [("path", "vif-bridge")],
        [("dev", "vm1-eth0")],
    )
    assert len(vifs) == 2


def test_a_command_line_that_xen_would_cut_is_refused() -> None:
    fits = "x" * xen_host.COMMAND_LINE_LIMIT
    assert fits in xen.guest_xml(guest(fits), "lab")
    with pytest.raises(UsageError, match="command line of vm1 has 1024 characters"):
        xen.guest_xml(guest(fits + "x"), "lab")


def test_libvirt_is_sent_through_the_labs_own_ssh(tmp_path: Path) -> None:
    folder = tmp_path / "a b&c"
    folder.mkdir()
    place = xen.XenHost("xen1", folder, folder / "log")
    assert place.uri.startswith("xen+ssh://xen1/system?command=")
    assert " " not in place.uri
    assert place.uri.count("&") == 2
    xen.prepare(folder)
    xen.prepare(folder)
    subprocess.run(["sh", "-n", str(folder / "ssh")], check=True)
    shown = subprocess.run(
        [folder / "ssh", "-G", "xen1"], capture_output=True, text=True, check=False
    )
    assert str(folder / "ssh_config") in shown.stderr  # it is not there, and ssh asked for it


@pytest.mark.skipif(not shutil.which("perl"), reason="there is no perl")
def test_a_console_is_followed_from_before_its_first_word_until_it_is_removed(
    tmp_path: Path,
) -> None:
    log, copy = tmp_path / "guest.log", tmp_path / "copy"
    with copy.open("wb") as out:
        child = subprocess.Popen(["perl", "-e", xen.FOLLOW, str(log)], stdout=out)

    def reached(words: bytes) -> None:
        end = time.monotonic() + 20
        while copy.read_bytes() != words:
            assert time.monotonic() < end, copy.read_bytes()
            threading.Event().wait(0.02)

    try:
        log.write_bytes(b"one\n")
        reached(b"one\n")
        with log.open("ab") as more:
            more.write(b"two\n")
            more.flush()
            reached(b"one\ntwo\n")
            assert child.poll() is None
            log.unlink()
            assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()


def test_of_a_console_nothing_is_kept_but_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What dom0 says besides would fill the disk: only logs are kept within bounds."""
    monkeypatch.setattr("labctl.guests.ssh.command", lambda *_, **__: ["sh", "-c"])
    one = dataclasses.replace(guest("").guest, log=tmp_path / "vm1.log")
    xen._follow(xen.XenHost("xen1", tmp_path, tmp_path / "log"), one, "echo more >&2; echo said")
    end = time.monotonic() + 20
    while one.log.read_text() != "said\n":
        assert time.monotonic() < end
        threading.Event().wait(0.02)
    assert list(tmp_path.iterdir()) == [one.log]


@pytest.mark.skipif(not shutil.which("perl"), reason="there is no perl")
def test_a_terminal_is_read_word_by_word_until_it_closes() -> None:
    guest_end, terminal = os.openpty()
    tty.setraw(terminal)
    words = ["perl", "-e", xen.READ, os.ttyname(terminal)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert child.stdout
        for said in (b"one\n", b"two\n"):
            os.write(guest_end, said)
            assert child.stdout.readline() == said  # at once, not when a buffer is full
        os.close(terminal)
        os.close(guest_end)
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("script", ["micro/init", "xen-host/early", "xen-host/late",
                                    "xen-host/vif-bridge"])  # fmt: skip
def test_the_shell_reads_every_script_of_dom0(script: str) -> None:
    subprocess.run(["sh", "-n", str(shipped.folder("images") / script)], check=True)
