"""Which offload setting makes whom complete the sum: `offload`, `xen-offload`."""

from __future__ import annotations

from labctl.experiments.explained.bridged import FINISHED, WHOLE
from labctl.experiments.explained.model import Arm, Cell, Explanation, Role, Stage, Way, Workaround
from labctl.experiments.explained.prose import prose
from labctl.experiments.explained.router_hop import LOST
from labctl.experiments.explained.stages import FROM_HOST, KNOWN, PARTIAL, RECEIVER, SENDER
from labctl.kinds.forwarders.raw import Raw

VALID = "valid"
DONE = "nothing (ip_summed = CHECKSUM_NONE)"
AT_RECEIVER: tuple[tuple[Role, str], ...] = (
    ("sender guest", "partial, needs_csum"),
    ("receiver host", "valid"),
)

_MECHANISM = prose("offload")

_STAGES = (
    SENDER,
    Stage(
        "guest: tx off",
        {
            "virtio": Cell(
                "ethtool -K eth0 tx off takes NETIF_F_HW_CSUM from eth0, so validate_xmit_skb(), "
                "skb_csum_hwoffload_help(), skb_checksum_help() complete every sum. "
                "netdev_fix_features() takes TSO away too, for want of checksums.",
                VALID,
                DONE,
                "sender guest",
            ),
            "Xen": Cell(
                "Over IPv4 nothing changes: xen-netfront offers NETIF_F_IP_CSUM without leave to "
                "switch it (it is not in hw_features), and ethtool reads on [requested off]. "
                "NETIF_F_IPV6_CSUM may be switched, so over IPv6 validate_xmit_skb() has "
                "skb_checksum_help() complete the sum.",
                "IPv4: partial, IPv6: valid",
                "IPv4: as before, IPv6: nothing",
                "sender guest",
            ),
        },
        "Xen's protocol does not ask for that: a request without csum_blank is as good. But every "
        "backend takes csum_blank over IPv4, so Linux's driver has no switch for it; over IPv6 "
        "the two ends must agree on it.",
    ),
    Stage(
        "guest: tc, action csum",
        {
            "virtio": Cell(
                "Not needed; it would do the same as in a Xen guest.",
                VALID,
                DONE,
                "sender guest",
            ),
            "Xen": Cell(
                "tcf_csum_act() at egress, before the driver: tcf_csum_ipv4_tcp() sums and sets "
                "CHECKSUM_NONE. It passes over GSO frames, so TSO and GSO must be off.",
                VALID,
                DONE,
                "sender guest",
            ),
        },
        "The way to complete sums in a guest whose driver does not let go of its offload.",
    ),
    Stage(
        "device: what the sender's side offers",
        {
            "virtio": Cell(
                "<host csum='off'/>: without VIRTIO_NET_F_CSUM, virtnet_probe() offers no "
                "NETIF_F_HW_CSUM, and the guest completes its sums, whatever ethtool is told.",
                VALID,
                DONE,
                "sender guest",
            ),
            "Xen": Cell(
                "There is no such switch for IPv4. For IPv6 a backend that does not write "
                "feature-ipv6-csum-offload makes xennet_fix_features() drop NETIF_F_IPV6_CSUM.",
                "IPv4: partial, IPv6: valid",
                "IPv4: as before, IPv6: nothing",
                "sender guest",
            ),
        },
    ),
    Stage(
        "the host's end of the receiver: tx off",
        {
            "virtio": Cell(
                "ethtool -K on the TAP takes NETIF_F_HW_CSUM from it: validate_xmit_skb() has "
                "skb_checksum_help() finish what goes into the guest. Sending out of a TAP is "
                "receiving in its guest: what the guest sends is not touched.",
                VALID,
                DONE,
                "receiver host",
            ),
            "Xen": Cell(
                "ethtool -K on the vif takes NETIF_F_IP_CSUM and NETIF_F_IPV6_CSUM from it: the "
                "same, and the same direction. xenvif_rx_data_slot() then sets no flag.",
                VALID,
                DONE,
                "receiver host",
            ),
        },
        "It finishes only what comes with its metadata. Behind a copying router it is too late.",
    ),
    Stage(
        "device: what the receiver accepts",
        {
            "virtio": Cell(
                "<guest csum='off'/>: without VIRTIO_NET_F_GUEST_CSUM, QEMU calls TUNSETOFFLOAD "
                "without TUN_F_CSUM (set_offload()), and the TAP is as with tx off.",
                VALID,
                DONE,
                "receiver host",
            ),
            "Xen": Cell(
                "A frontend that writes feature-no-csum-offload makes xenvif_fix_features() drop "
                "NETIF_F_IP_CSUM from its vif. Linux's does not.",
                VALID,
                DONE,
                "receiver host",
            ),
        },
    ),
    Stage(
        "super-frames: TSO and GSO",
        {
            "virtio": Cell(
                "A GSO frame goes as one, with gso_size in the virtio header and the sum open. "
                "Switched off, TCP sends frames of the MTU's size, each with its sum open.",
                PARTIAL,
                KNOWN,
            ),
            "Xen": Cell(
                "A GSO frame goes with an extra request (XEN_NETIF_EXTRA_TYPE_GSO). It must be "
                "marked csum_blank; where a peer forgot, checksum_setup() of either driver makes "
                "it CHECKSUM_PARTIAL, computes the pseudo-header's sum again and counts "
                "rx_gso_checksum_fixup (ethtool -S).",
                PARTIAL,
                KNOWN,
            ),
        },
        "Segmentation does not decide whether a sum is open; a SYN is never a super-frame.",
    ),
    Stage(
        "the uplink",
        {
            "virtio": Cell(
                "A virtio NIC carries the metadata out as it carries it out of any guest.",
                PARTIAL,
                KNOWN,
            ),
            "Xen": Cell(
                "virtio: start_xmit() of dom0's driver writes VIRTIO_NET_HDR_F_NEEDS_CSUM, and "
                "the TAP outside has CHECKSUM_PARTIAL. e1000: e1000_xmit_frame(), e1000_tx_csum() "
                "ask the NIC to do it, and QEMU's NIC does: xmit_seg(), putsum(). So in dom0 the "
                "packet is partial still, and valid on the TAP.",
                "virtio: partial, e1000: valid",
                "virtio: as before, e1000: nothing",
                "uplink outer",
            ),
        },
        "A NIC that completes sums, as a real one does, ends the story here, well or ill: after it "
        "a copying router does no harm.",
    ),
    FROM_HOST,
    RECEIVER,
)


