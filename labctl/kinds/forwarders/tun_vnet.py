"""A program behind a TUN, which hands the virtio header on."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.forwarders.tun import Tun


class TunVnet(Tun):
    """`labctl.routers.tun` with IFF_VNET_HDR and TUN_F_CSUM."""

    name = "tun-vnet"
    summary = "packets pass a program behind a TUN, with their virtio headers"
    effect = Effect.KEEPS
    mechanism = (
        "tun_put_user() writes and tun_get_user() reads the virtio header (IFF_VNET_HDR); with "
        "TUN_F_CSUM the kernel leaves sums unfinished for it"
    )
    header = "kept"
