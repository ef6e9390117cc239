"""A wire in user space over rings of packet sockets (TPACKET_V3)."""

from __future__ import annotations

from dataclasses import dataclass, field

from labctl.kinds.base import Effect, LinkKind, LinkPlan, LinkProgram, NewLink, Passing


@dataclass(frozen=True)
class RingOptions:
    """What the wire is told."""

    sums: bool = field(
        default=False,
        metadata={"help": "Compute checksums of which the ring says that they are not ready."},
    )


class RingWire(LinkKind[RingOptions]):
    """Two veth pairs, and a program that carries frames from one's ring to the other."""

    name = "ring-wire"
    summary = "a program that carries frames between packet rings (TPACKET_V3)"
    effect = Effect.LOSES
    mechanism = (
        "tpacket_rcv() tells CHECKSUM_PARTIAL as TP_STATUS_CSUMNOTREADY in the frame's header in "
        "the ring, beside the bytes that are carried (packet(7))"
    )
    options = RingOptions
    joins = True

    def effect_on(self, passing: Passing) -> Effect:
        """Return what becomes of a packet: with `sums` it is completed where it is not ready."""
        return Effect.COMPLETES if passing.options.get("sums") else Effect.LOSES

    def plan(self, base: str, options: RingOptions) -> LinkPlan:
        """Return the pairs and the program between them."""
        one, before, after, other = (f"{base}-{end}" for end in ("a", "p", "q", "b"))
        links = (NewLink(one, "veth", peer=before), NewLink(after, "veth", peer=other))
        words = (*(("--sums",) if options.sums else ()), before, after)
        program = LinkProgram(
            f"{base}-ring", "labctl.routers.ring", words, ready="carrying", is_python=True
        )
        points = (one, before, after, other)
        return LinkPlan(links, ends=(one, other), points=points, programs=(program,))
