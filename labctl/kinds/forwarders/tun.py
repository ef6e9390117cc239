"""A program behind a TUN, which passes packets without the virtio header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from labctl.kinds.base import Effect, Remedy, RunningRouter
from labctl.kinds.forwarders.namespace import Namespace

TO_KERNEL = Remedy(Namespace.name, "the program no longer forwards: the kernel does")


class Tun(Namespace):
    """`labctl.routers.tun` passes what the kernel routes to its TUN, which has no virtio header."""

    name = "tun"
    summary = "packets pass a program behind a TUN without virtio headers"
    effect = Effect.COMPLETES
    in_guests = False
    mechanism = (
        "without TUN_F_CSUM a TUN has no NETIF_F_HW_CSUM (set_offload(), drivers/net/tun.c), so "
        "validate_xmit_skb() has skb_checksum_help() finish the sum before the program reads it"
    )
    counters: ClassVar[Mapping[str, str]] = {
        **Namespace.counters,
        "send_errors": "the TUN does not take it back",
    }
    remedies: ClassVar[Sequence[Remedy]] = (TO_KERNEL,)
    header: ClassVar[str] = "none"

    def start(self, router: RunningRouter) -> None:
        """Start the program; the kernel forwards from and to its TUN."""
        router.start_program("labctl.routers.tun", "--header", self.header)
        super().start(router)

    def count(self, router: RunningRouter) -> dict[str, int]:
        """Return the counters of the program and of the namespace's kernel."""
        return {**router.kernel_counters(), **router.program_counters()}
