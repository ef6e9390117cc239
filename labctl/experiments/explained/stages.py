"""The stages that the stories share: from a guest's TCP to the other's, virtio and Xen."""

from __future__ import annotations

from labctl.experiments.explained.model import Cell, Stage

PARTIAL = "partial"
KNOWN = "ip_summed = CHECKSUM_PARTIAL"

LEFT_OPEN = (
    "TCP puts the sum of the pseudo-header into the field and where the field is into csum_start "
    "and csum_offset: tcp_v4_send_check(), tcp_v6_send_check(). UDP does so where the device can "
    "complete sums: udp_send_skb() with udp4_hwcsum(), udp_v6_send_skb(). "
)
NETFRONT_OFFERS = (
    "validate_xmit_skb() finds NETIF_F_IP_CSUM and NETIF_F_IPV6_CSUM on eth0, which xen-netfront "
    "offers for TCP and UDP, and leaves the rest to the device."
)

SENDER = Stage(
    "the sender's kernel",
    {
        "virtio": Cell(
            f"{LEFT_OPEN}In __dev_queue_xmit(), validate_xmit_skb() finds NETIF_F_HW_CSUM on eth0 "
            "and leaves the rest to the device.",
            PARTIAL,
            KNOWN,
            "sender guest",
        ),
        "Xen": Cell(
            f"The same calls: TCP and UDP do not know which driver is below. {NETFRONT_OFFERS}",
            PARTIAL,
            KNOWN,
            "sender guest",
        ),
    },
    "Adding up the payload costs a pass over it, and a NIC does that for nothing while it sends. "
    "It knows no pseudo-header, so that sum is left in the field for it to start from. What is "
    "captured here comes from dev_queue_xmit_nit(), after validate_xmit_skb().",
)

SENDER_DRIVER = Stage(
    "the sender's driver",
    {
        "virtio": Cell(
            "start_xmit(), xmit_skb(): virtio_net_hdr_from_skb() writes a header in front of the "
            "frame, with the flag and with where the sum starts and belongs.",
            PARTIAL,
            "VIRTIO_NET_HDR_F_NEEDS_CSUM",
        ),
        "Xen": Cell(
            "xennet_start_xmit() marks the first request of the packet in the transmit ring. The "
            "ring has no room for where the field is.",
            PARTIAL,
            "XEN_NETTXF_csum_blank, XEN_NETTXF_data_validated",
        ),
    },
    "Here the metadata leaves the kernel that wrote it. Both protocols have a word for it.",
)

TO_HOST = Stage(
    "the ring, outward",
    {
        "virtio": Cell(
            "QEMU takes header and frame from the guest's memory (virtio_net_flush_tx()) and "
            "writes both to the TAP (tap_receive_iov()): tun_chr_write_iter(), tun_get_user(). "
            "Under KVM vhost-net may do so in the kernel.",
            PARTIAL,
            "the virtio header, as it is",
        ),
        "Xen": Cell(
            "xennet_make_first_txreq() grants dom0 the page; an event channel wakes "
            "xenvif_tx_interrupt(), then xenvif_poll() and xenvif_tx_action(). "
            "xenvif_tx_build_gops() copies the request, gnttab_batch_copy() has Xen copy the "
            "headers.",
            PARTIAL,
            "the request's flags, as they are",
        ),
    },
)

HOST_IN = Stage(
    "the host's end of the sender",
    {
        "virtio": Cell(
            "tun_get_user(): virtio_net_hdr_to_skb() sees the flag, and skb_partial_csum_set() "
            "makes the packet what it was in the guest. netif_receive_skb() hands it to the "
            "bridge.",
            PARTIAL,
            KNOWN,
            "sender host",
        ),
        "Xen": Cell(
            "xenvif_tx_submit() turns csum_blank into CHECKSUM_PARTIAL. Where the field is, "
            "netback finds out itself: checksum_setup(), skb_checksum_setup() reads the headers "
            "and calls skb_partial_csum_set(). It knows TCP and UDP only; anything else marked "
            "so is dropped. netif_receive_skb().",
            PARTIAL,
            KNOWN,
            "sender host",
        ),
    },
    "From here on the packet is one that this kernel might have made itself. A packet socket is "
    "told so: packet_recvmsg() gives TP_STATUS_CSUMNOTREADY in PACKET_AUXDATA.",
)

BRIDGED = (
    "br_handle_frame(), br_forward(), br_dev_queue_push_xmit(), __dev_queue_xmit(). On the way "
    "__br_forward() calls skb_forward_csum(), which forgets a CHECKSUM_COMPLETE and leaves "
    "CHECKSUM_PARTIAL alone."
)

BRIDGE = Stage(
    "the bridge",
    {
        "virtio": Cell(BRIDGED, PARTIAL, KNOWN),
        "Xen": Cell("The same bridge, in dom0's kernel: the same calls.", PARTIAL, KNOWN),
    },
    "A bridge hands on the packet's skb itself, so what is known about it comes along.",
)

