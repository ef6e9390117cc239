"""The NIC models that come with labctl, declared as forwarders are (`labctl.kinds.forwarders`).

One of another package names a device that QEMU emulates, by the word that libvirt has for it.
"""

from __future__ import annotations

from collections.abc import Mapping

SHIPPED: Mapping[str, str] = {
    "virtio": "labctl.kinds.nics.virtio:Virtio",
    "e1000": "labctl.kinds.nics.e1000:E1000",
    "e1000e": "labctl.kinds.nics.e1000e:E1000e",
    "rtl8139": "labctl.kinds.nics.rtl8139:Rtl8139",
    "vmxnet3": "labctl.kinds.nics.vmxnet3:Vmxnet3",
    "xen": "labctl.kinds.nics.netfront:Netfront",
    "veth": "labctl.kinds.nics.veth:Veth",
}
"""By name, where the class is; in the order in which they are shown."""
DEFAULT = "virtio"
"""The one that has device features, and a driver in every image."""
