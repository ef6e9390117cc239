"""The NIC models that guests can have, by the word in YAML; QEMU and Xen have no others.

Looked up here, not by entry points: a model needs a device that a hypervisor emulates.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from labctl.errors import UsageError, nearest, shown

if TYPE_CHECKING:
    from labctl.kinds.nics.base import NicModel

SHIPPED: Mapping[str, str] = {
    "virtio": "labctl.kinds.nics.virtio:Virtio",
    "e1000": "labctl.kinds.nics.e1000:E1000",
    "e1000e": "labctl.kinds.nics.e1000e:E1000e",
    "rtl8139": "labctl.kinds.nics.rtl8139:Rtl8139",
    "vmxnet3": "labctl.kinds.nics.vmxnet3:Vmxnet3",
    "xen": "labctl.kinds.nics.netfront:Netfront",
}
"""By name, where the class is; in the order in which they are shown."""
DEFAULT = "virtio"
"""The model of a guest that says nothing of it, outside of a Xen host."""
DEFAULT_ON_XEN = "xen"
"""That of a guest on one."""


@cache
def model(name: str) -> NicModel:
    """Return the NIC model of a name; raises `UsageError` where there is none."""
    if name not in SHIPPED:
        raise UsageError(f"there is no NIC model {shown(name)}", nearest(name, SHIPPED))
    module, _, cls = SHIPPED[name].partition(":")
    found: NicModel = getattr(import_module(module), cls)()
    return found


def models() -> tuple[NicModel, ...]:
    """Return all NIC models, in the order in which they are shown."""
    return tuple(model(name) for name in SHIPPED)
