"""VMware's paravirtual NIC, as QEMU emulates it."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.nics.base import NicModel


class Vmxnet3(NicModel):
    """The driver's order becomes a virtio header (QEMU: net_tx_pkt_build_vheader)."""

    name = "vmxnet3"
    summary = "emulated: the driver's order goes on in the TAP's virtio header"
    effect = Effect.KEEPS
    driver = "vmxnet3"
    carrier = "a virtio header that QEMU makes of the driver's order"
