"""Frames and what the kernel said beside them: parsed, judged, and followed from hop to hop."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

from inspect_files import any_frame
from test_inspect_vector import check as agree

from labctl.capture.session import Evidence, HopEvidence, Observation
from labctl.kinds.observers.stream import Record, Trailer
from labctl.packet import link_types
from labctl.packet.af_packet import PACKET_OUTGOING
from labctl.packet.tunnels import decapsulate
from labctl.packet.virtio import VnetHeader
from labctl.topology.points import inside_guest, inside_router, outer_end
from labctl.tracing.follow import follow
from labctl.tracing.packet_trace import summary

from ..mutate import changed
from ..target import Target, WrongError, chosen

LINKS = sorted(link_types.NAMES)
PATH = (
    inside_guest("vm1", "eth0"),
    outer_end("guest", "vm1", "vm1-eth0"),
    inside_router("r1", "eth0"),
    inside_guest("vm2", "eth0"),
)
HEAD = struct.Struct("<BBBHHHH")
"""Of each frame: where it was seen, flags, GSO type, sum's start and offset, length, how much was
cut; the frame follows. The first byte of all chooses the link type."""
_MOST = 12
TOKENS = [b"\0", b"\xff", b"\x08\0", b"\x86\xdd", b"\x11", b"\x12\xb5", b"\0\x08", b"\0\0"]


def frames(data: bytes) -> list[tuple[int, Record]]:
    """Read an input: frames with the number of the hop that saw each."""
    found: list[tuple[int, Record]] = []
    at = 1
    while at + HEAD.size <= len(data) and len(found) < _MOST:
        hop, flags, gso, start, offset, length, cut = HEAD.unpack_from(data, at)
        at += HEAD.size
        frame = data[at : at + length]
        at += length
        record = Record(
            time_ns=10**9 + len(found) * 1000 * (1 - hop // 128 * 2),
            pkttype=PACKET_OUTGOING if hop & 4 else 0,
            ifindex=1,
            status=flags & 0x88,
            original_length=len(frame) + cut,
            vnet=VnetHeader(flags & 3, gso, 0, 1448 if gso else 0, start, offset),
            frame=frame,
        )
        found.append((hop & 3, record))
    return found


def check(data: bytes) -> None:
    """Judge each frame alone, all by arrays and one by one, and follow them along a path."""
    found = frames(data)
    if not found:
        return
    link = LINKS[data[0] % len(LINKS)]
    some = [(record.frame, record.original_length) for _, record in found]
    try:
        if chosen(data, 4):
            agree(some, link)
    except AssertionError as differ:
        raise WrongError(f"arrays and judge disagree: {differ}"[:1000]) from differ
    seen: list[list[Observation]] = [[] for _ in PATH]
    for number, record in found:
        judgement = record.classify(1500)
        if not judgement.describe().isprintable():
            raise WrongError(f"a frame's words: {judgement.describe()!r}")
        if judgement.lost and judgement.flow is None:
            raise WrongError("a lost packet of no flow")
        decapsulate(record.frame, judgement.packet)
        seen[number].append(Observation(PATH[number].name, record, judgement))
    hops = tuple(
        HopEvidence(hop.name, tuple(some), None, Trailer(len(some), 0, len(some), 0, 0))
        for hop, some in zip(PATH, seen, strict=True)
    )
    packet_traces = follow(Evidence(hops), PATH, lambda _packet: True)
    for packet_trace, count in summary(packet_traces):
        if count < 1 or not packet_trace.steps:
            raise WrongError("a packet trace of nothing")


def packed(link: int, some: Sequence[tuple[int, bytes, int]], rng: Random) -> bytes:
    """Return an input of frames, each with its hop and how much was cut."""
    data = bytes([LINKS.index(link)])
    for hop, frame, cut in some:
        flags = rng.choice([0, 0, 1, 1, 2, 8, 128])
        gso = rng.choice([0, 0, 0, 1, 3, 4, 5, 129])
        start, offset = rng.choice([(0, 0), (34, 16), (54, 16), (34, 6), (84, 16), (65535, 65535)])
        data += HEAD.pack(hop, flags, gso, start, offset, len(frame), min(cut, 65535)) + frame
    return data


def whole(rng: Random) -> bytes:
    """Return frames of many shapes that some hops see, whole or not, in any order."""
    link = link_types.ETHERNET if rng.random() < 0.8 else rng.choice(LINKS)
    some = []
    for _ in range(rng.randrange(1, 4)):
        frame, original = any_frame(rng, link)
        cut = max(0, original - len(frame))
        for hop in sorted(rng.sample(range(4), rng.randrange(1, 5))):
            if rng.random() < 0.1 and frame:
                at = rng.randrange(len(frame))
                frame = frame[:at] + rng.randbytes(1) + frame[at + 1 :]
            some.append((hop | rng.choice([0, 4, 128]), frame, cut))
    return packed(link, some, rng)


def seeds() -> Sequence[bytes]:
    """Some of the shapes that frames have."""
    return [whole(Random(seed)) for seed in range(200)]


def make(rng: Random) -> bytes:
    """Make frames of many shapes, half of them with bytes replaced."""
    data = whole(rng)
    return data if rng.random() < 0.5 else changed(rng, data, TOKENS)


TARGET = Target(
    "frames",
    "frames with metadata",
    10**6,
    ("labctl.capture", "labctl.inspect", "labctl.packet"),
    seeds,
    make,
    check,
    longest=8192,
)
