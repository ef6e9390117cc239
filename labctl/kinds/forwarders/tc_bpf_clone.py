"""A program of bpf(2) at tc's ingress hook sends clones of packets to the next interface."""

from __future__ import annotations

from labctl.kinds.base import Effect, KernelPart, RunningRouter
from labctl.kinds.forwarders.namespace import Namespace


class TcBpfClone(Namespace):
    """`labctl.routers.redirect` sends clones at the hook `tc`; the kernel does what it leaves."""

    name = "tc-bpf-clone"
    summary = "a BPF program at tc's hook sends clones (bpf_clone_redirect)"
    effect = Effect.KEEPS
    mechanism = (
        "bpf_clone_redirect() has skb_clone() copy ip_summed, csum_start and csum_offset, and "
        "hands the clone to dev_queue_xmit()"
    )
    requires = (KernelPart("bpf", "tc", "tcx (Linux 6.6)"),)

    def start(self, router: RunningRouter) -> None:
        """Let the kernel forward, and the program run before it does."""
        super().start(router)
        router.start_program("labctl.routers.redirect", "--hook", "tc", "--clone")