def _two_ways(
    name: str,
    change: str,
    bridge: tuple[tuple[Role, str], ...],
    copied: tuple[tuple[Role, str], ...],
    ssh: str,
    why: str,
) -> tuple[Arm, Arm]:
    over = "accepted, finished or not, for nothing on a bridge loses the metadata"
    return (
        Arm(f"{name}/bridge", change, bridge, "works", over, way=0),
        Arm(f"{name}/{Raw.name}", change, copied, ssh, why, way=1),
    )


OFFLOAD = Explanation(
    name="offload",
    title="Offload settings over a bridge and through a copying router: which ones help.",
    topology="offload.yaml",
    hypothesis="A copying router works only where the sender itself completes checksums, at both "
    "ends.",
    mechanism=_MECHANISM,
    ways=(
        Way(interface="eth0"),
        Way(interface="eth1"),
        Way("xen-offload.yaml", interface="eth0"),
        Way("xen-offload.yaml", destination="vm3", interface="eth1"),
    ),
    stages=_STAGES,
    arms=(
        *_two_ways(
            "defaults", "offloads as they come", WHOLE, LOST, "hangs", "the copy loses the metadata"
        ),
        *_two_ways(
            "guest tx off", "ethtool -K tx off in both guests", FINISHED, FINISHED, "works",
            "both finish before the copy",
        ),
        *_two_ways(
            "one guest tx off", "ethtool -K tx off in vm1 only", FINISHED, FINISHED, "hangs",
            "vm1's SYN arrives, vm2's answer is lost: TcpInCsumErrors grows in vm1",
        ),
        *_two_ways(
            "tso gso off", "no segmentation offload, checksum offload on", WHOLE, LOST, "hangs",
            "a SYN is no super-frame",
        ),
        *_two_ways(
            "tap tx off", "ethtool -K tx off on the host's TAPs", AT_RECEIVER, LOST, "hangs",
            "the TAP comes behind the copy, where there is no metadata to act on",
        ),
        *_two_ways(
            "device csum off", "<host csum='off'/> for both guests", FINISHED, FINISHED, "works",
            "the guests cannot leave it open; needs a restart",
        ),
        *_two_ways(
            "device guest_csum off", "<guest csum='off'/> for both guests", AT_RECEIVER, LOST,
            "hangs", "as tap tx off: it acts at the receiver's TAP",
        ),
    ),
    evidence=(
        "Every setting is read back before it is believed: features by ethtool, device bits from "
        "/sys/class/net/*/device/features (bit 0 CSUM, bit 1 GUEST_CSUM). In the guest ethtool "
        "still says rx-checksumming: on [fixed] with guest_csum off.",
        "Where SSH hangs, TcpInCsumErrors grows in vm2, or in vm1 where only vm2's answer is lost.",
    ),
    workarounds=(
        Workaround(
            "tx off in both guests",
            "a pass over every packet in each guest; TSO is off with it, so bulk costs more",
        ),
        Workaround(
            "csum='off' on both virtio devices",
            "the same, and a restart; holds whatever runs inside",
        ),
    ),
    useless=(
        Workaround("one end alone", "the answer must come back, too"),
        Workaround("the receiver's side (TAP tx off, guest_csum off)", "it is behind the loss"),
        Workaround("TSO and GSO off", "it decides the size of frames, not who sums them"),
    ),
    other="xen-offload",
)  # fmt: skip

