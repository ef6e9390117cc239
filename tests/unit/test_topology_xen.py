"""Xen hosts in a topology: what lives on them, what joins them with the lab, what is refused."""

from __future__ import annotations

import json
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from labctl.errors import UsageError
from labctl.lab.lab import Lab
from labctl.sandbox import codec
from labctl.topology import (
    Topology,
    TopologyError,
    find,
    from_mapping,
    json_schema,
    load,
    loads,
    serialize,
)

LAN = "networks: {lan: {subnets: [10.0.1.0/24]}}\n"
HOST = LAN + "nodes:\n  xen1: {hypervisor: xen}\n"


def both_sides() -> dict[str, Any]:
    """Return a lab with a Xen host whose networks are outside, inside and on both sides."""
    return {
        "networks": {
            "out": {"addresses": ["10.0.3.9/24"]},
            "lan": {"addresses": ["10.0.1.9/24"]},
            "in": {"addresses": ["10.0.2.9/24"]},
            "empty": {},
        },
        "nodes": {
            "vm3": {"interfaces": [{"network": "lan"}, {"network": "out"}]},
            "xen1": {
                "hypervisor": "xen",
                "interfaces": [{"network": "lan", "addresses": ["10.0.1.8/24"], "model": "e1000"}],
            },
            "vm1": {"host": "xen1", "interfaces": [{"network": "lan"}, {"network": "in"}]},
            "vm2": {"host": "xen1", "interfaces": [{"network": "in", "model": "xen"}]},
        },
        "routers": {
            "r1": {"host": "xen1", "interfaces": [{"network": "lan"}, {"network": "in"}]},
            "r2": {"interfaces": [{"network": "lan"}, {"network": "out"}]},
        },
    }


def names(things: Any) -> list[str]:
    return [thing.name for thing in things]


def test_a_xen_host_and_its_guests_have_defaults_of_their_own() -> None:
    topology = loads(HOST + "  vm1: {host: xen1, interfaces: [{network: lan}]}\n", "t")
    host, guest = topology.nodes["xen1"], topology.nodes["vm1"]
    assert (host.image, host.memory, host.vcpus, host.hypervisor) == ("xen-host", 2048, 2, "xen")
    assert (guest.image, guest.memory, guest.vcpus, guest.host) == ("micro", 128, 1, "xen1")
    nic = guest.interfaces[0]
    assert (nic.model, nic.tap, guest.mgmt_tap) == ("xen", "vm1-eth0", "vm1-mgmt")


def test_what_a_file_says_of_a_xen_host_goes_before_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    own = "image: other, memory: 1G, vcpus: 1, kernel: mine"
    (tmp_path / "t.yaml").write_text(f"nodes: {{xen1: {{hypervisor: xen, {own}}}}}\n")
    host = load(tmp_path / "t.yaml").nodes["xen1"]
    assert (host.image, host.memory, host.vcpus) == ("other", 1024, 1)
    assert host.kernel == tmp_path / "mine"


def test_defaults_give_a_xen_host_no_guests_image_or_size(tmp_path: Path) -> None:
    (tmp_path / "bzImage").touch()
    (tmp_path / "t.yaml").write_text(
        "defaults: {image: micro-generic, memory: 256, vcpus: 1, kernel: bzImage, model: e1000,"
        " offload: {guest: {gro: off}}}\n"
        "networks: {lan: {}}\n"
        "nodes:\n"
        "  xen1: {hypervisor: xen, interfaces: [{network: lan}]}\n"
        "  vm1: {host: xen1, interfaces: [{network: lan}]}\n"
    )
    topology = load(tmp_path / "t.yaml")
    host, guest = topology.nodes["xen1"], topology.nodes["vm1"]
    assert (host.image, host.memory, host.vcpus, host.kernel) == ("xen-host", 2048, 2, None)
    assert (guest.image, guest.memory) == ("micro-generic", 256)
    assert guest.kernel == tmp_path / "bzImage"
    assert (host.interfaces[0].model, guest.interfaces[0].model) == ("e1000", "xen")
    gro = {"generic-receive-offload": False}
    assert host.interfaces[0].offload.guest == guest.interfaces[0].offload.guest == gro