HOST_OUT = Stage(
    "the host's end of the receiver",
    {
        "virtio": Cell(
            "validate_xmit_skb() finds NETIF_F_HW_CSUM on the TAP: QEMU has switched it on by "
            "TUNSETOFFLOAD with TUN_F_CSUM (set_offload()), because the guest's driver accepted "
            "VIRTIO_NET_F_GUEST_CSUM. tun_net_xmit() queues the packet.",
            PARTIAL,
            KNOWN,
            "receiver host",
        ),
        "Xen": Cell(
            "validate_xmit_skb() finds NETIF_F_IP_CSUM and NETIF_F_IPV6_CSUM on the vif: the "
            "guest's netfront did not write feature-no-csum-offload, and wrote "
            "feature-ipv6-csum-offload (xenvif_fix_features()). xenvif_start_xmit() queues the "
            "packet: xenvif_rx_queue_tail().",
            PARTIAL,
            KNOWN,
            "receiver host",
        ),
    },
    "The last place that could complete the sum, and the receiver has said that it need not.",
)

FROM_HOST = Stage(
    "the ring, inward",
    {
        "virtio": Cell(
            "QEMU reads from the TAP (tap_send()): tun_do_read(), tun_put_user(), and "
            "virtio_net_hdr_from_skb() writes the flag. virtio_net_receive() puts both into the "
            "guest's buffers.",
            PARTIAL,
            "VIRTIO_NET_HDR_F_NEEDS_CSUM",
        ),
        "Xen": Cell(
            "xenvif_kthread_guest_rx(), xenvif_rx_action(), xenvif_rx_skb(): "
            "xenvif_rx_data_slot() sets the flags in the response, xenvif_rx_copy_flush() with "
            "gnttab_batch_copy() has Xen copy the bytes into pages that the guest has granted.",
            PARTIAL,
            "XEN_NETRXF_csum_blank, XEN_NETRXF_data_validated",
        ),
    },
)

RECEIVER_DRIVER = Stage(
    "the receiver's driver",
    {
        "virtio": Cell(
            "virtnet_poll(), receive_buf(): virtio_net_hdr_to_skb(), skb_partial_csum_set(), then "
            "napi_gro_receive().",
            PARTIAL,
            KNOWN,
        ),
        "Xen": Cell(
            "xennet_rx_interrupt(), xennet_poll(): csum_blank becomes CHECKSUM_PARTIAL. "
            "handle_incoming_queue(): netfront's own checksum_setup() with skb_checksum_setup(), "
            "then napi_gro_receive().",
            PARTIAL,
            KNOWN,
        ),
    },
)

ACCEPTED = (
    "tcp_v4_rcv(), tcp_v6_rcv(): skb_checksum_init() asks skb_csum_unnecessary(), which holds for "
    "CHECKSUM_PARTIAL. UDP asks the same in __udp4_lib_rcv(), __udp6_lib_rcv(). Nobody adds "
    "anything up."
)

RECEIVER = Stage(
    "the receiver's kernel",
    {
        "virtio": Cell(ACCEPTED, PARTIAL, KNOWN, "receiver guest"),
        "Xen": Cell("The same calls.", PARTIAL, KNOWN, "receiver guest"),
    },
    "A packet that is still to be finished never left the machine, so it was never on a wire that "
    "could have damaged it.",
)

NONE = "nothing (ip_summed = CHECKSUM_NONE)"

DROPPED = (
    "Without metadata the packet must prove itself. tcp_v4_rcv(), tcp_v6_rcv() sum up to 76 bytes, "
    "so a SYN, at once by __skb_checksum_complete(), tcp_rcv_established() longer segments; "
    "__udp4_lib_rcv(), __udp6_lib_rcv() short datagrams, udp_recvmsg(), udpv6_recvmsg() longer "
    "ones when they are read. The sum is wrong: the packet is dropped."
)

DROPPING = Stage(
    "the receiver's kernel, after the copy",
    {
        "virtio": Cell(
            DROPPED,
            PARTIAL,
            "none; TcpInCsumErrors grows, kfree_skb gives the reason TCP_CSUM",
            "receiver guest",
        ),
        "Xen": Cell(
            "The same calls, the same counters, the same reason.",
            PARTIAL,
            "none; TcpInCsumErrors grows, kfree_skb gives the reason TCP_CSUM",
            "receiver guest",
        ),
    },
    "The bytes are those of a packet that would have been accepted with its metadata. No answer is "
    "sent, so the sender repeats the packet until it gives up: SSH hangs.",
)

ONE_BRIDGE = (
    SENDER,
    SENDER_DRIVER,
    TO_HOST,
    HOST_IN,
    BRIDGE,
    HOST_OUT,
    FROM_HOST,
    RECEIVER_DRIVER,
    RECEIVER,
)
"""From guest to guest over one bridge, nothing lost."""
