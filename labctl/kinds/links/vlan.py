"""An IEEE 802.1Q trunk between two network namespaces: a segment that is carried with a tag."""

from __future__ import annotations

from labctl.kinds.base import Effect, KernelPart, LinkKind, LinkPlan, NewLink, NoOptions
from labctl.kinds.links import overlay
from labctl.kinds.links.overlay import End

VID = 42
HEADROOM = 4
"""Octets of a tag (IEEE 802.1Q, clause 9.3)."""


class Vlan(LinkKind[NoOptions]):
    """A VLAN device in each of two namespaces, and the trunk between, which is a veth pair."""

    name = "vlan"
    summary = "an 802.1Q trunk between two namespaces"
    effect = Effect.KEEPS
    mechanism = (
        "vlan_dev_hard_start_xmit() notes the tag in the skb (__vlan_hwaccel_put_tag()) and "
        "vlan_do_receive() takes it off again: ip_summed is not touched"
    )
    options = NoOptions
    joins = True
    requires = (KernelPart("link", "vlan", "8021q"),)

    def plan(self, base: str, options: NoOptions) -> LinkPlan:  # noqa: ARG002
        """Return two namespaces with a bridge, a VLAN device and an end of the trunk each."""

        def device(end: End) -> NewLink:
            return NewLink(
                end.device, "vlan", netns=end.netns, master=end.bridge, lower=end.lower,
                settings={"vlan_id": VID},
            )  # fmt: skip

        return overlay.plan(base, device, overlay.pair(base, HEADROOM))