def test_a_topology_tells_what_is_outside_and_what_is_on_a_xen_host() -> None:
    topology = from_mapping(both_sides())
    assert names(topology.xen_hosts()) == ["xen1"]
    assert names(topology.outer_nodes()) == ["vm3", "xen1"]
    assert names(topology.outer_routers()) == ["r2"]
    assert names(topology.outer_networks()) == ["out", "lan", "empty"]
    inside = topology.inside("xen1")
    assert names(inside.networks) == ["lan", "in"]
    assert names(inside.nodes) == ["vm1", "vm2"]
    assert names(inside.routers) == ["r1"]
    assert inside.uplinks == {"lan": topology.nodes["xen1"].interfaces[0]}


def test_a_bridge_inside_has_the_uplinks_addresses_or_the_networks_own() -> None:
    topology = from_mapping(both_sides())
    lan, only_inside = topology.inside("xen1").networks
    assert lan.addresses == (ip_interface("10.0.1.8/24"),)  # the outer bridge has the network's
    assert only_inside.addresses == (ip_interface("10.0.2.9/24"),)
    assert topology.outer_networks()[1].addresses == (ip_interface("10.0.1.9/24"),)


def test_there_is_nothing_inside_what_is_no_xen_host() -> None:
    topology = from_mapping(both_sides())
    for name in ("vm3", "nobody"):
        with pytest.raises(UsageError, match="no Xen host"):
            topology.inside(name)


def test_a_network_may_join_two_xen_hosts_through_their_uplinks() -> None:
    topology = loads(
        "networks: {lan: {}}\n"
        "nodes:\n"
        "  xen1: {hypervisor: xen, interfaces: [{network: lan}]}\n"
        "  xen2: {hypervisor: xen, interfaces: [{network: lan}]}\n"
        "  a: {host: xen1, interfaces: [{network: lan}]}\n"
        "  b: {host: xen2, interfaces: [{network: lan}]}\n",
        "t",
    )
    assert names(topology.outer_networks()) == ["lan"]
    assert [names(topology.inside(host).nodes) for host in ("xen1", "xen2")] == [["a"], ["b"]]


def test_an_uplink_alone_makes_a_bridge_inside() -> None:
    topology = loads(LAN + "nodes: {x: {hypervisor: xen, interfaces: [{network: lan}]}}", "t")
    assert names(topology.inside("x").networks) == names(topology.outer_networks()) == ["lan"]


def test_a_topology_with_xen_survives_travelling_and_its_record() -> None:
    topology = from_mapping(both_sides())
    assert codec.loads(codec.dumps(topology, Topology), Topology) == topology
    assert serialize.from_json(json.loads(json.dumps(serialize.to_json(topology)))) == topology


def test_a_record_from_before_there_was_xen_can_be_read() -> None:
    topology = load(find("router-hop"))
    data = serialize.to_json(topology)
    for thing in (*data["nodes"].values(), *data["routers"].values()):
        del thing["host"]
        thing.pop("hypervisor", None)
    assert serialize.from_json(data).digest() == topology.digest()


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("bridged", "5a25cdd8db1a9bf5"),
        ("dual-stack", "2b09e19438749091"),
        ("offload", "5d09c51235bead93"),
        ("router-hop", "6fee27e36d29fa13"),
        ("three-networks", "4a5682b1a46a0967"),
    ],
)
def test_topologies_without_xen_keep_the_digests_from_before_it(name: str, begins: str) -> None:
    # Records hold them: should one change on purpose, older runs no longer compare with newer.
    assert load(find(name)).digest().startswith(begins)


def test_a_digest_tells_where_things_live() -> None:
    def variant(where: str, host: str) -> str:
        mapping = both_sides()
        mapping["nodes"]["xen2"] = {"hypervisor": "xen", "interfaces": [{"network": "lan"}]}
        mapping["nodes"]["vm4"] = {"host": "xen1", "image": "micro", "memory": 128, "vcpus": 1}
        mapping["routers"]["r3"] = {"host": "xen1", "interfaces": [{"network": "lan"}] * 2}
        kind, name = where.split(".")
        mapping[kind][name]["host"] = host
        return from_mapping(mapping).digest()

    digests = {variant("nodes.vm4", to) for to in ("xen1", "xen2")}
    assert len(digests | {variant("routers.r3", "xen2")}) == 3


