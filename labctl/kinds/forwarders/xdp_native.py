"""An XDP program in the driver redirects frames, which have no metadata."""

from __future__ import annotations

from labctl.kinds.base import Effect, KernelPart, Remedy, RunningRouter
from labctl.kinds.forwarders.namespace import Namespace


class XdpNative(Namespace):
    """`labctl.routers.redirect` redirects; the kernel does what that leaves."""

    name = "xdp-native"
    summary = "an XDP program in the driver redirects (bpf_redirect)"
    effect = Effect.LOSES
    in_guests = False
    mechanism = (
        "veth_xdp_rcv_skb() makes an xdp_frame of the skb, which has no place for ip_summed; "
        "xdp_build_skb_from_frame() makes an skb of CHECKSUM_NONE of it"
    )
    sees_inside = False
    remedies = (
        Remedy("xdp-generic", "the skb is made before the program runs: slower"),
        Remedy("tc-bpf", "the skb is made before the program runs: slower"),
        Remedy(Namespace.name, "the program no longer forwards: the kernel does"),
    )
    requires = (KernelPart("bpf", "xdpdrv", "xdp"),)

    def start(self, router: RunningRouter) -> None:
        """Let the kernel forward, and the program run before it does."""
        super().start(router)
        router.set_outer_feature("rx-gro", True)  # else veth_xdp_xmit() finds no NAPI there
        router.start_program("labctl.routers.redirect", "--hook", "xdpdrv")

    def stop(self, router: RunningRouter) -> None:
        """Turn off what the driver needed at the other ends; it is off by default there."""
        router.set_outer_feature("rx-gro", False)
