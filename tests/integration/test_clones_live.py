"""Guests that start from a saved state: the same as booted ones, and no two alike."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from live import LABCTL, SOLO, Place, Watch, as_user, needs_users, place, until

from labctl import images
from labctl.guests import saved
from labctl.images.templates import MEMORY, NOTES, STATE
from labctl.lab.lab import Lab
from labctl.pytest_plugin import LabFactory
from labctl.sandbox.base import Process
from labctl.sandbox.deadline import Deadline

pytestmark = pytest.mark.integration

COUNT = 8
MANY = {
    "networks": {"lan": {"subnets": ["10.9.0.0/24", "fd09::/64"]}},
    "nodes": {
        f"vm{number}": {
            "interfaces": [
                {"network": "lan", "addresses": [f"10.9.0.{number}/24"]},
                {"network": "lan"},
            ]
        }
        for number in range(1, COUNT + 1)
    },
}

DRAWS = r"""
use IO::Socket::INET;
open my $urandom, '<', '/dev/urandom'; sysread $urandom, my $bytes, 16;
print 'urandom ', unpack('H*', $bytes), "\n";
syscall 318, my $drawn = ' ' x 16, 16, 0;    # getrandom(2)
print 'getrandom ', unpack('H*', $drawn), "\n";
print 'perl ', join(',', map { int rand 2**32 } 1 .. 4), "\n";
for my $file (qw(uuid boot_id)) {
    open my $from, '<', "/proc/sys/kernel/random/$file"; print "$file ", scalar <$from>;
}
open my $maps, '<', '/proc/self/maps'; print 'addresses ', (split /-/, <$maps>)[0], "\n";
my $server = IO::Socket::INET->new(Listen => 9, LocalAddr => '127.0.0.1') or die;
my @clients = map {
    IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $server->sockport) or die
} 1 .. 4;
print 'ports ', join(',', $server->sockport, map { $_->sockport } @clients), "\n";
"""
"""Random numbers of the kernel and of user space, and ports that TCP chose."""

SEQUENCES = (
    "tcpdump -Z root --immediate-mode -nn -S -c 2 -i lo 'tcp[tcpflags] & tcp-syn != 0'"
    " >/tmp/syn 2>/tmp/err & "
    "until grep -q listening /tmp/err; do sleep 0.1; done; echo x | nc 127.0.0.1 22 >/dev/null; "
    "wait $!; grep -o 'seq [0-9]*' /tmp/syn"
)
SECRET = (
    "ip link add v0 type veth peer name v1 && ip link set v0 addrgenmode random && "
    "ip link set v1 up && ip link set v0 up && ip -br -6 addr show dev v0 && "
    "cat /sys/class/net/v1/address && ip link del v0"
)


@pytest.fixture(scope="module")
def many(lab_factory: LabFactory) -> Iterator[Lab]:
    with lab_factory(MANY) as lab:
        yield lab


@pytest.fixture
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    """A place with a cache of its own, which has the image and no template."""
    image = images.get("micro").kernel.parent
    with place(pytestconfig.getoption("--accel")) as where:
        cache = where.root / "cache" / "labctl"
        shutil.copytree(image, cache / "images" / image.name)
        where.env["XDG_CACHE_HOME"] = str(cache.parent)
        where.write("solo.yaml", SOLO)
        yield where


def told(text: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in text.splitlines())


def test_no_two_clones_draw_the_same(many: Lab) -> None:
    assert set(many.starts.values()) == {"cloned"}
    drawn = [told(node.run(["perl", "-e", DRAWS]).stdout) for node in many.nodes]
    for name in drawn[0]:
        found = {each[name] for each in drawn}
        # One of a few million addresses or ports may be drawn twice; eight times they are not.
        assert len(found) == COUNT or (
            name in ("addresses", "ports") and len(found) >= COUNT - 1
        ), f"{name}: {[each[name] for each in drawn]}"
    assert len({each["ports"].split(",")[0] for each in drawn}) > COUNT // 2


def test_no_two_clones_have_the_same_tcp_sequence_numbers(many: Lab) -> None:
    found = [node.run(SEQUENCES).stdout.split() for node in many.nodes]
    numbers = [number for words in found for number in words if number.isdigit()]
    assert len(numbers) == 2 * COUNT
    assert len(set(numbers)) == 2 * COUNT, found


def test_no_two_clones_have_the_same_secrets_and_identity(many: Lab) -> None:
    """MAC addresses that the kernel draws, IPv6's stable addresses, keys, machine ids, names."""
    for command in (
        SECRET,
        "cat /etc/dropbear/hostkey | sha256sum",
        "cat /root/.ssh/id_dropbear | sha256sum",
        "hostname",
        "cat /sys/class/net/eth0/address /sys/class/net/eth1/address",
        "mktemp -u",
    ):
        found = [node.run(command).stdout for node in many.nodes]
        assert all(found)
        assert len(set(found)) == COUNT, f"{command}: {found}"
    for command in ("cat /sys/class/dmi/id/product_uuid", "cat /etc/machine-id"):
        # Whatever a template has all of its clones have: so it has none.
        assert not any(node.run(command, check=False).stdout.strip() for node in many.nodes)


