"""Bridges, TAPs and their features, made for real in a sandbox."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.errors import HostError, LabctlError
from labctl.network import features, links
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.namespaces import Namespaces
from labctl.topology import FEATURES, Topology, find, from_mapping, kernel_names, load, shipped

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

LAN = from_mapping(
    {
        "networks": {
            "lan": {"mtu": 1400, "stp": True, "addresses": ["10.0.1.254/24", "fd00::f/64"]},
            "bare": {},
        },
        "nodes": {"vm1": {"interfaces": [{"network": "lan"}, {"network": "bare"}]}},
    }
)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespaces]:
    made = Namespaces.create(tmp_path_factory.mktemp("network") / "w")
    yield made
    made.end()


@pytest.fixture
def built(sandbox: Namespaces) -> Iterator[Namespaces]:
    sandbox.call(links.build, LAN)
    yield sandbox
    sandbox.call(links.remove, LAN)


def found(sandbox: Namespaces) -> dict[str, links.Link]:
    return {link.name: link for link in sandbox.call(links.links)}


def read(sandbox: Namespaces, path: str) -> str:
    words = ["cat", path]
    return sandbox.agent().run(words, Deadline(10, "reading")).stdout.strip()


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_every_shipped_topology_is_built_and_removed(sandbox: Namespaces, path: Path) -> None:
    topology: Topology = load(path)
    before = found(sandbox)
    sandbox.call(links.build, topology)
    names = links.names(topology)
    assert set(found(sandbox)) == {*before, *names}
    assert len(set(names)) == len(names)
    sandbox.call(links.remove, topology)
    assert found(sandbox) == before
    sandbox.call(links.remove, topology)


def test_links_are_what_the_topology_says(built: Namespaces) -> None:
    seen = found(built)
    assert (seen["lan"].kind, seen["lan"].mtu, seen["lan"].up) == ("bridge", 1400, True)
    tap = seen["vm1-eth0"]
    assert (tap.kind, tap.mtu, tap.up, tap.master) == ("tun", 1400, True, "lan")
    assert (seen["vm1-eth1"].mtu, seen["vm1-eth1"].master) == (1500, "bare")
    assert (seen["vm1-mgmt"].master, seen["mgmt"].kind) == ("mgmt", "bridge")
    assert read(built, "/sys/class/net/lan/bridge/stp_state") == "1"
    assert read(built, "/sys/class/net/bare/bridge/stp_state") == "0"
    assert read(built, "/sys/class/net/bare/bridge/multicast_snooping") == "0"


def test_only_bridges_that_are_told_to_have_addresses(built: Namespaces) -> None:
    told = built.agent().run([sys.executable, "-c", ADDRESSES], Deadline(10, "listing")).stdout
    addresses = {line for line in told.splitlines() if "fe80" not in line}
    assert addresses == {"lo 127.0.0.1/8", "lo ::1/128", "lan 10.0.1.254/24", "lan fd00::f/64"}
    assert {line.split()[0] for line in told.splitlines() if "fe80" in line} <= {"lan", "mgmt"}


# A guest on vm1-mgmt says that it is vm2, and to whom the bridge would give what is for vm2 then:
# entries of 16 bytes, a MAC address and the number of a port (struct __fdb_entry, if_bridge.h).
PASSING_FOR_ANOTHER = """
import fcntl, os, struct, sys
theirs = bytes.fromhex(sys.argv[1].replace(":", ""))
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"vm1-mgmt", 0x1002))
with open("/sys/class/net/vm1-mgmt/brport/state") as state:
    while state.read().strip() != "3":
        state.seek(0)
for _ in range(10):
    os.write(tap, bytes.fromhex("ffffffffffff") + theirs + bytes.fromhex("88b5") + bytes(50))
with open("/sys/class/net/mgmt/brforward", "rb") as table:
    entries = table.read()
ports = {entries[at + 6] for at in range(0, len(entries), 16) if entries[at : at + 6] == theirs}
for one in os.listdir("/sys/class/net/mgmt/brif"):
    with open(f"/sys/class/net/{one}/brport/port_no") as number:
        if int(number.read(), 16) in ports:
            print(one)
"""


def test_no_guest_can_pass_for_another_one_on_the_management_network(sandbox: Namespaces) -> None:
    """One frame by another guest's address, and labctl would look for that one at its port."""
    pair = load(find("bridged"))
    sandbox.call(links.build, pair)
    try:
        words = [sys.executable, "-c", PASSING_FOR_ANOTHER, pair.nodes["vm2"].mgmt_mac]
        told = sandbox.agent().run(words, Deadline(60, "passing for another"))
        assert told.stdout.split() == ["vm2-mgmt"]
        assert read(sandbox, "/sys/class/net/vm1-mgmt/brport/isolated") == "1"
    finally:
        sandbox.call(links.remove, pair)


# A guest on vm1-eth0 sends by so many MAC addresses; printed is how many the bridge remembers.
BY_MANY_ADDRESSES = """
import fcntl, os, struct
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"vm1-eth0", 0x1002))
with open("/sys/class/net/vm1-eth0/brport/state") as state:
    while state.read().strip() != "3":
        state.seek(0)
for number in range(10000):
    own = struct.pack(">HI", 0x5254, number)
    os.write(tap, bytes.fromhex("ffffffffffff") + own + bytes.fromhex("88b5") + bytes(50))
with open("/sys/class/net/lan/brforward", "rb") as table:
    print(len(table.read()) // 16)
"""


def bounds_tables() -> bool:
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor)) >= (6, 8)


