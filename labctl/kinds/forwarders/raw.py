"""A program copies frames from one packet socket to another, and the metadata stays behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from labctl.kinds.base import Effect, ForwarderKind, Remedy, RunningRouter
from labctl.kinds.forwarders.namespace import Namespace

PROGRAM = "labctl.routers.raw"
TO_KERNEL = Remedy(Namespace.name, "the program no longer forwards: the kernel does")


class Raw(ForwarderKind):
    """`labctl.routers.raw` forwards, without the virtio header."""

    name = "raw"
    summary = "a program forwards over packet sockets and loses the metadata"
    effect = Effect.LOSES
    mechanism = (
        "packet_snd() makes an skb of CHECKSUM_NONE where no virtio header comes with the bytes"
    )
    counters: ClassVar[Mapping[str, str]] = {
        "ttl_expired": "its TTL ended",
        "no_route": "there is no route",
        "unresolved": "nobody answers for the next hop's address",
        "queue_full": "nobody answers for the next hop's address",
        "too_long": "it is longer than the MTU",
        "send_errors": "it could not be sent",
        "malformed": "its IP header is broken",
        "not_forwardable": "its addresses may not be forwarded",
        "refused": "the router refuses it",
        "socket_drops": "the program could not keep up",
    }
    remedies: ClassVar[Sequence[Remedy]] = (
        Remedy("raw-vnet", "none: the program keeps the virtio header, one socket option more"),
        TO_KERNEL,
    )
    in_guests: ClassVar[bool] = True
    program: ClassVar[str] = PROGRAM
    program_options: ClassVar[tuple[str, ...]] = ()

    def start(self, router: RunningRouter) -> None:
        """Start the program."""
        router.start_program(self.program, *self.program_options)

    def count(self, router: RunningRouter) -> dict[str, int]:
        """Return the program's counters (`labctl.routers.raw.COUNTERS`)."""
        return router.program_counters()
