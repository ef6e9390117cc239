"""Let guests complete their checksums themselves, each in the way that its NIC allows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from labctl.kinds import registry
from labctl.kinds.nics.base import CSUM_ACTION
from labctl.lab.node import Node

SEGMENTS = CSUM_ACTION.features
"""What makes super-frames, to be turned off."""


@contextlib.contextmanager
def software_checksums(node: Node, interface: str = "eth0") -> Iterator[None]:
    """Let a guest complete the checksum of what it sends, for the length of a `with` block.

    How depends on the NIC (`NicModel.completions`): by `ethtool -K … tx off`, or where the driver
    does not let go of it by traffic control.
    """
    way = registry.nic(node.interface(interface).model).completions()[0]
    with node.offload(way.features, interface):
        if not way.csum_action:
            yield
            return
        qdisc, action = way.setup(interface)
        node.run(qdisc)
        try:
            node.run(action)
            yield
        finally:
            node.run(way.undo(interface))
