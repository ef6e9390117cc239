"""The file that inspecting is measured on: what a link of a small company carries, all seeded."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random

from labctl.packet.crc32c import crc32c
from labctl.packet.internet_checksum import ones_sum

POOL = 20_000
"""Distinct frames; a file of more repeats them in a random order."""
FLOWS = 2_000
MACS = bytes.fromhex("020000000002020000000001")

Ends = tuple[int, bytes, bytes]
"""IP version, source, destination."""


def size_of(rng: Random) -> int:
    """A frame's length in bytes: many small, many full, some between."""
    part = rng.random()
    if part < 0.45:
        return rng.randint(60, 100)
    return rng.randint(100, 1434) if part < 0.70 else rng.randint(1435, 1514)


def pseudo(ends: Ends, number: int, length: int) -> int:
    return ones_sum(ends[1] + ends[2]) + number + length


def ip(ends: Ends, number: int, body: bytes, ident: int, place: int = 0) -> bytes:
    version, src, dst = ends
    if version == 6:
        return struct.pack(">IHBB", 6 << 28, len(body), number, 64) + src + dst + body
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), ident, place, 64, number, 0)
    check = 0xFFFF - ones_sum(head + src + dst)
    return head[:10] + check.to_bytes(2, "big") + src + dst + body


def ethernet(packet: bytes, tag: bytes = b"") -> bytes:
    return (MACS + tag + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet).ljust(
        60, b"\0"
    )


def field(rng: Random, ends: Ends, number: int, body: bytes, state: str) -> int:
    """The value that brings a checksum field (0 in `body`) into a state."""
    head = pseudo(ends, number, len(body)) if number != 1 else 0
    right = 0xFFFF - (head + ones_sum(body)) % 0xFFFF
    if state == "partial" and number in (6, 17):
        return head % 0xFFFF or 0xFFFF
    if state == "bad":
        return right ^ rng.randint(1, 0x7FFF)
    return right


def state_of(rng: Random) -> str:
    part = rng.random()
    return "valid" if part < 0.90 else "partial" if part < 0.98 else "bad"


def tcp(rng: Random, ends: Ends, ports: bytes, size: int) -> bytes:
    flags = 0x18 if size > 80 else rng.choice([0x02, 0x12, 0x10, 0x10, 0x11])
    head = ports + struct.pack(
        ">IIBBHHH", rng.getrandbits(32), rng.getrandbits(32), 0x50, flags, 500, 0, 0
    )
    body = head + rng.randbytes(max(size - 20, 0))
    return put(body, 16, field(rng, ends, 6, body, state_of(rng)))


def udp(rng: Random, ends: Ends, ports: bytes, size: int) -> bytes:
    data = rng.randbytes(max(size - 8, 0))
    body = ports + struct.pack(">HH", 8 + len(data), 0) + data
    if ends[0] == 4 and rng.random() < 0.1:
        return body  # without a checksum
    return put(body, 6, field(rng, ends, 17, body, state_of(rng)) or 0xFFFF)


def echo(rng: Random, ends: Ends, _ports: bytes, size: int) -> bytes:
    number, kind = (1, 8) if ends[0] == 4 else (58, 128)
    head = struct.pack(">BBHHH", kind, 0, 0, 7, rng.randrange(65536))
    body = head + rng.randbytes(max(size - 8, 0))
    return put(body, 2, field(rng, ends, number, body, "bad" if rng.random() < 0.02 else "valid"))


def sctp(rng: Random, _ends: Ends, ports: bytes, size: int) -> bytes:
    data = rng.randbytes(max(size - 28, 4) & ~3)
    chunk = struct.pack(">BBHIHHI", 0, 3, 16 + len(data), 1, 0, 0, 0) + data
    body = ports + struct.pack(">II", 7, 0) + chunk
    return body[:8] + crc32c(body).to_bytes(4, "little") + body[12:]


def put(body: bytes, at: int, value: int) -> bytes:
    return body[:at] + value.to_bytes(2, "big") + body[at + 2 :]


Maker = Callable[[Random, Ends, bytes, int], bytes]


def frame(rng: Random, ends: Ends, ports: bytes, maker: Maker) -> bytes:
    """One frame of a flow."""
    numbers: dict[Maker, int] = {tcp: 6, udp: 17, sctp: 132}
    number = numbers.get(maker, 1 if ends[0] == 4 else 58)
    tag = b"\x81\0\0\x07" if rng.random() < 0.05 else b""
    room = size_of(rng) - 14 - len(tag) - (20 if ends[0] == 4 else 40)
    body = maker(rng, ends, ports, room)
    if ends[0] == 4 and rng.random() < 0.005:  # the first fragment of something longer
        return ethernet(ip(ends, number, body[: max(len(body) & ~7, 8)], 1, 0x2000), tag)
    return ethernet(ip(ends, number, body, rng.randrange(65536)), tag)


def flow(rng: Random) -> tuple[Ends, bytes, Maker]:
    """Who speaks to whom, and how."""
    net = "fd00::" if (six := rng.random() < 0.25) else "10.0.0.0"
    low = int(ipaddress.ip_address(net))
    src, dst = (ipaddress.ip_address(low + rng.randrange(1, 60_000)).packed for _ in range(2))
    maker: Maker = rng.choices([tcp, udp, echo, sctp], [70, 22, 7, 1])[0]
    # Ports of no protocol that tshark would go on to dissect: what is measured are checksums.
    ports = struct.pack(">HH", rng.randrange(40000, 65000), rng.choice([22, 7777, 7778, 39000]))
    return (6 if six else 4, src, dst), ports, maker


def arp(rng: Random) -> bytes:
    head = MACS + b"\x08\x06\0\1\x08\0\6\4\0\1" + MACS[6:]
    return (head + rng.randbytes(4) + bytes(6) + rng.randbytes(4)).ljust(60, b"\0")


def write(path: Path, frames: int, seed: int = 1) -> int:
    """Write a pcap file of so many frames; return its size in bytes."""
    rng = Random(seed)
    flows = [flow(rng) for _ in range(FLOWS)]
    pool = [
        arp(rng) if rng.random() < 0.005 else frame(rng, *rng.choice(flows))
        for _ in range(min(POOL, frames))
    ]
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        for number, one in enumerate(rng.choices(pool, k=frames)):
            seconds, rest = divmod(number * 37, 10**6)
            file.write(struct.pack("<IIII", 1_700_000_000 + seconds, rest, len(one), len(one)))
            file.write(one)
    return path.stat().st_size
