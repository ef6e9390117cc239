"""Nodes that are written once and are several."""

from __future__ import annotations

import pytest

from labctl.topology import TopologyError, from_mapping, loads
from labctl.topology.ranges import MOST

NET = "networks: {lan: {subnets: [10.0.1.0/24, 'fd00:1::/64']}}\n"


def problems(text: str) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        loads(text, "lab.yaml")
    return [str(one) for one in caught.value.problems]


def test_a_range_is_several_nodes_whose_addresses_count_up() -> None:
    topology = loads(
        NET
        + """\
groups: {client: {memory: 256M}}
nodes:
  first: {interfaces: [{network: lan, addresses: [10.0.1.1/24]}]}
  vm[1-3]:
    group: client
    interfaces:
      - {network: lan, addresses: [10.0.1.11/24, 'fd00:1::fe/64'], offload: {guest: {tx: off}}}
    routes: [{to: default, via: 10.0.1.254}]
  last: {interfaces: [{network: lan}]}
""",
        "lab.yaml",
    )
    assert list(topology.nodes) == ["first", "vm1", "vm2", "vm3", "last"]
    vms = [topology.nodes[f"vm{number}"] for number in (1, 2, 3)]
    assert [[str(one) for one in vm.interfaces[0].addresses] for vm in vms] == [
        ["10.0.1.11/24", "fd00:1::fe/64"],
        ["10.0.1.12/24", "fd00:1::ff/64"],
        ["10.0.1.13/24", "fd00:1::100/64"],
    ]
    assert {vm.memory for vm in vms} == {256}
    assert len({vm.interfaces[0].mac for vm in vms}) == 3
    assert all(str(vm.routes[0].via) == "10.0.1.254" for vm in vms)
    assert all(vm.interfaces[0].offload.guest for vm in vms)


def test_numbers_keep_their_width_and_stand_anywhere() -> None:
    topology = from_mapping({"nodes": {"web[08-10]-eu": {}, "[1-2]a": {}}})
    assert list(topology.nodes) == ["web08-eu", "web09-eu", "web10-eu", "1a", "2a"]


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("vm[4-1]", "the range 'vm[4-1]' ends before it begins (write the first"),
        ("vm[1]", "'vm[1]' is no range of nodes (write the first and the last number: vm[1-4]"),
        ("vm[1-2", "'vm[1-2' is no range of nodes"),
        ("vm[a-c]", "'vm[a-c]' is no range of nodes"),
        ("vm[1-2][1-2]", "'vm[1-2][1-2]' is no range of nodes"),
        (f"vm[0-{MOST}]", f"the range 'vm[0-{MOST}]' has more than {MOST} nodes"),
        ("VM[1-2]", "VM1"),
        ("vm[1-999999999]", "has more than"),
    ],
)
def test_a_wrong_range_is_told_at_its_place(key: str, told: str) -> None:
    said = problems(f"nodes:\n  a: {{}}\n  {key}: {{}}\n")
    assert said
    assert all(one.startswith("lab.yaml:3:3: ") for one in said)
    assert told in said[0]


def test_a_name_that_is_there_already_is_told() -> None:
    (said,) = problems("nodes:\n  vm2: {}\n  vm[1-3]: {}\n")
    assert said.startswith("lab.yaml:3:3: vm[1-3] is also vm2, and there is another")


def test_addresses_that_count_out_of_their_net_are_told_once_at_their_place() -> None:
    interfaces = "interfaces: [{network: lan, addresses: [10.0.1.250/24]}]"
    (said,) = problems(f"{NET}nodes:\n  vm[1-9]:\n    {interfaces}\n")
    assert said.startswith("lab.yaml:4:")
    assert "10.0.1.250/24 and those after it are too few for the nodes of a range (use" in said
    assert len(loads(f"{NET}nodes:\n  vm[1-5]:\n    {interfaces}\n", "lab.yaml").nodes) == 5


def test_one_mac_address_for_all_is_told() -> None:
    said = problems(
        NET + "nodes:\n  vm[1-4]: {interfaces: [{network: lan, mac: '02:00:00:00:00:01'}]}\n"
    )
    assert len(said) == 1
    assert "nodes of a range cannot have one MAC address (leave it away" in said[0]


def test_what_is_wrong_in_a_range_is_told_once() -> None:
    (said,) = problems("nodes:\n  vm[1-4]:\n    memry: 4\n")
    assert said.startswith("lab.yaml:3:5: unknown key 'memry'")


def test_a_range_cannot_make_a_topology_larger_than_a_file_may_be() -> None:
    routes = ", ".join(["{to: default, via: 10.0.0.1}"] * 20)
    said = problems(f"nodes:\n  a[1-1000]: {{routes: [{routes}]}}\n  b[1-9]: {{}}\n")
    assert any("the nodes of this range are too many" in one for one in said)
