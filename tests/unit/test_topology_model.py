"""What a resolved topology holds: defaults, names, MAC addresses, offloads."""

from __future__ import annotations

import copy
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import UsageError
from labctl.sandbox import codec
from labctl.topology import Topology, from_mapping, kernel_names, load, loads

PAIR: dict[str, Any] = {
    "name": "pair",
    "networks": {"lan": {"mtu": 9000, "subnets": ["10.0.1.0/24"]}},
    "nodes": {
        "a": {"interfaces": [{"network": "lan", "addresses": ["10.0.1.1/24"]}]},
        "b": {"interfaces": [{"network": "lan", "mtu": 1500}]},
    },
    "routers": {"r": {"interfaces": [{"network": "lan"}, {"network": "lan"}]}},
}


def links(topology: Topology) -> list[str]:
    nodes, routers = topology.nodes.values(), topology.routers.values()
    return [
        *(network.bridge for network in topology.networks.values()),
        *(node.mgmt_tap for node in nodes),
        *(interface.tap for node in nodes for interface in node.interfaces),
        *(interface.peer for router in routers for interface in router.interfaces),
    ]


def macs(topology: Topology) -> list[str]:
    nodes, routers = topology.nodes.values(), topology.routers.values()
    return [
        *(node.mgmt_mac for node in nodes),
        *(interface.mac for node in nodes for interface in node.interfaces),
        *(interface.mac for router in routers for interface in router.interfaces),
    ]


def test_everything_left_out_has_a_default() -> None:
    topology = loads(
        "networks: {lan: {}}\nnodes: {a: {interfaces: [{network: lan}]}}", "x/lab.yaml"
    )
    node = topology.nodes["a"]
    assert topology.name == "lab"
    assert topology.source is None
    assert (node.image, node.memory, node.vcpus, node.kernel) == ("micro", 128, 1, None)
    interface = node.interfaces[0]
    assert (interface.name, interface.tap, interface.model) == ("eth0", "a-eth0", "virtio")
    assert (interface.mtu, interface.addresses) == (1500, ())
    assert interface.offload.guest == interface.offload.tap == interface.offload.device == {}
    assert node.mgmt_tap == "a-mgmt"


def test_values_are_resolved_to_their_types() -> None:
    topology = from_mapping(PAIR)
    lan = topology.networks["lan"]
    assert (lan.bridge, lan.subnets) == ("lan", (ip_network("10.0.1.0/24"),))
    assert topology.nodes["a"].interfaces[0].addresses == (ip_interface("10.0.1.1/24"),)
    assert topology.nodes["a"].interfaces[0].mtu == 9000
    assert topology.nodes["b"].interfaces[0].mtu == 1500
    router = topology.routers["r"]
    assert router.kind == "namespace"
    assert [port.peer for port in router.interfaces] == ["r-eth0", "r-eth1"]
    assert [port.name for port in router.interfaces] == ["eth0", "eth1"]


def test_a_default_route_is_of_its_gateways_family() -> None:
    text = (
        "networks: {lan: {}}\nnodes:\n  a:\n"
        "    interfaces: [{network: lan, addresses: [10.0.1.1/24, fd00::1/64]}]\n"
        "    routes: [{to: default, via: 10.0.1.9}, {to: default, via: fd00::9}]\n"
    )
    four, six = loads(text, "t").nodes["a"].routes
    assert (four.to, four.via) == (ip_network("0.0.0.0/0"), ip_address("10.0.1.9"))
    assert (six.to, six.via) == (ip_network("::/0"), ip_address("fd00::9"))


@pytest.mark.parametrize(
    ("address", "via"),
    [
        ("10.0.1.1/31", "10.0.1.0"),
        ("10.0.1.0/31", "10.0.1.1"),
        ("10.0.1.1/24", "10.0.1.254"),
        ("10.0.0.1/16", "10.0.1.255"),
        ("fd00:1::1/64", "fd00:1::"),  # where any router of the network answers (RFC 4291, 2.6.1)
        ("fd00:1::1/127", "fd00:1::"),
    ],
)
def test_a_gateway_may_be_whatever_address_a_router_can_have(address: str, via: str) -> None:
    interface = {"network": "lan", "addresses": [address]}
    node = {"interfaces": [interface], "routes": [{"to": "default", "via": via}]}
    loaded = from_mapping({"networks": {"lan": {}}, "nodes": {"a": node}})
    assert loaded.nodes["a"].routes[0].via == ip_address(via)


@pytest.mark.parametrize(
    ("written", "mib"), [(96, 96), ("256M", 256), ("1G", 1024), ("2 GiB", 2048)]
)
def test_memory_is_in_mebibytes(written: object, mib: int) -> None:
    assert from_mapping({"nodes": {"a": {"memory": written}}}).nodes["a"].memory == mib


