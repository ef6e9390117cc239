"""What a packet socket tells beside each frame: packet(7), include/uapi/linux/if_packet.h.

`labctl/kinds/observers/observe.py` has copies of what it needs: it runs where nothing of labctl is.
"""

from __future__ import annotations

import struct

from labctl.packet.frame import ETH_P_8021Q

ETH_P_ALL = 3
"""The protocol (include/uapi/linux/if_ether.h) of a socket that gets every frame."""

SOL_PACKET = 263
PACKET_STATISTICS, PACKET_AUXDATA, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 6, 8, 15, 23
"""Socket options; the level is include/linux/socket.h's."""

PACKET_HOST, PACKET_OTHERHOST, PACKET_OUTGOING = 0, 3, 4
"""sll_pkttype of struct sockaddr_ll: to this host, to another, sent by it."""

TP_STATUS_CSUMNOTREADY = 1 << 3
TP_STATUS_CSUM_VALID = 1 << 7
"""tp_status of struct tpacket_auxdata; set by packet_recvmsg() from skb->ip_summed."""
UNTOLD = 1 << 28
"""No bit of the kernel's (include/uapi/linux/if_packet.h): the metadata of a frame was not told,
as where tcpdump(8) has written it down."""
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6
"""Whether a VLAN tag, and its type, are beside the frame and not in it."""

AUXDATA = struct.Struct("IIIHHHH")
"""struct tpacket_auxdata, in the machine's own byte order: tp_status, tp_len, tp_snaplen, tp_mac,
tp_net, tp_vlan_tci, tp_vlan_tpid."""
STATISTICS = struct.Struct("II")
"""struct tpacket_stats: tp_packets, tp_drops."""

_TAG = struct.Struct(">HH")
VLAN_AT = 12
"""Where in a frame its VLAN tag belongs: behind the two MAC addresses."""


def vlan_tag(status: int, tci: int, tpid: int) -> bytes:
    """Return the 4 bytes of the tag beside a frame whose tp_status has TP_STATUS_VLAN_VALID."""
    kind = tpid if status & TP_STATUS_VLAN_TPID_VALID else ETH_P_8021Q
    return _TAG.pack(kind, tci)