XEN_OFFLOAD = Explanation(
    name="xen-offload",
    title="Offload settings of netfront, netback and the uplink: which ones do anything.",
    topology="xen-offload.yaml",
    hypothesis="Between netfront and netback other switches work than between virtio and TAP: in "
    "the guest tx off has no effect on IPv4, on the vif it has.",
    mechanism=_MECHANISM,
    ways=(
        Way("bridged.yaml"),
        Way(interface="eth0"),
        Way(destination="vm3", interface="eth0"),
        Way(destination="vm3", interface="eth1"),
    ),
    stages=_STAGES,
    arms=(
        Arm("defaults", "offloads as they come", WHOLE, "works", "as in xen-bridged"),
        Arm(
            "guest tx off/ipv4",
            "ethtool -K eth0 tx off in the guests",
            WHOLE,
            "works",
            "no effect: the feature reads on [requested off]",
        ),
        Arm(
            "guest tx off/ipv6",
            "the same",
            FINISHED,
            "works",
            "NETIF_F_IPV6_CSUM is in hw_features, so it does go off",
        ),
        Arm(
            "vif tx off",
            "ethtool -K tx off on the receiver's vif in dom0",
            AT_RECEIVER,
            "works",
            "dom0 completes the sum when it hands the packet to the vif",
        ),
        Arm(
            "guest tc csum",
            "TSO and GSO off, tc filter … egress … action csum ip4h tcp udp",
            FINISHED,
            "works",
            "tcf_csum_act() comes before the driver, and before anything is captured",
        ),
        Arm(
            "uplink virtio",
            "to vm3 over lan: the Xen host's NIC is virtio",
            WHOLE,
            "works",
            "partial on the outer TAP: the metadata crosses the border of the Xen host",
            way=2,
        ),
        Arm(
            "uplink e1000",
            "to vm3 over wire: the Xen host's NIC is an e1000",
            (("sender guest", "partial, needs_csum"), ("uplink outer", "valid")),
            "works",
            "QEMU's e1000 finishes what dom0's driver asks it to",
            way=3,
        ),
        Arm(
            "gso on",
            "a transfer with TSO and GSO as they come",
            WHOLE,
            "",
            "Super-frames cross both rings whole, marked by XEN_NETTXF_extra_info and a GSO size",
        ),
        Arm(
            "gso off",
            "control: the same transfer, TSO and GSO off in vm1",
            WHOLE,
            "",
            "Each piece is a packet of its own; only vm2's GRO makes larger ones",
        ),
        Arm(
            "gso unmarked",
            "a super-frame without the metadata, put on vm2's vif by a packet socket in dom0",
            WHOLE,
            "",
            "There validate_xmit_skb() has tcp4_gso_segment() mark it before the driver sees it",
        ),
    ),
    evidence=(
        "Every setting is read back: on [requested off] is on.",
        "rx_gso_checksum_fixup stays 0 at netfront (ethtool -S eth0) and netback (ethtool -S on "
        "the vif) while both ends are Linux's: they mark every GSO frame csum_blank.",
    ),
    workarounds=(
        Workaround(
            "in the guest: tc with action csum, TSO and GSO off",
            "sch_ingress, cls_matchall, act_csum; a pass over every packet, no super-frames",
        ),
        Workaround(
            "in dom0: tx off on the device that feeds whatever loses the metadata",
            "dom0's CPU sums for all guests behind it, and cuts super-frames",
        ),
    ),
    useless=(
        Workaround("ethtool -K eth0 tx off in a netfront guest", "works for IPv6, not for IPv4"),
        Workaround("TSO and GSO off alone", "sums are left open as before"),
    ),
    other="offload",
    limits=(
        "The field tells of one direction. What holds for packets to a guest holds for its own "
        "only if the other end is set alike.",
    ),
)

ALL = (OFFLOAD, XEN_OFFLOAD)
