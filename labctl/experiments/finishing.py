"""Let guests finish their checksums themselves, each in the way its driver allows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from labctl.lab.node import Node

OFF = {"tx-checksumming": False}
SEGMENTS = {"tcp-segmentation-offload": False, "generic-segmentation-offload": False}


@contextlib.contextmanager
def finishing(node: Node, interface: str = "eth0") -> Iterator[None]:
    """Let a guest finish the checksum of what it sends, for the length of a `with` block.

    On a virtio NIC that is `ethtool -K … tx off`. Xen's netfront does not let go of IPv4
    (xennet_fix_features: without `feature-no-csum-offload` no backend may be left without it), so
    there the traffic control's csum action does it (net/sched/act_csum.c) when a packet leaves,
    with segmentation off: a super-frame has no checksum of its own.
    """
    if node.interface(interface).model != "xen":
        with node.offload(OFF, interface):
            yield
        return
    with node.offload(SEGMENTS, interface):
        node.run(f"tc qdisc add dev {interface} clsact")
        try:
            node.run(f"tc filter add dev {interface} egress matchall action csum ip4h tcp udp icmp")
            yield
        finally:
            node.run(f"tc qdisc del dev {interface} clsact")
