"""A node without a machine: a network namespace of the lab, in the host's own kernel."""

from __future__ import annotations

from labctl.kinds.guests.base import VETH, GuestKind
from labctl.kinds.nics.base import NicModel


class Namespace(GuestKind):
    """A network namespace with its own addresses, routes and processes."""

    name = "namespace"
    summary = "a network namespace: no machine, the kernel is the host's own"
    title = "namespace"
    short = "namespace"
    inner = "namespace"
    outer = VETH
    is_machine = False
    image = ""
    image_with_all_nics = ""
    cmdline = ""
    memory = 0
    least_memory = 0
    vcpus = 0
    nic = "veth"
    mgmt_nic = "veth"
    inherits = False
    inherits_nic = False
    built_by = "labctl.lab.namespace_nodes:build"
    started_by = "labctl.lab.namespace_nodes:NamespaceStarter"
    handled_by = "labctl.lab.namespace_nodes:NamespaceNode"
    ready = ""
    not_restarted = "it has no device whose features a driver negotiates"

    def takes(self, nic: NicModel) -> bool:
        """Tell whether it can have interfaces of a NIC model: a veth alone."""
        return nic.name == self.nic
