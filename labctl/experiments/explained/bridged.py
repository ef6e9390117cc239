"""Why SSH over one bridge works although no checksum is finished: `bridged`, `xen-bridged`."""

from __future__ import annotations

from labctl.experiments.explained.model import Arm, Explanation, Role, Way
from labctl.experiments.explained.prose import prose
from labctl.experiments.explained.stages import ONE_BRIDGE

WHOLE: tuple[tuple[Role, str], ...] = (("sender guest", "partial, needs_csum"),)
FINISHED: tuple[tuple[Role, str], ...] = (("sender guest", "valid"),)

_MECHANISM = prose("bridged")

_COMMON = (
    "The field is the pseudo-header sum, to the bit, at every hop: labctl computes that sum and "
    "the full one for every packet and says which of them the field is. Zero or noise would be "
    "neither.",
    "TcpInCsumErrors, UdpInCsumErrors and Udp6InCsumErrors do not grow in either guest: nothing "
    "was taken for damage.",
    "ping works too, and shows nothing: icmp_push_reply() and icmpv6_push_pending_frames() sum "
    "in software.",
)

BRIDGED = Explanation(
    name="bridged",
    title="Two guests on one bridge: SSH works with unfinished checksums.",
    topology="bridged.yaml",
    hypothesis="Over one bridge SSH works although no checksum is ever finished.",
    mechanism=_MECHANISM,
    ways=(Way(), Way("xen-bridged.yaml")),
    stages=ONE_BRIDGE,
    arms=(
        Arm(
            "ipv4",
            "offloads as they come",
            WHOLE,
            "works",
            "every hop hands the metadata on, so the field may stay as it is until the end",
        ),
        Arm(
            "ipv6",
            "the same over IPv6",
            WHOLE,
            "works",
            "the header has no checksum of its own, the transport's is treated alike",
        ),
        Arm(
            "control/tx-off",
            "ethtool -K eth0 tx off in both guests",
            FINISHED,
            "works",
            "validate_xmit_skb() finds no device that would complete the sum and has "
            "skb_checksum_help() do it, before anything is captured: so the hops can show it",
        ),
    ),
    evidence=_COMMON,
    workarounds=(),
    other="xen-bridged",
    limits=(
        "A frame that GRO has merged looks partial even where offload is off; SYN, SYN-ACK and "
        "UDP are never merged, so these are judged.",
    ),
)

XEN_BRIDGED = Explanation(
    name="xen-bridged",
    title="Two Xen guests on a bridge in dom0: SSH works with unfinished checksums.",
    topology="xen-bridged.yaml",
    hypothesis="Over dom0's bridge SSH works although no checksum is ever finished: the flags in "
    "the rings of netfront and netback carry the metadata.",
    mechanism=_MECHANISM,
    ways=(Way("bridged.yaml"), Way()),
    stages=ONE_BRIDGE,
    arms=(
        Arm(
            "ipv4",
            "offloads as they come",
            WHOLE,
            "works",
            "csum_blank on both rings, CHECKSUM_PARTIAL between them, both ways",
        ),
        Arm(
            "ipv6",
            "the same over IPv6",
            WHOLE,
            "works",
            "as long as both ends have agreed on feature-ipv6-csum-offload; for IPv4 it is taken "
            "for granted",
        ),
        Arm(
            "control/tc-csum",
            "TSO and GSO off, tc filter … egress … action csum ip4h tcp udp in both guests",
            FINISHED,
            "works",
            "tcf_csum_act() completes the sum before the driver sees the packet, so neither ring "
            "carries a flag",
        ),
    ),
    evidence=(
        *_COMMON,
        "In the rings themselves: XEN_NETTXF_csum_blank (bit 0) and XEN_NETTXF_data_validated "
        "(bit 1) in the sender's request, XEN_NETRXF_data_validated (bit 0) and "
        "XEN_NETRXF_csum_blank (bit 1) in the response to the receiver: the two bits are the other "
        "way round.",
        "The two flags together do not contradict each other: the data was not damaged, and the "
        "field is not filled in.",
    ),
    workarounds=(),
    other="bridged",
    limits=(
        "xenvif_tx_submit() and xenvif_rx_data_slot() are inlined in Debian's dom0 kernel. To see "
        "the flags, a probe goes on xenvif_fill_frags(), which the one calls for each packet, and "
        "on xenvif_rx_skb(), which the other is part of.",
    ),
)

ALL = (BRIDGED, XEN_BRIDGED)
