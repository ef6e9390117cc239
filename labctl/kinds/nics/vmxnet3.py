"""VMware's paravirtual NIC, as QEMU emulates it."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.nics.base import NicModel


class Vmxnet3(NicModel):
    """The driver's order becomes a virtio header (QEMU: net_tx_pkt_build_vheader).

    What comes unfinished the device completes (net_rx_pkt_fix_l4_csum), and calls it verified.
    """

    name = "vmxnet3"
    summary = "emulated: the driver's order goes on in the TAP's virtio header"
    effect = Effect.KEEPS
    mechanism = (
        "QEMU's net_tx_pkt_build_vheader() makes NEEDS_CSUM of the driver's order; "
        "net_rx_pkt_fix_l4_csum() finishes what comes in"
    )
    received = Effect.COMPLETES
    driver = "vmxnet3"
    carrier = "a virtio header that QEMU makes of the driver's order"
