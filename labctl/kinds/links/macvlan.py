"""A macvlan that takes over one end of a veth pair, as a port on somebody else's interface."""

from __future__ import annotations

from labctl.kinds.base import Effect, KernelPart, LinkKind, LinkPlan, NewLink, NoOptions


class Macvlan(LinkKind[NoOptions]):
    """A veth pair, and a macvlan in the mode passthru on its far end."""

    name = "macvlan"
    summary = "a veth pair with a macvlan (passthru) on its far end"
    effect = Effect.KEEPS
    mechanism = "macvlan_handle_frame() gives the skb another dev, macvlan_queue_xmit() likewise"
    options = NoOptions
    joins = True
    requires = (KernelPart("link", "macvlan", "macvlan"),)

    def plan(self, base: str, options: NoOptions) -> LinkPlan:  # noqa: ARG002
        """Return the pair and the macvlan."""
        one, under, other = (f"{base}-{end}" for end in ("a", "p", "m"))
        links = (
            NewLink(one, "veth", peer=under),
            NewLink(other, "macvlan", lower=under, settings={"macvlan_mode": "passthru"}),
        )
        return LinkPlan(links, ends=(one, other), points=(one, under))
