"""Veth pairs between two segments, as one plugs two bridges together."""

from __future__ import annotations

from dataclasses import dataclass, field

from labctl.kinds.base import Effect, LinkKind, LinkPlan, NewLink

MOST_PAIRS = 9


@dataclass(frozen=True)
class VethOptions:
    """What it is told."""

    length: int = field(
        default=1,
        metadata={"help": f"How many pairs there are in a row, 1 to {MOST_PAIRS}."},
    )

    def __post_init__(self) -> None:
        """Refuse a row of no length, or one whose links cannot be told apart."""
        if not 1 <= self.length <= MOST_PAIRS:
            raise ValueError(f"length {self.length} is not 1 to {MOST_PAIRS}")


class Veth(LinkKind[VethOptions]):
    """A veth pair, or several in a row; each end is a port of a bridge."""

    name = "veth"
    summary = "a veth pair that joins two segments, or a row of them"
    effect = Effect.KEEPS
    mechanism = "veth_xmit() hands the skb itself to the other end"
    options = VethOptions
    joins = True

    def plan(self, base: str, options: VethOptions) -> LinkPlan:
        """Return the pairs, and the bridges between them."""
        last = options.length - 1
        bridges = [NewLink(f"{base}-m{at}", "bridge") for at in range(last)]
        marks = [str(at) if last else "" for at in range(options.length)]
        pairs = [
            NewLink(
                f"{base}-a{mark}",
                "veth",
                peer=f"{base}-b{mark}",
                master=bridges[at - 1].name if at else "",
                peer_master=bridges[at].name if at < last else "",
            )
            for at, mark in enumerate(marks)
        ]
        points = tuple(name for pair in pairs for name in pair.names)
        return LinkPlan((*bridges, *pairs), ends=(points[0], points[-1]), points=points)
