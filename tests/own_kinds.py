"""Kinds that labctl does not have, as a user would write them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from labctl.kinds.base import (
    Effect,
    ForwarderKind,
    LinkKind,
    LinkPlan,
    NewLink,
    Passing,
    Remedy,
    RunningRouter,
)
from labctl.packet.virtio import VNET_SIZE
from labctl.routers import raw
from labctl.routers.tables import Key

UDP = 17


@dataclass(frozen=True)
class ChainOptions:
    """What a chain is told."""

    length: int = field(metadata={"help": "How many veth pairs it has, 1 to 9."})
    colour: Literal["red", "green"] = "red"

    def __post_init__(self) -> None:
        """Refuse a chain of no length."""
        if not 1 <= self.length <= 9:
            raise ValueError(f"length {self.length} is not 1 to 9")


class VethChain(LinkKind[ChainOptions]):
    """Veth pairs in a row, each joined to the next by a bridge."""

    name = "veth-chain"
    summary = "veth pairs in a row"
    effect = Effect.KEEPS
    options = ChainOptions
    joins = True

    def plan(self, base: str, options: ChainOptions) -> LinkPlan:
        """Return the pairs and the bridges between them."""
        last = options.length - 1
        bridges = [NewLink(f"{base}-m{at}", "bridge") for at in range(last)]
        pairs = [
            NewLink(
                f"{base}-a{at}",
                "veth",
                peer=f"{base}-b{at}",
                master=bridges[at - 1].name if at else "",
                peer_master=bridges[at].name if at < last else "",
            )
            for at in range(options.length)
        ]
        points = tuple(name for pair in pairs for name in pair.names)
        return LinkPlan((*bridges, *pairs), ends=(points[0], points[-1]), points=points)


class UdpLoser(ForwarderKind):
    """labctl's program with the virtio header, which this one empties for UDP."""

    name = "udp-loser"
    summary = "a program that keeps the metadata of all but UDP"
    effect = Effect.LOSES
    counters: ClassVar[Mapping[str, str]] = {
        "no_route": "there is no route",
        "send_errors": "it could not be sent",
    }
    remedies = (Remedy("raw-vnet", "none"),)

    def effect_on(self, passing: Passing) -> Effect:
        """Return what becomes of a packet: only UDP's metadata is lost."""
        return Effect.LOSES if passing.protocol == "udp" else Effect.KEEPS

    def start(self, router: RunningRouter) -> None:
        """Start the program, which is this file."""
        router.start_program(Path(__file__).absolute(), "--vnet")

    def count(self, router: RunningRouter) -> dict[str, int]:
        """Return the program's counters."""
        return router.program_counters()


class _Loser(raw.Router):
    def send(self, key: Key, mac: bytes, message: bytearray) -> None:
        """Send a frame; of UDP over IPv4 or IPv6 without what its virtio header said."""
        frame = memoryview(message)[VNET_SIZE:]
        at = {b"\x08\x00": 23, b"\x86\xdd": 20}.get(bytes(frame[12:14]))
        if at is not None and frame[at] == UDP:
            message[:VNET_SIZE] = bytes(VNET_SIZE)
        super().send(key, mac, message)


if __name__ == "__main__":
    sys.exit(raw.main(kind=_Loser))