def test_each_clone_has_the_right_time(many: Lab) -> None:
    for node in many.nodes:
        before = time.time()
        seconds = int(node.run("date +%s").stdout)
        assert before - 5 < seconds < time.time() + 5


def test_clones_are_known_to_each_other_by_name_and_key(many: Lab) -> None:
    assert many.node("vm1").run(f"ssh vm{COUNT} hostname").stdout == f"vm{COUNT}\n"
    hosts = many.node("vm2").run("cat /etc/hosts").stdout
    assert all(f"10.9.0.{number} vm{number}\n" in hosts for number in (1, 3, COUNT))


def test_nobody_can_change_the_memory_that_clones_share(many: Lab) -> None:
    """A guest that broke out of its QEMU has it open."""
    run = many.directory / "embed" / "run" / "qemu"
    for name in ("vm1", "vm2"):
        process = many.sandbox.process(int((run / f"{name}.pid").read_text()))
        links = {link: str(link.readlink()) for link in (process / "fd").iterdir()}
        memory = [link for link, to in links.items() if "memfd:labctl-memory" in to]
        assert memory
        for link in memory:
            handle = os.open(link, os.O_RDWR)
            try:
                assert fcntl.fcntl(handle, fcntl.F_GET_SEALS) & saved.SEALS == saved.SEALS
                with pytest.raises(PermissionError):
                    os.pwrite(handle, b"x", 0)
            finally:
                os.close(handle)


def test_a_clone_is_restarted_with_other_device_features(many: Lab) -> None:
    node = many.node("vm3")
    before = node.run("cat /sys/class/net/eth*/address").stdout
    assert node.device()["csum"]
    many.restart("vm3", device={"csum": False, "guest_csum": False})
    after = many.node("vm3").device()
    assert (after["csum"], after["guest_csum"]) == (False, False)
    assert many.starts["vm3"] == "cloned"
    assert node.run("cat /sys/class/net/eth*/address").stdout == before
    assert many.node("vm4").device()["csum"]
    assert many.node("vm4").run("ping -c 1 10.9.0.3").ok


LISTEN = """
import socket, sys, time
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
line.bind((sys.argv[1], 0))
line.settimeout(0.2)
print("listening", flush=True)
while True:
    try:
        print(line.recv(2000)[:14].hex(), flush=True)
    except TimeoutError:
        pass
"""


def test_a_clone_tells_the_network_nothing_that_a_booted_guest_does_not(
    many: Lab, tmp_path: Path
) -> None:
    """QEMU would announce a guest that has moved here, by RARP, and let its system do so too."""
    heard = tmp_path / "heard"
    tap = many.topology.nodes["vm7"].interfaces[0].tap
    listener = Process.start(
        many.sandbox.agent(),
        [sys.executable, "-c", LISTEN, tap],
        stdout=heard,
        stderr=tmp_path / "errors",
    )
    try:
        until("it listens", lambda: "listening" in heard.read_text())
        many.restart("vm8", device={})
        assert many.starts["vm8"] == "cloned"
        until("vm8's groups", lambda: "333300000016" in heard.read_text())
        assert many.node("vm8").run("sleep 2").ok
    finally:
        listener.kill(signal.SIGKILL)
        listener.finish(Deadline(20, "the listener"))
    frames = heard.read_text().splitlines()[1:]
    assert {frame[24:28] for frame in frames} == {"86dd"}, "IPv6's multicast groups, and no more"
    assert not [frame for frame in frames if frame.startswith("ff" * 6)]


