"""Realtek's 8139C+, as QEMU emulates it."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.nics.base import NicModel


class Rtl8139(NicModel):
    """The driver of the newer chip orders the sum, and the device makes it (C+ mode)."""

    name = "rtl8139"
    summary = "emulated: the device finishes what its driver leaves to it"
    effect = Effect.COMPLETES
    mechanism = (
        "QEMU's rtl8139_cplus_transmit_one() finishes the sum that the driver orders; without "
        "TUN_F_CSUM the TAP's kernel finishes what comes in (validate_xmit_skb())"
    )
    takes_unfinished = False
    driver = "8139cp"
    carrier = ""
