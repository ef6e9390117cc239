"""Two ports that tc(8) joins without a bridge: a TAP and a veth, as vrnetlab has them."""

from __future__ import annotations

from labctl.kinds.base import LinkPlan, NewLink
from labctl.kinds.links.tc_mirred import MirredOptions, TcMirred


class TcPatch(TcMirred):
    """A segment whose two ports are redirected to each other, straight onto a machine's TAP."""

    name = "tc-patch"
    summary = "two ports, such as a TAP and a veth, that tc's mirred joins without a bridge"
    mechanism = (
        "tcf_mirred_act() hands the skb itself to the TAP's dev_queue_xmit(), and tun_put_user() "
        "tells of CHECKSUM_PARTIAL in the virtio header; tcf_csum_act() would complete it before"
    )
    joins = False

    def plan(self, base: str, options: MirredOptions) -> LinkPlan:
        """Return a bridge that holds the two, and is passed by."""
        bridge = NewLink(base, "bridge")
        return LinkPlan((bridge,), bridge=base, patch="csum" if options.csum else "mirred")