LOOK = {
    "links": "for i in /sys/class/net/*; do echo ${i##*/} $(cat $i/address $i/mtu) "
    "$(basename $(readlink -f $i/device/..)); done",
    # Linux tells of a link that has come up within a second (linkwatch_schedule_work); which of two
    # it tells of first, the order of their routes shows.
    "addresses": "for i in eth0 eth1; do n=0; until grep -q up /sys/class/net/$i/operstate || "
    "[ $((n += 1)) -gt 200 ]; do sleep 0.1; done; done; "
    "ip -br addr show dev eth0; ip -br addr show dev eth1; ip route; ip -6 route | sort",
    "features": "for i in eth0 eth1 mgmt0; do cat /sys/class/net/$i/device/features; "
    "ethtool -k $i | grep -v '^Features'; ethtool -i $i; done",
    "settings": "sysctl -a 2>/dev/null | grep -E '^net\\.(ipv4|ipv6|core)' | grep -vE "
    "'stable_secret|tcp_fastopen_key|hash|mem|flow_limit|netdev_rss_key|probe_interval'",
    "command line": "cat /proc/cmdline; uname -r; nproc",
    "modules": "lsmod | cut -d' ' -f1 | grep -v rng | sort",
    "terminal": "stty -a </dev/console",
    "files": "find /root /etc /usr /var -xdev -type f 2>/dev/null | sort",
}


