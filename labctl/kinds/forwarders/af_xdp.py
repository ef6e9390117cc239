"""A program forwards over sockets of AF_XDP in copy mode, which have no place for metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from labctl.kinds.base import Effect, KernelPart, Remedy, RunningRouter
from labctl.kinds.forwarders.namespace import Namespace


class AfXdp(Namespace):
    """`labctl.routers.xsk` forwards; the kernel does what its XDP program leaves."""

    name = "af-xdp"
    summary = "a program forwards over AF_XDP sockets in copy mode"
    effect = Effect.LOSES
    mechanism = (
        "xsk_generic_rcv() copies the frame's bytes into the socket's memory, and xsk_build_skb() "
        "makes an skb of CHECKSUM_NONE of what is sent"
    )
    sees_inside = False
    counters: ClassVar[Mapping[str, str]] = {
        **Namespace.counters,
        "send_errors": "it could not be sent",
    }
    remedies: ClassVar[Sequence[Remedy]] = (
        Remedy("xdp-generic", "the program no longer sees the packets: XDP redirects them"),
        Remedy(Namespace.name, "the program no longer forwards: the kernel does"),
    )
    requires = (
        KernelPart("bpf", "xdpgeneric", "xdp"),
        KernelPart("socket", "AF_XDP", "xsk (CONFIG_XDP_SOCKETS)"),
    )

    def start(self, router: RunningRouter) -> None:
        """Let the kernel forward, and the program run before it does."""
        super().start(router)
        router.start_program("labctl.routers.xsk")

    def count(self, router: RunningRouter) -> dict[str, int]:
        """Return the counters of the program and of the namespace's kernel."""
        return {**router.kernel_counters(), **router.program_counters()}
