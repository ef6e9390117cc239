"""Intel's 82540EM, as QEMU emulates it."""

from __future__ import annotations

from labctl.kinds.base import Effect
from labctl.kinds.nics.base import NicModel


class E1000(NicModel):
    """The driver orders the sum (e1000_tx_csum), and the device makes it, as a real one would."""

    name = "e1000"
    summary = "emulated: the device finishes what its driver leaves to it"
    effect = Effect.COMPLETES
    mechanism = (
        "QEMU's xmit_seg() finishes the sum that e1000_tx_csum() orders; without TUN_F_CSUM "
        "the TAP's kernel finishes what comes in (validate_xmit_skb())"
    )
    takes_unfinished = False
    driver = "e1000"
    carrier = ""
