"""A VXLAN tunnel between two network namespaces: a segment that is carried in UDP."""

from __future__ import annotations

from dataclasses import dataclass, field

from labctl.kinds.base import Effect, KernelPart, LinkKind, LinkPlan, NewLink, Option

VNI, PORT = 42, 4789
"""The port is IANA's (RFC 7348, section 8)."""
HEADROOM = 50
"""Octets of Ethernet, IPv4, UDP and VXLAN headers (RFC 7348, section 5)."""


@dataclass(frozen=True)
class VxlanOptions:
    """What the tunnel is told."""

    outer_sums: bool = field(
        default=False,
        metadata={"help": "Sum the outer UDP header too; else its checksum is 0 (RFC 7348)."},
    )


class Vxlan(LinkKind[VxlanOptions]):
    """Two VXLAN devices, each in a namespace of its own, with a veth pair between these."""

    name = "vxlan"
    summary = "a VXLAN tunnel between two namespaces over a veth pair"
    effect = Effect.KEEPS
    mechanism = (
        "iptunnel_handle_offloads() leaves the inner sum unfinished (skb->encapsulation), "
        "udp_set_csum() makes the outer one of it (lco_csum()), and vxlan_rcv() hands on the skb"
    )
    options = VxlanOptions
    joins = True
    requires = (KernelPart("link", "vxlan", "vxlan"),)

    def plan(self, base: str, options: VxlanOptions) -> LinkPlan:
        """Return two namespaces with a bridge, a VXLAN device and an end of the underlay each."""
        links: list[NewLink] = []
        ends = []
        for side, local, remote in (
            ("a", "192.0.2.1", "192.0.2.2"),
            ("b", "192.0.2.2", "192.0.2.1"),
        ):
            place = f"{base}-{side}ns"
            bridge, port, end = (f"{base}-{side}{part}" for part in ("m", "p", "e"))
            ends.append((end, port))
            links.append(NewLink(bridge, "bridge", netns=place))
            links.append(NewLink(end, "veth", peer=port, peer_netns=place, peer_master=bridge))
            if side == "a":
                links.append(
                    NewLink(
                        f"{base}-au", "veth", peer=f"{base}-bu", netns=place,
                        peer_netns=f"{base}-bns", address=f"{local}/24",
                        peer_address=f"{remote}/24", headroom=HEADROOM,
                    )
                )  # fmt: skip
            settings: dict[str, Option] = {
                "vxlan_id": VNI,
                "vxlan_local": local,
                "vxlan_group": remote,
                "vxlan_port": PORT,
                "vxlan_udp_csum": int(options.outer_sums),
            }
            links.append(
                NewLink(f"{base}-{side}v", "vxlan", netns=place, master=bridge, settings=settings)
            )
        (one, before), (last, after) = ends
        points = (one, before, f"{base}-au", f"{base}-bu", after, last)
        return LinkPlan(tuple(links), ends=(one, last), points=points)
