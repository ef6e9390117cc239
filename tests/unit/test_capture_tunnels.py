"""SCTP's checksum, and frames inside frames."""

from __future__ import annotations

import struct

import pytest
from test_capture_judge import eth, ip, tcp, udp, with_state

from labctl.capture.crc import crc32c
from labctl.capture.frame import parse
from labctl.capture.judge import Checksum, judge
from labctl.capture.vxlan import decapsulate


def sctp(payload: bytes, check: bytes | None = None, chunk: int = 1) -> bytes:
    head = struct.pack(">HHI", 9, 80, 7)
    body = bytes([chunk, 0]) + struct.pack(">H", 4 + len(payload)) + payload
    value = crc32c(head + bytes(4) + body).to_bytes(4, "little") if check is None else check
    return head + value + body


def vxlan(inner: bytes, vni: int = 42, flags: int = 0x08) -> bytes:
    head = bytes([flags, 0, 0, 0]) + vni.to_bytes(3, "big") + b"\0"
    return struct.pack(">HHHH", 5000, 4789, 16 + len(inner), 0) + head + inner


@pytest.mark.parametrize(
    ("data", "crc"),
    [  # RFC 3720 appendix B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
    ],
)
def test_crc32c_gives_the_published_values(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("check", "state"),
    [(None, Checksum.VALID), (bytes(4), Checksum.PARTIAL), (b"\1\2\3\4", Checksum.BAD)],
)
def test_sctp_is_judged_by_its_crc(version: int, check: bytes | None, state: Checksum) -> None:
    right = sctp(b"hello world!")
    seen = judge(eth(ip(version, 132, sctp(b"hello world!", check))))
    assert seen.state is state
    assert seen.kind == "SCTP INIT"
    assert seen.flow is not None
    assert seen.flow[2::2] == (9, 80)
    assert seen.expected == int.from_bytes(right[8:12], "big")
    assert seen.pseudo_sum == 0


def test_a_cut_sctp_packet_is_unknown() -> None:
    frame = eth(ip(4, 132, sctp(b"hello world!")))
    assert judge(frame[:-1], original_length=len(frame)).state is Checksum.UNKNOWN


def test_the_frame_inside_vxlan_is_found_and_its_cut_is_known() -> None:
    inner = eth(ip(4, 6, with_state(4, 6, tcp(), "partial")))
    outer = eth(ip(4, 17, vxlan(inner)))
    found = decapsulate(outer, parse(outer))
    assert found is not None
    assert (found.vni, found.frame, found.original_length) == (42, inner, len(inner))
    assert judge(found.frame).state is Checksum.PARTIAL
    cut = outer[:-5]
    found = decapsulate(cut, parse(cut, len(outer)))
    assert found is not None
    assert (len(found.frame), found.original_length) == (len(inner) - 5, len(inner))


@pytest.mark.parametrize(
    "segment", [vxlan(b"x" * 30, flags=0), vxlan(b""), udp(b"y" * 40), tcp(payload=b"z" * 40)]
)
def test_what_is_no_vxlan_carries_nothing(segment: bytes) -> None:
    frame = eth(ip(4, 6 if len(segment) == 60 else 17, segment))
    assert decapsulate(frame, parse(frame)) is None