def test_nodes_inherit_the_defaults_and_interfaces_their_nodes() -> None:
    topology = from_mapping(
        {
            "defaults": {"memory": 256, "model": "e1000", "offload": {"guest": {"tx": "off"}}},
            "networks": {"lan": {}},
            "nodes": {
                "a": {"interfaces": [{"network": "lan"}, {"network": "lan", "model": "virtio"}]},
                "b": {
                    "memory": 128,
                    "model": "rtl8139",
                    "offload": {"guest": {"tx-checksumming": True, "gro": False}},
                    "interfaces": [
                        {"network": "lan"},
                        {"network": "lan", "offload": {"guest": {"gro": True}}},
                    ],
                },
            },
        }
    )
    a, b = topology.nodes["a"], topology.nodes["b"]
    assert (a.memory, b.memory) == (256, 128)
    assert [interface.model for interface in a.interfaces] == ["e1000", "virtio"]
    assert [interface.model for interface in b.interfaces] == ["rtl8139", "rtl8139"]
    assert a.interfaces[0].offload.guest == {"tx-checksumming": False}
    assert b.interfaces[0].offload.guest == {
        "generic-receive-offload": False,
        "tx-checksumming": True,
    }
    assert b.interfaces[1].offload.guest["generic-receive-offload"] is True


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("tx", "tx-checksumming"),
        ("rx", "rx-checksumming"),
        ("rx-checksum", "rx-checksumming"),
        ("tso", "tcp-segmentation-offload"),
        ("tx-generic-segmentation", "generic-segmentation-offload"),
        ("tx-checksum-ip-generic", "tx-checksum-ip-generic"),
        ("rx-gro-hw", "rx-gro-hw"),
    ],
)
def test_a_feature_has_one_canonical_name(written: str, canonical: str) -> None:
    topology = from_mapping(
        {
            "networks": {"lan": {}},
            "nodes": {
                "a": {"interfaces": [{"network": "lan", "offload": {"tap": {written: False}}}]}
            },
        }
    )
    assert list(topology.nodes["a"].interfaces[0].offload.tap) == [canonical]


def test_groups_of_features_come_before_single_ones() -> None:
    topology = from_mapping(
        {
            "defaults": {"offload": {"tap": {"tx-checksum-ipv4": True, "tx": False}}},
            "networks": {"lan": {}},
            "nodes": {"a": {"interfaces": [{"network": "lan"}]}},
        }
    )
    tap = topology.nodes["a"].interfaces[0].offload.tap
    assert list(tap.items()) == [("tx-checksumming", False), ("tx-checksum-ipv4", True)]


def test_a_canonical_feature_tells_the_kernels_names() -> None:
    assert "tx-checksum-ip-generic" in kernel_names("tx-checksumming")
    assert kernel_names("rx-gro-hw") == ("rx-gro-hw",)


def test_names_and_macs_are_the_same_each_time_and_in_any_order() -> None:
    backwards = {**PAIR, "nodes": dict(reversed(PAIR["nodes"].items()))}
    one, two = from_mapping(PAIR), from_mapping(backwards)
    assert one.nodes == two.nodes
    assert list(two.nodes) == ["b", "a"]
    # made once, kept forever: saved states and ssh known hosts depend on them
    assert one.nodes["a"].interfaces[0].mac == MAC_OF_A


MAC_OF_A = "52:54:00:9a:66:c9"


def test_macs_differ_between_labs() -> None:
    assert not set(macs(from_mapping(PAIR))) & set(macs(from_mapping({**PAIR, "name": "other"})))


def test_macs_are_unicast_locally_administered_and_all_different() -> None:
    nodes = {f"n{i}": {"interfaces": [{"network": "lan"}]} for i in range(1500)}
    # some 3000 of 16.7 million: a birthday collision is likely enough to be met here
    topology = from_mapping({"networks": {"lan": {}}, "nodes": nodes})
    every = macs(topology)
    assert len(set(every)) == len(every) == 3000
    assert all(mac.startswith("52:54:00:") and len(mac) == 17 for mac in every)


def test_a_made_mac_avoids_those_written_in_the_file() -> None:
    taken = from_mapping(PAIR).nodes["a"].interfaces[0].mac
    changed: dict[str, Any] = copy.deepcopy(PAIR)
    changed["nodes"]["b"]["interfaces"][0]["mac"] = taken.upper()
    topology = from_mapping(changed)
    assert topology.nodes["b"].interfaces[0].mac == taken
    assert topology.nodes["a"].interfaces[0].mac != taken


