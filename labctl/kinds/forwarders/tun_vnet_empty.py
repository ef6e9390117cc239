"""A program behind a TUN, which takes virtio headers and writes empty ones."""

from __future__ import annotations

from labctl.kinds.base import Effect, Remedy
from labctl.kinds.forwarders.tun import TO_KERNEL, Tun


class TunVnetEmpty(Tun):
    """`labctl.routers.tun` with IFF_VNET_HDR and TUN_F_CSUM, and headers of zeros."""

    name = "tun-vnet-empty"
    summary = "the same program writes empty virtio headers"
    effect = Effect.LOSES
    mechanism = (
        "with TUN_F_CSUM the kernel leaves sums unfinished, and virtio_net_hdr_to_skb() makes "
        "CHECKSUM_NONE of a header without VIRTIO_NET_HDR_F_NEEDS_CSUM"
    )
    remedies = (
        Remedy("tun-vnet", "none: the program hands the virtio header on"),
        Remedy("tun", "the kernel sums every packet to the program and cuts super-frames"),
        TO_KERNEL,
    )
    header = "empty"
