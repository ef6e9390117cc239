"""What is refused of Xen hosts in a topology, with its place and a way out."""

from __future__ import annotations

import pytest

from labctl.topology import TopologyError, loads

LAN = "networks: {lan: {subnets: [10.0.1.0/24]}}\n"
HOST = LAN + "nodes:\n  xen1: {hypervisor: xen}\n"


def problems(text: str) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        loads(text, "t.yaml")
    return str(caught.value).splitlines()


GUEST = "  vm1: {host: xen1, interfaces: [{network: lan}]}\n"
OUTER = "  vm3: {interfaces: [{network: lan}]}\n"

GOLDEN = {
    "a hypervisor there is not": (
        "nodes:\n  x: {hypervisor: xne}\n",
        "t.yaml:2:19: there is no hypervisor 'xne' (did you mean xen?)",
    ),
    "a host that is no text": (
        HOST + "  vm1: {host: 1}\n",
        "t.yaml:4:15: the Xen host's name must be text, not 1 (put it in quotes: '1')",
    ),
    "an unknown host": (
        HOST + "  vm1: {host: xen2}\n",
        "t.yaml:4:15: there is no node 'xen2' (did you mean xen1?)",
    ),
    "an unknown host where there is none": (
        "nodes:\n  vm1: {host: xen1}\n",
        "t.yaml:2:15: there is no node 'xen1' (no node has hypervisor: xen)",
    ),
    "an unknown host of a router": (
        HOST + "routers: {r1: {host: xn1, interfaces: [{network: lan}, {network: lan}]}}\n",
        "t.yaml:4:22: there is no node 'xn1' (did you mean xen1?)",
    ),
    "a host that is no Xen host": (
        HOST + "  vm1: {}\n  vm2: {host: vm1}\n",
        "t.yaml:5:15: vm1 is not a Xen host (known: xen1)",
    ),
    "a host that lacks its hypervisor": (
        "nodes:\n  x: {}\n  vm2: {host: x}\n",
        "t.yaml:3:15: x is not a Xen host (write hypervisor: xen in x)",
    ),
    "a node that lives on itself": (
        "nodes:\n  x: {host: x}\n",
        "t.yaml:2:13: x is not a Xen host (write hypervisor: xen in x)",
    ),
    "a router as host": (
        HOST + "  vm1: {host: r1}\nrouters: {r1: {interfaces: [{network: lan}, {network: lan}]}}\n",
        "t.yaml:4:15: there is no node 'r1' (known: xen1)",
    ),
    "a Xen host on a Xen host": (
        HOST + "  xen2: {hypervisor: xen, host: xen1, interfaces: [{network: lan}]}\n",
        "t.yaml:4:27: xen2 is a Xen host: it cannot live on another"
        " (leave out host, or hypervisor)",
    ),
    "model xen outside": (
        HOST + "  vm3: {interfaces: [{network: lan, model: xen}]}\n",
        "t.yaml:4:44: vm3's eth0 cannot be xen: vm3 does not live on a Xen host"
        " (add host: xen1 to vm3, or write model: virtio)",
    ),
    "model xen without any Xen host": (
        LAN + "nodes:\n  vm3: {model: xen, interfaces: [{network: lan}]}\n",
        "t.yaml:3:16: vm3's eth0 cannot be xen: vm3 does not live on a Xen host"
        " (add host: NAME to vm3, or write model: virtio)",
    ),
    "model xen by default": (
        LAN + "defaults: {model: xen}\nnodes: {vm3: {interfaces: [{network: lan}]}}\n",
        "t.yaml:2:19: vm3's eth0 cannot be xen: vm3 does not live on a Xen host"
        " (add host: NAME to vm3, or write model: virtio)",
    ),
    "model xen of an uplink": (
        LAN + "nodes:\n  x: {hypervisor: xen, interfaces: [{network: lan, model: xen}]}\n",
        "t.yaml:3:59: x's eth0 cannot be xen: it is the Xen host's own NIC, which QEMU makes"
        " (write model: virtio, or e1000)",
    ),
    "another model on a Xen host": (
        HOST + "  vm1: {host: xen1, interfaces: [{network: lan, model: virtio}]}\n",
        "t.yaml:4:56: vm1's eth0 cannot be virtio: vm1 lives on xen1"
        " (guests of a Xen host have model: xen, which is their default)",
    ),
    "another model of a node on a Xen host": (
        HOST + "  vm1: {host: xen1, model: e1000, interfaces: [{network: lan}]}\n",
        "t.yaml:4:28: vm1's eth0 cannot be e1000: vm1 lives on xen1"
        " (guests of a Xen host have model: xen, which is their default)",
    ),
    "device offloads of a xen nic": (
        HOST + "  vm1:\n    host: xen1\n    interfaces:\n"
        "      - {network: lan, offload: {device: {csum: off}}}\n",
        "t.yaml:7:34: vm1's eth0 is xen, which has no device offloads"
        " (set guest or tap features; of a Xen host, only its own virtio NICs have them)",
    ),
    "too little memory": (
        LAN + "nodes:\n  xen1: {hypervisor: xen, memory: 1G}\n"
        "  a: {host: xen1, memory: 256}\n  b: {host: xen1, memory: 129}\n",
        "t.yaml:3:35: memory 1024 is too little for the Xen host xen1:"
        " 512 for dom0, 128 for Xen, 385 for its guests (write memory: 1025 or more)",
    ),
    "too little memory for dom0": (
        "nodes:\n  x: {hypervisor: xen, memory: 639}\n",
        "t.yaml:2:32: memory 639 is too little for the Xen host x:"
        " 512 for dom0, 128 for Xen (write memory: 640 or more)",
    ),
    "too little memory by default": (
        HOST + "  vm1: {host: xen1, memory: 2G}\n",
        "t.yaml:3:3: memory 2048 is too little for the Xen host xen1:"
        " 512 for dom0, 128 for Xen, 2048 for its guests (write memory: 2688 or more)",
    ),
    "no uplink to the lab": (
        HOST + GUEST + OUTER,
        "t.yaml:3:3: network lan is on xen1 and in the lab itself (vm3), with no uplink of xen1's"
        " (add {network: lan} to xen1's interfaces)",
    ),
    "no uplink to a router of the lab": (
        HOST + GUEST + "routers:\n  r1: {interfaces: [{network: lan}, {network: lan}]}\n",
        "t.yaml:3:3: network lan is on xen1 and in the lab itself (r1), with no uplink of xen1's"
        " (add {network: lan} to xen1's interfaces)",
    ),
    "no uplink for a router inside": (
        HOST
        + OUTER
        + "routers: {r1: {host: xen1, interfaces: [{network: lan}, {network: lan}]}}\n",
        "t.yaml:3:3: network lan is on xen1 and in the lab itself (vm3), with no uplink of xen1's"
        " (add {network: lan} to xen1's interfaces)",
    ),
    "no uplink beside another network's": (
        "networks: {lan: {}, wan: {}}\nnodes:\n"
        "  xen1:\n    hypervisor: xen\n    interfaces: [{network: wan}]\n" + GUEST + OUTER,
        "t.yaml:5:5: network lan is on xen1 and in the lab itself (vm3), with no uplink of xen1's"
        " (add {network: lan} to xen1's interfaces)",
    ),
    "one uplink of two": (
        LAN + "nodes:\n  xen1: {hypervisor: xen, interfaces: [{network: lan}]}\n"
        "  xen2: {hypervisor: xen}\n" + GUEST + "  vm2: {host: xen2, interfaces: [{network: lan}]}",
        "t.yaml:4:3: network lan is on xen2 and in the lab itself (xen1), with no uplink of xen2's"
        " (add {network: lan} to xen2's interfaces)",
    ),
    "a loop of uplinks": (
        LAN + "nodes:\n  x: {hypervisor: xen, interfaces: [{network: lan}, {network: lan}]}\n",
        "t.yaml:3:63: x has two uplinks on network lan: a loop (leave one of them out)",
    ),
    "a network named as a NIC of dom0": (
        "networks:\n  eth0: {}\nnodes:\n"
        "  xen1: {hypervisor: xen}\n  a: {host: xen1, interfaces: [{network: eth0}]}\n",
        "t.yaml:2:3: a network on a Xen host cannot be named eth0 (a NIC of xen1 has this name)",
    ),
    "an mtu above a vif's": (
        "networks: {lan: {mtu: 65518}}\nnodes: {xen1: {hypervisor: xen},"
        " a: {host: xen1, interfaces: [{network: lan}]}}\n",
        "t.yaml:2:63: mtu 65518 is more than a vif can have (the most is 65517)",
    ),
    "an address outside, of a guest on a Xen host": (
        HOST + "  vm1: {host: xen1, interfaces: [{network: lan, addresses: [10.0.2.1/24]}]}\n",
        "t.yaml:4:61: 10.0.2.1/24 is outside network lan (its subnets: 10.0.1.0/24)",
    ),
    "a gateway out of reach, of a guest on a Xen host": (
        HOST + "  vm1: {host: xen1, routes: [{to: default, via: 10.0.1.9}]}\n",
        "t.yaml:4:49: vm1 cannot reach the gateway 10.0.1.9 (it has no address of that family)",
    ),
    "defaults that make a host of every node": (
        "defaults: {hypervisor: xen}\nnodes: {a: {}}\n",
        "t.yaml:1:12: unknown key 'hypervisor'"
        " (known: clone, exec, files, image, initramfs, kernel, memory, model, offload, user_data,"
        " vcpus)",
    ),
}


