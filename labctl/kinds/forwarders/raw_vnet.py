"""The program of the kind `raw`, with the virtio header: the only difference."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.forwarders.raw import TO_KERNEL, Raw


class RawVnet(Raw):
    """`labctl.routers.raw` forwards, and hands the virtio header on."""

    name = "raw-vnet"
    summary = "the same program keeps the virtio header"
    effect = Effect.KEEPS
    mechanism = (
        "packet_rcv_vnet() writes and packet_snd_vnet_parse() reads the virtio header "
        "(PACKET_VNET_HDR)"
    )
    remedies = (TO_KERNEL,)
    program_options = ("--vnet",)