@pytest.mark.skipif(not bounds_tables(), reason="Linux bounds a bridge's table since 6.8")
def test_a_bridge_remembers_no_more_than_its_bound(built: Namespaces) -> None:
    """Else a guest could fill the host's memory, which no limit of its own counts."""
    words = [sys.executable, "-c", BY_MANY_ADDRESSES]
    told = built.agent().run(words, Deadline(120, "sending by many addresses"))
    assert links.MOST_LEARNT - 100 < int(told.stdout) < links.MOST_LEARNT + 100


def test_the_observer_does_not_speak_ipv6_on_what_it_observes(built: Namespaces) -> None:
    for name, value in (("bare", "1"), ("vm1-eth0", "1"), ("lan", "0"), ("mgmt", "0")):
        assert read(built, f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6") == value


def test_netfilter_keeps_out_of_the_bridges(sandbox: Namespaces) -> None:
    sandbox.call(links.leave_bridges_alone)
    told = sandbox.agent().run(
        ["sh", "-c", "cat /proc/sys/net/bridge/bridge-nf-call-* 2>/dev/null || true"],
        Deadline(10, "reading"),
    )
    assert set(told.stdout.split()) <= {"0"}


def test_a_lab_routes_nothing_although_its_host_does(sandbox: Namespaces) -> None:
    """A new namespace takes over what the host's says, which is 1 where Docker runs."""
    fix = "/proc/sys/net/ipv4/ip_forward"
    sandbox.agent().run(["sh", "-c", f"echo 1 >{fix}"], Deadline(10, "writing"))
    sandbox.call(links.leave_bridges_alone)
    assert read(sandbox, fix) == "0"


def test_names_that_are_taken_are_an_error(built: Namespaces) -> None:
    before = found(built)
    with pytest.raises(LabctlError, match="exists"):
        built.call(links.build, LAN)
    assert found(built) == before


# --- features -----------------------------------------------------------------------------------


# The older interface of the kernel: SIOCETHTOOL (linux/ethtool.h), one feature at a time.
OTHER_WAY = """
import array, fcntl, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    for name, command in (("tx", 0x16), ("sg", 0x18), ("tso", 0x1e), ("gro", 0x2b)):
        value = array.array("I", [command, 0])
        request = struct.pack("16sP16x", sys.argv[1].encode(), value.buffer_info()[0])
        fcntl.ioctl(s, 0x8946, request)
        print(name, value[1])
"""


ADDRESSES = """
from pyroute2 import IPRoute
with IPRoute() as ip:
    names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ip.get_links()}
    for one in ip.get_addr():
        print(names[one["index"]], f"{one.get_attr('IFA_ADDRESS')}/{one['prefixlen']}")
"""


def active(seen: features.Features) -> dict[str, bool]:
    return {name: feature.active for name, feature in seen.items()}


@pytest.mark.parametrize("link", ["vm1-eth0", "lan", "lo"])
def test_features_read_as_the_kernel_tells_them_another_way(built: Namespaces, link: str) -> None:
    told = built.agent().run([sys.executable, "-c", OTHER_WAY, link], Deadline(10, "asking")).stdout
    seen = built.call(features.read, link, "")
    assert "" not in seen
    words = dict(line.split() for line in told.splitlines())
    assert len(words) == 4
    for word, value in words.items():
        names = kernel_names(FEATURES[word])
        assert any(seen[name].active for name in names if name in seen) == (value == "1"), word


CHANGES = [
    ("vm1-eth0", {"gro": False}),
    ("vm1-eth0", {"sg": False, "gso": False}),
    ("lan", {"tx": False}),
    ("lan", {"tso": False, "gso": False}),
]


@pytest.mark.parametrize(("link", "wanted"), CHANGES)
def test_what_is_changed_is_put_back_exactly(
    built: Namespaces, link: str, wanted: dict[str, bool]
) -> None:
    before = built.call(features.read, link, "")
    assert built.call(features.change, link, wanted, "") == before
    now = built.call(features.read, link, "")
    assert active(now) != active(before)
    for name in features.expand(before, wanted):
        assert not now[name].active
    built.call(features.restore, link, before, "")
    assert built.call(features.read, link, "") == before


def test_a_feature_that_was_off_stays_off_when_others_come_back(built: Namespaces) -> None:
    start = built.call(features.change, "vm1-eth0", {"gro": False}, "")
    before = built.call(features.change, "vm1-eth0", {"sg": False}, "")
    built.call(features.restore, "vm1-eth0", before, "")
    assert not built.call(features.read, "vm1-eth0", "")["rx-gro"].active
    built.call(features.restore, "vm1-eth0", start, "")
    assert built.call(features.read, "vm1-eth0", "") == start


def test_a_link_that_is_not_there_is_told(built: Namespaces) -> None:
    with pytest.raises(HostError, match="features of none cannot be read"):
        built.call(features.read, "none", "")
    with pytest.raises(HostError, match="features of none cannot be read"):
        built.call(features.change, "none", {"tx": False}, "")


def test_a_feature_name_that_does_not_exist_changes_nothing(built: Namespaces) -> None:
    before = built.call(features.read, "vm1-eth0", "")
    with pytest.raises(LabctlError, match="no offload feature"):
        built.call(features.change, "vm1-eth0", {"tx": False, "frobnication": False}, "")
    assert built.call(features.read, "vm1-eth0", "") == before


def test_without_a_tun_device_the_error_says_what_mends_it(tmp_path: Path) -> None:
    sandbox = Namespaces.create(tmp_path / "w")
    try:
        mount = ["mount", "-t", "tmpfs", "x", "/dev/net"]
        sandbox.agent().run(mount, Deadline(10, "hiding the device"))
        with pytest.raises(
            HostError, match=r"/dev/net/tun cannot be used|no bridge or TUN"
        ) as told:
            sandbox.call(links.build, load(find("bridged")))
        assert "tun" in told.value.hint
    finally:
        sandbox.end()
