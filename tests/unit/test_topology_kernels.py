"""Kernels in place of an image's own: which word is one, who boots it, what else follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labctl import topology
from labctl.errors import UsageError
from labctl.topology import TopologyError, kernels
from labctl.topology.model import Topology

LAN = {"network": "lan"}


def of(nodes: dict[str, dict[str, Any]], base: Path, **more: Any) -> Topology:
    written = {name: {"interfaces": [LAN], **node} for name, node in nodes.items()}
    shape = {"name": "k", "networks": {"lan": {}}, "nodes": written, **more}
    return topology.from_mapping(shape, base=base)


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("debian-13", "debian-13"),
        ("debian-sid", "debian-sid"),
        ("./debian-13", ""),
        ("file:debian-13", ""),
        ("vmlinuz-6.1", ""),
        ("debian-13.yaml", ""),
    ],
)
def test_a_release_is_known_by_its_word_and_all_else_is_a_file(text: str, release: str) -> None:
    assert kernels.release(text) == release


def test_a_node_says_its_kernel_over_the_defaults_or_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    nodes: dict[str, dict[str, Any]] = {"a": {}, "b": {"kernel": "debian-sid"}}
    nodes["c"] = {"kernel": None}
    found = of({**nodes, "d": {"kernel": "file:mine"}}, tmp_path, defaults={"kernel": "debian-11"})
    a, b, c, d = found.nodes.values()
    assert [one.image for one in (a, b, c, d)] == [
        "micro@debian-11",
        "micro@debian-sid",
        "micro",
        "micro",
    ]
    assert [kernels.of(one) for one in (a, c)] == ["debian-11", ""]
    assert [one.kernel for one in (a, b, c, d)] == [None, None, None, tmp_path / "mine"]


def test_one_with_a_kernel_of_a_release_has_more_memory_unless_it_says_how_much(
    tmp_path: Path,
) -> None:
    nodes: dict[str, dict[str, Any]] = {"a": {}, "b": {"memory": 144}, "c": {"kernel": None}}
    found = of(nodes, tmp_path, defaults={"kernel": "debian-11"})
    assert [one.memory for one in found.nodes.values()] == [128 + kernels.MORE_MEMORY, 144, 128]


def test_a_file_that_is_not_there_is_told_at_its_place(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"nodes\.a\.kernel: there is no file 'file:gone'"):
        of({"a": {"kernel": "file:gone"}}, tmp_path)


def test_what_is_on_a_disk_has_the_kernel_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "disk.qcow2").touch()
    (tmp_path / "mine").touch()
    ours = of({"a": {"image": "debian", "kernel": "debian-13"}}, tmp_path).nodes["a"]
    assert (ours.image, ours.guest_kind.name) == ("debian@debian-13", "disk")
    for said in (
        {"image": "debian", "kernel": "./mine"},
        {"image": {"file": "disk.qcow2"}, "kernel": "debian-13"},
    ):
        with pytest.raises(TopologyError, match="a boots a disk, and the kernel that is on it"):
            of({"a": said}, tmp_path)


def test_a_kernel_for_all_is_for_guests_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    nodes: dict[str, dict[str, Any]] = {
        "a": {"kernel": "debian-11", "memory": "1G"},
        "h": {"hypervisor": "xen"},
        "x": {"host": "h"},
        "n": {"kind": "namespace"},
        "r": {"role": "router", "interfaces": [LAN, LAN]},
    }
    before = of(nodes, tmp_path)
    after = kernels.with_kernel(before, "debian-12")
    assert {name: kernels.of(node) for name, node in after.nodes.items()} == {
        "a": "debian-12",
        "h": "",
        "x": "debian-12",
        "n": "",
        "r": "debian-12",
    }
    assert after.nodes["a"].memory == 1024
    assert after.nodes["n"] == before.nodes["n"]
    assert kernels.of(before.nodes["a"]) == "debian-11"


def test_a_file_for_all_takes_the_place_of_a_release(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    before = of({"a": {"kernel": "debian-11"}}, tmp_path)
    (node,) = kernels.with_kernel(before, f"file:{tmp_path / 'mine'}").nodes.values()
    assert (node.image, node.kernel) == ("micro", tmp_path / "mine")


@pytest.mark.parametrize(
    ("nodes", "kernel", "message"),
    [
        ({"a": {}}, "/nowhere/bzImage", "there is no kernel /nowhere/bzImage"),
        ({"n": {"kind": "namespace"}}, "debian-12", "no node of k can boot another kernel"),
    ],
)
def test_a_kernel_that_nobody_can_boot_is_refused(
    nodes: dict[str, dict[str, Any]], kernel: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        kernels.with_kernel(of(nodes, tmp_path), kernel)
