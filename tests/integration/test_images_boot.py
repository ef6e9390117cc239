"""The real images in bare QEMU: what the boot contract of docs/images.md promises."""

from __future__ import annotations

import base64
import contextlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from labctl import images
from labctl.images import Image, cache, mirror, recipe
from labctl.lab import boot
from labctl.sandbox.deadline import Deadline

pytestmark = pytest.mark.integration

PATIENCE = 120.0


class Key:
    """An ed25519 key in the two formats: dropbear's for the guest, OpenSSH's for the host."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        public = self._key.public_key()
        raw = self._key.private_bytes_raw() + public.public_bytes_raw()
        parts = (b"ssh-ed25519", raw)
        blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        self.dropbear = base64.b64encode(blob).decode()
        self.public = public.public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        ).decode()

    def write(self, file: Path) -> None:
        file.touch(0o600)
        file.write_bytes(
            self._key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            )
        )


@dataclass
class Guest:
    process: subprocess.Popen[bytes]
    console_file: Path
    port: int
    folder: Path

    @property
    def console(self) -> str:
        return self.console_file.read_text(errors="replace") if self.console_file.exists() else ""

    def wait(self, text: str) -> None:
        deadline = Deadline(PATIENCE, f"waiting for {text!r}")
        while text not in self.console:
            assert self.process.poll() is None, f"QEMU ended; console:\n{self.console}"
            deadline.pause(0.05)

    def ssh(self, command: str, check: bool = True) -> str:
        options = [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={self.folder / 'known'}",
            "LogLevel=ERROR",
            "ConnectTimeout=30",
        ]
        argv = ["ssh", "-F", "none", "-i", str(self.folder / "id"), "-p", str(self.port)]
        argv += [word for option in options for word in ("-o", option)]
        done = subprocess.run(
            [*argv, "root@127.0.0.1", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{command}: {done.stderr}\n{self.console}"
        return done.stdout


@contextlib.contextmanager
def booted(
    image: Image, folder: Path, config: str = "", nics: tuple[str, ...] = (), memory: int = 128
) -> Iterator[Guest]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    initramfs = image.initramfs
    if config:
        initramfs = boot.Files(folder).initramfs("guest", image.initramfs, config)
    argv = "qemu-system-x86_64 -M pc -accel tcg -cpu max -nodefaults -no-user-config -no-reboot"
    argv += f" -display none -m {memory} -serial file:{folder / 'console'} -device virtio-rng-pci"
    for number, model in enumerate(nics):
        back = f"user,hostfwd=tcp:127.0.0.1:{port}-:22" if number == 0 else "hubport,hubid=0"
        argv += f" -netdev {back},id=n{number}"
        argv += f" -device {model},netdev=n{number},mac={mac(number)},romfile="
    command = [*argv.split(), "-kernel", str(image.kernel), "-initrd", str(initramfs)]
    # setpriv: were this process killed, QEMU must not stay behind.
    command = ["setpriv", "--pdeathsig", "KILL", *command, "-append", images.CMDLINE]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            yield Guest(process, folder / "console", port, folder)
        finally:
            process.kill()


def mac(number: int) -> str:
    return f"52:54:00:00:00:{number + 1:02x}"


@pytest.fixture(scope="module")
def micro() -> Image:
    return images.get("micro")


@pytest.fixture(scope="module")
def guest(micro: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("guest")
    host_key, own, user = Key(), Key(), Key()
    user.write(folder / "id")
    config = f"""host vm1
hostkey {host_key.dropbear}
clientkey {own.dropbear}
authorized {user.public} user
authorized {own.public} lab
iface {mac(0)} mgmt0 1500 10.0.2.15/24
iface {mac(1)} eth2 1400 192.0.2.1/24 2001:db8::1/64
iface {mac(2)} eth1 1500
iface 52:54:00:00:00:99 eth9 1500
route 198.51.100.0/24 192.0.2.254
route default 2001:db8::2
peer 192.0.2.1 vm1
peer 2001:db8::1 vm1six
offload eth2 gro off
offload eth2 nonsense off
nonsense line
"""
    with booted(micro, folder, config, ("virtio-net-pci",) * 3) as guest:
        guest.wait("labctl: ready")
        (folder / "known").write_text(f"[127.0.0.1]:{guest.port} {host_key.public}\n")
        yield guest


def test_ssh_works_with_the_given_keys_as_soon_as_it_is_ready(guest: Guest, micro: Image) -> None:
    assert guest.ssh("uname -n; uname -r; id -u").split() == ["vm1", micro.kernel_release, "0"]


def test_the_configuration_is_for_root_alone(guest: Guest) -> None:
    """It holds the guest's keys."""
    found = guest.ssh("ls /labctl.conf 2>&1; stat -c '%a %U' /run/labctl.conf; cat /proc/cmdline")
    assert found.splitlines()[1:] == ["600 root", images.CMDLINE]
    assert "No such file" in found


