"""Nodes that are network namespaces: what they are made of, and what is not asked for them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from labctl.backends.embedded import Embedded
from labctl.backends.state import State
from labctl.errors import GuestError, UsageError
from labctl.events import silent
from labctl.guests import namespace_init
from labctl.guests.keys import Key
from labctl.guests.namespace_init import Launch
from labctl.lab import machines, memory, namespace_nodes, preflight
from labctl.lab.namespace_nodes import NamespaceNode, NamespaceSpec, as_ethtool
from labctl.lab.node import Node
from labctl.network import links
from labctl.network.features import Feature
from labctl.sandbox import process
from labctl.sandbox.host import Host
from labctl.topology import Topology, find, from_mapping, load

ALONE = from_mapping(
    {
        "networks": {"lan": {}},
        "nodes": {
            "ns1": {"kind": "namespace", "interfaces": [{"network": "lan", "mtu": 1400}]},
            "ns2": {"kind": "namespace", "interfaces": [{"network": "lan"}]},
        },
    }
)


def made(topology: Topology, node: str, directory: Path) -> NamespaceSpec:
    """Return what a node is made of, in a lab that nobody made."""
    keys = {name: Key.make() for name in topology.nodes}
    known = State(
        name="one", topology=topology, accel="none", images={}, client=Key.make(), hostkeys=keys,
        uri="", started="", complete=False, clients=keys,
    )  # fmt: skip
    making = machines.Making(Host(directory), known, silent)
    spec = machines.build(making, topology.nodes[node])
    assert isinstance(spec, NamespaceSpec)
    return spec


def test_it_knows_the_others_and_their_keys_and_gets_a_key_of_its_own(tmp_path: Path) -> None:
    spec = made(load(find("namespace-peer")), "ns1", tmp_path)
    files = spec.launch.files
    assert "OPENSSH PRIVATE KEY" in files["/root/.ssh/id_ed25519"]
    assert len(files["/root/.ssh/authorized_keys"].splitlines()) == 1
    known = [line.split()[0] for line in files["/root/.ssh/known_hosts"].splitlines()]
    assert known == ["vm1", "10.0.1.1", "fd00:1::1"]
    assert "10.0.1.1 vm1\n" in spec.launch.hosts
    assert Launch.of(spec.launch.text()) == spec.launch


def test_sockets_that_somebody_listens_on_are_kept_from_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listens, socket.socket(socket.AF_UNIX) as silent_one:
        listens.bind(str(tmp_path / "with a space"))
        silent_one.bind(str(tmp_path / "silent"))
        listens.listen()
        found = made(ALONE, "ns1", tmp_path).launch.sockets
    assert str(tmp_path / "with a space") in found
    assert str(tmp_path / "silent") not in found


def test_what_of_proc_can_be_written_is_found_but_for_processes(tmp_path: Path) -> None:
    for name in ("1", "sys", "bus"):
        (tmp_path / name).mkdir()
    for name, mode in (("mtrr", 0o644), ("cpuinfo", 0o444)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    (tmp_path / "self").symlink_to("1")
    found = [path.name for path in namespace_init.writable(tmp_path)]
    assert found == ["bus", "mtrr", "sys"]


def test_its_interfaces_are_plugged_as_a_routers_are(tmp_path: Path) -> None:
    spec = made(ALONE, "ns1", tmp_path)
    (port,) = spec.plugged.interfaces
    assert (port.name, port.peer, port.mtu) == ("eth0", "ns1-eth0", 1400)
    assert spec.bridges == {"eth0": "lan"}


def test_an_ssh_server_is_chosen_of_those_that_the_host_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(process.ENVIRONMENT, "PATH", str(tmp_path))
    assert namespace_nodes.ssh_server() is None
    assert "/run/labctl/hostkey" not in made(ALONE, "ns1", tmp_path).launch.files
    for program in ("dropbear", "sshd"):
        (tmp_path / program).symlink_to("/bin/true")
        server = namespace_nodes.ssh_server()
        assert server
        assert server.program == program
    assert "/run/labctl/hostkey" in made(ALONE, "ns1", tmp_path).launch.files


def test_a_lab_of_them_alone_needs_nothing_of_guests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Embedded("")
    assert backend.booted(ALONE) == []
    assert memory.needed(ALONE) == 0
    assert links.names(ALONE) == ["mgmt", "lan"]
    for program in set(backend.programs) - set(backend.guest_programs):
        (tmp_path / program).symlink_to("/bin/true")
    monkeypatch.setitem(process.ENVIRONMENT, "PATH", str(tmp_path))
    monkeypatch.setattr(preflight, "TUN", tmp_path / "nothing")
    preflight.check_host(backend, guests=False)


def test_features_are_told_as_ethtool_tells_them() -> None:
    found = {
        "tx-checksum-ip-generic": Feature(active=True, fixed=False),
        "tx-checksum-sctp": Feature(active=False, fixed=False),
        "rx-checksum": Feature(active=True, fixed=True),
    }
    told = as_ethtool(found)
    assert told["tx-checksumming"].active
    assert not told["tx-checksumming"].fixed
    assert not told["tx-checksum-sctp"].active
    assert told["rx-checksumming"].fixed
    assert "rx-checksum" not in told
    assert "tx-checksum-ipv4" not in told


def test_a_command_for_one_that_was_never_made_is_an_error(tmp_path: Path) -> None:
    node = NamespaceNode(Host(tmp_path), tmp_path, ALONE.nodes["ns1"], lambda _ask: None)
    with pytest.raises(GuestError, match="ns1 has ended"):
        node.words("true")


def test_a_command_enters_with_the_rights_of_a_server_alone(tmp_path: Path) -> None:
    note = namespace_nodes.Files.of(tmp_path, "ns1").note
    note.parent.mkdir()
    note.write_text("17 4711")
    node = NamespaceNode(Host(tmp_path), tmp_path, ALONE.nodes["ns1"], lambda _ask: None)
    words = node.words("true")
    assert words[1:4] == ["-P", "-m", "labctl.sandbox.seccomp"]
    assert words[4:6] == ["nsenter", "--target=17"]
    (bounds,) = (word for word in words if word.startswith("--bounding-set="))
    assert "+net_admin" in bounds
    assert "sys_admin" not in bounds
    assert words[-3:] == ["sh", "-c", "true"]
    assert node.session(["echo", "two  words"])[-1] == "echo two  words"
    assert node.session(("--", "ls", "-l"))[-1] == "ls -l"
    assert "bash" in node.session(())[-1]


def test_a_guest_is_given_a_line_that_ssh_cannot_take_for_an_option(tmp_path: Path) -> None:
    node = Node(Host(tmp_path), tmp_path, load(find("bridged")).nodes["vm1"], lambda _ask: None)
    assert node.words("ls -l")[-2:] == ["vm1", "ls -l"]
    assert node.words("-x")[-3:] == ["vm1", "--", "-x"]
    assert node.session(["ls", "-l"])[-3:] == ["vm1", "ls", "-l"]


def test_a_systems_libvirt_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from labctl.backends.system_libvirt import SystemLibvirt

    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(UsageError, match=r"has a node that is a namespace \(ns1\)"):
        SystemLibvirt("qemu:///system").check(ALONE, silent)
