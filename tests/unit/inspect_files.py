"""Frames of every shape, and capture files of them, for the tests of `labctl inspect`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from random import Random

from test_packet_checksum import MACS, ip, pseudo, tcp, udp, with_state, word_sum
from test_packet_tunnels import local, sctp, vxlan

from labctl.packet import link_types

MICRO, NANO = 0xA1B2C3D4, 0xA1B23C4D


def pcap(
    frames: Sequence[bytes | tuple[bytes, int]],
    *,
    order: str = "<",
    magic: int = MICRO,
    link: int = 1,
) -> bytes:
    """A file of frames, or of pairs of what was captured and how long it was."""
    data = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, link)
    for number, frame in enumerate(frames):
        captured, original = frame if isinstance(frame, tuple) else (frame, len(frame))
        data += struct.pack(f"{order}IIII", 1000 + number, number, len(captured), original)
        data += captured
    return data


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + size + body + size


def section(order: str = "<", options: bytes = b"") -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1) + options, order)


def interface(order: str = "<", link: int = 1, snap: int = 0, options: bytes = b"") -> bytes:
    return block(1, struct.pack(f"{order}HHI", link, 0, snap) + options, order)


def packet(
    frame: bytes,
    order: str = "<",
    *,
    number: int = 0,
    ticks: int = 0,
    original: int | None = None,
    options: bytes = b"",
) -> bytes:
    head = struct.pack(
        f"{order}IIIII",
        number,
        ticks >> 32,
        ticks & 0xFFFFFFFF,
        len(frame),
        len(frame) if original is None else original,
    )
    return block(6, head + frame + bytes(-len(frame) % 4) + options, order)


def simple_packet(frame: bytes, order: str = "<", original: int | None = None) -> bytes:
    size = len(frame) if original is None else original
    return block(3, struct.pack(f"{order}I", size) + frame, order)


def old_packet(frame: bytes, order: str = "<", *, number: int = 0, ticks: int = 0) -> bytes:
    head = struct.pack(
        f"{order}HHIIII",
        number,
        0xFFFF,
        ticks >> 32,
        ticks & 0xFFFFFFFF,
        len(frame),
        len(frame),
    )
    return block(2, head + frame, order)


def echo(version: int, payload: bytes, good: bool) -> bytes:
    body = struct.pack(">BBHHH", 8 if version == 4 else 128, 0, 0, 77, 3) + payload
    cover = b"" if version == 4 else pseudo(6, 58, len(body))
    value = 0xFFFF ^ word_sum(cover + body) if good else 0x1234
    return body[:2] + value.to_bytes(2, "big") + body[4:]


def segment(version: int, number: int, state: str, payload: bytes, flags: int) -> bytes:
    """A transport header and payload whose checksum field is in a state."""
    if number in (6, 17):
        plain = tcp(flags, payload) if number == 6 else udp(payload)
        return plain if state == "zero" else with_state(version, number, plain, state)
    if number in (1, 58):
        return echo(version, payload, state == "valid")
    if number == 132:
        return sctp(payload, {"valid": None, "partial": bytes(4)}.get(state, b"\1\2\3\4"))
    return payload


def on_link(link: int, packet_: bytes, tags: bytes = b"", kind: bytes = b"") -> bytes:
    """An IP packet (or what `kind` says) as a link type carries it."""
    version = packet_[0] >> 4 if packet_ else 4
    ethertype = tags + (kind or (b"\x86\xdd" if version == 6 else b"\x08\0"))
    if link == link_types.ETHERNET:
        return MACS + ethertype + packet_
    if link == link_types.COOKED:
        return bytes(14) + ethertype + packet_
    if link == link_types.COOKED_V2:
        return ethertype[:2] + bytes(18) + ethertype[2:] + packet_
    if link in (link_types.NULL, link_types.LOOP):
        family = 30 if version == 6 else 2
        return family.to_bytes(4, "little" if link == link_types.NULL else "big") + packet_
    return packet_


EDGES = (0, 1, 4, 5, 6, 7, 8, 15, 16, 17, 20, 44, 58, 0x45, 0x46, 0x60, 0x80, 0xFF)
"""Bytes that mean something to a header."""


def any_packet(rng: Random, depth: int = 0) -> bytes:
    """An IP packet of any transport, with options, fragments and tunnels, mostly whole."""
    version = rng.choice([4, 6])
    number = rng.choice([6, 6, 17, 17, 17, 1 if version == 4 else 58, 58, 1, 132, 2])
    size = rng.choice([0, 1, rng.randrange(80), rng.randrange(1380, 1520)])
    state = rng.choice(["valid", "partial", "bad", "zero"])
    flags = rng.choice([0x02, 0x12, 0x10, 0x18, 0x11, 0x04])
    body = segment(version, number, state, rng.randbytes(size), flags)
    if number == 17 and depth < 4 and rng.random() < 0.5:
        inside = on_link(link_types.ETHERNET, any_packet(rng, depth + 1))
        body = vxlan(inside if rng.random() < 0.9 else b"", rng.randrange(3), rng.choice([8, 8, 0]))
        if rng.random() < 0.5:
            body = with_state(version, 17, body, rng.choice(["valid", "partial"]))
        elif rng.random() < 0.5:
            within, kind = rng.choice([4, 6]), rng.choice([6, 17])
            unfinished, finished = (
                on_link(1, ip(within, kind, segment(within, kind, state, b"data", flags)))
                for state in ("partial", "valid")
            )
            body = local(version, unfinished, finished, rng.randrange(3))
    if version == 4:
        options = b"\x01" * rng.choice([0, 0, 0, 4, 40])
        place = rng.choice([0, 0, 0, 0, 0x4000, 0x2000, 0x0010])
        return ip(4, number, body, options=options, place=place)
    if rng.random() < 0.1:
        return ip(6, 0, body, options=bytes([number, 0, 1, 4, 0, 0, 0, 0]))
    if rng.random() < 0.1:
        place = rng.choice([0, 1, 8])
        return ip(6, 44, body, options=struct.pack(">BBHI", number, 0, place, 7))
    return ip(6, number, body)


def any_frame(rng: Random, link: int) -> tuple[bytes, int]:
    """What was captured of a frame of a link type, and its length: whole, cut, padded, changed."""
    tags = rng.choice([b"", b"", b"", b"\x81\0\0\1", b"\x88\xa8\0\1\x81\0\0\2", b"\x91\0\0\1" * 3])
    kind = b"" if rng.random() < 0.95 else rng.choice([b"\x08\x06", b"\x88\xcc", b"\x08\0"])
    frame = bytearray(on_link(link, any_packet(rng), tags, kind))
    frame += bytes(rng.choice([0, 0, 0, 6]))
    at = link_types.HEADER[link] + len(tags)  # where the packet starts
    for _ in range(rng.choice([0, 0, 1, 2])):
        place = rng.choice(
            [rng.randrange(len(frame)), at + rng.randrange(min(100, len(frame) - at))]
        )
        frame[place] = rng.choice([rng.choice(EDGES), rng.randrange(256), frame[place] ^ 1])
    original = len(frame)
    if rng.random() < 0.3:
        del frame[rng.choice([at + rng.randrange(100), rng.randrange(len(frame) + 1)]) :]
    if rng.random() < 0.1:
        original = rng.randrange(70000)
    return bytes(frame), original


def write(folder: Path, data: bytes, name: str = "file.pcap") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path
