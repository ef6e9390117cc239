"""Open vSwitch's user-space datapath as a wire: packet sockets with a real switch between them."""

from __future__ import annotations

from dataclasses import dataclass, field

from labctl.kinds.base import Effect, LinkKind, LinkPlan, LinkProgram, NewLink, Passing, Tool


@dataclass(frozen=True)
class OvsOptions:
    """What the switch is told."""

    tso: bool = field(
        default=False,
        metadata={"help": "Set other_config:userspace-tso-enable, which reads virtio headers."},
    )


class OvsUserspace(LinkKind[OvsOptions]):
    """Two veth pairs, and a bridge of the datapath type `netdev` in a namespace between them."""

    name = "ovs-userspace"
    summary = "Open vSwitch's user-space datapath between two veth pairs"
    effect = Effect.LOSES
    mechanism = (
        "netdev_linux_rxq_recv_sock() reads a packet socket without virtio header; with "
        "userspace-tso-enable netdev_linux_parse_vnet_hdr() reads it, and "
        "netdev_linux_prepend_vnet_hdr() writes it (Open vSwitch, lib/netdev-linux.c)"
    )
    options = OvsOptions
    joins = True
    requires = (
        Tool("ovs-vswitchd", "openvswitch-switch"),
        Tool("ovsdb-server", "openvswitch-switch"),
    )

    def effect_on(self, passing: Passing) -> Effect:
        """Return what becomes of a packet: with `tso` the switch reads and writes its metadata."""
        return Effect.KEEPS if passing.options.get("tso") else Effect.LOSES

    def plan(self, base: str, options: OvsOptions) -> LinkPlan:
        """Return the pairs, whose inner ends are in the namespace of the switch."""
        one, before, after, other = (f"{base}-{end}" for end in ("a", "p", "q", "b"))
        place = f"{base}-ovs"
        links = (
            NewLink(one, "veth", peer=before, peer_netns=place),
            NewLink(other, "veth", peer=after, peer_netns=place),
        )
        words = (*(("--tso",) if options.tso else ()), before, after)
        program = LinkProgram(
            f"{base}-ovs", "labctl.routers.ovs", words, ready="carrying", is_python=True,
            netns=place,
        )  # fmt: skip
        points = (one, before, after, other)
        return LinkPlan(links, ends=(one, other), points=points, programs=(program,))
