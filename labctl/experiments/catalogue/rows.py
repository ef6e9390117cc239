"""The rows of the catalogue, as data: a path, what is on it, and who has told of such a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labctl.diagnosis.verdict import Finding
from labctl.errors import UsageError, nearest, shown
from labctl.experiments.catalogue.paths import (
    bridged,
    patched,
    routed,
    with_guest_router,
    with_namespaces,
    with_nics,
    with_wire,
)

LINKS, KERNEL, USER, SOFTWARE, CHAINS, MACHINES, CONTROLS = (
    "links", "kernel paths", "user space", "real software", "chains", "machines",
    "negative controls",
)  # fmt: skip


@dataclass(frozen=True)
class Control:
    """What `labctl diagnose` must say of a path that fails for another reason than lost metadata.

    Nothing is derived for such a row: what its router does is no effect on unfinished checksums.
    """

    finding: Finding
    where: str
    """What the place that is named begins with, such as `router r1`; empty for any."""
    expected: str
    """The same for a reader, in one sentence."""
    port: int = 22
    asked: int = 1
    """How often the diagnosis is asked at most, until it finds something: one may send less than
    what it takes."""


@dataclass(frozen=True)
class Row:
    """One path between two guests, `vm1` and `vm2`."""

    name: str
    group: str
    title: str
    topology: Mapping[str, Any]
    sources: tuple[str, ...] = ()
    """Public threads or pages that tell of such a path."""
    note: str = ""
    """What a reader should know besides."""
    control: Control | None = None
    protocols: bool = False
    """Whether what leaves no sum to others is sent, too: UDP without checksum, and fragments."""
    fragments_end: str = ""
    """Why fragments do not pass, where they do not."""
    dhcp: bool = False
    """Whether vm1 asks for an address that vm2, a namespace, hands out."""


VRNETLAB = "https://github.com/srl-labs/vrnetlab/pull/492"
SWITCHES = (
    "https://github.com/p4lang/behavioral-model/issues/986",
    "https://github.com/FDio/vpp/issues/265",
)
OVS = ("https://github.com/openvswitch/ovs-issues/issues/273",)
SANDBOX = ("https://github.com/TencentCloud/CubeSandbox/pull/443",)
DPDK = ("https://github.com/DPDK/grout/issues/724",)
XDP_THREADS = (
    "https://github.com/xdp-project/xdp-tutorial/issues/160",
    "https://github.com/xdp-project/xdp-tutorial/issues/357",
)
ALL: tuple[Row, ...] = (
    Row("bridge", LINKS, "a Linux bridge", bridged()),
    Row(
        "veth-chain", LINKS, "three veth pairs with bridges between them",
        bridged({"kind": "veth", "options": {"length": 3}}),
        ("https://github.com/srl-labs/containerlab/issues/2894",),
    ),
    Row(
        "tc-mirred", LINKS, "tc mirred both ways between two ports",
        bridged({"kind": "tc-mirred"}), (VRNETLAB,),
    ),
    Row(
        "tc-mirred-csum", LINKS, "tc mirred with action csum before it",
        bridged({"kind": "tc-mirred", "options": {"csum": True}}), (VRNETLAB,),
    ),
    Row("tc-patch", LINKS, "tc mirred straight onto a guest's TAP", patched(), (VRNETLAB,)),
    Row(
        "tc-patch-csum", LINKS, "the same with action csum before it",
        patched({"csum": True}), (VRNETLAB,),
    ),
    Row("macvlan", LINKS, "a macvlan (passthru) on a veth", bridged({"kind": "macvlan"})),
    Row(
        "vxlan", LINKS, "VXLAN between two namespaces, outer sum 0",
        bridged({"kind": "vxlan"}), ("https://github.com/projectcalico/calico/issues/11435",),
    ),
    Row(
        "vxlan-outer-sums", LINKS, "VXLAN between two namespaces, outer sums on",
        bridged({"kind": "vxlan", "options": {"outer_sums": True}}),
        ("https://github.com/projectcalico/calico/issues/11435",),
    ),
    Row(
        "vxlan-copied", LINKS, "VXLAN over a program that copies the outer frames",
        bridged({"kind": "vxlan", "options": {"underlay": "packet-wire"}}),
        ("https://github.com/FDio/vpp/issues/458",),
        "No element of the inner network has touched the packet. Expected at every hop at first, "
        "and measured otherwise at the veths behind the tunnel, where a packet socket is told that "
        "the sum is valid: csum_valid of an outer sum of 0 stays with the skb.",
        protocols=True,
    ),
    Row(
        "vxlan-wireguard", LINKS, "VXLAN over WireGuard",
        bridged({"kind": "vxlan", "options": {"underlay": "wireguard"}}),
        note="Who encrypts must finish the sum first: nobody behind it could.",
    ),
    Row(
        "geneve", LINKS, "Geneve between two namespaces, outer sum 0",
        bridged({"kind": "geneve"}),
    ),
    Row(
        "geneve-outer-sums", LINKS, "Geneve between two namespaces, outer sums on",
        bridged({"kind": "geneve", "options": {"outer_sums": True}}),
    ),
    Row("gretap", LINKS, "GRE for Ethernet frames", bridged({"kind": "gretap"})),
    Row("vlan", LINKS, "an 802.1Q trunk between two namespaces", bridged({"kind": "vlan"})),
    Row("bond", LINKS, "two veth pairs bonded at both ends", bridged({"kind": "bond"})),
    Row(
        "packet-wire", USER, "a layer-2 wire over packet sockets",
        bridged({"kind": "packet-wire"}), SWITCHES,
    ),
    Row(
        "packet-wire-vnet", USER, "the same wire with the virtio header",
        bridged({"kind": "packet-wire", "options": {"vnet": True}}), SWITCHES,
    ),
    Row(
        "ring-wire", USER, "a wire over packet rings (TPACKET_V3), status unread",
        bridged({"kind": "ring-wire"}), SWITCHES,
    ),
    Row(
        "ring-wire-sums", USER, "the same wire computes what the ring says is not ready",
        bridged({"kind": "ring-wire", "options": {"sums": True}}), SWITCHES,
    ),
    Row(
        "namespace", KERNEL, "a router that is a network namespace", routed("namespace"),
        protocols=True,
    ),
    Row(
        "nat", KERNEL, "a namespace router with nftables masquerade", routed("nat"),
        ("https://github.com/TencentCloud/CubeSandbox/pull/443",),
    ),
    Row("vrf", KERNEL, "a router whose interfaces are in a VRF", routed("vrf")),
    Row(
        "tc-bpf", KERNEL, "a BPF program at tc's hook redirects", routed("tc-bpf"),
        ("https://github.com/TencentCloud/CubeSandbox/pull/110",),
    ),
    Row(
        "tc-bpf-clone", KERNEL, "a BPF program at tc's hook sends clones", routed("tc-bpf-clone")
    ),
    Row(
        "bpf-nat", KERNEL, "a BPF program translates an address, sums updated",
        routed("bpf-nat"), SANDBOX,
    ),
    Row(
        "bpf-nat-e1000", KERNEL, "the same before a NIC that takes nothing unfinished",
        with_nics(routed("bpf-nat"), "", "e1000"), SANDBOX,
        "What is finished behind the translation is right: the pseudo-header's sum was kept so.",
    ),
    Row(
        "xdp-generic", KERNEL, "an XDP program in generic mode redirects", routed("xdp-generic"),
        XDP_THREADS,
    ),
    Row(
        "xdp-native", KERNEL, "an XDP program in the driver redirects", routed("xdp-native"),
        XDP_THREADS,
        "The first packet to a neighbour that the kernel has not asked for yet is forwarded by the "
        "kernel, and keeps its metadata: ping goes first.",
        protocols=True,
    ),
    Row(
        "af-xdp", KERNEL, "a program forwards over AF_XDP sockets in copy mode",
        routed("af-xdp"), XDP_THREADS,
        "As with xdp-native, ping goes first.",
    ),
    Row(
        "raw", USER, "a router over packet sockets, as it is", routed("raw"),
        ("https://unix.stackexchange.com/questions/797717",
         "https://github.com/srl-labs/containerlab/pull/3077"),
        protocols=True,
    ),
    Row("raw-vnet", USER, "the same router with the virtio header", routed("raw-vnet")),
    Row("raw-zeroed", USER, "the same router with an empty virtio header", routed("raw-zeroed")),
    Row(
        "raw-synthesised", USER, "the same router, virtio header made of the status word",
        routed("raw-synthesised"),
    ),
    Row(
        "raw-sum", USER, "the same router computes every checksum", routed("raw-sum"),
        protocols=True,
    ),
    Row(
        "raw-sum-unready", USER, "the same router computes where CSUMNOTREADY",
        routed("raw-sum-unready"), ("https://github.com/kubevirt/kubevirt/pull/16131",),
    ),
    Row("tun", USER, "a program behind a TUN, no virtio header", routed("tun")),
    Row(
        "tun-vnet", USER, "a program behind a TUN, virtio header kept", routed("tun-vnet"),
        ("https://github.com/tailscale/tailscale/issues/19820",),
    ),
    Row(
        "tun-vnet-empty", USER, "a program behind a TUN, empty virtio header",
        routed("tun-vnet-empty"), ("https://github.com/hermit-os/uhyve/pull/1369",),
    ),
    Row(
        "ovs-kernel", SOFTWARE, "Open vSwitch's kernel datapath", bridged({"kind": "ovs-kernel"}),
        note="The first packet of a flow goes by way of the switch in user space, finished and "
        "copied: ping goes first.",
    ),
    Row(
        "ovs-userspace", SOFTWARE, "Open vSwitch's user-space datapath",
        bridged({"kind": "ovs-userspace"}), OVS,
        protocols=True,
    ),
    Row(
        "ovs-userspace-tso", SOFTWARE, "the same switch with userspace-tso-enable",
        bridged({"kind": "ovs-userspace", "options": {"tso": True}}), OVS,
    ),
    Row(
        "testpmd", SOFTWARE, "DPDK's testpmd on packet sockets (af_packet)",
        bridged({"kind": "testpmd"}), DPDK,
        "Fragments end there: the driver asks for whole packets (PACKET_FANOUT_FLAG_DEFRAG), and "
        "one that the kernel has put together (ip_check_defrag()) is longer than the MTU.",
        protocols=True,
        fragments_end="the socket is given them as one packet, which is too long to go on",
    ),
    Row(
        "testpmd-tap", SOFTWARE, "DPDK's testpmd on TAPs",
        bridged({"kind": "testpmd", "options": {"driver": "tap"}}), DPDK,
    ),
    Row("socat-tap", SOFTWARE, "socat between two TAPs", bridged({"kind": "socat-tap"})),
    Row(
        "raw-then-namespace", CHAINS, "lost at the first of two hops", routed("raw", "namespace")
    ),
    Row(
        "sum-then-raw", CHAINS, "completed before a hop that loses metadata",
        routed("raw-sum-unready", "raw"),
        note="One completing hop helps one direction: answers pass the hop that loses first.",
    ),
    Row(
        "vxlan-nat", CHAINS, "VXLAN before a router with nftables masquerade",
        with_wire(routed("nat"), {"kind": "vxlan"}),
        ("https://github.com/kubernetes/kubernetes/issues/88986",),
    ),
    Row(
        "ovs-then-tun", CHAINS, "lost in Open vSwitch before a router that completes",
        with_wire(routed("tun"), {"kind": "ovs-userspace"}), OVS,
        "Who goes by the metadata finishes nothing that has lost it; the answers are finished "
        "before they come to the switch.",
    ),
    Row(
        "e1000-raw", MACHINES, "e1000 at both ends of a router that loses metadata",
        with_nics(routed("raw"), "e1000", "e1000"),
        note="Nothing unfinished comes to the router, so nothing can be lost there.",
    ),
    Row(
        "e1000e-raw", MACHINES, "e1000e at both ends of a router that loses metadata",
        with_nics(routed("raw"), "e1000e", "e1000e"),
    ),
    Row(
        "rtl8139", MACHINES, "rtl8139 and virtio on a bridge",
        with_nics(bridged(), "rtl8139"),
    ),
    Row(
        "vmxnet3", MACHINES, "virtio and vmxnet3 on a bridge",
        with_nics(bridged(), "", "vmxnet3"),
    ),
    Row(
        "guest-router", MACHINES, "a guest whose kernel forwards, with virtio NICs",
        with_guest_router(routed("namespace")),
    ),
    Row(
        "guest-router-e1000", MACHINES, "a guest whose kernel forwards, with e1000 NICs",
        with_guest_router(routed("namespace"), "e1000"),
    ),
    Row(
        "namespace-end", MACHINES, "from a guest to a namespace over a bridge",
        with_namespaces(bridged(), "vm2"), dhcp=True,
    ),
    Row(
        "dhcp-copied", MACHINES, "DHCP from a namespace over a program that copies frames",
        with_namespaces(bridged({"kind": "packet-wire"}), "vm2"),
        ("https://github.com/kubevirt/kubevirt/pull/16131",
         "https://github.com/lxc/incus/issues/1997"),
        "The client reads by a packet socket and looks at the sum itself, so no counter grows.",
        dhcp=True,
    ),
    Row(
        "namespace-end-raw", MACHINES, "from a guest to a namespace, metadata lost between",
        with_namespaces(routed("raw"), "vm2"),
    ),
    Row(
        "namespaces-ovs", MACHINES, "two namespaces with Open vSwitch between them",
        with_namespaces(bridged({"kind": "ovs-userspace"}), "vm1", "vm2"), OVS,
        "As containers on such a switch: no virtual machine is on the path.",
    ),
    Row(
        "damaged", CONTROLS, "a router that damages payloads of summed packets",
        routed("faulty-sum"),
        control=Control(
            Finding.CORRUPTED, "router r1",
            "the receiver drops what carries a payload, and the field holds neither sum",
        ),
    ),
    Row(
        "damaged-silently", CONTROLS, "a router that damages payloads and keeps the metadata",
        routed("faulty-payload"),
        note="Accepted by the receiver, which sums nothing that never met a wire.",
        control=Control(
            Finding.CORRUPTED, "router r1",
            "the damage is accepted: no counter grows, the payload alone tells it",
        ),
    ),
    Row(
        "no-syn", CONTROLS, "a router that drops SYNs", routed("syn-filter"),
        control=Control(
            Finding.OTHER, "router r1", "SYNs end in the router, and no checksum error is counted"
        ),
    ),
    Row(
        "lossy", CONTROLS, "a router that drops every tenth packet", routed("lossy"),
        control=Control(
            Finding.OTHER, "router r1",
            "some packets end in the router, and no checksum error is counted", asked=3,
        ),
    ),
    Row(
        "bpf-nat-stale", CONTROLS, "a BPF program translates an address, sums left as they are",
        routed("bpf-nat-stale"), SANDBOX,
        "SSH works between these guests: a receiver sums nothing that never met a wire.",
        Control(
            Finding.CORRUPTED, "router r1",
            "needs_csum goes on, and the field holds neither sum; nobody drops it",
        ),
    ),
    Row(
        "bpf-stale-e1000", CONTROLS, "the same before a NIC that takes nothing unfinished",
        with_nics(routed("bpf-nat-stale"), "", "e1000"), SANDBOX,
        "The sum is finished on the way to the NIC, of a wrong beginning, and the receiver drops.",
        Control(
            Finding.CORRUPTED, "router r1", "the receiver drops what was translated, as damaged",
        ),
    ),
    Row(
        "raw-incremental", CONTROLS, "an incremental update on an unfinished sum",
        routed("raw-incremental"), ("https://github.com/google/gvisor/issues/11960",),
        "SSH works between these guests: a receiver sums nothing that never met a wire.",
        Control(
            Finding.CORRUPTED, "router r1",
            "needs_csum goes on, and the field holds neither sum; nobody drops it",
        ),
    ),
    Row(
        "closed-port", CONTROLS, "a port where nothing listens", bridged(),
        control=Control(Finding.OTHER, "vm2", "the answer is a reset, at once", port=81),
    ),
)  # fmt: skip
"""In the order in which they are shown."""


def names() -> list[str]:
    """Return the names of all rows."""
    return [row.name for row in ALL]


def find(name: str) -> Row:
    """Return the row of a name; raises `UsageError` where there is none."""
    for row in ALL:
        if row.name == name:
            return row
    raise UsageError(f"the catalogue has no row {shown(name)}", nearest(name, names()))
