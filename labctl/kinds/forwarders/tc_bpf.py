"""A program of bpf(2) at tc's ingress hook redirects packets to the next interface."""

from __future__ import annotations

from labctl.kinds.base import Effect, KernelPart, RunningRouter
from labctl.kinds.forwarders.namespace import Namespace


class TcBpf(Namespace):
    """`labctl.routers.redirect` redirects at the hook `tc`; the kernel does what it leaves."""

    name = "tc-bpf"
    summary = "a BPF program at tc's hook redirects (bpf_redirect)"
    effect = Effect.KEEPS
    in_guests = False
    mechanism = "skb_do_redirect() hands the skb itself to dev_queue_xmit() of the other device"
    requires = (KernelPart("bpf", "tc", "tcx (Linux 6.6)"),)

    def start(self, router: RunningRouter) -> None:
        """Let the kernel forward, and the program run before it does."""
        super().start(router)
        router.start_program("labctl.routers.redirect", "--hook", "tc")
