"""A topology as a graph: the path between two guests, what is on it, and where that is seen."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from labctl.errors import UsageError
from labctl.topology import Topology, find, from_mapping, load, shipped
from labctl.topology.graph import Segment, find_path, points_of

GOLDEN = Path(__file__).parent / "golden" / "paths.text"
"""A line a path: topology, source, destination, interface (`any`), and the points."""


def names(topology: Topology, source: str, destination: str, interface: str | None = None) -> str:
    return " ".join(hop.name for hop in find_path(topology, source, destination, interface).points)


def paths(topology: Topology) -> list[str]:
    """Every path between two guests, by any interface and by each that both have."""
    found = []
    guests = topology.endpoints()
    for one, other in itertools.permutations(guests, 2):
        theirs = {interface.name for interface in other.interfaces}
        both = [interface.name for interface in one.interfaces if interface.name in theirs]
        for interface in (None, *both):
            way = names(topology, one.name, other.name, interface)
            found.append(f"{topology.name} {one.name} {other.name} {interface or 'any'} {way}")
    return found


@pytest.mark.parametrize("file", shipped(), ids=lambda file: file.stem)
def test_the_path_between_two_guests_of_a_shipped_topology_stays_the_same(file: Path) -> None:
    topology = load(file)
    known = [line for line in GOLDEN.read_text().splitlines() if line.split()[0] == topology.name]
    assert paths(topology) == known


def test_paths_are_known_of_shipped_topologies_only() -> None:
    known = {line.split()[0] for line in GOLDEN.read_text().splitlines()}
    assert known == {load(file).name for file in shipped()}


def test_on_one_bridge_there_are_four_hops() -> None:
    bridged = load(find("bridged"))
    assert names(bridged, "vm1", "vm2") == "vm1:eth0 vm1-eth0 vm2-eth0 vm2:eth0"
    ends = [hop.at_bridge for hop in find_path(bridged, "vm1", "vm2").points]
    assert ends == [False, True, True, False]


def test_a_router_adds_both_ends_of_both_its_links() -> None:
    routed = load(find("router-hop"))
    there = "vm1:eth0 vm1-eth0 r1-eth0 r1:eth0 r1:eth1 r1-eth1 vm2-eth0 vm2:eth0"
    assert names(routed, "vm1", "vm2") == there
    assert names(routed, "vm2", "vm1") == " ".join(reversed(there.split()))
    inside = [hop for hop in find_path(routed, "vm1", "vm2").points if hop.in_router]
    assert [(hop.element, hop.link) for hop in inside] == [("r1", "eth0"), ("r1", "eth1")]


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
    found = find_path(row(count), "a", "z").points
    assert len(found) == 4 * count
    assert [hop.element for hop in found if hop.in_router][::2] == [
        f"r{i}" for i in range(count - 1)
    ]


def test_three_networks_are_crossed() -> None:
    three = load(find("three-networks"))
    for source in three.nodes:
        for destination in three.nodes:
            if source != destination:
                found = find_path(three, source, destination).points
                assert found[0].element == source
                assert found[-1].element == destination
                assert len({hop.name for hop in found}) == len(found)


def test_the_interface_decides_where_there_are_two_ways() -> None:
    two = load(find("offload"))
    assert len(find_path(two, "vm1", "vm2", "eth0").points) == 4
    assert len(find_path(two, "vm1", "vm2", "eth1").points) == 8
    assert len(find_path(two, "vm1", "vm2").points) == 4  # the shorter one


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
        find_path(ring, "a", "b")
    assert told.value.hint


def test_a_node_without_interfaces_has_no_way() -> None:
    lonely = from_mapping(
        {
            "networks": {"lan": {}},
            "nodes": {"a": {"interfaces": [{"network": "lan"}]}, "b": {"interfaces": []}},
        }
    )
    with pytest.raises(UsageError, match="no network or router"):
        find_path(lonely, "a", "b")
    with pytest.raises(UsageError, match="no network or router"):
        find_path(lonely, "a", "a", "eth7")


def test_of_two_routers_between_the_same_networks_the_first_is_passed() -> None:
    ends = [{"network": "x"}, {"network": "y"}]
    two = from_mapping(
        {
            "networks": {"x": {}, "y": {}},
            "nodes": {"a": {"interfaces": ends[:1]}, "b": {"interfaces": ends[1:]}},
            "routers": {"r2": {"interfaces": ends}, "r1": {"interfaces": ends}},
        }
    )
    assert {hop.element for hop in find_path(two, "a", "b").points if hop.in_router} == {"r2"}


def test_an_uplink_is_no_router_on_the_way() -> None:
    """Out of one host and into the other and back is shorter than one router."""
    both = [{"network": "x"}, {"network": "y"}]
    near = from_mapping(
        {
            "networks": {"x": {}, "y": {}},
            "nodes": {
                "h": {"hypervisor": "xen", "interfaces": both},
                "k": {"hypervisor": "xen", "interfaces": both},
                "a": {"host": "h", "interfaces": both},
                "b": {"host": "k", "interfaces": both[1:]},
            },
            "routers": {"r": {"host": "h", "interfaces": both}},
        }
    )
    way = "a:eth1 a-eth1 h:eth1 h-eth1 k-eth1 k:eth1 b-eth0 b:eth0"
    assert names(near, "a", "b") == way


def test_a_path_is_made_of_elements_with_a_segment_between_each_two() -> None:
    path = find_path(load(find("xen-to-virtio")), "vm1", "vm3").traversals
    assert [type(one.element).__name__ for one in path] == [
        *("GuestElement", "Segment", "Uplink", "Segment"),
        *("RouterElement", "Segment", "GuestElement"),
    ]
    segments = [one.element for one in path if isinstance(one.element, Segment)]
    assert [(one.network, one.host) for one in segments] == [
        ("left", "xen1"), ("left", ""), ("right", ""),
    ]  # fmt: skip
    assert all(one.entry and one.exit for one in path[1:-1])
    assert path[0].entry is path[-1].exit is None


@pytest.mark.parametrize(
    ("name", "element", "context", "netns", "dom0"),
    [
        ("vm1:eth0", "vm1", "vm1", "", ""),
        ("vm1-eth0", "vm1", "xen1", "", "xen1"),
        ("xen1:eth0", "xen1", "xen1", "", "xen1"),
        ("xen1-eth0", "xen1", "", "", ""),
        ("r1-eth0", "r1", "", "", ""),
        ("r1:eth1", "r1", "", "r1", ""),
        ("vm3-eth0", "vm3", "", "", ""),
        ("vm3:eth0", "vm3", "vm3", "", ""),
    ],
)
def test_a_point_says_whose_kernel_and_namespace_it_is_in(
    name: str, element: str, context: str, netns: str, dom0: str
) -> None:
    point = points_of(load(find("xen-to-virtio")))[name]
    assert (point.name, point.element) == (name, element)
    assert (point.context, point.netns, point.dom0) == (context, netns, dom0)
    assert point.inside is (":" in name)
    kinds = [point.in_guest, point.in_router, point.at_bridge]
    assert sum(kinds) == 1
    assert point.of_uplink is (element == "xen1")


@pytest.mark.parametrize("file", shipped(), ids=lambda file: file.stem)
def test_every_point_of_a_path_is_one_of_the_topology(file: Path) -> None:
    topology = load(file)
    known = points_of(topology)
    guests = [node.name for node in topology.nodes.values() if not node.hypervisor]
    for one, other in itertools.permutations(guests, 2):
        for point in find_path(topology, one, other).points:
            assert known[point.name] == point


def test_a_node_with_the_role_router_is_passed_as_a_router_is() -> None:
    topology = load(find("machine-router"))
    path = find_path(topology, "vm1", "vm2")
    inside = [point for point in path.points if point.in_router]
    assert [(one.name, one.context, one.in_guest) for one in inside] == [
        ("r1:eth0", "r1", True),
        ("r1:eth1", "r1", True),
    ]
    assert [node.name for node in topology.endpoints()] == ["vm1", "vm2"]
    assert names(topology, "vm1", "r1") == "vm1:eth0 vm1-eth0 r1-eth0 r1:eth0"
    with pytest.raises(UsageError, match="no network or router joins"):
        find_path(topology, "vm2", "r1", "eth0")  # it would pass r1 to get to it


def test_a_node_that_is_no_machine_is_in_a_namespace_of_the_lab() -> None:
    topology = load(find("namespace-peer"))
    last = find_path(topology, "vm1", "ns1").points[-1]
    assert (last.name, last.context, last.netns, last.in_guest) == ("ns1:eth0", "", "ns1", True)
    assert points_of(topology)["ns1-eth0"].end == "veth"
