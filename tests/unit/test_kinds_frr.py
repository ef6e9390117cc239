"""The forwarder frr: what its daemons are told, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from labctl import topology
from labctl.kinds.forwarders.frr import FrrOptions, configuration
from labctl.topology import TopologyError


def test_ospf_is_on_for_both_ip_versions_unless_it_is_turned_off() -> None:
    assert list(configuration(FrrOptions())) == ["zebra", "ospfd", "ospf6d"]
    bgp = configuration(FrrOptions(ospf=False, asn=65001, neighbors="10.0.12.2"))
    assert list(bgp) == ["zebra", "bgpd"]


def test_a_bgp_neighbour_is_asked_for_routes_of_its_own_ip_version() -> None:
    text = configuration(FrrOptions(asn=65001, neighbors="10.0.12.2 fd00:12::2"))["bgpd"]
    four, six = text.split("address-family ")[1:]
    assert "\n  neighbor 10.0.12.2 activate" in four
    assert "\n  no neighbor fd00:12::2 activate" in four
    assert "\n  neighbor fd00:12::2 activate" in six
    assert "\n  redistribute ospf6\n" in six


def test_routes_of_bgp_are_handed_on_by_ospf_where_there_are_both() -> None:
    both = configuration(FrrOptions(asn=65001, neighbors="10.0.12.2"))
    assert "redistribute bgp" in both["ospfd"]
    assert "redistribute" not in configuration(FrrOptions())["ospfd"]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"asn": 65001}, "BGP needs both"),
        ({"neighbors": "10.0.12.2"}, "BGP needs both"),
        ({"asn": -1, "neighbors": "10.0.12.2"}, "no number of an AS"),
        ({"asn": 1 << 32, "neighbors": "10.0.12.2"}, "no number of an AS"),
        ({"asn": 65001, "neighbors": "10.0.12.2; reboot"}, "does not appear to be an IPv4"),
        ({"ospf": False}, "neither OSPF nor BGP"),
    ],
)
def test_options_that_make_no_router_are_refused(told: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        FrrOptions(**told)


def written(node: dict[str, Any], **more: Any) -> dict[str, Any]:
    plugs = [{"network": "a"}, {"network": "b"}]
    return {"networks": {"a": {}, "b": {}}, "nodes": {"r": {"interfaces": plugs, **node}}, **more}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"forwarder": "raw"}, r"nodes\.r\.forwarder: r has a forwarder, and not the role router"),
        ({"role": "router", "forwarder": "nat"}, "which does not run in guests"),
        ({"role": "router", "forwarder": "nosuch"}, "nosuch"),
        (
            {"role": "router", "forwarder": "raw", "kind": "namespace"},
            "in which its kernel alone forwards",
        ),
        (
            {"role": "router", "forwarder": "frr", "forwarder_options": {"asn": "x"}},
            r"nodes\.r\.forwarder_options\.asn",
        ),
        (
            {"role": "router", "forwarder": "frr", "forwarder_options": {"asn": 65001}},
            "the options of frr: BGP needs both",
        ),
    ],
)
def test_a_forwarder_that_a_node_cannot_have_is_told_at_its_place(
    node: dict[str, Any], message: str
) -> None:
    with pytest.raises(TopologyError, match=message):
        topology.from_mapping({"name": "t", **written(node)})


def test_a_kind_for_guests_is_refused_of_a_namespace() -> None:
    plugs = [{"network": "a"}, {"network": "b"}]
    routers = {"n": {"kind": "frr", "interfaces": plugs}}
    with pytest.raises(TopologyError, match="the kind frr is for guests, and n is a namespace"):
        topology.from_mapping({"name": "t", **written({}, routers=routers)})


def test_the_kernel_said_or_not_is_the_same_and_a_forwarder_another_topology() -> None:
    def of(**more: Any) -> str:
        made = topology.from_mapping({"name": "t", **written({"role": "router", **more})})
        return made.digest()

    assert of() == of(forwarder="namespace")
    assert of() != of(forwarder="raw")
