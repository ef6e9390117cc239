"""The links that come with labctl, declared as forwarders are (`labctl.kinds.forwarders`)."""

from __future__ import annotations

from collections.abc import Mapping

SHIPPED: Mapping[str, str] = {
    "bridge": "labctl.kinds.links.bridge:Bridge",
    "veth": "labctl.kinds.links.veth:Veth",
    "tc-mirred": "labctl.kinds.links.tc_mirred:TcMirred",
    "tc-patch": "labctl.kinds.links.tc_patch:TcPatch",
    "macvlan": "labctl.kinds.links.macvlan:Macvlan",
    "vxlan": "labctl.kinds.links.vxlan:Vxlan",
    "geneve": "labctl.kinds.links.geneve:Geneve",
    "gretap": "labctl.kinds.links.gretap:Gretap",
    "vlan": "labctl.kinds.links.vlan:Vlan",
    "bond": "labctl.kinds.links.bond:Bond",
    "packet-wire": "labctl.kinds.links.packet_wire:PacketWire",
    "ring-wire": "labctl.kinds.links.ring_wire:RingWire",
    "ovs-userspace": "labctl.kinds.links.ovs_userspace:OvsUserspace",
    "ovs-kernel": "labctl.kinds.links.ovs_kernel:OvsKernel",
    "testpmd": "labctl.kinds.links.testpmd:Testpmd",
    "socat-tap": "labctl.kinds.links.socat_tap:SocatTap",
}
"""By name, where the class is; in the order in which they are shown."""
DEFAULT = "bridge"
"""The kind of a network, or of a segment of one, that says nothing of it."""
