"""Capture files: pcap and pcapng from anywhere by `inspect`, labctl's own by its reports."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Sequence
from functools import cache
from random import Random

from inspect_files import (
    NANO,
    any_frame,
    block,
    interface,
    old_packet,
    option,
    packet,
    pcap,
    section,
    simple_packet,
)

from labctl.capture import pcapng
from labctl.cli.inspect import inspect_file
from labctl.errors import LabctlError
from labctl.inspect.run import inspect
from labctl.report.recorded import path_of
from labctl.tracing.follow import follow
from report_records import record

from ..mutate import changed
from ..scratch import file_of, folder
from ..target import Target, chosen, printed

WORDS = ["labctl", "MTU 1500", "SYN: partial, needs_csum", "gso tcpv4", "dropped by the kernel: 0",
         "receive errors: 0", "cut: it ended", "vm1:eth0", "\x1b[31m",
         "MTU " + "9" * 30]  # fmt: skip
MAGICS = [b"\x0a\x0d\x0d\x0a", b"\x4d\x3c\x2b\x1a", b"\x1f\x8b\x08\0", b"\xd4\xc3\xb2\xa1",
          b"\xff\xff\xff\xff", b"\0\0\0\0", b"\1\0\0\0", b"\6\0\0\0", b"\x20\0\0\0",
          b"\0\0\1\0", b"\xfc\xff\xff\xff", b"\x09\0\1\0\xff\0\0\0"]  # fmt: skip


TOKENS = [*MAGICS, *(word.encode() for word in WORDS)]


def check(data: bytes) -> None:
    """Judge a file as `inspect` does, and read it as a record's capture."""
    path = file_of(data, "f.pcapng")
    _as_own(data)
    json.dumps(inspect(path, window=4096).to_json(3))
    if chosen(data, 16):
        printed(lambda: inspect_file.main([str(path)], standalone_mode=False))


def _as_own(data: bytes) -> None:
    try:
        evidence = pcapng.read(file_of(data, "f.pcapng"))
    except LabctlError:
        return
    path = path_of(evidence, ["vm1", "vm2"], None)
    if path:
        try:
            follow(evidence, path, lambda _packet: True)
        except KeyError:
            return  # that hops are missing is what the report says then


def whole(rng: Random) -> bytes:
    """Return a file of either format with frames of many shapes."""
    order = rng.choice("<>")
    some = [any_frame(rng, 1) for _ in range(rng.randrange(4))]
    if rng.random() < 0.3:
        data = pcap(some, order=order, magic=rng.choice([NANO, 0xA1B2C3D4]))
        return gzip.compress(data, 1) if rng.random() < 0.2 else data
    text = [rng.choice(WORDS).encode() for _ in range(4)]
    data = section(order, option(4, text[0], order) if rng.random() < 0.7 else b"")
    for _ in range(rng.randrange(1, 3)):
        about = option(2, b"vm1:eth0", order) + option(3, text[1], order)
        about += option(9, rng.choice([b"\x09", b"\x06", b"\x80", b"\xff", b""]), order)
        about += option(14, rng.randbytes(8), order) if rng.random() < 0.2 else b""
        data += interface(order, options=about, snap=rng.choice([0, 64, 65535]))
    for frame, original in some:
        flags = rng.randrange(4) | rng.choice([0, 1 << 9, 1 << 10, 1 << 11, rng.randrange(1 << 32)])
        said = option(1, text[2], order) if rng.random() < 0.8 else b""
        said += option(2, struct.pack(f"{order}I", flags), order)
        said += option(5, rng.randbytes(8), order)
        kind = rng.random()
        if kind < 0.7:
            data += packet(
                frame, order, number=rng.randrange(2), ticks=rng.randrange(2**64),
                original=original, options=said if rng.random() < 0.7 else b"",
            )  # fmt: skip
        elif kind < 0.9:
            data += simple_packet(frame, order, original)
        else:
            data += old_packet(frame, order, ticks=rng.randrange(2**60))
    if rng.random() < 0.3:
        told = b"".join(option(code, rng.randbytes(8), order) for code in (4, 5, 6, 7))
        data += block(5, rng.choice([bytes(4), rng.randbytes(4)]) + bytes(8) + told, order)
    return data


@cache
def own() -> tuple[bytes, ...]:
    """Return captures as labctl's experiments write them."""
    run = record(folder() / "own", versions=(4,), topology=False)
    return tuple(path.read_bytes() for path in sorted(run.glob("captures/*.pcapng")))


def seeds() -> Sequence[bytes]:
    """Captures of labctl's own, and files of either format."""
    return [*own(), *(whole(Random(seed)) for seed in range(100))]


def make(rng: Random) -> bytes:
    """Make a whole file, one with parts replaced, or any bytes behind a magic number."""
    kind = rng.random()
    if kind < 0.1:
        return rng.choice(MAGICS) + rng.randbytes(rng.randrange(60))
    data = rng.choice(own()) if kind < 0.2 else whole(rng)
    return data if kind > 0.7 else changed(rng, data, TOKENS)


TARGET = Target(
    "captures",
    "pcap and pcapng files",
    10**6,
    ("labctl.capture", "labctl.inspect", "labctl.packet", "labctl.report.recorded"),
    seeds,
    make,
    check,
    words=WORDS,
    longest=8192,
)
