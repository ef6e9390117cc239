"""An XDP program in generic mode redirects packets, which are sk_buffs by then."""

from __future__ import annotations

from labctl.kinds.base import Effect, KernelPart, Passing, RunningRouter
from labctl.kinds.forwarders.namespace import Namespace


class XdpGeneric(Namespace):
    """`labctl.routers.redirect` redirects; the kernel does what that leaves."""

    name = "xdp-generic"
    summary = "an XDP program in generic mode redirects (bpf_redirect)"
    effect = Effect.KEEPS
    in_guests = False
    mechanism = (
        "xdp_do_generic_redirect() and generic_xdp_tx() send the skb itself, with its ip_summed, "
        "past validate_xmit_skb(); what is longer than the MTU is dropped (xdp_ok_fwd_dev())"
    )
    sees_inside = False
    requires = (KernelPart("bpf", "xdpgeneric", "xdp"),)

    def start(self, router: RunningRouter) -> None:
        """Let the kernel forward, and the program run before it does."""
        super().start(router)
        router.start_program("labctl.routers.redirect", "--hook", "xdpgeneric")

    def effect_on(self, passing: Passing) -> Effect:
        """Return what becomes of a packet; a super-frame is dropped, as by what loses metadata."""
        return Effect.LOSES if passing.gso else Effect.KEEPS
