"""Which hops are meant by words: names, patterns, owners, paths, and further devices."""

from __future__ import annotations

import pytest

from labctl.errors import UsageError
from labctl.lab.hops import chosen
from labctl.topology import find, load

TOPOLOGY = load(find("router-hop"))
PATH = ["vm1:eth0", "vm1-eth0", "r1-eth0", "r1:eth0", "r1:eth1", "r1-eth1", "vm2-eth0", "vm2:eth0"]


def names(*words: str, **more: object) -> list[str]:
    return [hop.name for hop in chosen(TOPOLOGY, words, **more)]  # type: ignore[arg-type]


def test_a_hop_by_its_name_each_once() -> None:
    assert names("vm1:eth0", "r1-eth1", "vm1:eth0") == ["vm1:eth0", "r1-eth1"]


def test_all_hops_of_a_node_or_a_router() -> None:
    assert names("vm1") == ["vm1:eth0", "vm1-eth0"]
    assert set(names("r1")) == {"r1:eth0", "r1-eth0", "r1:eth1", "r1-eth1"}


def test_patterns_paths_and_all() -> None:
    assert set(names("vm*:eth0")) == {"vm1:eth0", "vm2:eth0"}
    assert names(path=("vm1", "vm2")) == PATH
    assert set(names(everything=True)) == set(PATH)


def test_a_device_that_the_topology_does_not_know() -> None:
    (hop,) = chosen(TOPOLOGY, ["vm1:vxlan0"])
    assert (hop.context, hop.link, hop.in_guest) == ("vm1", "vxlan0", True)
    (hop,) = chosen(TOPOLOGY, ["r1:gre1"])
    assert (hop.context, hop.netns, hop.link) == ("", "r1", "gre1")


@pytest.mark.parametrize("words", [[], ["vm9"], ["vm9:eth0"], ["x*"], ["vm1-eth7"]])
def test_what_means_nothing_is_told_with_what_there_is(words: list[str]) -> None:
    with pytest.raises(UsageError) as told:
        chosen(TOPOLOGY, words)
    assert told.value.hint
    with pytest.raises(UsageError, match="no node is called r1"):
        chosen(TOPOLOGY, [], path=("r1", "vm2"))
