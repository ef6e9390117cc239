"""A Geneve tunnel between two network namespaces, as OVN and Cilium make it."""

from __future__ import annotations

from dataclasses import dataclass, field

from labctl.kinds.base import Effect, KernelPart, LinkKind, LinkPlan, NewLink, Option
from labctl.kinds.links import overlay
from labctl.kinds.links.overlay import End

VNI, PORT = 42, 6081
"""The port is IANA's (RFC 8926, section 3.3)."""
HEADROOM = 50
"""Octets of Ethernet, IPv4, UDP and Geneve headers without options (RFC 8926, section 3.4)."""


@dataclass(frozen=True)
class GeneveOptions:
    """What the tunnel is told."""

    outer_sums: bool = field(
        default=False, metadata={"help": "Sum the outer UDP header too; else its checksum is 0."}
    )


class Geneve(LinkKind[GeneveOptions]):
    """Two Geneve devices, each in a namespace of its own, and a veth pair between."""

    name = "geneve"
    summary = "a Geneve tunnel between two namespaces"
    effect = Effect.KEEPS
    mechanism = (
        "geneve_build_skb() has iptunnel_handle_offloads() leave the inner sum unfinished "
        "(skb->encapsulation), and geneve_rx() hands on the skb"
    )
    options = GeneveOptions
    joins = True
    requires = (KernelPart("link", "geneve", "geneve"),)

    def plan(self, base: str, options: GeneveOptions) -> LinkPlan:
        """Return two namespaces with a bridge, a Geneve device and an end of the pair each."""

        def device(end: End) -> NewLink:
            settings: dict[str, Option] = {
                "geneve_id": VNI,
                "geneve_remote": end.remote,
                "geneve_port": PORT,
                "geneve_udp_csum": int(options.outer_sums),
            }
            return NewLink(
                end.device, "geneve", netns=end.netns, master=end.bridge, settings=settings
            )

        return overlay.plan(base, device, overlay.pair(base, HEADROOM))