def test_a_key_that_was_not_given_is_refused(guest: Guest, tmp_path: Path) -> None:
    Key().write(tmp_path / "id")
    (tmp_path / "known").write_text((guest.folder / "known").read_text())
    stranger = Guest(guest.process, guest.console_file, guest.port, tmp_path)
    assert stranger.ssh("echo in", check=False) == ""


def test_nics_are_found_by_mac_even_where_names_swap(guest: Guest) -> None:
    lines = guest.ssh("cd /sys/class/net; for i in *; do echo $i $(cat $i/address $i/mtu); done")
    assert sorted(lines.splitlines()) == [
        f"eth1 {mac(2)} 1500",
        f"eth2 {mac(1)} 1400",
        "lo 00:00:00:00:00:00 65536",
        f"mgmt0 {mac(0)} 1500",
    ]


def test_addresses_are_usable_at_once_and_routes_are_there(guest: Guest) -> None:
    shown = guest.ssh("ip -o addr show; ip route; ip -6 route")
    assert "192.0.2.1/24 brd 192.0.2.255" in shown
    assert "2001:db8::1/64" in shown
    assert "fe80::5054:ff:fe00:1/64" in shown
    assert "tentative" not in shown
    assert "198.51.100.0/24 via 192.0.2.254 dev eth2" in shown
    assert "default via 2001:db8::2 dev eth2" in shown


def test_only_what_comes_over_the_management_network_is_acknowledged_at_once(guest: Guest) -> None:
    routes = guest.ssh("ip -6 route; ip route").splitlines()
    quick = [line.split()[:3] for line in routes if "quickack 1" in line]
    assert quick == [["fe80::/64", "dev", "mgmt0"]]


def test_offloads_are_set_and_every_line_that_fails_is_told(guest: Guest) -> None:
    assert "generic-receive-offload: off" in guest.ssh("ethtool -k eth2")
    assert "generic-receive-offload: on" in guest.ssh("ethtool -k eth1")
    told = [line for line in guest.console.splitlines() if line.startswith("labctl: error")]
    assert told == [
        "labctl: error: iface eth9: no NIC has the MAC 52:54:00:00:00:99",
        "labctl: error: unknown line: nonsense line",
        "labctl: error: offload eth2 nonsense off",
    ]


def test_ssh_inside_a_lab_takes_openssh_words(guest: Guest) -> None:
    assert guest.ssh("ssh vm1 uname -n").strip() == "vm1"
    command = "echo in | ssh -4 -o ConnectTimeout=5 -t root@vm1six -p 22 -- cat"
    assert guest.ssh(command).strip() == "in"
    assert guest.ssh("ssh --bad vm1", check=False) == ""


def test_the_tools_of_evidence_work(guest: Guest) -> None:
    perl = "perl -Mstrict -Mwarnings -MSocket -MPOSIX -MIO::Socket -e"
    assert guest.ssh(f"{perl} 'socket(my $s, 17, 3, 0x300) or die $!; print 1'") == "1"
    seen = "tcpdump -Z root --immediate-mode -U -c 1 -ni lo icmp 2>/run/said"
    send = "until grep -q listening /run/said; do sleep 0.1; done; ping -c 1 127.0.0.1"
    assert "ICMP echo request" in guest.ssh(f"rm -f /run/said; {seen} & {send}; wait")
    action = "tc qdisc add dev eth1 clsact && tc filter add dev eth1 egress matchall action csum"
    assert "csum (iph, tcp, udp)" in guest.ssh(
        f"{action} ip4h tcp udp && tc filter show dev eth1 egress"
    )
    guest.ssh("test -w /sys/kernel/tracing/events/skb/kfree_skb/enable")
    assert guest.ssh("for i in ip tc ethtool; do readlink -f $(which $i); done").split() == [
        "/usr/bin/ip",
        "/usr/sbin/tc",
        "/usr/sbin/ethtool",
    ]


