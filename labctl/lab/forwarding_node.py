"""Nodes that are routers: what forwards in them, with the questions that a router is asked."""

from __future__ import annotations

from typing import Protocol

from labctl.capture import counters
from labctl.errors import GuestError
from labctl.kinds import forwarders
from labctl.lab.node import Node

SYSCTLS = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding")
"""Whether a kernel forwards, of each IP version (Documentation/networking/ip-sysctl.rst)."""


class Forwarder(Protocol):
    """What forwards packets at a place of a path: a router of the lab, or a node that is one."""

    @property
    def kind(self) -> str | None:
        """The name of what forwards now (`labctl.kinds.forwarders`); None while nothing does."""
        ...

    def forwards(self) -> bool:
        """Tell whether anything forwards."""
        ...

    def counters(self) -> dict[str, int]:
        """Return the counters of what forwards."""
        ...


class ForwardingNode:
    """A node whose own kernel forwards, on the settings that every Linux router has."""

    def __init__(self, node: Node) -> None:
        """Hold a node."""
        self._node = node

    @property
    def kind(self) -> str | None:
        """The kernel's, as in a router that is a namespace."""
        return forwarders.DEFAULT

    def set_forwarding(self, on: bool) -> None:
        """Let the node's kernel forward IPv4 and IPv6, or not; raises as `Node.run` does."""
        self._node.run("; ".join(f"[ ! -e {one} ] || echo {int(on)} >{one}" for one in SYSCTLS))

    def forwards(self) -> bool:
        """Tell whether the node's kernel forwards both; raises as `Node.run` does."""
        said = self._node.run(f"cat {' '.join(SYSCTLS)} 2>/dev/null || true").stdout.split()
        return bool(said) and all(word != "0" for word in said)

    def counters(self) -> dict[str, int]:
        """Return the kernel's counters; raises `GuestError` for what no kernel says."""
        said = self._node.run(counters.COUNTERS_COMMAND).stdout
        try:
            return counters.parse_counters(said)
        except counters.CountersError as odd:
            raise GuestError(f"{self._node.name}: {odd.message}", odd.hint) from None
