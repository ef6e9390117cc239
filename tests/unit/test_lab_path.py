"""The hops between two nodes, by the topology alone."""

from __future__ import annotations

import pytest

from labctl.errors import UsageError
from labctl.lab.path import hops
from labctl.topology import Topology, find, from_mapping, load


def names(topology: Topology, source: str, destination: str, interface: str | None = None) -> str:
    return " ".join(hop.name for hop in hops(topology, source, destination, interface))


def test_on_one_bridge_there_are_four_hops() -> None:
    bridged = load(find("bridged"))
    assert names(bridged, "vm1", "vm2") == "vm1:eth0 vm1-eth0 vm2-eth0 vm2:eth0"
    assert [hop.place for hop in hops(bridged, "vm1", "vm2")] == ["guest", "host", "host", "guest"]


def test_a_router_adds_both_ends_of_both_its_links() -> None:
    routed = load(find("router-hop"))
    there = "vm1:eth0 vm1-eth0 r1-eth0 r1:eth0 r1:eth1 r1-eth1 vm2-eth0 vm2:eth0"
    assert names(routed, "vm1", "vm2") == there
    assert names(routed, "vm2", "vm1") == " ".join(reversed(there.split()))
    inside = [hop for hop in hops(routed, "vm1", "vm2") if hop.place == "router"]
    assert [(hop.owner, hop.link) for hop in inside] == [("r1", "eth0"), ("r1", "eth1")]


def row(count: int) -> Topology:
    """Networks n0 … in a row, a router between each two, a guest at both ends."""
    return from_mapping(
        {
            "networks": {f"n{i}": {} for i in range(count)},
            "nodes": {
                "a": {"interfaces": [{"network": "n0"}]},
                "z": {"interfaces": [{"network": f"n{count - 1}"}]},
            },
            "routers": {
                f"r{i}": {"interfaces": [{"network": f"n{i}"}, {"network": f"n{i + 1}"}]}
                for i in range(count - 1)
            },
        }
    )


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_each_further_network_adds_a_routers_four_hops(count: int) -> None:
    found = hops(row(count), "a", "z")
    assert len(found) == 4 * count
    assert [hop.owner for hop in found if hop.place == "router"][::2] == [
        f"r{i}" for i in range(count - 1)
    ]


def test_three_networks_are_crossed() -> None:
    three = load(find("three-networks"))
    for source in three.nodes:
        for destination in three.nodes:
            if source != destination:
                found = hops(three, source, destination)
                assert found[0].owner == source
                assert found[-1].owner == destination
                assert len({hop.name for hop in found}) == len(found)


def test_the_interface_decides_where_there_are_two_ways() -> None:
    two = load(find("offload"))
    assert len(hops(two, "vm1", "vm2", "eth0")) == 4
    assert len(hops(two, "vm1", "vm2", "eth1")) == 8
    assert len(hops(two, "vm1", "vm2")) == 4  # the shorter one


def test_routers_in_a_ring_do_not_send_the_search_round() -> None:
    ring = from_mapping(
        {
            "networks": {"x": {}, "y": {}, "z": {}, "alone": {}},
            "nodes": {
                "a": {"interfaces": [{"network": "x"}]},
                "b": {"interfaces": [{"network": "alone"}]},
            },
            "routers": {
                "r1": {"interfaces": [{"network": "x"}, {"network": "y"}]},
                "r2": {"interfaces": [{"network": "y"}, {"network": "z"}]},
                "r3": {"interfaces": [{"network": "z"}, {"network": "x"}]},
            },
        }
    )
    with pytest.raises(UsageError, match="no network or router joins a and b") as told:
        hops(ring, "a", "b")
    assert told.value.hint


def test_a_node_without_interfaces_has_no_way() -> None:
    lonely = from_mapping(
        {
            "networks": {"lan": {}},
            "nodes": {"a": {"interfaces": [{"network": "lan"}]}, "b": {"interfaces": []}},
        }
    )
    with pytest.raises(UsageError, match="no network or router"):
        hops(lonely, "a", "b")
    with pytest.raises(UsageError, match="no network or router"):
        hops(lonely, "a", "a", "eth7")