def test_link_names_fit_and_differ_however_long_the_names_are() -> None:
    nodes = {
        f"a-guest-with-a-long-name-{i}": {"interfaces": [{"network": "lan"}] * 12}
        for i in range(40)
    }
    topology = from_mapping({"networks": {"lan": {}}, "nodes": nodes})
    names = links(topology)
    assert len(set(names)) == len(names)
    assert max(len(name) for name in names) == 15
    assert names == links(from_mapping({"networks": {"lan": {}}, "nodes": nodes}))


def test_a_kernel_is_found_beside_the_file_and_can_be_unset(tmp_path: Path) -> None:
    (tmp_path / "bzImage").touch()
    file = tmp_path / "lab.yaml"
    file.write_text(
        "defaults: {kernel: bzImage}\nnodes:\n  a: {}\n  b: {kernel: null}\n"
        f"  c: {{initramfs: {tmp_path}/bzImage}}\n"
    )
    topology = load(file)
    assert topology.source == file
    assert topology.nodes["a"].kernel == tmp_path / "bzImage"
    assert topology.nodes["b"].kernel is None
    assert topology.nodes["c"].initramfs == tmp_path / "bzImage"


def test_a_digest_tells_contents_apart_but_not_paths(tmp_path: Path) -> None:
    digests = set()
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "bzImage").touch()
        file = tmp_path / place / "lab.yaml"
        file.write_text("nodes: {a: {kernel: bzImage}}\n")
        digests.add(load(file).digest())
    assert len(digests) == 1
    assert len(digests.pop()) == 64
    assert from_mapping(PAIR).digest() == from_mapping(copy.deepcopy(PAIR)).digest()
    variants = [
        {**PAIR, "name": "other"},
        {**PAIR, "networks": {"lan": {"mtu": 9000, "stp": True, "subnets": ["10.0.1.0/24"]}}},
        {**PAIR, "defaults": {"offload": {"device": {"csum": False}}}},
        {**PAIR, "nodes": {**PAIR["nodes"], "c": {}}},
    ]
    assert len({from_mapping(variant).digest() for variant in [PAIR, *variants]}) == 5


def test_a_resolved_topology_survives_travelling_and_is_frozen() -> None:
    topology = from_mapping(PAIR)
    assert codec.loads(codec.dumps(topology, Topology), Topology) == topology
    with pytest.raises(AttributeError):
        topology.name = "x"  # type: ignore[misc]


def test_a_routers_kind_can_be_changed_in_a_copy() -> None:
    topology = from_mapping(PAIR)
    changed = topology.with_router_kind("r", "raw-vnet")
    assert (topology.routers["r"].kind, changed.routers["r"].kind) == ("namespace", "raw-vnet")
    assert changed.nodes == topology.nodes
    with pytest.raises(UsageError, match="no router 'q'"):
        topology.with_router_kind("q", "raw")
    with pytest.raises(UsageError, match="no router kind 'fast'"):
        topology.with_router_kind("r", "fast")


def test_device_offloads_can_be_changed_in_a_copy() -> None:
    topology = from_mapping(PAIR)
    changed = topology.with_device_offload("a", {"csum": False, "guest_csum": True})
    assert topology.nodes["a"].interfaces[0].offload.device == {}
    assert changed.nodes["a"].interfaces[0].offload.device == {"csum": False, "guest_csum": True}
    assert changed.nodes["b"] == topology.nodes["b"]
    with pytest.raises(UsageError, match="no node 'z'"):
        topology.with_device_offload("z", {"csum": False})
    with pytest.raises(UsageError, match="no feature 'cksum'"):
        topology.with_device_offload("a", {"cksum": False})
    other = from_mapping({**PAIR, "defaults": {"model": "e1000"}})
    with pytest.raises(UsageError, match="only virtio"):
        other.with_device_offload("a", {"csum": False})


def test_link_local_addresses_may_repeat_on_different_networks_and_need_no_subnet() -> None:
    nic = {"addresses": ["fe80::1/64"]}
    mapping = {
        "networks": {"x": {"subnets": ["fd00::/64"]}, "y": {}},
        "nodes": {"a": {"interfaces": [{**nic, "network": "x"}, {**nic, "network": "y"}]}},
    }
    assert len(from_mapping(mapping).nodes["a"].interfaces) == 2


def test_objects_of_ipaddress_and_pathlib_serve_in_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "k").touch()
    mapping = {
        "networks": {"lan": {"subnets": [ip_network("10.0.1.0/24")]}},
        "nodes": {
            "a": {
                "kernel": tmp_path / "k",
                "interfaces": ({"network": "lan", "addresses": (ip_interface("10.0.1.1/24"),)},),
            }
        },
    }
    node = from_mapping(mapping).nodes["a"]
    assert node.interfaces[0].addresses == (ip_interface("10.0.1.1/24"),)
    assert node.kernel == tmp_path / "k"
