"""A Xen guest talks to a QEMU guest: where metadata is translated: `xen-to-virtio`."""

from __future__ import annotations

from labctl.experiments.explained.bridged import FINISHED, WHOLE
from labctl.experiments.explained.model import Arm, Cell, Explanation, Stage, Story, Way, Workaround
from labctl.experiments.explained.prose import prose
from labctl.experiments.explained.router_hop import (
    NAMESPACE,
    RAW,
    RAW_VNET,
    through,
)
from labctl.experiments.explained.stages import (
    BRIDGE,
    DROPPED,
    FROM_HOST,
    HOST_IN,
    HOST_OUT,
    KNOWN,
    LEFT_OPEN,
    NETFRONT_OFFERS,
    PARTIAL,
    RECEIVER,
    RECEIVER_DRIVER,
    SENDER,
    SENDER_DRIVER,
    TO_HOST,
)
from labctl.kinds.forwarders.namespace import Namespace
from labctl.kinds.forwarders.raw import Raw
from labctl.kinds.forwarders.raw_vnet import RawVnet

_MECHANISM = prose("xen_to_virtio")


def _only(stage: Stage, story: Story, name: str = "") -> Stage:
    """Take one story's cell of a stage: on this way each stage is of Xen or of virtio."""
    return Stage(name or stage.name, {"Xen and virtio": stage.cells[story]}, stage.why)


_STAGES = (
    Stage(
        "the Xen guest's kernel",
        {"Xen and virtio": Cell(f"{LEFT_OPEN}{NETFRONT_OFFERS}", PARTIAL, KNOWN, "sender guest")},
        SENDER.why,
    ),
    _only(SENDER_DRIVER, "Xen", "netfront"),
    _only(TO_HOST, "Xen", "Xen's ring"),
    _only(HOST_IN, "Xen", "netback: the vif"),
    _only(BRIDGE, "virtio", "dom0's bridge"),
    Stage(
        "the uplink: dom0's NIC",
        {
            "Xen and virtio": Cell(
                "dom0 is QEMU's guest, and its uplink a virtio NIC: validate_xmit_skb() finds "
                "NETIF_F_HW_CSUM, start_xmit(), xmit_skb(), virtio_net_hdr_from_skb(). With an "
                "e1000 it would be e1000_xmit_frame(), e1000_tx_csum(), and QEMU's putsum() would "
                "complete the sum.",
                PARTIAL,
                "VIRTIO_NET_HDR_F_NEEDS_CSUM",
                "uplink inner",
            ),
        },
        "Xen's flag becomes virtio's. csum_start and csum_offset, which Xen's ring did not carry, "
        "are there because netback found them.",
    ),
    Stage(
        "the uplink: its TAP in the lab",
        {
            "Xen and virtio": Cell(
                "QEMU writes to the TAP; tun_get_user(), virtio_net_hdr_to_skb(), "
                "skb_partial_csum_set(), netif_receive_skb().",
                PARTIAL,
                KNOWN,
                "uplink outer",
            ),
        },
    ),
    _only(NAMESPACE, "virtio"),
    _only(RAW, "virtio"),
    _only(RAW_VNET, "virtio"),
    _only(HOST_OUT, "virtio", "the QEMU guest's TAP"),
    _only(FROM_HOST, "virtio", "the virtqueue"),
    _only(RECEIVER_DRIVER, "virtio", "virtio_net"),
    _only(RECEIVER, "virtio", "the QEMU guest's kernel"),
    Stage(
        "the QEMU guest's kernel, after raw",
        {
            "Xen and virtio": Cell(
                DROPPED,
                PARTIAL,
                "none; TcpInCsumErrors grows, kfree_skb gives the reason TCP_CSUM",
                "receiver guest",
            ),
        },
    ),
)

XEN_TO_VIRTIO = Explanation(
    name="xen-to-virtio",
    title="A Xen guest and a QEMU guest: the metadata crosses the border between Xen and virtio.",
    topology="xen-to-virtio.yaml",
    hypothesis="A Xen guest's unfinished packets reach a QEMU guest as well as its own kind, "
    "through every router that keeps the metadata.",
    mechanism=_MECHANISM,
    ways=(Way(destination="vm3"), Way(destination="vm2")),
    stages=_STAGES,
    arms=(
        Arm(
            "direct",
            "vm2 is on the other side of the uplink, on the same network",
            WHOLE,
            "works",
            "the uplink's virtio NIC carries the metadata out of the Xen host",
            way=1,
        ),
        through(
            Namespace,
            "control: the kernel forwards",
            "csum_blank, NEEDS_CSUM, NEEDS_CSUM, with CHECKSUM_PARTIAL between them",
        ),
        through(
            Raw,
            "a program copies frames",
            "lost between the router's two interfaces, not at the border between Xen and virtio",
        ),
        through(
            RawVnet,
            "the same program keeps the virtio header",
            "the same bytes, the metadata copied along",
        ),
        Arm(
            f"{Raw.name} finished",
            f"{Raw.name}, each guest completes its own sums: tc on Xen, tx off on virtio",
            FINISHED,
            "works",
            "nothing is left open, so there is nothing to lose",
        ),
    ),
    evidence=(
        "partial with needs_csum on the uplink's TAP: the proof that the metadata has left the Xen "
        "host.",
        "Behind raw: TcpInCsumErrors of the receiving guest grows. The answer's way is the same "
        "one backwards, with NEEDS_CSUM first and csum_blank last.",
    ),
    workarounds=(
        Workaround(
            f"keep the header in the router (kind {RawVnet.name})", "ten bytes more to copy"
        ),
        Workaround(
            "an uplink that completes sums (e1000, a real NIC)",
            "it mends what leaves the Xen host, not what comes to it: the other end must do its "
            "own (tx off in the QEMU guest)",
        ),
    ),
    useless=(
        Workaround(
            "tx off in the QEMU guest alone", "it mends the answers, not the Xen guest's packets"
        ),
        Workaround("tx off in the Xen guest", "no effect over IPv4; see xen-offload"),
    ),
)

ALL = (XEN_TO_VIRTIO,)
