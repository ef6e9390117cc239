"""The user-space router, whose program makes a virtio header of the socket's status word."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.forwarders.raw import TO_KERNEL, Raw


class RawSynthesised(Raw):
    """`labctl.routers.rewriting` forwards, with `--how synthesise`."""

    name = "raw-synthesised"
    summary = "a program makes the virtio header of the socket's status word"
    effect = Effect.KEEPS
    mechanism = (
        "packet_recvmsg() tells CHECKSUM_PARTIAL as TP_STATUS_CSUMNOTREADY; "
        "virtio_net_hdr_to_skb() makes it of VIRTIO_NET_HDR_F_NEEDS_CSUM"
    )
    remedies = (TO_KERNEL,)
    program = "labctl.routers.rewriting"
    program_options = ("--how", "synthesise")
