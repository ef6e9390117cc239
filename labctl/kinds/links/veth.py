"""A veth pair between two segments, as one plugs two bridges together."""

from __future__ import annotations

from labctl.kinds.base import Effect, LinkKind, LinkPlan, NewLink, NoOptions


class Veth(LinkKind[NoOptions]):
    """One veth pair; each end is a port of the segment beside it."""

    name = "veth"
    summary = "a veth pair that joins two segments"
    effect = Effect.KEEPS
    options = NoOptions
    joins = True

    def plan(self, base: str, options: NoOptions) -> LinkPlan:  # noqa: ARG002
        """Return the pair."""
        one, other = f"{base}-a", f"{base}-b"
        return LinkPlan((NewLink(one, "veth", peer=other),), ends=(one, other), points=(one, other))
