"""The guest kinds that come with labctl, declared as forwarders are (`labctl.kinds.forwarders`)."""

from __future__ import annotations

from collections.abc import Mapping

SHIPPED: Mapping[str, str] = {
    "micro": "labctl.kinds.guests.micro:Micro",
    "disk": "labctl.kinds.guests.disk:Disk",
    "xen-pv": "labctl.kinds.guests.xen_pv:XenPv",
    "xen-host": "labctl.kinds.guests.xen_host:XenHost",
    "namespace": "labctl.kinds.guests.namespace:Namespace",
}
"""By name, where the class is; in the order in which they are shown."""
DEFAULT = "micro"
"""The kind of a node that says nothing of it and lives in the lab itself."""
_DISK = "disk"
_DISKS = ("debian",)
"""The images of labctl's own that boot from a disk."""
_ON_HOST = "xen-pv"
_HOSTS: Mapping[str, str] = {"xen": "xen-host"}


def derived(hypervisor: str, host: str, image: str | None = "") -> str:
    """Return the kind of a node that names none, by its keys `hypervisor`, `host` and `image`.

    They are empty where the node has none, the image is None where it is a disk image; a hypervisor
    counts first.
    """
    if hypervisor:
        return _HOSTS[hypervisor]
    if host:
        return _ON_HOST
    # What stands behind an @ is a kernel in place of the image's own (labctl.topology.kernels).
    return _DISK if image is None or image.partition("@")[0] in _DISKS else DEFAULT
