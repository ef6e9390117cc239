"""A Linux bridge, as every network was before there were others."""

from __future__ import annotations

from labctl.kinds.base import Effect, LinkKind, LinkPlan, NewLink, NoOptions


class Bridge(LinkKind[NoOptions]):
    """One bridge; a packet that crosses it is seen at its ports."""

    name = "bridge"
    summary = "a Linux bridge"
    effect = Effect.KEEPS
    mechanism = "br_dev_queue_push_xmit() hands the skb on as it is"
    options = NoOptions

    def plan(self, base: str, options: NoOptions) -> LinkPlan:  # noqa: ARG002
        """Return one bridge, called as the segment is."""
        return LinkPlan((NewLink(base, "bridge"),), bridge=base)