def test_a_router_in_dom0_and_a_virtio_uplink_can_be_changed_in_a_copy() -> None:
    mapping = both_sides()
    del mapping["nodes"]["xen1"]["interfaces"][0]["model"]
    topology = from_mapping(mapping)
    assert topology.with_router_kind("r1", "raw").inside("xen1").routers[0].kind == "raw"
    changed = topology.with_device_offload("xen1", {"csum": False})
    assert changed.inside("xen1").uplinks["lan"].offload.device == {"csum": False}
    with pytest.raises(UsageError, match="vm2's eth0 is xen: only virtio") as caught:
        topology.with_device_offload("vm2", {"csum": False})
    assert "virtio" not in caught.value.hint


def test_guest_and_tap_features_are_possible_on_xen_nics_and_device_features_on_uplinks() -> None:
    mapping = both_sides()
    nodes = mapping["nodes"]
    nodes["vm2"]["offload"] = {"guest": {"tso": "off"}, "tap": {"tx": "off"}}
    nodes["xen1"]["interfaces"][0] |= {"model": "virtio", "offload": {"device": {"csum": "off"}}}
    topology = from_mapping(mapping)
    assert topology.nodes["vm2"].interfaces[0].offload.tap == {"tx-checksumming": False}
    assert topology.nodes["xen1"].interfaces[0].offload.device == {"csum": False}


def test_vif_names_fit_and_differ_however_long_the_guests_names_are() -> None:
    mapping = both_sides()
    mapping["nodes"]["xen1"]["memory"] = "8G"
    for number in range(20):
        name = f"a-guest-with-a-long-name-{number}"
        mapping["nodes"][name] = {"host": "xen1", "interfaces": [{"network": "in"}] * 12}
    topology = from_mapping(mapping)
    guests = topology.inside("xen1").nodes
    vifs = [nic.tap for node in guests for nic in node.interfaces]
    vifs += [node.mgmt_tap for node in guests]
    assert len(set(vifs)) == len(vifs)
    assert max(map(len, vifs)) == 15


def test_the_schema_takes_xen_hosts() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.validate(both_sides())
    for wrong in ({"hypervisor": "kvm"}, {"host": 1}):
        assert not validator.is_valid({"nodes": {"a": wrong}})


@pytest.mark.parametrize("name", ["xen-bridged", "xen-router-hop", "xen-uplink"])
def test_the_shipped_xen_topologies_are_what_they_say(name: str) -> None:
    topology = load(find(name))
    assert names(topology.xen_hosts()) == ["xen1"]
    outer = {"xen-bridged": [], "xen-router-hop": [], "xen-uplink": ["lan"]}[name]
    assert names(topology.outer_networks()) == outer == list(topology.inside("xen1").uplinks)
    assert names(topology.inside("xen1").routers) == ["r1"] * (name == "xen-router-hop")
    families = {
        (node.name, address.version)
        for node in topology.nodes.values()
        for nic in node.interfaces
        for address in nic.addresses
    }
    assert len(families) == 4  # two guests, dual stack


def test_a_systems_libvirt_gets_no_xen_host_and_nothing_is_made() -> None:
    with pytest.raises(UsageError, match="xen-bridged has a Xen host"):
        Lab.up(load(find("xen-bridged")), uri="qemu:///system")


def test_just_enough_memory_is_enough() -> None:
    mapping = both_sides()
    mapping["nodes"]["xen1"]["memory"] = 512 + 128 + 2 * 128
    assert from_mapping(mapping).nodes["xen1"].memory == 896
    mapping["nodes"]["xen1"]["memory"] -= 1
    with pytest.raises(TopologyError, match=r"write memory: 896"):
        from_mapping(mapping)
