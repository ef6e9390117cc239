"""Machines that boot from a disk image: what is set in them, what is seen of them, what is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from live import Place, Watch, place

from labctl import images
from labctl.guests import cloud_init, ethtool
from labctl.guests.accel import Policy
from labctl.lab.disk_guests import UEFI
from labctl.shipped import folder
from labctl.topology import load
from labctl.topology.model import link_local

pytestmark = pytest.mark.integration

TOPOLOGY = """\
name: machines
networks:
  lan: {{subnets: [10.0.1.0/24, fd00:1::/64]}}
nodes:
  vm1:
    image: {{file: {disk}, format: raw}}
    interfaces:
      - network: lan
        addresses: [10.0.1.1/24, fd00:1::1/64]
        mtu: 1400
        offload: {{guest: {{tso: off}}}}
    routes: [{{to: 10.9.0.0/16, via: 10.0.1.2}}]
    user_data: {{runcmd: [[touch, /run/mine]]}}
  vm2:
    interfaces: [{{network: lan, addresses: [10.0.1.2/24, fd00:1::2/64]}}]
"""
BLANK = """\
nodes:
  vm1: {image: {file: blank.raw, firmware: %s}}
"""
SAID = {"bios": "No bootable device", "uefi": "UEFI Interactive Shell"}


@pytest.fixture(scope="module")
def accel(pytestconfig: pytest.Config) -> Policy:
    policy: Policy = pytestconfig.getoption("--accel")
    return policy


@pytest.fixture(scope="module")
def here(accel: Policy) -> Iterator[Place]:
    """A lab of a whole Debian, by the file that it is, and a micro guest."""
    disk = images.get("debian").disk
    assert disk is not None
    with place(accel) as where:
        topology = where.write("machines.yaml", TOPOLOGY.format(disk=disk))
        where.ok("up", str(topology))
        yield where


def inside(where: Place, node: str, script: str) -> str:
    return where.ok("exec", node, "--", "sh", "-c", script).stdout


def test_it_is_a_whole_debian_of_its_own_kernel_and_boot_loader(here: Place) -> None:
    assert "Debian GNU/Linux 12" in inside(here, "vm1", "cat /etc/os-release")
    assert "BOOT_IMAGE=/boot/vmlinuz-" in inside(here, "vm1", "cat /proc/cmdline")
    assert inside(here, "vm1", "hostname; readlink /proc/1/exe").split() == [
        "vm1", "/usr/lib/systemd/systemd",
    ]  # fmt: skip
    assert "0 loaded units" in inside(here, "vm1", "systemctl --failed --no-pager")


def test_its_interfaces_are_as_the_topology_says(here: Place) -> None:
    links = json.loads(inside(here, "vm1", "ip -j address show dev eth0"))
    assert links[0]["mtu"] == 1400
    addresses = {f"{one['local']}/{one['prefixlen']}" for one in links[0]["addr_info"]}
    assert addresses >= {"10.0.1.1/24", "fd00:1::1/64"}
    assert "via 10.0.1.2 dev eth0" in inside(here, "vm1", "ip route get 10.9.0.1")
    features = inside(here, "vm1", "ethtool -k eth0")
    assert "tcp-segmentation-offload: off" in features
    assert "tx-checksumming: on" in features


def test_offloads_are_told_and_set_without_ethtool_too(here: Place) -> None:
    program = cloud_init.STAND_IN
    real = ethtool.parse_features(inside(here, "vm1", "ethtool -k eth0"))
    told = ethtool.parse_features(inside(here, "vm1", f"{program} -k eth0"))
    assert told.keys() <= real.keys()
    assert "tx-checksum-ip-generic" in told
    assert told == {name: real[name] for name in told}
    assert told["tx-checksumming"].active
    off = inside(here, "vm1", f"{program} -K eth0 tx off && ethtool -k eth0")
    assert not ethtool.parse_features(off)["tx-checksumming"].active
    on = inside(here, "vm1", f"{program} -K eth0 tx on && ethtool -k eth0")
    assert ethtool.parse_features(on)["tx-checksumming"].active


def test_nothing_of_a_test_takes_the_management_network(here: Place) -> None:
    links = json.loads(inside(here, "vm1", "ip -j address show dev mgmt0"))
    assert {one["scope"] for one in links[0]["addr_info"]} == {"link"}
    routes = inside(here, "vm1", "ip route show dev mgmt0; ip -6 route show dev mgmt0")
    assert {line.split()[0] for line in routes.splitlines()} == {"fe80::/64"}


def test_what_its_user_wants_was_done_before_it_was_ready(here: Place) -> None:
    inside(here, "vm1", "test -e /run/mine")


def test_guests_of_both_kinds_log_into_each_other_over_the_network_under_test(here: Place) -> None:
    assert inside(here, "vm1", "ssh -o BatchMode=yes vm2 hostname") == "vm2\n"
    assert inside(here, "vm2", "ssh vm1 hostname") == "vm1\n"
    # And by no other way: the key of a guest opens nothing on the management network.
    topology = load(here.root / "machines.yaml")
    address = link_local(topology.nodes["vm1"].mgmt_mac)
    said = here.run("exec", "vm2", "--", "ssh", f"{address}%mgmt0", "hostname")
    assert said.status != 0
    assert "vm1" not in said.stdout


def test_a_packet_is_seen_inside_it_with_its_metadata(here: Place) -> None:
    record = here.ok("--json", "trace", "vm1", "vm2", "--port", "22").json()
    text = json.dumps(record)
    for hop in ("vm1:eth0", "vm1-eth0", "vm2-eth0", "vm2:eth0"):
        assert hop in text
    assert "needs_csum" in text


def test_no_key_of_it_is_where_others_read(here: Place) -> None:
    key = inside(
        here, "vm1", "sed -n 2p /root/.ssh/id_ed25519; sed -n 2p /etc/ssh/ssh_host_ed25519_key"
    )
    lines = key.split()
    assert len(lines) == 2
    told = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    boot = here.runtime / "machines/boot"
    assert {path.name for path in boot.glob("vm1*")} == {"vm1.qcow2", "vm1.seed"}
    for line in lines:
        assert not any(line.encode() in words for words in told)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (boot, *boot.glob("vm1*")))


def test_its_image_stays_as_it_is(here: Place) -> None:
    disk = images.get("debian").disk
    assert disk is not None
    before = disk.stat()
    inside(here, "vm1", "dd if=/dev/urandom of=/root/x bs=1M count=2 2>/dev/null; sync")
    assert disk.stat() == before
    assert (here.runtime / "machines/boot/vm1.qcow2").stat().st_size > 2 << 20


@pytest.mark.parametrize("firmware", SAID)
def test_a_disk_with_nothing_to_boot_is_told(firmware: str, accel: Policy) -> None:
    if firmware == "uefi" and not any(Path(code).exists() for code, _ in UEFI):
        pytest.skip("this host has no UEFI for guests")
    with place(accel) as where, Watch(where) as watch:
        with where.write("blank.raw", "").open("wb") as file:
            file.truncate(1 << 20)
        done = where.run("up", str(where.write("blank.yaml", BLANK % firmware)))
        assert done.status != 0
        assert "vm1 found nothing to boot on its disk" in done.stderr
        assert SAID[firmware] in done.stderr
        watch.nothing_left()


@pytest.mark.slow
def test_a_machine_without_a_driver_for_its_nic_is_told(accel: Policy) -> None:
    text = "nodes: {vm1: {image: debian, interfaces: [{network: a, model: e1000}]}}\n"
    with place(accel) as where:
        done = where.run("up", str(where.write("nic.yaml", f"networks: {{a: {{}}}}\n{text}")))
        assert done.status != 0
        assert "could not take its configuration: no NIC became eth0" in done.stderr


def record_of(where: Place, words: list[str]) -> Any:
    where.ok("experiment", *words)
    return where.ok("--json", "results", "show", "last").json()


def with_debian(name: str) -> str:
    """Return a shipped topology whose guests boot the disk of `debian`, whatever they did."""
    written = yaml.safe_load((folder("topologies") / f"{name}.yaml").read_text())
    written["defaults"] = {"image": "debian"}
    return yaml.safe_dump(written, sort_keys=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "topology"),
    [("bridged", "bridged"), ("router-hop", "router-hop"), ("router-hop", "seed-xenial")],
)
def test_a_story_ends_with_debian_as_it_does_with_micro(
    experiment: str, topology: str, accel: Policy
) -> None:
    with place(accel) as where:
        file = where.write(f"{topology}.yaml", with_debian(topology))
        theirs = record_of(where, [experiment, "--topology", str(file)])
        ours = record_of(where, [experiment])
        told = [
            {
                arm["name"]: [(one["name"], one["verdict"]) for one in arm["checks"]]
                for arm in run["arms"]
            }
            for run in (theirs, ours)
        ]
        assert told[0] == told[1]
        assert theirs["verdict"] == "pass"
        digest = images.get("debian").digest
        assert theirs["environment"]["images"] == {"debian": digest}
