"""A VXLAN tunnel between two network namespaces: a segment that is carried in UDP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    Requirement,
)
from labctl.kinds.links import overlay
from labctl.kinds.links.overlay import End, Underlay
from labctl.kinds.links.packet_wire import PROGRAM

VNI, PORT = 42, 4789
"""The port is IANA's (RFC 7348, section 8)."""
HEADROOM = 50
"""Octets of Ethernet, IPv4, UDP and VXLAN headers (RFC 7348, section 5)."""
WIREGUARD = "labctl.routers.wireguard"
OUTER = ("198.51.100.1", "198.51.100.2")
"""Addresses below WireGuard (RFC 5737, TEST-NET-2)."""
OUTER_HEADROOM = HEADROOM + 80
"""WireGuard adds 32 octets beside IPv4 and UDP, and pads to 16."""


@dataclass(frozen=True)
class VxlanOptions:
    """What the tunnel is told."""

    outer_sums: bool = field(
        default=False,
        metadata={"help": "Sum the outer UDP header too; else its checksum is 0 (RFC 7348)."},
    )
    underlay: Literal["veth", "packet-wire", "wireguard"] = field(
        default="veth",
        metadata={
            "help": "What carries the tunnel: a veth pair, a program that copies frames, or "
            "WireGuard, which encrypts them."
        },
    )

    def __post_init__(self) -> None:
        """Refuse what no kind of effect tells."""
        if self.outer_sums and self.underlay == "packet-wire":
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
        "packet_snd() makes an skb of CHECKSUM_NONE of what a program copies; WireGuard's "
        "encrypt_packet() finishes the inner sum (skb_checksum_help()) before it encrypts"
    )
    options = VxlanOptions
    joins = True
    requires = (KernelPart("link", "vxlan", "vxlan"),)

    def needs(self, options: Mapping[str, Option]) -> Sequence[Requirement]:
        """Return what the kernel must have: WireGuard only where it is asked for."""
        encrypts = options.get("underlay") == "wireguard"
        more = (KernelPart("link", "wireguard", "wireguard"),) if encrypts else ()
        return (*self.requires, *more)

    def effect_on(self, passing: Passing) -> Effect:
        """Return what becomes of a packet, which the underlay decides."""
        effects = {"packet-wire": Effect.LOSES, "wireguard": Effect.COMPLETES}
        return effects.get(str(passing.options.get("underlay")), Effect.KEEPS)

    def plan(self, base: str, options: VxlanOptions) -> LinkPlan:
        """Return two namespaces with a bridge, a VXLAN device and an end of the underlay each."""

        def device(end: End) -> NewLink:
            settings: dict[str, Option] = {
                "vxlan_id": VNI,
                "vxlan_local": end.local,
                "vxlan_group": end.remote,
                "vxlan_port": PORT,
                "vxlan_udp_csum": int(options.outer_sums),
            }
            return NewLink(
                end.device, "vxlan", netns=end.netns, master=end.bridge, settings=settings
            )

        underlays = {"veth": _veth, "packet-wire": _copied, "wireguard": _encrypted}
        return overlay.plan(base, device, underlays[options.underlay](base))


def _veth(base: str) -> Underlay:
    return overlay.pair(base, HEADROOM)


def _copied(base: str) -> Underlay:
    """Return a veth pair to the lab for each namespace, and a program that joins the two."""
    ends = overlay.ends(base)
    ports = (f"{base}-pu", f"{base}-qu")
    links = tuple(
        NewLink(
            end.lower, "veth", peer=port, netns=end.netns, address=f"{end.local}/24",
            headroom=HEADROOM,
        )
        for end, port in zip(ends, ports, strict=True)
    )  # fmt: skip
    program = LinkProgram(f"{base}-wire", PROGRAM, ports, ready="carrying", is_python=True)
    one, other = (end.lower for end in ends)
    # What comes out by an end is said to be valid there, although it is not: csum_valid of
    # an outer sum of 0 stays with the skb (__skb_checksum_validate_needed()).
    return Underlay(links, (one, *ports, other), (program,), ends_tell=False)


def _encrypted(base: str) -> Underlay:
    """Return a WireGuard device for each namespace, over a veth pair.

    What is on the pair is encrypted, so no packet of the lab can be found there.
    """
    ends = overlay.ends(base)
    one, other = (end.netns for end in ends)
    ciphers = (f"{base}-aw", f"{base}-bw")
    pair = NewLink(
        ciphers[0], "veth", peer=ciphers[1], netns=one, peer_netns=other,
        address=f"{OUTER[0]}/24", peer_address=f"{OUTER[1]}/24", headroom=OUTER_HEADROOM,
    )  # fmt: skip
    links = [pair]
    programs = []
    for end, outer in zip(ends, reversed(OUTER), strict=True):
        links.append(
            NewLink(
                end.lower, "wireguard", netns=end.netns, address=f"{end.local}/24",
                headroom=HEADROOM,
            )
        )  # fmt: skip
        programs.append(
            LinkProgram(
                f"{end.lower}-keys", WIREGUARD, (end.lower, outer, f"{end.remote}/32"),
                ready="carrying", is_python=True, netns=end.netns,
            )
        )  # fmt: skip
    return Underlay(links, (), tuple(programs))
