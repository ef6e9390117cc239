"""The record stream an observer writes, and its reader.

Layout, little-endian: 8 bytes magic, a 32-bit length and that many bytes of JSON (the header);
then blocks of one byte kind and a 32-bit length. Kind 1 is a frame: 44 bytes of `RECORD_HEAD`
(time in ns since the epoch, sll_pkttype, 0, ifindex, tp_status, original length, captured length,
VLAN TCI and TPID, struct virtio_net_hdr) and the captured bytes. Kind 2 is the trailer, JSON with
the kernel's counts, written once and last: a stream without it is `cut`.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from labctl.capture.judge import VNET_NEEDS_CSUM, Judgement, VnetHeader, judge
from labctl.capture.observe import MAGIC, RECORD, RECORD_HEAD, TRAILER
from labctl.errors import LabctlError

PACKET_OUTGOING = 4
_VLAN_VALID, _VLAN_TPID_VALID = 1 << 4, 1 << 6
_LONGEST = 16 << 20  # no block is longer: a larger length is damage, not a reason to allocate

Direction = Literal["in", "out"]


class StreamError(LabctlError):
    """What was to be read is not an observer's stream."""


@dataclass(frozen=True, slots=True)
class Header:
    """Who observed what, and the observer's clock when it began."""

    hop: str
    interface: str
    ifindex: int
    mtu: int
    snap: int
    """At most so many bytes of each frame were kept."""
    clock_ns: int
    """The observer's realtime clock as it wrote this header."""
    kernel: str
    observer: str
    """`python` or `perl`."""


@dataclass(frozen=True, slots=True)
class Trailer:
    """What the kernel and the observer counted, at the end."""

    packets: int
    """Frames the packet socket was offered, drops included (PACKET_STATISTICS)."""
    drops: int
    """Frames the kernel dropped because the observer was too slow."""
    written: int
    errors: int
    """Receive errors, each a frame at most: the interface went down, an odd GSO type."""
    clock_ns: int


@dataclass(frozen=True, slots=True)
class Record:
    """One frame as an observer saw it."""

    time_ns: int
    """Nanoseconds since the epoch on the observer's clock."""
    pkttype: int
    """sll_pkttype of packet(7): 0 to this host, 3 to another, 4 outgoing, …"""
    ifindex: int
    status: int
    """tp_status of struct tpacket_auxdata."""
    original_length: int
    """Bytes of the frame before the capture cut it."""
    vnet: VnetHeader
    frame: bytes
    """The frame from its MAC addresses on, any VLAN tag in its place."""

    @property
    def direction(self) -> Direction:
        """`out` if the interface's own host sends it, else `in`."""
        return "out" if self.pkttype == PACKET_OUTGOING else "in"

    def judge(self, mtu: int | None = None) -> Judgement:
        """Judge the frame as seen on an interface with that MTU."""
        return judge(
            self.frame,
            original_length=self.original_length,
            status=self.status,
            vnet=self.vnet,
            mtu=mtu,
        )


@dataclass(frozen=True)
class Stream:
    """All that could be read of one observer's stream."""

    header: Header | None
    """None when not even that was complete: the observer never got ready."""
    records: tuple[Record, ...]
    trailer: Trailer | None
    note: str = ""
    """Why the stream is cut; empty for a whole one."""

    @property
    def cut(self) -> bool:
        """Whether the stream ends before its trailer, so that frames may be missing."""
        return self.trailer is None


def read_header(path: Path) -> Header | None:
    """Return the header, or None as long as it is not there in full.

    Raises `StreamError` when the file begins with something else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(12)
            size = _header_size(start, str(path))
            return None if size is None else _header(file.read(size), size, str(path))
    except FileNotFoundError:
        return None


def read_stream(path: Path) -> Stream:
    """Read a stream, wherever it was cut; raises `StreamError` for what never was one."""
    return parse_stream(path.read_bytes(), str(path))


def parse_stream(data: bytes, name: str = "the stream") -> Stream:
    """Read a stream from its bytes; `name` is for the error."""
    size = _header_size(data[:12], name)
    header = None if size is None else _header(data[12 : 12 + size], size, name)
    if header is None or size is None:
        return Stream(None, (), None, "it ends within its header")
    records: list[Record] = []
    at = 12 + size
    while at < len(data):
        if at + 5 > len(data):
            return Stream(header, tuple(records), None, "it ends within a block")
        kind, length = struct.unpack_from("<BI", data, at)
        body = data[at + 5 : at + 5 + length]
        known = kind == TRAILER or (kind == RECORD and length >= RECORD_HEAD.size)
        if not known or length > _LONGEST:
            return Stream(header, tuple(records), None, f"it is damaged at byte {at}")
        if len(body) < length:
            return Stream(header, tuple(records), None, "it ends within a block")
        if kind == TRAILER:
            trailer = _trailer(body)
            note = "" if trailer else f"it is damaged at byte {at}"
            return Stream(header, tuple(records), trailer, note)
        record = _record(body)
        if record is None:
            return Stream(header, tuple(records), None, f"it is damaged at byte {at}")
        records.append(record)
        at += 5 + length
    return Stream(header, tuple(records), None, "it ends without a trailer")


def _header_size(start: bytes, name: str) -> int | None:
    if not MAGIC.startswith(start[:8]):
        raise StreamError(f"{name} is not a capture stream", "look at the observer's error output")
    return int.from_bytes(start[8:12], "little") if len(start) == 12 else None


def _header(text: bytes, size: int, name: str) -> Header | None:
    if len(text) < size:
        return None
    try:
        about: dict[str, Any] = json.loads(text)
        if about["version"] != 1:
            raise StreamError(f"{name} has the unknown stream version {about['version']}")
        return Header(**{key: about[key] for key in Header.__slots__})
    except (ValueError, KeyError, TypeError) as wrong:
        raise StreamError(f"{name} has a damaged header") from wrong


def _trailer(text: bytes) -> Trailer | None:
    try:
        about: dict[str, Any] = json.loads(text)
        return Trailer(**{key: int(about[key]) for key in Trailer.__slots__})
    except (ValueError, KeyError, TypeError):
        return None


def _record(body: bytes) -> Record | None:
    values = RECORD_HEAD.unpack_from(body)
    time_ns, pkttype, _, ifindex, status, original, captured, tci, tpid, vnet_bytes = values
    frame = body[RECORD_HEAD.size :]
    if len(frame) != captured:
        return None
    vnet = VnetHeader.unpack(vnet_bytes)
    if status & _VLAN_VALID and captured >= 12:
        # The kernel keeps the tag beside the frame and counts the header's offsets without it.
        kind = tpid if status & _VLAN_TPID_VALID else 0x8100
        frame = frame[:12] + struct.pack(">HH", kind, tci) + frame[12:]
        original += 4
        if vnet.flags & VNET_NEEDS_CSUM:
            vnet = replace(vnet, csum_start=vnet.csum_start + 4)
        if vnet.hdr_len:
            vnet = replace(vnet, hdr_len=vnet.hdr_len + 4)
    return Record(time_ns, pkttype, ifindex, status, original, vnet, frame)
