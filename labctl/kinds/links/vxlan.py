"""A VXLAN tunnel between two network namespaces: a segment that is carried in UDP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from labctl.kinds.base import (
    Effect,
    KernelPart,
    LinkKind,
    LinkPlan,
    LinkProgram,
    NewLink,
    Option,
    Passing,
)
from labctl.kinds.links.packet_wire import PROGRAM

VNI, PORT = 42, 4789
"""The port is IANA's (RFC 7348, section 8)."""
LOCAL, REMOTE = "192.0.2.1", "192.0.2.2"
HEADROOM = 50
"""Octets of Ethernet, IPv4, UDP and VXLAN headers (RFC 7348, section 5)."""


@dataclass(frozen=True)
class VxlanOptions:
    """What the tunnel is told."""

    outer_sums: bool = field(
        default=False,
        metadata={"help": "Sum the outer UDP header too; else its checksum is 0 (RFC 7348)."},
    )
    underlay: Literal["veth", "packet-wire"] = field(
        default="veth",
        metadata={"help": "What carries the tunnel: a veth pair, or a program that copies frames."},
    )

    def __post_init__(self) -> None:
        """Refuse what no kind of effect tells."""
        if self.outer_sums and self.underlay != "veth":
            raise ValueError(
                "over a program that copies frames an outer sum is wrong, and the tunnel drops it"
            )


class Vxlan(LinkKind[VxlanOptions]):
    """Two VXLAN devices, each in a namespace of its own, and what carries the tunnel between."""

    name = "vxlan"
    summary = "a VXLAN tunnel between two namespaces"
    effect = Effect.LOSES
    mechanism = (
        "iptunnel_handle_offloads() leaves the inner sum unfinished (skb->encapsulation), "
        "udp_set_csum() makes the outer one of it (lco_csum()), and vxlan_rcv() hands on the skb; "
        "packet_snd() makes an skb of CHECKSUM_NONE of what a program copies"
    )
    options = VxlanOptions
    joins = True
    requires = (KernelPart("link", "vxlan", "vxlan"),)

    def effect_on(self, passing: Passing) -> Effect:
        """Return what becomes of a packet: it is lost in an underlay that copies frames."""
        copied = passing.options.get("underlay") == "packet-wire"
        return Effect.LOSES if copied else Effect.KEEPS

    def plan(self, base: str, options: VxlanOptions) -> LinkPlan:
        """Return two namespaces with a bridge, a VXLAN device and an end of the underlay each."""
        links: list[NewLink] = []
        ends = []
        for side, local, remote in (
            ("a", LOCAL, REMOTE),
            ("b", REMOTE, LOCAL),
        ):
            place = f"{base}-{side}ns"
            bridge, port, end = (f"{base}-{side}{part}" for part in ("m", "p", "e"))
            ends.append((end, port))
            links.append(NewLink(bridge, "bridge", netns=place))
            links.append(NewLink(end, "veth", peer=port, peer_netns=place, peer_master=bridge))
            links += _underlay(base, options.underlay) if side == "a" else ()
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
        points: tuple[str, ...]
        inner = [f"{base}-{end}" for end in ("au", "bu")]
        programs: tuple[LinkProgram, ...] = ()
        if options.underlay == "packet-wire":
            ports = (f"{base}-pu", f"{base}-qu")
            inner[1:1] = ports
            programs = (
                LinkProgram(f"{base}-wire", PROGRAM, ports, ready="carrying", is_python=True),
            )
        points = (one, before, *inner, after, last)
        if programs:
            # What comes out by an end is said to be valid there, although it is not: csum_valid of
            # an outer sum of 0 stays with the skb (__skb_checksum_validate_needed()).
            points = points[1:-1]
        return LinkPlan(tuple(links), ends=(one, last), points=points, programs=programs)


def _underlay(base: str, kind: str) -> tuple[NewLink, ...]:
    """Return what joins the two namespaces: a veth pair, or one to the lab for each."""
    sides = (("a", "p", f"{LOCAL}/24"), ("b", "q", f"{REMOTE}/24"))
    if kind == "veth":
        (one, _, address), (other, _, far) = sides
        pair = NewLink(
            f"{base}-{one}u", "veth", peer=f"{base}-{other}u", netns=f"{base}-{one}ns",
            peer_netns=f"{base}-{other}ns", address=address, peer_address=far, headroom=HEADROOM,
        )  # fmt: skip
        return (pair,)
    return tuple(
        NewLink(
            f"{base}-{side}u", "veth", peer=f"{base}-{port}u", netns=f"{base}-{side}ns",
            address=address, headroom=HEADROOM,
        )
        for side, port, address in sides
    )  # fmt: skip
