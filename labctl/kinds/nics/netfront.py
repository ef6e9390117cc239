"""Xen's netfront, the only NIC of a PV guest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from labctl.kinds.base import Effect
from labctl.kinds.nics.base import CSUM_ACTION, TX_OFF, Completion, NicModel

_KEPT = "tx off does nothing for IPv4 here, netfront keeps tx-checksum-ipv4 on"


class Netfront(NicModel):
    """The metadata is a flag of the request on the ring to netback in dom0.

    The driver does not let go of IPv4: without `feature-no-csum-offload` no backend may be left
    without it (xennet_fix_features), and it is not among the features that can be changed. IPv6
    can be. So traffic control does it when a packet leaves, which works for both.
    """

    name = "xen"
    summary = "Xen's netfront: the metadata is a flag on the ring to dom0"
    effect = Effect.KEEPS
    driver = "xen_netfront"
    home = "xen"
    frontend = "netfront"
    transport = "Xen rings and grants, event channel"
    in_every_image = True
    carrier = "XEN_NETTXF_csum_blank on the ring"

    def completions(self, version: int | None = None) -> Sequence[Completion]:
        """Return the csum action, and for IPv6 `tx off` too."""
        if version == 6:
            return (CSUM_ACTION, TX_OFF)
        return (replace(CSUM_ACTION, cost=f"{CSUM_ACTION.cost}; {_KEPT}"),)
