"""virtio-net: the device that was made for hypervisors."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.nics.base import NicModel


class Virtio(NicModel):
    """The metadata is in the header before each frame, and QEMU hands it to the TAP as it is."""

    name = "virtio"
    summary = "paravirtual: the metadata travels in the virtio header"
    effect = Effect.KEEPS
    mechanism = (
        "virtio_net_hdr_from_skb() makes NEEDS_CSUM of CHECKSUM_PARTIAL (virtio 1.2, "
        "5.1.6.2), tun_get_user() makes it an skb's again"
    )
    driver = "virtio_net"
    transport = "virtqueue, QEMU, /dev/net/tun"
    carrier = "VIRTIO_NET_HDR_F_NEEDS_CSUM in the virtio header"
    in_every_image = True
    instant_carrier = True
    device_features = True
