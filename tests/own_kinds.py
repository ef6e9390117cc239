"""Kinds that labctl does not have, as a user would write them."""

from __future__ import annotations

import contextlib
import mmap
import select
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Literal

from labctl.kinds.base import (
    Effect,
    ForwarderKind,
    LinkKind,
    LinkPlan,
    LinkProgram,
    Look,
    NewLink,
    NoOptions,
    Passing,
    Remedy,
    RunningRouter,
)
from labctl.kinds.guests.micro import Micro
from labctl.kinds.observers import observe
from labctl.kinds.observers.frames import FrameObserver
from labctl.packet.virtio import VNET_SIZE
from labctl.routers import raw
from labctl.routers.tables import Key

if TYPE_CHECKING:
    from labctl.guests.spec import Guest
    from labctl.lab.machines import Making
    from labctl.topology.model import Node

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


class UserWire(LinkKind[NoOptions]):
    """Two veth pairs, and this file as the program that carries frames from one to the other."""

    name = "user-wire"
    summary = "a program that carries frames between two veth pairs"
    effect = Effect.KEEPS
    options = NoOptions
    joins = True

    def plan(self, base: str, options: NoOptions) -> LinkPlan:  # noqa: ARG002
        """Return the pairs and the program between them."""
        one, before, after, other = (f"{base}-{end}" for end in ("a", "p", "q", "b"))
        links = (NewLink(one, "veth", peer=before), NewLink(after, "veth", peer=other))
        program = LinkProgram(
            f"{base}-sw", __name__, ("--wire", before, after), ready="carrying", is_python=True
        )
        points = (one, before, after, other)
        return LinkPlan(links, ends=(one, other), points=points, programs=(program,))


PACKET_IGNORE_OUTGOING = 23


def carry(*links: str) -> None:
    """Carry frames between two links for ever, each with its virtio header."""
    ends = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in links]
    for end, link in zip(ends, links, strict=True):
        end.setsockopt(observe.SOL_PACKET, observe.PACKET_VNET_HDR, 1)
        end.setsockopt(observe.SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        end.bind((link, observe.ETH_P_ALL))
    sys.stdout.write("carrying\n")
    sys.stdout.flush()
    while True:
        readable, _, _ = select.select(ends, [], [])
        for end in readable:
            frame = end.recv(1 << 17)
            with contextlib.suppress(OSError):  # the other end is down
                ends[end is ends[0]].send(frame)


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


class Labelled(Micro):
    """A guest with more memory by default, and its name on its kernel's command line."""

    name = "labelled"
    summary = "a guest that is told its name by its kernel's command line"
    title = "labelled guest"
    memory = 144
    least_memory = 136
    built_by = f"{__name__}:build_labelled"


def build_labelled(making: Making, node: Node) -> Guest:
    """Return what labctl's own guest is made of, with a word more on the command line."""
    from labctl.lab import qemu  # here: this file is a router's program, too

    made = qemu.build(making, node)
    return replace(made, cmdline=f"{made.cmdline} own_kinds.node={node.name}")


class PacketRing(FrameObserver):
    """The same socket, read through memory that it shares with the kernel (TPACKET_V2)."""

    name = "packet-ring"
    summary = "a packet socket's ring"

    def start(self, look: Look) -> tuple[str, ...]:
        """Return the words of the program, which is this file."""
        where = ("--netns", look.netns) if look.netns else ()
        program = (sys.executable, str(Path(__file__).absolute()), "--ring", "--hop", look.hop)
        return (*program, *where, "--snap", str(look.snap), look.link)


PACKET_RX_RING, PACKET_VERSION, TPACKET_V2 = 5, 10, 1
SLOT, SLOTS = 1 << 17, 64
SLOT_HEAD = struct.Struct("=IIIHHIIHH4x")
"""struct tpacket2_hdr (linux/if_packet.h)."""
PACKET_TYPE_AT = 32 + 10
"""In a slot: sockaddr_ll follows the header, sll_pkttype is its eleventh byte."""


class _Ring(observe.Observer):
    def __init__(self, sock: socket.socket, out: BinaryIO, snap: int, index: int) -> None:
        super().__init__(sock, out, snap, index)
        sock.setsockopt(observe.SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        wanted = struct.pack("=IIII", SLOT, SLOTS, SLOT, SLOTS)
        sock.setsockopt(observe.SOL_PACKET, PACKET_RX_RING, wanted)
        self.ring = mmap.mmap(sock.fileno(), SLOT * SLOTS)
        self.slot = 0

    def drain(self, limit: int) -> bool:
        """Write at most `limit` frames of the ring; return whether more may be waiting."""
        for _ in range(limit):
            at = self.slot * SLOT
            status, length, kept, mac, _, seconds, nanoseconds, tci, tpid = SLOT_HEAD.unpack_from(
                self.ring, at
            )
            if not status & 1:  # TP_STATUS_USER: it is ours to read
                return False
            frame = self.ring[at + mac : at + mac + kept]
            vnet = self.ring[at + mac - VNET_SIZE : at + mac]
            now = seconds * 1_000_000_000 + nanoseconds
            head = observe.RECORD_HEAD.pack(
                now, self.ring[at + PACKET_TYPE_AT], 0, self.index,
                status, length, len(frame), tci, tpid, vnet,
            )  # fmt: skip
            self.out.write(struct.pack("<BI", observe.RECORD, len(head) + len(frame)))
            self.out.write(head + frame)
            self.ring[at : at + 4] = bytes(4)  # TP_STATUS_KERNEL
            self.slot = (self.slot + 1) % SLOTS
            self.written += 1
        return True


if __name__ == "__main__":
    if "--wire" in sys.argv:
        carry(*sys.argv[2:])
    if "--ring" in sys.argv:
        sys.argv.remove("--ring")
        sys.exit(observe.main(kind=_Ring))
    sys.exit(raw.main(kind=_Loser))
