"""The observers that come with labctl, declared as forwarders are (`labctl.kinds.forwarders`)."""

from __future__ import annotations

from collections.abc import Mapping

SHIPPED: Mapping[str, str] = {
    "packet-socket": "labctl.kinds.observers.packet_socket:PacketSocket",
    "drops": "labctl.kinds.observers.drops:Drops",
    "xen-rings": "labctl.kinds.observers.xen_rings:XenRings",
}
"""By name, where the class is; in the order in which they are shown."""
DEFAULT = "packet-socket"
"""The one that observes every hop."""
DROPS = "drops"
"""The one that says what guests drop."""
XEN_RINGS = "xen-rings"
"""The one that looks into the rings of Xen guests."""
