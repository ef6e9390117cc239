"""What a NIC model is: what it does with a checksum that a guest leaves to it, and what stops that.

Standard library only, as all that kinds are made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from labctl.kinds.base import Effect, Kind


@dataclass(frozen=True)
class Completion:
    """A way to have a guest's kernel complete the checksums of what it sends by an interface."""

    name: str
    """Such as `tx off`."""
    words: str
    """What is set by `ethtool -K`, in its words."""
    features: Mapping[str, bool]
    """The same by the names that `ethtool -k` tells."""
    cost: str
    csum_action: bool = False
    """Whether traffic control's csum action (net/sched/act_csum.c) does it when a packet leaves."""

    def how(self, interface: str) -> str:
        """Return the command that does it for good."""
        action = self.setup(interface) if self.csum_action else ()
        return "; ".join((f"ethtool -K {interface} {self.words}", *action))

    def setup(self, interface: str) -> tuple[str, ...]:
        """Return the commands, one after the other, that set the action up."""
        return (
            f"tc qdisc add dev {interface} clsact",
            f"tc filter add dev {interface} egress matchall action csum ip4h tcp udp icmp",
        )

    def undo(self, interface: str) -> str:
        """Return the command that takes the action away."""
        return f"tc qdisc del dev {interface} clsact"


TX_OFF = Completion(
    "tx off",
    "tx off",
    {"tx-checksumming": False},
    "the guest's CPU sums every packet, and segments itself: TSO goes off with it",
)
CSUM_ACTION = Completion(
    "csum action",
    "tso off gso off",  # a super-frame has no checksum of its own
    {"tcp-segmentation-offload": False, "generic-segmentation-offload": False},
    "the guest's CPU sums every packet, and segments itself: TSO and GSO must be off",
    csum_action=True,
)


class NicModel(Kind):
    """A guest's network interface: its driver, and the device that takes its packets."""

    what = "NIC model"
    takes_unfinished: ClassVar[bool] = True
    """Whether its other end takes packets that are to be finished: QEMU says so to the TAP
    (TUNSETOFFLOAD, drivers/net/tun.c). Else the kernel completes them before it
    (validate_xmit_skb)."""
    received: ClassVar[Effect] = Effect.KEEPS
    """What the device does to such a packet on its way to the guest; `effect` is of what it sends.
    """
    driver: ClassVar[str]
    """The kernel module in the guest that drives it."""
    carrier: ClassVar[str]
    """What takes the metadata to the other side; empty for nothing."""
    home: ClassVar[str] = ""
    """The hypervisor whose guests alone can have it; empty for those of QEMU."""
    transport: ClassVar[str] = ""
    """What is between its driver and its other end, where that is not just QEMU's device."""
    frontend: ClassVar[str] = ""
    """What texts call its driver, where that is not the model's own name."""
    in_every_image: ClassVar[bool] = False
    """Whether every image of labctl's has its driver."""
    instant_carrier: ClassVar[bool] = False
    """Whether it has a carrier at once; others take seconds to negotiate one, as hardware would."""
    device_features: ClassVar[bool] = False
    """Whether `offload: {device: …}` can turn features of the device off."""

    @property
    def told(self) -> str:
        """What texts call it inside its guest."""
        return self.frontend or self.name

    @property
    def way_out(self) -> str:
        """What is between its driver and its other end, in a few words."""
        return self.transport or f"{self.name} of QEMU, /dev/net/tun"

    def completions(self, version: int | None = None) -> Sequence[Completion]:  # noqa: ARG002
        """Return the ways to have the guest complete its checksums, the best first.

        They work for an IP version, or for both where none is given.
        """
        return (TX_OFF,)
