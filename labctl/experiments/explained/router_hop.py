"""Why SSH hangs behind a router that copies packets: `router-hop`, `xen-router-hop`."""

from __future__ import annotations

from labctl.experiments.explained.bridged import FINISHED, WHOLE
from labctl.experiments.explained.model import Arm, Cell, Explanation, Role, Stage, Way, Workaround
from labctl.experiments.explained.prose import prose
from labctl.experiments.explained.stages import (
    BRIDGE,
    DROPPING,
    FROM_HOST,
    HOST_IN,
    HOST_OUT,
    KNOWN,
    NONE,
    PARTIAL,
    RECEIVER,
    RECEIVER_DRIVER,
    SENDER,
    SENDER_DRIVER,
    TO_HOST,
)
from labctl.kinds.base import Effect, ForwarderKind
from labctl.kinds.forwarders.namespace import Namespace
from labctl.kinds.forwarders.raw import Raw
from labctl.kinds.forwarders.raw_vnet import RawVnet

LOST: tuple[tuple[Role, str], ...] = (
    ("sender guest", "partial, needs_csum"),
    ("router out", "partial, no metadata"),
)

_BESIDE = {Effect.KEEPS: KNOWN, Effect.LOSES: NONE}
"""What travels beside an unfinished packet that has passed something."""


def through(kind: type[ForwarderKind], change: str, why: str) -> Arm:
    """Return what an arm through a router of a kind must show, as the kind's effect has it."""
    lost = kind.effect is Effect.LOSES
    return Arm(kind.name, change, LOST if lost else WHOLE, "hangs" if lost else "works", why)


_MECHANISM = prose("router_hop")

TO_ROUTER = Stage(
    "into the router",
    {
        "virtio": Cell(
            "The bridge hands the packet to r1-eth0; veth_xmit() passes the skb to the other end, "
            "r1:eth0, as it is.",
            PARTIAL,
            KNOWN,
            "router in",
        ),
        "Xen": Cell("The same, in dom0's kernel.", PARTIAL, KNOWN, "router in"),
    },
)

NAMESPACE = Stage(
    f"the router, kind {Namespace.name}",
    {
        "virtio": Cell(
            "The kernel forwards: ip_forward(), ip6_forward(). Both call skb_forward_csum(), which "
            "leaves CHECKSUM_PARTIAL alone. The addresses stay, so the pseudo-header's sum does.",
            PARTIAL,
            _BESIDE[Namespace.effect],
            "router out",
        ),
        "Xen": Cell(
            "The same calls, in dom0's kernel.", PARTIAL, _BESIDE[Namespace.effect], "router out"
        ),
    },
)

RAW = Stage(
    f"the router, kind {Raw.name}",
    {
        "virtio": Cell(
            "packet_recvmsg() copies the bytes to the program. That they are unfinished is told in "
            "PACKET_AUXDATA, and no way leads back from there: packet_sendmsg(), packet_snd() make "
            "a new skb from the bytes.",
            PARTIAL,
            _BESIDE[Raw.effect],
            "router out",
        ),
        "Xen": Cell(
            "The same program in dom0, the same calls. Nothing of Xen is involved in the loss.",
            PARTIAL,
            _BESIDE[Raw.effect],
            "router out",
        ),
    },
    "This is the hop. A network stack in user space, a tunnel daemon, a packet forwarder: all that "
    "read and write frames as bytes do this unless they ask for the header.",
)

RAW_VNET = Stage(
    f"the router, kind {RawVnet.name}",
    {
        "virtio": Cell(
            "With PACKET_VNET_HDR the read begins with a virtio header (packet_rcv_vnet(), "
            "virtio_net_hdr_from_skb()), and the write does too: packet_snd(), "
            "virtio_net_hdr_to_skb(), skb_partial_csum_set().",
            PARTIAL,
            _BESIDE[RawVnet.effect],
            "router out",
        ),
        "Xen": Cell(
            "The same. The header has virtio's shape and no QEMU is needed for it.",
            PARTIAL,
            _BESIDE[RawVnet.effect],
            "router out",
        ),
    },
    "Only the ten bytes of the header differ from raw. That proves the cause.",
)

BACK = Stage(
    f"out of the router, kinds {Namespace.name} and {RawVnet.name}",
    {
        "virtio": Cell(
            "veth_xmit() to r1-eth1, and the second bridge: as it came in.",
            PARTIAL,
            KNOWN,
            "router out host",
        ),
        "Xen": Cell("The same, in dom0's kernel.", PARTIAL, KNOWN, "router out host"),
    },
    "The four stages that follow are those of one bridge.",
)

AFTER = Stage(
    f"out of the router, kind {Raw.name}",
    {
        "virtio": Cell(
            "veth_xmit(), the bridge, validate_xmit_skb(): CHECKSUM_NONE means that there is "
            "nothing to do. tun_put_user(): virtio_net_hdr_from_skb() sets no flag. In the guest "
            "receive_buf() leaves ip_summed as it is.",
            PARTIAL,
            "a virtio header with flags 0",
            "receiver host",
        ),
        "Xen": Cell(
            "veth_xmit(), the bridge, validate_xmit_skb(), xenvif_start_xmit(): nothing to do. "
            "xenvif_rx_data_slot() sets neither flag. In the guest checksum_setup() has nothing "
            "to set up.",
            PARTIAL,
            "a response without csum_blank and data_validated",
            "receiver host",
        ),
    },
)

