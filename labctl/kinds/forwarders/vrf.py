"""The kernel forwards inside a VRF, as a router does for one of several customers."""

from __future__ import annotations

from labctl.kinds.base import Effect, KernelPart, Remedy, RunningRouter
from labctl.kinds.forwarders.namespace import Namespace


class Vrf(Namespace):
    """The namespace's kernel forwards, by the routing table of a VRF device."""

    name = "vrf"
    summary = "the kernel forwards inside a VRF"
    effect = Effect.KEEPS
    in_guests = False
    mechanism = (
        "l3mdev_l3_rcv() gives the skb the VRF's device before it is routed, and vrf_output() "
        "hands it to the port: ip_summed is not touched"
    )
    requires = (KernelPart("link", "vrf", "vrf"),)
    remedies = (Remedy(Namespace.name, "all networks share one routing table"),)

    def start(self, router: RunningRouter) -> None:
        """Make the VRF, then let the kernel forward."""
        router.start_program("labctl.routers.vrf")
        super().start(router)