def test_a_clone_looks_like_a_booted_guest(
    lab_factory: LabFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = {
        "networks": {"lan": {}, "wan": {}},
        "nodes": {
            "vm1": {
                "interfaces": [
                    {
                        "network": "lan",
                        "addresses": ["10.0.0.1/24", "fd00::1/64"],
                        "offload": {"device": {"csum": False}, "guest": {"tx": False}},
                    },
                    {"network": "wan", "mtu": 1400, "addresses": ["10.0.1.1/24"]},
                ],
                "routes": [{"to": "default", "via": "10.0.1.2"}],
            }
        },
    }
    seen = {}
    for how in ("cloned", "booted"):
        if how == "booted":
            monkeypatch.setenv("LABCTL_COLD", "1")
        with lab_factory(topology) as lab:
            assert set(lab.starts.values()) == {how}
            node = lab.node("vm1")
            seen[how] = {what: node.run(line, check=False).stdout for what, line in LOOK.items()}
            seen[how]["offloads"] = json.dumps(lab.offloads())
    assert all(seen["cloned"].values())
    for what, text in seen["booted"].items():
        assert seen["cloned"][what] == text, what


MODELS = ("e1000", "virtio", "rtl8139", "vmxnet3", "e1000e")
NICS = (
    "for i in /sys/class/net/*[0-9]; do echo ${i##*/} $(cat $i/address) $(readlink $i/device); done"
)


def test_nics_of_every_model_are_found_where_a_booted_guest_has_them(
    lab_factory: LabFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    interfaces = [{"network": "lan", "model": model} for model in MODELS]
    node = {"image": "micro-generic", "memory": 160, "interfaces": interfaces}
    seen = {}
    for how in ("cloned", "booted"):
        if how == "booted":
            monkeypatch.setenv("LABCTL_COLD", "1")
        with lab_factory({"networks": {"lan": {}}, "nodes": {"vm1": node}}) as lab:
            assert set(lab.starts.values()) == {how}
            seen[how] = lab.node("vm1").run(NICS).stdout.splitlines()
    assert len(seen["cloned"]) == len(MODELS) + 1
    assert seen["cloned"] == seen["booted"]


def test_a_kernel_of_the_users_own_boots_unless_it_is_asked_otherwise(
    lab_factory: LabFactory, tmp_path: Path
) -> None:
    kernel = tmp_path / "kernel"
    shutil.copy(images.get("micro").kernel, kernel)
    node = {"kernel": str(kernel), "interfaces": [{"network": "lan"}]}
    nodes = {"vm1": node, "vm2": {**node, "clone": True}, "vm3": {"clone": False}}
    with lab_factory({"networks": {"lan": {}}, "nodes": nodes}) as lab:
        assert dict(lab.starts) == {"vm1": "booted", "vm2": "cloned", "vm3": "booted"}
        assert lab.node("vm2").run("hostname").stdout == "vm2\n"


AGAIN = """
from labctl.lab.lab import Lab

lab = Lab.attach("solo")
lab.restart("vm1", device={"csum": False})
assert lab.starts["vm1"] == "cloned"
assert not lab.node("vm1").device()["csum"]
lab.close()
"""


def test_another_process_restarts_a_clone(here: Place) -> None:
    here.write("again.py", AGAIN)
    here.ok("up", "solo.yaml")
    with here.python("again.py") as again:
        assert again.wait() == 0, again.log.read_text()
    assert starts(here) == {"vm1": "cloned"}
    assert here.ok("exec", "vm1", "hostname").stdout == "vm1\n"
    here.ok("down", "solo")


def starts(where: Place) -> dict[str, str]:
    (lab,) = where.ok("status", "--json").json()
    return {part["name"]: part["start"] for part in lab["parts"] if part.get("start")}


def folders(where: Place) -> list[Path]:
    root = where.root / "cache" / "labctl" / "templates"
    return [one for one in root.iterdir() if not one.name.startswith(".")] if root.exists() else []


def once(where: Place, *words: str) -> tuple[str, str]:
    """Bring the lab up and down; return how its guest started, and what was said."""
    said = where.ok("up", "solo.yaml", *words).stderr
    found = starts(where)["vm1"]
    where.ok("down", "solo")
    return found, said


def _flip(folder: Path) -> None:
    with (folder / MEMORY).open("r+b") as file:
        file.seek(5 << 20)
        byte = file.read(1)
        file.seek(5 << 20)
        file.write(bytes([byte[0] ^ 1]))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of its memory has changed": _flip,
    "its device state ends early": lambda folder: os.truncate(folder / STATE, 1000),
}


def test_a_template_is_made_once_listed_and_removed(here: Place) -> None:
    found, said = once(here)
    assert found == "cloned"
    assert re.search(r"template micro +… made once, for guests of 128 MiB", said)
    (folder,) = folders(here)
    assert {one.stat().st_mode & 0o077 for one in (folder, *folder.iterdir())} == {0}
    found, said = once(here)
    assert found == "cloned"
    assert "template" not in said
    assert once(here, "--cold")[0] == "booted"
    micro = next(one for one in here.ok("image", "list", "--json").json() if one["name"] == "micro")
    assert [one["key"] for one in micro["templates"]] == [folder.name]
    assert micro["templates"][0]["size"] > 1 << 20
    assert f"template {folder.name}" in here.ok("image", "rm", "micro").stdout
    assert not folder.exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_template_is_noticed_and_made_anew(here: Place, damage: str) -> None:
    once(here)
    (folder,) = folders(here)
    DAMAGE[damage](folder)
    found, said = once(here)
    assert found == "booted"
    assert len(re.findall(r"clone vm1 +FAILED it boots instead: its \w+ is not", said)) == 1
    found, said = once(here)
    assert found == "cloned"
    assert "template micro" in said


def test_a_state_that_qemu_refuses_is_no_end_of_a_lab(here: Place) -> None:
    """Its digest is right, so that only QEMU can tell."""
    once(here)
    (folder,) = folders(here)
    content = bytearray((folder / STATE).read_bytes())
    content[100:200] = bytes(100)
    (folder / STATE).write_bytes(content)
    notes = json.loads((folder / NOTES).read_text())
    state = os.open(folder / STATE, os.O_RDONLY)
    to = saved.new_file("test")
    notes["value"]["state_digest"] = saved.copy(state, to)
    os.close(state)
    os.close(to)
    (folder / NOTES).write_text(json.dumps(notes))
    found, said = once(here)
    assert found == "booted"
    assert "clone vm1" in said
    assert once(here)[0] == "cloned"


def test_two_that_need_the_same_template_at_once_make_one(here: Place) -> None:
    with ExitStack() as stack:
        names = ("one", "two")
        ups = [stack.enter_context(here.start("up", "solo.yaml", "--name", name)) for name in names]
        assert [up.wait() for up in ups] == [0, 0]
    labs = here.ok("status", "--json").json()
    assert [part["start"] for lab in labs for part in lab["parts"] if part.get("start")] == [
        "cloned",
        "cloned",
    ]
    assert len(folders(here)) == 1
    here.ok("down", "--all")


@pytest.mark.parametrize("moment", ["template micro", "boot vm1"])
def test_up_killed_while_a_template_is_made_leaves_nothing(here: Place, moment: str) -> None:
    with Watch(here) as watch:
        with here.start("up", "solo.yaml") as labctl:
            labctl.reach(moment, lambda: labctl.said(f"{moment} "))
            if moment == "template micro":
                labctl.reach("its QEMU", lambda: any(here.runtime.glob(".s-*/w/embed/c.log")))
            watch.note()
            labctl.child.kill()
            assert labctl.wait() == -signal.SIGKILL
            watch.nothing_left(files=False)
        assert once(here)[0] == "cloned"
        watch.nothing_left()
    assert len(folders(here)) == 1


def test_an_ordinary_users_guests_are_clones_too(pytestconfig: pytest.Config) -> None:
    needs_users()
    images.get("micro")  # as root, with root's cache
    script = f"{LABCTL} up bridged.yaml >&2; {LABCTL} status --json; {LABCTL} down >&2"
    with place(pytestconfig.getoption("--accel")) as where:
        done = as_user(where, f"set -eu; {script}")
        assert done.status == 0, done.stderr
    (lab,) = json.loads(done.stdout)
    assert {part["start"] for part in lab["parts"] if part.get("start")} == {"cloned"}
