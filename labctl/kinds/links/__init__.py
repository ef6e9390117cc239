"""The links that come with labctl, declared as forwarders are (`labctl.kinds.forwarders`)."""

from __future__ import annotations

from collections.abc import Mapping

SHIPPED: Mapping[str, str] = {
    "bridge": "labctl.kinds.links.bridge:Bridge",
    "veth": "labctl.kinds.links.veth:Veth",
}
"""By name, where the class is; in the order in which they are shown."""
DEFAULT = "bridge"
"""The kind of a network, or of a segment of one, that says nothing of it."""