@pytest.mark.parametrize(("text", "expected"), GOLDEN.values(), ids=GOLDEN.keys())
def test_a_fault_is_told_with_its_place_and_a_way_out(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_both_of_two_xen_hosts_without_uplinks_are_told() -> None:
    text = (
        "networks: {lan: {}}\nnodes:\n  xen1: {hypervisor: xen}\n  xen2: {hypervisor: xen}\n"
        + GUEST
        + "  vm2: {host: xen2, interfaces: [{network: lan}]}\n"
    )
    assert [line.partition(", ")[0] for line in problems(text)] == [
        "t.yaml:3:3: network lan is on xen1 and on xen2",
        "t.yaml:4:3: network lan is on xen2 and on xen1",
    ]


@pytest.mark.parametrize(
    "text",
    [
        LAN + "nodes:\n  xen1: {hypervisor: xne}\n" + GUEST,
        LAN + "nodes:\n  xen1:\n" + GUEST,
        HOST + "  vm1: {host: 7, interfaces: [{network: lan, model: xen}]}\n" + OUTER,
        HOST + "  vm1: {host: xen2, interfaces: [{network: lan}]}\n" + OUTER,
        HOST + "  vm1: {host: xen2, interfaces: [{network: lan, model: xen}]}\n",
        HOST + "  vm1: {host: xen1, memory: 9T}\n",
        LAN + "nodes:\n  xen1: {hypervisor: xen, memory: 6}\n" + GUEST,
        LAN + "nodes:\n  xen1: {hypervisor: xen, interfaces: [{netwrok: lan}]}\n" + GUEST + OUTER,
        HOST + "  vm1: {host: xen1, interfaces: [{network: wan}]}\n  vm3: {interfaces: []}\n",
    ],
)
def test_a_fault_brings_no_faults_that_only_follow_from_it(text: str) -> None:
    told = problems(text)
    # An unknown key stands in place of the one that is then missing.
    assert len([line for line in told if "is missing" not in line]) == 1, told
