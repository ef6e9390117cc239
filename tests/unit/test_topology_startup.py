"""Groups of nodes, and what nodes are given when they have started."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.topology import Topology, TopologyError, loads, serialize
from labctl.topology.startup import StartFile

FILE = """\
defaults:
  memory: 200M
  exec: [echo defaults]
  files: {/etc/motd: "all\\n"}
  offload: {guest: {tx: off}}
groups:
  client:
    memory: 256M
    labels: {role: client, rack: A}
    exec: [echo group]
    offload: {guest: {tso: off}}
    model: e1000
networks: {lan: }
nodes:
  vm1:
    group: client
    labels: {rack: B}
    exec: [echo node]
    files: {/etc/motd: {text: mine, mode: "600"}, /opt/x: y}
    interfaces: [{network: lan}]
  vm2: {interfaces: [{network: lan}]}
"""


def load(text: str = FILE) -> Topology:
    return loads(text, "t.yaml")


def test_a_node_has_what_it_says_then_its_group_then_the_defaults() -> None:
    nodes = load().nodes
    one, other = nodes["vm1"], nodes["vm2"]
    assert (one.memory, other.memory) == (256, 200)
    assert (one.interfaces[0].model, other.interfaces[0].model) == ("e1000", "virtio")
    assert one.labels == {"role": "client", "rack": "B"}
    assert one.exec == ("echo defaults", "echo group", "echo node")
    assert other.exec == ("echo defaults",)
    assert one.files == (StartFile("/etc/motd", "mine", mode=0o600), StartFile("/opt/x", "y"))
    assert other.files == (StartFile("/etc/motd", "all\n"),)
    assert set(one.interfaces[0].offload.guest.values()) == {False}
    assert len(one.interfaces[0].offload.guest) == 2
    assert len(other.interfaces[0].offload.guest) == 1


def test_a_record_has_what_nodes_are_given(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("x")
    text = FILE.replace("/opt/x: y", "/opt/x: {source: tool}")
    (tmp_path / "t.yaml").write_text(text)
    from labctl.topology import load as load_file

    found = load_file(tmp_path / "t.yaml")
    assert found.nodes["vm1"].files[1].source == tmp_path / "tool"
    again = serialize.from_json(serialize.to_json(found))
    assert again.nodes == found.nodes
    assert again.digest() == found.digest()


def test_commands_and_files_make_another_topology_and_nothing_of_them_does_not() -> None:
    plain = FILE.partition("groups:")[2].partition("networks:")[2]
    bare = "networks:" + plain.replace("group: client", "memory: 128M")
    for words in ("    exec: [echo node]\n", '    files: {/etc/motd: {text: mine, mode: "600"}, '
                  "/opt/x: y}\n"):  # fmt: skip
        bare = bare.replace(words, "")
    found = load(bare)
    assert "exec" not in str(serialize.to_json(found))
    assert "files" not in str(serialize.to_json(found))
    more = load(bare.replace("memory: 128M", "exec: [echo]"))
    assert more.digest() != found.digest()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("group: client", "group: clint", "t.yaml:16:12: there is no group 'clint' (did you mean "),
        ("group: client", "group: [a]", "cannot be a group's name"),
        ("/opt/x: y", "opt/x: y", "'opt/x' is no absolute path of a file (write such as"),
        ("/opt/x: y", "/opt/: y", "is no absolute path of a file"),
        ("/opt/x: y", "/opt/../x: y", "cannot be the path of a file in a node"),
        ("/opt/x: y", "/opt/x: 5", "what a file holds must be text"),
        ("/opt/x: y", "/opt/x: {}", "a file has either a text or a source (write one of the two)"),
        ("/opt/x: y", "/opt/x: {text: a, source: b}", "a file has either a text or a source"),
        ("/opt/x: y", "/opt/x: {source: nothing-here}", "there is no file 'nothing-here'"),
        ("/opt/x: y", "/opt/x: {text: a, mode: 755}", "a mode must be text of three or four octal"),
        ("/opt/x: y", '/opt/x: {text: a, mode: "789"}', "three or four octal digits"),
        ("exec: [echo node]", "exec: [{a: b}]", "a command is a line of text"),
        ("exec: [echo node]", "exec: ['']", "a command is a line of text"),
        ("exec: [echo node]", 'exec: ["a\\0b"]', "cannot hold a zero octet"),
        ("model: e1000", "offload: {guest: {tx: of}}", "t.yaml:"),
        ("memory: 256M", "memory: 1", "t.yaml:8:13: "),
        ("memory: 256M", "memry: 1", "t.yaml:8:5: unknown key 'memry'"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(old: str, new: str, told: str) -> None:
    text = FILE.replace(old, new, 1)
    assert text != FILE
    with pytest.raises(TopologyError) as wrong:
        load(text)
    assert told in wrong.value.message


def test_a_device_offload_that_a_group_gives_to_another_nic_is_told_there() -> None:
    text = FILE.replace("offload: {guest: {tso: off}}", "offload: {device: {csum: off}}")
    with pytest.raises(TopologyError) as wrong:
        load(text)
    assert "t.yaml:11:15: vm1's eth0 is e1000, which has no device offloads" in wrong.value.message
