"""A GRE tunnel for Ethernet frames between two network namespaces."""

from __future__ import annotations

from labctl.kinds.base import Effect, KernelPart, LinkKind, LinkPlan, NewLink, NoOptions
from labctl.kinds.links import overlay
from labctl.kinds.links.overlay import End

HEADROOM = 38
"""Octets of Ethernet, IPv4 and GRE headers (RFC 2784, section 2)."""


class Gretap(LinkKind[NoOptions]):
    """Two GRE devices for frames, each in a namespace of its own, and a veth pair between."""

    name = "gretap"
    summary = "a GRE tunnel for Ethernet frames between two namespaces"
    effect = Effect.KEEPS
    mechanism = (
        "gre_handle_offloads() is iptunnel_handle_offloads(), which leaves the inner sum "
        "unfinished (skb->encapsulation), and ip_tunnel_rcv() hands on the skb"
    )
    options = NoOptions
    joins = True
    requires = (KernelPart("link", "gretap", "ip_gre"),)

    def plan(self, base: str, options: NoOptions) -> LinkPlan:  # noqa: ARG002
        """Return two namespaces with a bridge, a GRE device and an end of the pair each."""

        def device(end: End) -> NewLink:
            return NewLink(
                end.device, "gretap", netns=end.netns, master=end.bridge,
                settings={"gre_local": end.local, "gre_remote": end.remote},
            )  # fmt: skip

        return overlay.plan(base, device, overlay.pair(base, HEADROOM))
