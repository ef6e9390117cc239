"""The kernel functions that explanations name: in which file they are, and which are inlined.

Checked against the symbols and call graph of Debian's 6.1.0-50-amd64 (Linux 6.1.176). Where the
compiler inlined a function, a probe must be put on the caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_FILES: dict[str, str] = {
    "drivers/net/ethernet/intel/e1000/e1000_main.c": "e1000_xmit_frame *e1000_tx_csum",
    "drivers/net/tun.c": "tun_chr_write_iter tun_get_user tun_net_xmit tun_do_read *tun_put_user "
    "*set_offload",
    "drivers/net/veth.c": "veth_xmit",
    "drivers/net/virtio_net.c": "start_xmit *xmit_skb virtnet_poll receive_buf virtnet_probe",
    "drivers/net/xen-netback/interface.c": "xenvif_tx_interrupt xenvif_poll xenvif_start_xmit "
    "xenvif_fix_features",
    "drivers/net/xen-netback/netback.c": "xenvif_tx_action xenvif_tx_build_gops *xenvif_tx_submit "
    "xenvif_fill_frags *checksum_setup",
    "drivers/net/xen-netback/rx.c": "xenvif_rx_queue_tail xenvif_kthread_guest_rx "
    "*xenvif_rx_action xenvif_rx_skb *xenvif_rx_data_slot xenvif_rx_copy_flush",
    "drivers/net/xen-netfront.c": "xennet_start_xmit *xennet_make_first_txreq xennet_rx_interrupt "
    "xennet_poll *handle_incoming_queue *checksum_setup xennet_fix_features",
    "drivers/xen/grant-table.c": "gnttab_batch_copy",
    "include/linux/skbuff.h": "*skb_forward_csum *skb_csum_unnecessary *skb_checksum_init",
    "include/linux/virtio_net.h": "*virtio_net_hdr_from_skb *virtio_net_hdr_to_skb",
    "net/bridge/br_forward.c": "br_forward __br_forward br_dev_queue_push_xmit",
    "net/bridge/br_input.c": "br_handle_frame",
    "net/core/dev.c": "__dev_queue_xmit validate_xmit_skb skb_csum_hwoffload_help "
    "skb_checksum_help dev_queue_xmit_nit netif_receive_skb *netdev_fix_features",
    "net/core/gro.c": "napi_gro_receive",
    "net/core/skbuff.c": "skb_partial_csum_set skb_checksum_setup __skb_checksum_complete",
    "net/ipv4/icmp.c": "icmp_push_reply",
    "net/ipv4/ip_forward.c": "ip_forward",
    "net/ipv4/tcp_input.c": "tcp_rcv_established",
    "net/ipv4/tcp_ipv4.c": "tcp_v4_send_check tcp_v4_rcv",
    "net/ipv4/tcp_offload.c": "tcp4_gso_segment",
    "net/ipv4/udp.c": "udp_send_skb udp4_hwcsum __udp4_lib_rcv udp_recvmsg",
    "net/ipv6/icmp.c": "icmpv6_push_pending_frames",
    "net/ipv6/ip6_output.c": "ip6_forward",
    "net/ipv6/tcp_ipv6.c": "tcp_v6_send_check tcp_v6_rcv",
    "net/ipv6/udp.c": "udp_v6_send_skb __udp6_lib_rcv udpv6_recvmsg",
    "net/packet/af_packet.c": "packet_recvmsg *packet_rcv_vnet packet_sendmsg *packet_snd",
    "net/sched/act_csum.c": "tcf_csum_act *tcf_csum_ipv4_tcp",
    # QEMU 7.2, not the kernel:
    "QEMU hw/net/e1000.c": "xmit_seg putsum",
    "QEMU hw/net/virtio-net.c": "virtio_net_flush_tx virtio_net_receive",
    "QEMU net/tap.c": "tap_receive_iov tap_send",
}
"""Names by file; a star marks what is inlined in Debian's build, or is a macro."""

_CALL = re.compile(r"\b([A-Za-z_][A-Za-z0-9_]*)\(\)")


@dataclass(frozen=True)
class Function:
    """A function: its file, and whether a probe can be put on it."""

    name: str
    file: str
    inlined: bool


def _functions() -> dict[str, tuple[Function, ...]]:
    found: dict[str, tuple[Function, ...]] = {}
    for file, words in _FILES.items():
        for word in words.split():
            name = word.removeprefix("*")
            one = Function(name, file, word.startswith("*"))
            found[name] = (*found.get(name, ()), one)
    return found


FUNCTIONS = _functions()
"""Every function by name; a name may be used in several files."""


def named(text: str) -> list[str]:
    """Return the names that are written as calls in a text, each once, in their order."""
    return list(dict.fromkeys(_CALL.findall(text)))


def index(texts: Iterable[str]) -> list[Function]:
    """Return the functions named in some texts, by file and name."""
    names = {name for text in texts for name in named(text)}
    found = [one for name in names for one in FUNCTIONS.get(name, ())]
    return sorted(found, key=lambda one: (one.file.startswith("QEMU"), one.file, one.name))
