"""What comes from inside a lab: an observer's stream, an agent's answers."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from functools import cache
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from random import Random
from typing import Any

from inspect_files import any_frame

from labctl.capture.session import judged
from labctl.kinds.observers.observe import MAGIC, RECORD, RECORD_HEAD, TRAILER
from labctl.kinds.observers.stream import parse_stream
from labctl.sandbox import codec
from labctl.topology import Topology, find, load

from ..mutate import changed
from ..target import Target

HEADER = {
    "version": 1, "hop": "vm1:eth0", "interface": "eth0", "ifindex": 2, "mtu": 1500, "snap": 65535,
    "clock_ns": 10**18, "kernel": "6.1.0", "observer": "perl",
}  # fmt: skip
COUNTS = {"packets": 1, "drops": 0, "written": 1, "errors": 0, "clock_ns": 10**18}
TOKENS = [b"null", b'"x"', b"-1", b"1e999", b"[]", b"{}", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\1",
          b"\2", b'"mtu"', b"NaN", b'"\\u001b"', b"9" * 30]  # fmt: skip


def observe(data: bytes) -> None:
    """Read and judge a stream as every capture does."""
    evidence = judged("vm1:eth0", parse_stream(data))
    for seen in evidence.observations:
        seen.judgement.describe()
    _ = evidence.complete, evidence.drops, evidence.clock_offset_ns


def stream(rng: Random) -> bytes:
    """Return a stream of frames of many shapes."""
    header = json.dumps(HEADER).encode()
    data = MAGIC + struct.pack("<I", len(header)) + header
    for _ in range(rng.randrange(4)):
        frame, original = any_frame(rng, 1)
        vnet = bytes(rng.choice([0, 1, 2, 34, 16]) for _ in range(10))
        status = rng.choice([0, 8, 0x80, 0x10, 0x50])
        body = RECORD_HEAD.pack(
            rng.randrange(2**63), rng.choice([0, 4]), 0, 2, status, original, len(frame), 5, 0x8100,
            vnet,
        )  # fmt: skip
        body += frame
        data += struct.pack("<BI", RECORD, len(body)) + body
    trailer = json.dumps(COUNTS).encode()
    return data + struct.pack("<BI", TRAILER, len(trailer)) + trailer


def streams() -> Sequence[bytes]:
    """Whole streams."""
    return [stream(Random(seed)) for seed in range(40)]


def make(rng: Random) -> bytes:
    """Make a stream, mostly with parts replaced."""
    data = stream(rng)
    return data if rng.random() < 0.2 else changed(rng, data, TOKENS)


OBSERVER = Target(
    "observers",
    "streams of observers in guests",
    10**5,
    ("labctl.capture", "labctl.packet"),
    streams,
    make,
    observe,
    longest=8192,
)

KINDS: tuple[Any, ...] = (
    int | None, str, bytes, bool, float, Path, list[str], dict[str, list[int]], tuple[int, str],
    tuple[str, ...], IPv4Interface | IPv6Interface, Topology,
)  # fmt: skip
MESSAGES = [b"null", b"1", b"-0.5", b'"x"', b"[]", b'{"a":[1,2]}', b'[1,"x"]', b'"10.0.0.1/24"',
            b"true", b"9" * 5000, b"1e999", b"[" * 5000, b'{"a":1,"a":2}',
            b'"\\ud800"']  # fmt: skip


def answer(data: bytes) -> None:
    """Read an answer as the type that was asked for, which its first byte chooses."""
    try:
        codec.loads(data[1:], KINDS[data[0] % len(KINDS)] if data else str)
    except codec.CodecError:
        return  # which whoever asked turns into words


@cache
def answers() -> Sequence[bytes]:
    """Values of every kind, a topology among them."""
    lab = codec.dumps(load(find("router-hop")), Topology)
    some = [bytes([kind]) + text for kind in range(len(KINDS)) for text in MESSAGES]
    return (*some, bytes([KINDS.index(Topology)]) + lab)


def make_answer(rng: Random) -> bytes:
    """Make one with parts replaced."""
    return changed(rng, rng.choice([rng.choice(answers()), answers()[-1]]), [*MESSAGES, *TOKENS])


AGENT = Target(
    "agents",
    "answers of agents",
    10**5,
    ("labctl.sandbox.codec", "labctl.sandbox.jsontext"),
    answers,
    make_answer,
    answer,
)
