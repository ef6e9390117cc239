"""A real Xen host as that of a lab: the way to it, what is refused, names there; without one."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from labctl import backends, topology
from labctl.backends import xen_remote
from labctl.backends.state import State
from labctl.backends.xen_remote import XenRemote
from labctl.errors import HostError, UsageError
from labctl.events import silent
from labctl.guests import keys, ssh
from labctl.topology import from_mapping
from labctl.topology.model import Topology

URI = "xen+ssh://root@Real-Xen/system"
REMOTE = XenRemote(URI)
ABLE = {
    "uid": ["0"],
    "dom0": ["yes"],
    "python": ["3 11"],
    "memory": ["MemAvailable:  900000 kB"],
    "link": ["lo", "eth0", "xenbr0"],
    "namespace": ["*"],
    "log": ["*"],
}
"""What a host that can hold a lab tells of itself."""


def shipped(name: str) -> Topology:
    return topology.load(topology.find(name))


def state(name: str = "xen-router-hop.yaml", lab: str = "hop") -> State:
    wanted = shipped(name)
    return State(
        name=lab,
        topology=wanted,
        accel="xen",
        images={},
        client=keys.Key.make(),
        hostkeys={node: keys.Key.make() for node in wanted.nodes},
        uri=URI,
        started="",
        complete=False,
    )


@pytest.mark.parametrize(
    ("uri", "given", "destination"),
    [
        (URI, ["-l", "root"], "Real-Xen"),  # as it is written: ssh_config(5) tells Xen from xen
        ("xen+ssh://xen.example/system", [], "xen.example"),
        ("xen+ssh://a@b:2222/", ["-p", "2222", "-l", "a"], "b"),
        ("xen+ssh://root@[fe80::1%eth0]:22/system", ["-p", "22", "-l", "root"], "fe80::1%eth0"),
        ("xen+ssh://h/system?keyfile=/k&no_verify=1", ["-i", "/k"], "h"),
    ],
)
def test_the_way_to_a_host_is_that_of_libvirt(uri: str, given: list[str], destination: str) -> None:
    way = xen_remote.way(uri)
    assert (list(way.given), way.destination) == (given, destination)
    assert way.words[0] == "ssh"
    assert way.by_hand == " ".join(["ssh", *given, destination])


def test_the_program_of_the_uri_is_the_one_that_connects() -> None:
    assert (
        xen_remote.way("xen+ssh://h/system?command=/usr/bin/my-ssh").words[0] == "/usr/bin/my-ssh"
    )


@pytest.mark.parametrize(
    "uri",
    ["xen:///system", "xen+tls://h/system", "xen+ssh:///system", "xen+ssh://-oProxyCommand=x/",
     "xen+ssh://a b/system", "xen+ssh://root@/system"],
)  # fmt: skip
def test_a_uri_without_a_way_by_ssh_is_refused(uri: str) -> None:
    assert backends.of(uri) == XenRemote(uri)
    with pytest.raises(UsageError, match="does not tell how to reach a Xen host by SSH"):
        xen_remote.way(uri)


def test_a_topology_must_be_one_xen_host_and_what_is_on_it() -> None:
    REMOTE.check(shipped("xen-bridged.yaml"), silent)
    REMOTE.check(shipped("xen-router-hop.yaml"), silent)
    with pytest.raises(UsageError, match="bridged has no Xen host"):
        REMOTE.check(shipped("bridged.yaml"), silent)
    with pytest.raises(UsageError, match="vm3 of xen-uplink would be outside of the Xen host xen1"):
        REMOTE.check(shipped("xen-uplink.yaml"), silent)
    whole = shipped("xen-uplink.yaml")
    alone = dataclasses.replace(
        whole, nodes={name: node for name, node in whole.nodes.items() if name != "vm3"}
    )
    with pytest.raises(UsageError, match="xen1 has interfaces"):
        REMOTE.check(alone, silent)
    other = dataclasses.replace(whole.nodes["xen1"], name="xen2")
    two = dataclasses.replace(whole, nodes={**whole.nodes, "xen2": other})
    with pytest.raises(UsageError, match=r"2 Xen hosts \(xen1, xen2\)"):
        REMOTE.check(two, silent)
    parts = {"near": {}, "wire": {"kind": "veth"}, "far": {}}
    spare = from_mapping({"networks": {"spare": {"segments": parts}}, "nodes": {"vm1": {}}})
    plain = shipped("xen-bridged.yaml")
    more = dataclasses.replace(plain, networks={**plain.networks, **spare.networks})
    with pytest.raises(UsageError, match="the network spare is of segments"):
        REMOTE.check(more, silent)


def test_the_host_itself_is_not_booted() -> None:
    wanted = shipped("xen-bridged.yaml")
    assert [node.name for node in REMOTE.booted(wanted)] == ["vm1", "vm2"]
    assert [node.name for node in backends.of("").booted(wanted)] == ["xen1", "vm1", "vm2"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"uid": ["1000"]}, "takes root there"),
        ({"python": [""]}, "needs Python 3.11 or newer; it has none"),
        ({"python": ["3 9"]}, "needs Python 3.11 or newer; it has 3.9"),
        ({"memory": ["MemAvailable:   102400 kB"]}, "has 100 MiB of memory free"),
        ({"lacks": ["perl", "cpio"]}, "lacks perl, cpio"),
    ],
)
def test_a_host_that_cannot_hold_a_lab_is_named(change: dict[str, list[str]], says: str) -> None:
    xen_remote._check_able("Real-Xen", ABLE)
    with pytest.raises(HostError, match=says):
        xen_remote._check_able("Real-Xen", ABLE | change)


def test_a_host_without_xen_is_named() -> None:
    with pytest.raises(HostError, match="Real-Xen is no dom0"):
        xen_remote._check_able(
            "Real-Xen", {name: of for name, of in ABLE.items() if name != "dom0"}
        )


def test_names_of_others_are_not_taken() -> None:
    known = state()
    REMOTE._check_free(known, "Real-Xen", ABLE)
    for kind, name in (
        ("link", "left"),
        ("link", "vm1-eth0"),
        ("link", "vm2-mgmt"),
        ("link", "r1-eth1"),
        ("link", REMOTE.mgmt_bridge(known)),
        ("namespace", "r1"),
        ("log", "guest-hop-vm1.log"),
    ):
        with pytest.raises(UsageError, match=f"Real-Xen has these names already: {name}"):
            REMOTE._check_free(known, "Real-Xen", ABLE | {kind: [*ABLE[kind], name]})


def test_two_labs_of_a_name_have_bridges_and_folders_of_their_own() -> None:
    one, two = state(), state()
    assert REMOTE.mgmt_bridge(one) == REMOTE.mgmt_bridge(one)
    assert REMOTE.mgmt_bridge(one) != REMOTE.mgmt_bridge(two)
    assert len(REMOTE.mgmt_bridge(one)) <= 15  # IFNAMSIZ, less NUL
    assert REMOTE.dom0_folder(one).parent == xen_remote.FOLDER
    assert REMOTE.dom0_folder(one) != REMOTE.dom0_folder(two)


def test_what_guests_boot_is_known_by_its_content(tmp_path: Path) -> None:
    known = state()
    one, same, other = tmp_path / "one", tmp_path / "same", tmp_path / "other"
    for file, text in ((one, "a"), (same, "a"), (other, "b")):
        file.write_text(text)
    found = REMOTE.dom0_files(known, one, same, other)
    assert found[one] == found[same]
    assert found[one] != found[other]
    assert found[one].startswith(f"{REMOTE.dom0_folder(known)}/boot/")


def test_guests_are_named_after_their_lab() -> None:
    assert REMOTE.domain(state(), "vm1") == "hop-vm1"


def test_the_shell_reads_the_questions_and_they_change_nothing(tmp_path: Path) -> None:
    told = subprocess.run(
        ["sh", "-c", xen_remote.LOOK], capture_output=True, text=True, cwd=tmp_path, check=False
    ).stdout.splitlines()
    kinds = {line.partition(" ")[0] for line in told}
    assert {"uid", "memory", "python", "link", "namespace", "log"} <= kinds
    assert "link lo" in told
    assert list(tmp_path.iterdir()) == []


def test_ssh_goes_to_the_host_by_the_users_configuration_and_through_it_to_guests(
    tmp_path: Path,
) -> None:
    way = xen_remote.way(URI)
    ssh.write_way(tmp_path, "xen1", way.words, way.destination)
    key = keys.Key.make()
    ssh.write_config(
        tmp_path, "mgmt-1", key, {"vm1": ssh.Host("52:54:00:00:00:01", key.public)}, "xen1"
    )
    to_host = ssh.command(tmp_path, "xen1")
    assert "-F" not in to_host
    assert to_host[-1] == "Real-Xen"
    assert str(tmp_path / "c" / "xen1") in to_host
    assert "none" in ssh.command(tmp_path, "xen1", shared=False)
    shown = subprocess.run(
        [*ssh.command(tmp_path, "vm1")[:-1], "-G", "vm1"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (proxy,) = (line for line in shown.splitlines() if line.startswith("proxycommand "))
    assert proxy.startswith("proxycommand ssh -W '[%h]:%p' ")
    assert proxy.endswith(" -S none Real-Xen")  # with a connection of its own
    assert "hostname fe80::5054:ff:fe00:1%mgmt-1" in shown
    assert "stricthostkeychecking true" in shown
