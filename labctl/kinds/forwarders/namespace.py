"""The kernel forwards, as in any Linux router."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from labctl.kinds.base import Effect, ForwarderKind, RunningRouter


class Namespace(ForwarderKind):
    """The kernel of the router's network namespace forwards."""

    name = "namespace"
    summary = "the kernel forwards"
    effect = Effect.KEEPS
    mechanism = "ip_forward() and ip6_forward() pass on the skb that they got"
    in_guests: ClassVar[bool] = True
    counters: ClassVar[Mapping[str, str]] = {
        "IpOutNoRoutes": "there is no route",
        "IpExtInNoRoutes": "there is no route",
        "Ip6OutNoRoutes": "there is no route",
        "Ip6InNoRoutes": "there is no route",
        "IpFragFails": "it is longer than the MTU",
        "Ip6InTooBigErrors": "it is longer than the MTU",
        "IpInHdrErrors": "its IP header is refused (TTL, header checksum)",
        "Ip6InHdrErrors": "its IP header is refused (hop limit)",
        "IpInDiscards": "the kernel had no room",
        "IpOutDiscards": "the kernel had no room",
    }

    def start(self, router: RunningRouter) -> None:
        """Turn forwarding on in the namespace."""
        router.set_kernel_forwarding(True)

    def forwards(self, router: RunningRouter) -> bool:
        """Tell whether forwarding is still on: somebody may have turned it off."""
        return router.kernel_forwards()

    def count(self, router: RunningRouter) -> dict[str, int]:
        """Return the counters of the namespace's kernel."""
        return router.kernel_counters()
