"""Packets and captures made by hand: a packet is changed as a hop would change it."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from labctl.capture.session import Evidence, HopEvidence, judged
from labctl.kinds.observers.stream import Header, Record, Stream, Trailer
from labctl.packet.checksum import Checksum, Metadata
from labctl.packet.internet_checksum import ones_sum
from labctl.packet.virtio import VnetHeader
from labctl.topology import find, load
from labctl.topology.graph import find_path
from labctl.topology.points import ObservationPoint

BEGIN = 1_700_000_000_000_000_000
MS = 1_000_000
MTU = 1500
AHEAD = 7_000_000_000  # vm2's clock


@dataclass(frozen=True)
class Pkt:
    """A packet as it is at one hop."""

    src: str = "10.0.1.1"
    dst: str = "10.0.2.2"
    sport: int = 40000
    dport: int = 22
    number: int = 6
    flags: int = 0x02
    seq: int = 100
    ack: int = 0
    ttl: int = 64
    ip_id: int = 1
    place: int = 0
    """IPv4 flags and fragment offset."""
    options: bytes = b""
    payload: bytes = b""
    state: Checksum = Checksum.PARTIAL
    meta: Metadata = Metadata.NEEDS_CSUM
    gso: int = 0
    gso_size: int = 0
    mac: int = 1

    def segment(self) -> bytes:
        if self.number == 17:
            length = 8 + len(self.payload)
            plain = struct.pack(">HHHH", self.sport, self.dport, length, 0) + self.payload
            at = 6
        elif self.number == 6:
            offset = (20 + len(self.options)) // 4 << 4
            fields = (self.sport, self.dport, self.seq, self.ack, offset, self.flags, 1000, 0, 0)
            plain = struct.pack(">HHIIBBHHH", *fields) + self.options + self.payload
            at = 16
        elif self.number == 1:
            plain = struct.pack(">BBHHH", self.flags, 0, 0, self.ack, self.seq) + self.payload
            at = 2
        else:
            return self.payload
        ends = b"".join(ipaddress.ip_address(a).packed for a in (self.src, self.dst))
        head = 0 if self.number == 1 else ones_sum(ends) + self.number + len(plain)
        partial = head % 0xFFFF or 0xFFFF
        full = 0xFFFF - (head + ones_sum(plain)) % 0xFFFF
        value = {Checksum.PARTIAL: partial, Checksum.VALID: full, Checksum.ABSENT: 0}.get(
            self.state, (full + 0x1234) % 0xFFFF
        )
        return plain[:at] + value.to_bytes(2, "big") + plain[at + 2 :]

    def frame(self) -> bytes:
        segment = self.segment()
        macs = bytes([2, 0, 0, 0, 0, self.mac + 1, 2, 0, 0, 0, 0, self.mac])
        ends = [ipaddress.ip_address(a) for a in (self.src, self.dst)]
        if ends[0].version == 6:
            head = struct.pack(">IHBB", 6 << 28, len(segment), self.number, self.ttl)
            return macs + b"\x86\xdd" + head + ends[0].packed + ends[1].packed + segment
        head = struct.pack(
            ">BBHHHBBH", 0x45, 0, 20 + len(segment), self.ip_id, self.place, self.ttl,
            self.number, 0,
        )  # fmt: skip
        head += ends[0].packed + ends[1].packed
        check = 0xFFFF - ones_sum(head)
        return macs + b"\x08\0" + head[:10] + check.to_bytes(2, "big") + head[12:] + segment

    def record(self, time_ns: int, pkttype: int = 0, snap: int = 1 << 18) -> Record:
        flags = {Metadata.NEEDS_CSUM: 1, Metadata.DATA_VALID: 2, Metadata.NONE: 0}[self.meta]
        vnet = VnetHeader(flags, self.gso, 0, self.gso_size, 0, 0)
        frame = self.frame()
        return Record(time_ns, pkttype, 1, 0, len(frame), vnet, frame[:snap])


LOST: dict[str, Any] = {"state": Checksum.PARTIAL, "meta": Metadata.NONE}
VALID: dict[str, Any] = {"state": Checksum.VALID, "meta": Metadata.NONE}


def hop(
    name: str,
    packets: Iterable[tuple[int, Pkt]],
    *,
    out: bool = False,
    cut: bool = False,
    clock_ns: int = 0,
    arrived_ns: int | None = None,
    mtu: int = MTU,
) -> HopEvidence:
    """What a hop saw: packets with their microseconds since `BEGIN`, its clock `clock_ns` ahead."""
    records = tuple(
        packet.record(BEGIN + clock_ns + micro * 1000, 4 if out else 0) for micro, packet in packets
    )
    header = Header(name, name, 1, mtu, 1 << 18, BEGIN + clock_ns, "6.1", "python")
    ended = BEGIN + clock_ns + 60_000 * MS
    trailer = None if cut else Trailer(len(records), 0, len(records), 0, ended)
    stream = Stream(header, records, trailer, "it ends within a block" if cut else "")
    return judged(name, stream, stream.note, arrived_ns or BEGIN)


PATH = find_path(load(find("router-hop")), "vm1", "vm2").points


def along(packet: Pkt, **after_router: Any) -> list[Pkt]:
    """The packet at each hop of `PATH`: the router takes one from its TTL, and changes so much."""
    routed = replace(packet, ttl=packet.ttl - 1, mac=7, **after_router)
    return [packet] * 4 + [routed] * 4


def evidence(
    ways: Sequence[Sequence[Pkt | None]],
    *,
    cut: Sequence[str] = (),
    gap: int = 1000,
    path: Sequence[ObservationPoint] = PATH,
) -> Evidence:
    """Each way is a packet at every hop (None: not seen there), sent `gap` microseconds apart."""
    hops = []
    for number, place in enumerate(path):
        seen = [
            (index * gap + number * 10, packet)
            for index, way in enumerate(ways)
            if (packet := way[number]) is not None
        ]
        hops.append(
            hop(
                place.name,
                seen,
                out=number % 2 == 0,
                cut=place.name in cut,
                clock_ns=AHEAD if place.name == "vm2:eth0" else 0,
            )
        )
    return Evidence(tuple(hops))


def tunnelled() -> Evidence:
    """A SYN that goes inside VXLAN between the guests; on the way its inner note is lost."""
    inner = Pkt(dst="10.0.1.2")
    outer = Pkt(
        src="192.0.2.1", dst="192.0.2.2", dport=4789, number=17, state=Checksum.ABSENT,
        payload=b"\x08\0\0\0\0\0\x07\0" + inner.frame(),
    )  # fmt: skip
    begins = 14 + 20 + 16
    hops = []
    for number, place in enumerate(PATH):
        packet = inner if number in (0, 7) else outer
        seen = hop(place.name, [(number * 10, packet)])
        if packet is outer and number < 5:  # the virtio header points at the inner checksum
            record = seen.observations[0].record
            vnet = replace(record.vnet, csum_start=begins + 34, csum_offset=16)
            record = replace(record, vnet=vnet)
            observation = replace(seen.observations[0], record=record, judgement=record.classify())
            seen = replace(seen, observations=(observation,))
        hops.append(seen)
    return Evidence(tuple(hops))
