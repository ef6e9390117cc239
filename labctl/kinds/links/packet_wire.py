"""A wire in user space: a program carries frames from one packet socket to another."""

from __future__ import annotations

from dataclasses import dataclass, field

from labctl.kinds.base import Effect, LinkKind, LinkPlan, LinkProgram, NewLink, Passing

PROGRAM = "labctl.routers.wire"


@dataclass(frozen=True)
class WireOptions:
    """What the wire is told."""

    vnet: bool = field(
        default=False, metadata={"help": "Carry the virtio header of each frame along."}
    )


class PacketWire(LinkKind[WireOptions]):
    """Two veth pairs, and a program that carries frames from one to the other."""

    name = "packet-wire"
    summary = "a program that carries frames between packet sockets"
    effect = Effect.LOSES
    mechanism = (
        "packet_rcv() tells of ip_summed only in a virtio header or in the status word, and "
        "packet_snd() makes an skb of CHECKSUM_NONE where it gets no virtio header (packet(7))"
    )
    options = WireOptions
    joins = True

    def effect_on(self, passing: Passing) -> Effect:
        """Return what becomes of a packet: with `vnet` its metadata is carried along."""
        return Effect.KEEPS if passing.options.get("vnet") else Effect.LOSES

    def plan(self, base: str, options: WireOptions) -> LinkPlan:
        """Return the pairs and the program between them."""
        one, before, after, other = (f"{base}-{end}" for end in ("a", "p", "q", "b"))
        links = (NewLink(one, "veth", peer=before), NewLink(after, "veth", peer=other))
        words = (*(("--vnet",) if options.vnet else ()), before, after)
        program = LinkProgram(f"{base}-wire", PROGRAM, words, ready="carrying", is_python=True)
        points = (one, before, after, other)
        return LinkPlan(links, ends=(one, other), points=points, programs=(program,))
