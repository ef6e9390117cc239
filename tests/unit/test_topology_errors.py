"""What is wrong with a topology is told with its place, all of it in one go."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import UsageError
from labctl.topology import TopologyError, from_mapping, load, loads


def problems(text: str) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        loads(text, "t.yaml")
    return str(caught.value).splitlines()


LAN = "networks: {lan: {subnets: [10.0.1.0/24, fd00:1::/64]}}\n"


def node(interface: str, more: str = "") -> str:
    return f"{LAN}nodes:\n  vm1:\n    interfaces:\n      - {interface}\n{more}"


def address(text: str) -> str:
    return node(f"{{network: lan, addresses: [{text}]}}")


GOLDEN = {
    "unknown key": (
        node("{network: lan, adresses: []}"),
        "t.yaml:5:24: unknown key 'adresses' (did you mean addresses?)",
    ),
    "unknown key at the top": (
        "nodes: {a: {}}\nrooters: {}\n",
        "t.yaml:2:1: unknown key 'rooters' (did you mean routers?)",
    ),
    "unknown key like no other": (
        "nodes:\n  a: {}\ndefaults:\n  zzz: 1\n",
        "t.yaml:4:3: unknown key 'zzz'"
        " (known: clone, exec, files, image, initramfs, kernel, memory, model, offload, user_data,"
        " vcpus)",
    ),
    "duplicate key": (
        "nodes:\n  vm1: {}\n  vm1: {}\n",
        "t.yaml:3:3: the key 'vm1' is here twice (first in line 2)",
    ),
    "missing key": (node("{addresses: []}"), "t.yaml:5:9: the key 'network' is missing"),
    "no nodes": ("name: x\n", "t.yaml:1:1: the key 'nodes' is missing"),
    "empty nodes": (
        "nodes: {}\n",
        "t.yaml:1:8: there are no nodes (a lab needs at least one)",
    ),
    "undefined network": (
        node("{network: lann}"),
        "t.yaml:5:19: there is no network 'lann' (did you mean lan?)",
    ),
    "undefined network of a router": (
        LAN + "nodes: {a: {}}\nrouters:\n  r1: {interfaces: [{network: lan}, {network: wan}]}\n",
        "t.yaml:4:47: there is no network 'wan' (did you mean lan?)",
    ),
    "duplicate address": (
        LAN + "nodes:\n"
        "  a: {interfaces: [{network: lan, addresses: [10.0.1.1/24]}]}\n"
        "  b: {interfaces: [{network: lan, addresses: [10.0.1.1/24]}]}\n",
        "t.yaml:4:47: the address 10.0.1.1 is also a's eth0's",
    ),
    "the bridge's address again": (
        "networks: {lan: {addresses: [10.0.1.1/24]}}\n"
        "nodes: {a: {interfaces: [{network: lan, addresses: [10.0.1.1/24]}]}}\n",
        "t.yaml:2:53: the address 10.0.1.1 is also network lan's",
    ),
    "duplicate mac": (
        LAN + "nodes:\n"
        "  a: {interfaces: [{network: lan, mac: 52:54:00:12:34:56}]}\n"
        "  b: {interfaces: [{network: lan, mac: 52-54-00-12-34-56}]}\n",
        "t.yaml:4:40: the MAC address 52:54:00:12:34:56 is also a's eth0",
    ),
    "multicast mac": (
        node("{network: lan, mac: '01:00:5e:00:00:01'}"),
        "t.yaml:5:29: 01:00:5e:00:00:01 is a multicast address; a NIC needs its own"
        " (the first pair must be even, such as 52)",
    ),
    "mac of nobody": (
        node("{network: lan, mac: '00:00:00:00:00:00'}"),
        "t.yaml:5:29: 00:00:00:00:00:00 belongs to no NIC (leave mac out: labctl makes one)",
    ),
    "no mac": (
        node("{network: lan, mac: 52:54}"),
        "t.yaml:5:29: '52:54' is not a MAC address"
        " (write six pairs of hexadecimal digits, such as 52:54:00:00:00:01)",
    ),
    "address outside": (
        address("10.0.2.1/24"),
        "t.yaml:5:36: 10.0.2.1/24 is outside network lan (its subnets: 10.0.1.0/24, fd00:1::/64)",
    ),
    "address of another length": (
        address("10.0.1.1/16"),
        "t.yaml:5:36: 10.0.1.1/16 and the subnet 10.0.1.0/24 differ in prefix length"
        " (did you mean 10.0.1.1/24?)",
    ),
    "network address": (
        address("10.0.1.0/24"),
        "t.yaml:5:36: 10.0.1.0/24 is the network's own address, not a host's",
    ),
    "broadcast address": (
        address("10.0.1.255/24"),
        "t.yaml:5:36: 10.0.1.255/24 is the network's broadcast address, not a host's",
    ),
    "anycast address": (
        address("'fd00:1::/64'"),
        "t.yaml:5:36: fd00:1::/64 is the routers' anycast address, not a host's",
    ),
    "multicast address": (
        address("224.0.0.1/24"),
        "t.yaml:5:36: 224.0.0.1/24 is the multicast kind of address; an interface cannot have it",
    ),
    "address without length": (
        address("10.0.1.1"),
        "t.yaml:5:36: the address 10.0.1.1 has no prefix length (write such as 10.0.1.1/24)",
    ),
    "address with interface": (
        address("'fe80::1%eth0/64'"),
        "t.yaml:5:36: 'fe80::1%eth0/64' names an interface (leave out the % and what follows)",
    ),
    "no address": (
        address("10.0.1.300/24"),
        "t.yaml:5:36: '10.0.1.300/24' is not an address with its prefix length"
        " (write such as 10.0.1.1/24 or fd00:1::1/64)",
    ),
    "host bits": (
        "networks:\n  lan: {subnets: [10.0.1.1/24]}\nnodes: {a: {}}\n",
        "t.yaml:2:19: the subnet 10.0.1.1/24 has host bits set (did you mean 10.0.1.0/24?)",
    ),
    "address with a netmask": (
        address("10.0.1.1/255.255.255.0"),
        "t.yaml:5:36: '10.0.1.1/255.255.255.0' has a netmask, not a prefix length"
        " (write 10.0.1.1/24)",
    ),
    "subnet with a netmask": (
        "networks:\n  lan: {subnets: [10.0.1.0/255.255.255.0]}\nnodes: {a: {}}\n",
        "t.yaml:2:19: '10.0.1.0/255.255.255.0' has a netmask, not a prefix length"
        " (write 10.0.1.0/24)",
    ),
    "subnet without length": (
        "networks:\n  lan: {subnets: [10.0.1.0]}\nnodes: {a: {}}\n",
        "t.yaml:2:19: the subnet 10.0.1.0 has no prefix length (write such as 10.0.1.0/24)",
    ),
    "IPv6 subnet without length": (
        "networks:\n  lan: {subnets: ['fd00:1::7']}\nnodes: {a: {}}\n",
        "t.yaml:2:19: the subnet fd00:1::7 has no prefix length (write such as fd00:1::/64)",
    ),
    "route to a netmask": (
        "nodes: {a: {routes: [{to: 10.0.2.0/255.255.255.0, via: 10.0.1.9}]}}\n",
        "t.yaml:1:27: '10.0.2.0/255.255.255.0' has a netmask, not a prefix length"
        " (write 10.0.2.0/24)",
    ),
    "gateway out of reach": (
        node(
            "{network: lan, addresses: [10.0.1.1/24]}",
            "    routes:\n      - {to: default, via: 10.0.2.9}\n",
        ),
        "t.yaml:7:28: vm1 cannot reach the gateway 10.0.2.9 (on its interfaces: 10.0.1.0/24)",
    ),
    "gateway without addresses": (
        node("{network: lan}", "    routes:\n      - {to: default, via: fd00::1}\n"),
        "t.yaml:7:28: vm1 cannot reach the gateway fd00::1 (it has no address of that family)",
    ),
    "gateway is itself": (
        node(
            "{network: lan, addresses: [10.0.1.1/24]}",
            "    routes:\n      - {to: default, via: 10.0.1.1}\n",
        ),
        "t.yaml:7:28: the gateway 10.0.1.1 is vm1's own address (name the router's address)",
    ),
    "broadcast address as gateway": (
        node(
            "{network: lan, addresses: [10.0.1.1/24]}",
            "    routes:\n      - {to: default, via: 10.0.1.255}\n",
        ),
        "t.yaml:7:28: the gateway 10.0.1.255 is the network's broadcast address, not a router's"
        " (name the router's address)",
    ),
    "network address as gateway": (
        node(
            "{network: lan, addresses: [10.0.1.1/24]}",
            "    routes:\n      - {to: default, via: 10.0.1.0}\n",
        ),
        "t.yaml:7:28: the gateway 10.0.1.0 is the network's own address, not a router's"
        " (name the router's address)",
    ),
    "gateway of the other family": (
        node(
            "{network: lan, addresses: [10.0.1.1/24]}",
            "    routes:\n      - {to: fd00:9::/64, via: 10.0.1.9}\n",
        ),
        "t.yaml:7:32: fd00:9::/64 is IPv6, but its gateway 10.0.1.9 is not (name an IPv6 gateway)",
    ),
    "gateway with length": (
        "nodes: {a: {routes: [{to: default, via: 10.0.1.9/24}]}}\n",
        "t.yaml:1:41: '10.0.1.9/24' is not an address (write it without prefix: 10.0.1.9)",
    ),
    "link-local gateway": (
        "nodes: {a: {routes: [{to: default, via: fe80::1}]}}\n",
        "t.yaml:1:41: the gateway fe80::1 is link-local and does not tell its interface"
        " (name an address of one of the networks' subnets)",
    ),
    "two routes": (
        node(
            "{network: lan, addresses: [10.0.1.1/24]}",
            "    routes:\n"
            "      - {to: default, via: 10.0.1.9}\n"
            "      - {to: 0.0.0.0/0, via: 10.0.1.8}\n",
        ),
        "t.yaml:8:14: vm1 has a route to 0.0.0.0/0 already",
    ),
    "route to its own network": (
        node(
            "{network: lan, addresses: [10.0.1.1/24]}",
            "    routes:\n      - {to: 10.0.1.0/24, via: 10.0.1.9}\n",
        ),
        "t.yaml:7:14: vm1 has an interface on 10.0.1.0/24: it needs no route there"
        " (leave the route out)",
    ),
    "network name too long": (
        "networks:\n  sixteen-letters-: {}\nnodes: {a: {}}\n",
        "t.yaml:2:3: the network's name 'sixteen-letters-' is too long for its bridge"
        " (it has 16 characters; Linux holds 15 in a link's name)",
    ),
    "network name with a slash": (
        "networks:\n  a/b: {}\nnodes: {a: {}}\n",
        "t.yaml:2:3: 'a/b' cannot be a link's name (letters, digits, hyphens and underscores)",
    ),
    "network name mgmt": (
        "networks:\n  mgmt: {}\nnodes: {a: {}}\n",
        "t.yaml:2:3: a network cannot be named mgmt (labctl's own management bridge has this name)",
    ),
    "network named as a tap": (
        "networks:\n  vm1-eth0: {}\nnodes: {vm1: {interfaces: [{network: vm1-eth0}]}}\n",
        "t.yaml:2:3: the network's name vm1-eth0 is also the link name of an interface"
        " (it is one of vm1's)",
    ),
    "no host name": (
        "nodes:\n  vm_1: {}\n",
        "t.yaml:2:3: 'vm_1' cannot be a host's name"
        " (lower-case letters, digits and hyphens inside, with a letter, at most 63)",
    ),
    "no topology name": (
        "name: a/b\nnodes: {a: {}}\n",
        "t.yaml:1:7: 'a/b' cannot be a topology's name"
        " (letters, digits, '_', '-' and '.', beginning with a letter or digit, at most 63)",
    ),
    "node and router of one name": (
        LAN + "nodes: {a: {}}\nrouters:\n  a: {interfaces: [{network: lan}, {network: lan}]}\n",
        "t.yaml:4:3: the name a is a node's and a router's (rename one of them)",
    ),
    "router with one leg": (
        LAN + "nodes: {a: {}}\nrouters:\n  r1: {interfaces: [{network: lan}]}\n",
        "t.yaml:4:20: the router r1 has fewer than two interfaces (a router needs at least two)",
    ),
    "router kind": (
        LAN + "nodes: {a: {}}\nrouters:\n"
        "  r1: {kind: row, interfaces: [{network: lan}, {network: lan}]}\n",
        "t.yaml:4:14: there is no kind 'row' (did you mean raw?)",
    ),
    "nic model": (
        node("{network: lan, model: e100}"),
        "t.yaml:5:31: there is no model 'e100' (did you mean e1000?)",
    ),
    "offload feature": (
        node("{network: lan, offload: {guest: {tx-checksuming: off}}}"),
        "t.yaml:5:42: there is no offload feature 'tx-checksuming' (did you mean tx-checksumming?)",
    ),
    "offload value": (
        node("{network: lan, offload: {guest: {tx: 0}}}"),
        "t.yaml:5:46: an offload is on or off, not 0",
    ),
    "offload named twice": (
        node("{network: lan, offload: {tap: {tx: off, tx-checksumming: on}}}"),
        "t.yaml:5:49: tx-checksumming is the same feature as tx (keep one of them)",
    ),
    "device feature": (
        node("{network: lan, offload: {device: {guest_sum: off}}}"),
        "t.yaml:5:43: a virtio device has no feature 'guest_sum' to turn off"
        " (did you mean guest_csum?)",
    ),
    "device offload on another nic": (
        node("{network: lan, model: e1000, offload: {device: {csum: off}}}"),
        "t.yaml:5:48: vm1's eth0 is e1000, which has no device offloads"
        " (use model: virtio, or set them for virtio interfaces only)",
    ),
    "inherited device offload on another nic": (
        "defaults:\n  offload:\n    device: {csum: off}\n" + node("{network: lan, model: vmxnet3}"),
        "t.yaml:3:5: vm1's eth0 is vmxnet3, which has no device offloads"
        " (use model: virtio, or set them for virtio interfaces only)",
    ),
    "mtu too small": (
        "networks: {lan: {mtu: 67}}\nnodes: {a: {}}\n",
        "t.yaml:1:23: mtu must be 68 to 65535, not 67",
    ),
    "mtu too large": (
        "networks: {lan: {mtu: 65536}}\nnodes: {a: {}}\n",
        "t.yaml:1:23: mtu must be 68 to 65535, not 65536",
    ),
    "mtu too small for IPv6": (
        "networks: {lan: {mtu: 1279, subnets: [fd00:1::/64]}}\nnodes: {a: {}}\n",
        "t.yaml:1:23: mtu 1279 is too small for IPv6 (IPv6 needs 1280 or more)",
    ),
    "interface mtu too small for IPv6": (
        node("{network: lan, mtu: 576, addresses: [fd00:1::1/64]}"),
        "t.yaml:5:29: mtu 576 is too small for IPv6 (IPv6 needs 1280 or more)",
    ),
    "mtu above the network's": (
        node("{network: lan, mtu: 9000}"),
        "t.yaml:5:29: mtu 9000 is more than the 1500 of network lan"
        " (raise the network's, or lower this one)",
    ),
    "mtu above a tap's": (
        "networks: {lan: {mtu: 65535}}\nnodes: {a: {interfaces: [{network: lan}]}}\n",
        "t.yaml:2:26: mtu 65535 is more than a TAP can have (the most is 65521)",
    ),
    "too little memory": (
        "nodes: {a: {memory: 95M}}\n",
        "t.yaml:1:21: memory must be 96 to 1048576 MiB, not 95",
    ),
    "no memory": (
        "nodes: {a: {memory: much}}\n",
        "t.yaml:1:21: memory 'much' is not an amount (write MiB, or such as 256M or 1G)",
    ),
    "no vcpus": ("nodes: {a: {vcpus: 0}}\n", "t.yaml:1:20: vcpus must be 1 to 255, not 0"),
    "switch as a number": (
        "nodes: {a: {vcpus: yes}}\n",
        "t.yaml:1:20: vcpus must be a whole number, not on",
    ),
    "nothing where a mapping belongs": (
        "nodes:\n  vm1:\n",
        "t.yaml:2:7: vm1 must be a mapping, not nothing (write {} for an empty one)",
    ),
    "a mapping where a list belongs": (
        "nodes:\n  vm1: {interfaces: {eth0: {}}}\n",
        "t.yaml:2:21: interfaces must be a list, not a mapping",
    ),
    "text in a list of mappings": (
        "nodes: {vm1: {interfaces: [lan]}}\n",
        "t.yaml:1:28: each of interfaces must be a mapping, not 'lan'",
    ),
    "too many interfaces": (
        LAN + f"nodes: {{a: {{interfaces: [{', '.join(['{network: lan}'] * 17)}]}}}}\n",
        "t.yaml:2:25: interfaces is too long (at most 16 are possible)",
    ),
    "a key that is no text": (
        "networks:\n  on: {}\nnodes: {a: {}}\n",
        "t.yaml:2:3: the key 'on' is read as bool, not as text (put it in quotes)",
    ),
}


@pytest.mark.parametrize(("text", "expected"), GOLDEN.values(), ids=GOLDEN.keys())
def test_a_fault_is_told_with_its_place_and_a_way_out(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_all_faults_of_a_file_come_in_one_go_in_its_order() -> None:
    text = (
        "nmae: x\n"
        "networks:\n"
        "  lan: {mtu: 1, subnets: [10.0.1.0/24]}\n"
        "nodes:\n"
        "  vm1:\n"
        "    vcpus: 0\n"
        "    interfaces:\n"
        "      - {network: wan}\n"
        "      - {network: 5}\n"
        "      - {network: lan, addresses: [nonsense, 10.0.2.1/24]}\n"
        "  vm1: {}\n"
    )
    assert [line.split(": ", 1)[0] for line in problems(text)] == [
        "t.yaml:1:1",
        "t.yaml:3:14",
        "t.yaml:6:12",
        "t.yaml:8:19",
        "t.yaml:9:19",
        "t.yaml:10:36",
        # nothing on 10.0.2.1: the network it is on is itself in doubt
        "t.yaml:11:3",
    ]


def test_a_fault_brings_no_faults_that_only_follow_from_it() -> None:
    text = (
        LAN + "nodes:\n"
        "  vm1:\n"
        "    interfaces: [{network: lan, addresses: [10.0.1.1/240]}]\n"
        "    routes: [{to: default, via: 10.0.1.254}]\n"
        "routers:\n"
        "  r1: {interfaces: [{network: lan}, {network: 7}]}\n"
    )
    assert [line.split(": ", 1)[0] for line in problems(text)] == ["t.yaml:4:45", "t.yaml:7:47"]


def test_a_fault_behind_an_alias_is_told_once_where_it_is_written() -> None:
    text = (
        "x-nic: &nic {network: lan, mtu: 9}\nnetworks: {lan: {}}\n"
        "nodes:\n  a: {interfaces: [*nic]}\n  b: {interfaces: [*nic]}\n"
    )
    assert problems(text) == ["t.yaml:1:33: mtu must be 68 to 65535, not 9"]


def test_a_mapping_is_told_the_way_to_the_fault() -> None:
    with pytest.raises(TopologyError) as caught:
        from_mapping({"nodes": {"a": {"interfaces": [{"network": "lan"}], "vcpus": "2"}}}, "lab")
    assert str(caught.value).splitlines() == [
        "lab: nodes.a.vcpus: vcpus must be a whole number, not '2'",
        "lab: nodes.a.interfaces[0].network: there is no network 'lan' (none is defined)",
    ]


def test_a_mapping_inside_itself_is_refused() -> None:
    inside: dict[str, object] = {}
    inside["nodes"] = inside
    with pytest.raises(TopologyError, match="inside itself"):
        from_mapping(inside)


def test_a_mapping_with_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(TopologyError, match="the key 3 is not text"):
        from_mapping({"nodes": {"a": {}}, "networks": {3: {}}})


def test_a_kernel_that_is_not_there_is_told(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("nodes:\n  a: {kernel: ./bzImage}\n")
    with pytest.raises(TopologyError) as caught:
        load(file)
    assert str(caught.value) == (
        f"{file}:2:15: there is no file './bzImage' (looked for {tmp_path}/bzImage)"
    )


def test_a_file_that_cannot_be_read_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="is not a file"):
        load(tmp_path)