def test_modules_load_on_demand_with_what_they_need(guest: Guest) -> None:
    guest.ssh("ip link add v0 type veth peer name v1; ip link add b0 type bridge")
    guest.ssh("ip link add x0 type vxlan id 1 dstport 4789 dev eth1")
    guest.ssh("ip link add link eth1 name eth1.7 type vlan id 7; modprobe tun")
    loaded = guest.ssh("cut -d ' ' -f 1 /proc/modules").split()
    assert {"veth", "bridge", "stp", "vxlan", "udp_tunnel", "8021q", "tun"} <= set(loaded)


def test_dropbear_comes_back_when_it_dies(guest: Guest) -> None:
    guest.ssh("kill $(pidof dropbear)", check=False)
    guest.wait("labctl: error: dropbear ended")
    deadline = Deadline(PATIENCE, "waiting for dropbear")
    while guest.ssh("echo back", check=False) != "back\n":
        deadline.pause(0.2)


def test_poweroff_ends_the_machine(micro: Image, tmp_path: Path) -> None:
    host_key, user = Key(), Key()
    user.write(tmp_path / "id")
    config = f"hostkey {host_key.dropbear}\nauthorized {user.public}\n"
    config += f"iface {mac(0)} mgmt0 1500 10.0.2.15/24\n"
    with booted(micro, tmp_path, config, ("virtio-net-pci",)) as guest:
        guest.wait("labctl: ready")
        (tmp_path / "known").write_text(f"[127.0.0.1]:{guest.port} {host_key.public}\n")
        guest.ssh("poweroff", check=False)
        assert guest.process.wait(PATIENCE) == 0


def test_without_a_configuration_there_is_a_shell_on_the_console(
    micro: Image, tmp_path: Path
) -> None:
    with booted(micro, tmp_path) as guest:
        guest.wait("labctl: no configuration")
        guest.wait("built-in shell")
        assert "labctl: ready" not in guest.console


def test_micro_generic_drives_qemus_other_nics(tmp_path: Path) -> None:
    models = ("e1000", "e1000e", "rtl8139", "vmxnet3")
    host_key, user = Key(), Key()
    user.write(tmp_path / "id")
    config = f"hostkey {host_key.dropbear}\nauthorized {user.public}\n"
    config += f"iface {mac(0)} n0 1500 10.0.2.15/24\n"
    config += "".join(f"iface {mac(number)} n{number} 1500\n" for number in range(1, 4))
    with booted(images.get("micro-generic"), tmp_path, config, models, memory=160) as guest:
        guest.wait("labctl: ready")
        (tmp_path / "known").write_text(f"[127.0.0.1]:{guest.port} {host_key.public}\n")
        drivers = guest.ssh("for n in n0 n1 n2 n3; do ethtool -i $n | head -n 1; done")
        assert drivers.split()[1::2] == ["e1000", "e1000e", "8139cp", "vmxnet3"]
        assert "labctl: error" not in guest.console


def test_the_real_image_built_twice_is_the_same_bytes(
    micro: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = cache.packages()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "labctl").mkdir()
    (tmp_path / "labctl/packages").symlink_to(packages)
    again = images.build("micro")
    assert again.digest == micro.digest
    assert again.kernel.read_bytes() == micro.kernel.read_bytes()
    assert again.initramfs.read_bytes() == micro.initramfs.read_bytes()


def test_a_lock_pins_the_main_archive_by_paths_alone() -> None:
    wanted = recipe.load("micro").recipe
    pinned = mirror.pin(wanted, deadline=Deadline(PATIENCE, "locking"))
    names = {package.name for package in pinned.packages}
    assert {*wanted.packages, pinned.kernel_package} == names
    assert pinned.kernel_package.startswith("linux-image-6.1.")
    assert all(package.path.startswith("pool/main/") for package in pinned.packages)