_STAGES = (
    SENDER,
    SENDER_DRIVER,
    TO_HOST,
    HOST_IN,
    BRIDGE,
    TO_ROUTER,
    NAMESPACE,
    RAW,
    RAW_VNET,
    BACK,
    HOST_OUT,
    FROM_HOST,
    RECEIVER_DRIVER,
    RECEIVER,
    AFTER,
    DROPPING,
)

_ARMS = (
    through(
        Namespace,
        "control: the kernel forwards",
        "two bridges and a router are no obstacle as long as one kernel hands its skb on",
    ),
    through(
        Raw,
        "a program copies frames",
        "the metadata ends between the router's two interfaces; the bytes stay the same",
    ),
    through(
        RawVnet,
        "the same program keeps the virtio header",
        "the same copy, the metadata copied along",
    ),
)

_TX_OFF = Arm(
    f"{Raw.name} tx-off",
    f"{Raw.name}, ethtool -K eth0 tx off in both guests",
    FINISHED,
    "works",
    "nothing is left open, so there is nothing to lose",
)
_TC_CSUM = Arm(
    f"{Raw.name} tc-csum",
    f"{Raw.name}, TSO and GSO off and tc … action csum in both guests",
    FINISHED,
    "works",
    "the same, by the only means netfront has for IPv4",
)

_EVIDENCE = (
    "Behind raw: TcpInCsumErrors of the receiver grows while the client waits, and the tracepoint "
    "skb:kfree_skb names tcp_v4_rcv or tcp_v6_rcv with the reason TCP_CSUM (since Linux 5.17). "
    "TCP has one counter for both families.",
    "Behind raw: the field at the receiver is the pseudo-header sum of this very packet. So it is "
    "not damage, it is what the sender left.",
    "ping works through every kind: icmp_push_reply() and icmpv6_push_pending_frames() sum in "
    "software. That a host answers pings says nothing about TCP.",
    "Behind raw a closed port hangs as an open one does, where both guests offload: the SYN dies "
    "in skb_checksum_init(), before tcp_v4_rcv() or tcp_v6_rcv() looks for a socket. Where the SYN "
    "gets through (the client alone completes its sums), a closed port answers over IPv4 and an "
    "open one hangs: resets are summed in software there, a SYN-ACK is not.",
)

_KEEP = Workaround(
    f"keep the header: PACKET_VNET_HDR on both sockets of the program (kind {RawVnet.name})",
    "ten bytes more to copy; super-frames of GSO come whole, far beyond the MTU",
)
_KERNEL = Workaround(
    f"let the kernel forward (kind {Namespace.name})", "the program no longer sees the packets"
)
_BEFORE = Workaround(
    "complete the sums before the program reads: ethtool -K tx off on r1-eth0 and r1-eth1",
    "skb_checksum_help() for every packet to the router, and GSO cuts super-frames there",
)
_SELF = Workaround(
    "complete the sums in the program, for what comes with TP_STATUS_CSUMNOTREADY",
    "a pass over every packet in user space, and code that must know all protocols",
)
_GUESTS = Workaround(
    "ethtool -K eth0 tx off in both guests",
    "every packet is summed in the guest, and TSO goes with it (netdev_fix_features())",
)

ROUTER_HOP = Explanation(
    name="router-hop",
    title="A router that copies packets: SSH hangs, ping works.",
    topology="router-hop.yaml",
    hypothesis="SSH hangs behind a router that copies packets as they are, because the copy loses "
    "needs_csum.",
    mechanism=_MECHANISM,
    ways=(Way(), Way("xen-router-hop.yaml")),
    stages=_STAGES,
    arms=(*_ARMS, _TX_OFF),
    evidence=_EVIDENCE,
    workarounds=(_KEEP, _KERNEL, _BEFORE, _GUESTS, _SELF),
    useless=(
        Workaround("tx off in one guest", "the loss moves to the other guest's answers"),
        Workaround(
            "tx off on the guests' TAPs",
            "it finishes what still has its metadata; behind the copy none has",
        ),
        Workaround("TSO and GSO off", "a SYN is no super-frame; its sum is left open all the same"),
    ),
    other="xen-router-hop",
)

XEN_ROUTER_HOP = Explanation(
    name="xen-router-hop",
    title="A router in dom0 that copies packets: SSH hangs, ping works.",
    topology="xen-router-hop.yaml",
    hypothesis="Between netfront and netback, too, SSH hangs behind a router in dom0 that copies "
    "packets as they are, because the copy loses what csum_blank had said.",
    mechanism=_MECHANISM,
    ways=(Way("router-hop.yaml"), Way()),
    stages=_STAGES,
    arms=(*_ARMS, _TC_CSUM),
    evidence=(
        *_EVIDENCE,
        "In the rings: csum_blank in every request of the sender's, in no response to the "
        f"receiver behind {Raw.name}, and in every response behind {Namespace.name} and "
        f"{RawVnet.name}.",
    ),
    workarounds=(
        _KEEP,
        _KERNEL,
        _BEFORE,
        Workaround(
            "complete the sums in the guests: tc … egress … action csum, TSO and GSO off",
            "tcf_csum_act() for every packet, and no super-frames; see xen-offload",
        ),
        _SELF,
    ),
    useless=(
        Workaround(
            "ethtool -K eth0 tx off in the guests",
            "over IPv4 netfront keeps its offload on: on [requested off]; over IPv6 it does go off",
        ),
        Workaround(
            "tx off on the guests' vifs",
            "it finishes what still has its metadata; behind the copy none has",
        ),
    ),
    other="router-hop",
)

ALL = (ROUTER_HOP, XEN_ROUTER_HOP)
