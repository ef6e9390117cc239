"""The user-space router, whose program empties the virtio header."""

from __future__ import annotations

from labctl.kinds.base import Effect, Remedy
from labctl.kinds.forwarders.raw import TO_KERNEL, Raw


class RawZeroed(Raw):
    """`labctl.routers.rewriting` forwards, with `--how zero`."""

    name = "raw-zeroed"
    summary = "the same program empties the virtio header"
    effect = Effect.LOSES
    mechanism = (
        "virtio_net_hdr_to_skb() leaves CHECKSUM_NONE where VIRTIO_NET_HDR_F_NEEDS_CSUM is not set"
    )
    remedies = (Remedy("raw-vnet", "none: the program hands the virtio header on"), TO_KERNEL)
    program = "labctl.routers.rewriting"
    program_options = ("--how", "zero")
