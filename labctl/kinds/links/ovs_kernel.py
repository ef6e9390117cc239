"""Open vSwitch's kernel datapath as a wire."""

from __future__ import annotations

from labctl.kinds.base import (
    Effect,
    KernelPart,
    LinkKind,
    LinkPlan,
    LinkProgram,
    NewLink,
    NoOptions,
    Tool,
)


class OvsKernel(LinkKind[NoOptions]):
    """Two veth pairs, and a bridge of the datapath type `system` in a namespace between them."""

    name = "ovs-kernel"
    summary = "Open vSwitch's kernel datapath between two veth pairs"
    effect = Effect.KEEPS
    mechanism = (
        "do_output() hands the skb itself to the port; of the first packet of a flow "
        "queue_userspace_packet() finishes the sum (skb_csum_hwoffload_help()), and a copy comes "
        "back (ovs_packet_cmd_execute())"
    )
    options = NoOptions
    joins = True
    requires = (
        Tool("ovs-vswitchd", "openvswitch-switch"),
        Tool("ovsdb-server", "openvswitch-switch"),
        KernelPart("netlink family", "ovs_datapath", "openvswitch"),
    )

    def plan(self, base: str, options: NoOptions) -> LinkPlan:  # noqa: ARG002
        """Return the pairs, whose inner ends are in the namespace of the switch."""
        one, before, after, other = (f"{base}-{end}" for end in ("a", "p", "q", "b"))
        place = f"{base}-ovs"
        links = (
            NewLink(one, "veth", peer=before, peer_netns=place),
            NewLink(other, "veth", peer=after, peer_netns=place),
        )
        program = LinkProgram(
            f"{base}-ovs", "labctl.routers.ovs", ("--kernel", before, after), ready="carrying",
            is_python=True, netns=place,
        )  # fmt: skip
        points = (one, before, after, other)
        return LinkPlan(links, ends=(one, other), points=points, programs=(program,))
