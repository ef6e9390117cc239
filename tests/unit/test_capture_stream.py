"""The record stream: whole, cut at every byte, damaged, and not a stream at all."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.kinds.observers.observe import MAGIC, RECORD, RECORD_HEAD, TRAILER
from labctl.kinds.observers.stream import StreamError, parse_stream, read_header, read_stream

ABOUT = {
    "version": 1,
    "hop": "vm1",
    "interface": "eth0",
    "ifindex": 3,
    "mtu": 1500,
    "snap": 100,
    "clock_ns": 1_700_000_000_000_000_001,
    "kernel": "6.1",
    "observer": "perl",
}
COUNTS = {"packets": 2, "drops": 0, "written": 2, "errors": 0, "clock_ns": 5}


def head(**other: object) -> bytes:
    text = json.dumps(ABOUT | other).encode()
    return MAGIC + struct.pack("<I", len(text)) + text


def record(
    frame: bytes,
    *,
    status: int = 1,
    tci: int = 0,
    tpid: int = 0,
    pkttype: int = 4,
    vnet: bytes = b"",
) -> bytes:
    body = RECORD_HEAD.pack(
        7, pkttype, 0, 3, status, len(frame), len(frame), tci, tpid, vnet or bytes(10)
    )
    return struct.pack("<BI", RECORD, len(body + frame)) + body + frame


def tail(text: bytes = b"") -> bytes:
    text = text or json.dumps(COUNTS).encode()
    return struct.pack("<BI", TRAILER, len(text)) + text


FRAME = bytes(12) + b"\x08\x00" + b"x" * 20
WHOLE = head() + record(FRAME) + record(FRAME + b"y", pkttype=0) + tail()


def test_a_whole_stream_is_read_in_full(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(WHOLE)
    stream = read_stream(path)
    assert stream.header == read_header(path)
    assert stream.header is not None
    assert (stream.header.hop, stream.header.clock_ns) == ("vm1", 1_700_000_000_000_000_001)
    assert [r.frame for r in stream.records] == [FRAME, FRAME + b"y"]
    assert [r.direction for r in stream.records] == ["out", "in"]
    assert stream.trailer is not None
    assert stream.trailer.written == 2
    assert (stream.cut, stream.note) == (False, "")


def test_a_stream_cut_at_any_byte_keeps_what_came_before() -> None:
    starts = [len(head()), len(head() + record(FRAME)), len(WHOLE) - len(tail())]
    for size in range(len(WHOLE)):
        stream = parse_stream(WHOLE[:size])
        assert stream.cut
        assert stream.note
        assert (stream.header is not None) == (size >= starts[0])
        assert len(stream.records) == sum(size >= end for end in starts[1:])


@given(at=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_damage_raises_nothing_but_a_stream_error(at: int, value: int) -> None:
    data = bytearray(WHOLE)
    data[at] = value
    try:
        parse_stream(bytes(data))
    except StreamError:
        assert at < len(head())


def test_garbage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"sh: perl: not found\n")
    with pytest.raises(StreamError, match="not a capture stream"):
        read_stream(path)
    with pytest.raises(StreamError):
        read_header(path)
    with pytest.raises(StreamError, match="version 9"):
        parse_stream(head(version=9))


def test_no_header_yet_is_not_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert read_header(path) is None
    for size in (0, 5, 11, len(head()) - 1):
        path.write_bytes(head()[:size])
        assert read_header(path) is None


def test_an_absurd_length_is_damage_not_memory() -> None:
    stream = parse_stream(head() + struct.pack("<BI", RECORD, 0xFFFFFFFF) + b"z" * 50)
    assert "damaged" in stream.note


@pytest.mark.parametrize(("status", "kind"), [(0x11, 0x8100), (0x51, 0x88A8)])
def test_a_vlan_tag_goes_back_into_the_frame_and_moves_the_offsets(status: int, kind: int) -> None:
    vnet = struct.pack("<BBHHHH", 1, 1, 54, 1448, 34, 16)
    data = head() + record(FRAME, status=status, tci=0x2007, tpid=kind, vnet=vnet) + tail()
    (seen,) = parse_stream(data).records
    assert seen.frame == FRAME[:12] + struct.pack(">HH", kind, 0x2007) + FRAME[12:]
    assert seen.original_length == len(FRAME) + 4
    assert (seen.vnet.csum_start, seen.vnet.hdr_len) == (38, 58)
    assert seen.classify().packet.vlan == (7,)
