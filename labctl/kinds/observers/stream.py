"""The record stream an observer writes, and its reader.

Layout, little-endian: 8 bytes magic, a 32-bit length and that many bytes of JSON (the header);
then blocks of one byte kind and a 32-bit length. Kind 1 is a frame: 44 bytes of `RECORD_HEAD`
(time in ns since the epoch, sll_pkttype, 0, ifindex, tp_status, original length, captured length,
VLAN TCI and TPID, struct virtio_net_hdr) and the captured bytes. Kind 2 is the trailer, JSON with
the kernel's counts, written once and last: a stream without it is `cut`.

An observer may run in a guest that nobody trusts, so a stream is read by shape: lengths are bounded
before anything is kept, and numbers and texts of header and trailer are checked as they come in.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from labctl.errors import LabctlError
from labctl.kinds.observers.observe import MAGIC, RECORD, RECORD_HEAD, TRAILER
from labctl.packet.af_packet import PACKET_OUTGOING, TP_STATUS_VLAN_VALID, VLAN_AT, vlan_tag
from labctl.packet.checksum import Judgement, classify
from labctl.packet.frame import VLAN_HLEN
from labctl.packet.virtio import VnetHeader, shift

_LONGEST = 1 << 20  # no block is longer: a larger length is damage, not a reason to allocate
_HEADER_LONGEST = 4096
_TEXT_LONGEST = 256
_INT64 = 1 << 63

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

    def classify(self, mtu: int | None = None) -> Judgement:
        """Judge the frame as seen on an interface with that MTU."""
        return classify(
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
    left_out: int = 0
    """Frames that were in the stream beyond what was to be kept."""

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
    parser = StreamParser(name)
    parser.feed(data)
    return parser.stream()


class StreamParser:
    """Reads a stream as it grows: each byte once, and no more frames kept than asked for."""

    def __init__(self, name: str = "the stream", most: int | None = None) -> None:
        """Prepare to read a stream called `name`, and to keep its first `most` frames."""
        self.header: Header | None = None
        self.records: list[Record] = []
        """The frames so far; it only grows."""
        self.trailer: Trailer | None = None
        self.left_out = 0
        self._name = name
        self._most = most
        self._rest = b""
        self._at = 0
        """Bytes of the stream before `_rest`."""
        self._size: int | None = None
        self._damage = ""

    @property
    def ended(self) -> bool:
        """Whether what comes now would not be read: after a trailer, or after damage."""
        return self.trailer is not None or bool(self._damage)

    @property
    def ready(self) -> bool:
        """Whether the header has come: it is written once nothing is missed any more."""
        return self.header is not None

    @property
    def why_not(self) -> str:
        """Nothing: one that cannot look ends without a header, and says why as an error."""
        return ""

    def evidence(self) -> Stream:
        """Return all that was read."""
        return self.stream()

    def feed(self, data: bytes) -> None:
        """Read what came next; raises `StreamError` for what never was a stream."""
        if self.ended:
            return
        data = self._rest + data
        begin = 0
        if self.header is None:
            size = self._size = _header_size(data[:12], self._name)
            header = None if size is None else _header(data[12 : 12 + size], size, self._name)
            if header is None or size is None:
                self._rest = data
                return
            self.header, begin = header, 12 + size
        at = self._blocks(data, begin)
        self._rest = data[at:]
        self._at += at

    def _blocks(self, data: bytes, at: int) -> int:
        """Read whole blocks; return where the first that is not there in full begins."""
        while at + 5 <= len(data) and not self.ended:
            kind, length = struct.unpack_from("<BI", data, at)
            known = kind == TRAILER or (kind == RECORD and length >= RECORD_HEAD.size)
            if not known or length > _LONGEST:
                self._damaged(at)
                break
            if at + 5 + length > len(data):
                break
            if kind == RECORD and self._most is not None and len(self.records) >= self._most:
                self.left_out += 1
            else:
                self._block(kind, data[at + 5 : at + 5 + length], at)
            at += 5 + length
        return at

    def _block(self, kind: int, body: bytes, at: int) -> None:
        if kind == TRAILER:
            self.trailer = _trailer(body)
            if self.trailer is None:
                self._damaged(at)
            return
        record = _record(body)
        if record is None:
            self._damaged(at)
        else:
            self.records.append(record)

    def _damaged(self, at: int) -> None:
        self._damage = f"it is damaged at byte {self._at + at}"

    def stream(self) -> Stream:
        """Return all that was read."""
        if self.header is None:
            note = "it ends within its header"
        elif self._damage or self.trailer is not None:
            note = self._damage
        else:
            note = "it ends within a block" if self._rest else "it ends without a trailer"
        return Stream(self.header, tuple(self.records), self.trailer, note, self.left_out)


def _header_size(start: bytes, name: str) -> int | None:
    if not MAGIC.startswith(start[:8]):
        raise StreamError(f"{name} is not a capture stream", "look at the observer's error output")
    size = int.from_bytes(start[8:12], "little") if len(start) == 12 else None
    if size is not None and size > _HEADER_LONGEST:
        raise StreamError(f"{name} has a damaged header: it claims {size} bytes")
    return size


def _header(text: bytes, size: int, name: str) -> Header | None:
    if len(text) < size:
        return None
    try:
        about = _object(text)
        if about["version"] != 1:
            raise StreamError(f"{name} has the unknown stream version {str(about['version'])[:20]}")
        return Header(
            hop=_text(about, "hop"),
            interface=_text(about, "interface"),
            ifindex=_number(about, "ifindex", 1 << 31),
            mtu=_number(about, "mtu", 1 << 31),
            snap=_number(about, "snap", 1 << 31),
            clock_ns=_number(about, "clock_ns"),
            kernel=_text(about, "kernel"),
            observer=_text(about, "observer"),
        )
    except (ValueError, KeyError) as wrong:
        raise StreamError(f"{name} has a damaged header") from wrong


def _trailer(text: bytes) -> Trailer | None:
    try:
        about = _object(text)
        return Trailer(**{key: _number(about, key) for key in Trailer.__slots__})
    except (ValueError, KeyError):
        return None


def _object(text: bytes) -> dict[str, object]:
    """Read a JSON object; raises `ValueError` for anything else."""
    try:
        about = json.loads(text[:_HEADER_LONGEST])
    except RecursionError:
        raise ValueError("nested without end") from None
    if not isinstance(about, dict):
        raise ValueError("no object")
    return cast("dict[str, object]", about)


def _number(about: dict[str, object], key: str, below: int = _INT64) -> int:
    """Return a whole number from 0 on; raises `KeyError` or `ValueError`."""
    value = about[key]
    if type(value) is not int or not 0 <= value < below:  # a bool is an int too
        raise ValueError(key)
    return value


def _text(about: dict[str, object], key: str) -> str:
    """Return a short text without control characters; raises `KeyError` or `ValueError`."""
    value = about[key]
    if not isinstance(value, str) or len(value) > _TEXT_LONGEST or not value.isprintable():
        raise ValueError(key)
    return value


def _record(body: bytes) -> Record | None:
    values = RECORD_HEAD.unpack_from(body)
    time_ns, pkttype, _, ifindex, status, original, captured, tci, tpid, vnet_bytes = values
    frame = body[RECORD_HEAD.size :]
    if len(frame) != captured or time_ns >= _INT64:
        return None
    header = bytearray(vnet_bytes)
    if status & TP_STATUS_VLAN_VALID and captured >= VLAN_AT:
        # The kernel keeps the tag beside the frame and counts the header's offsets without it.
        frame = frame[:VLAN_AT] + vlan_tag(status, tci, tpid) + frame[VLAN_AT:]
        original += VLAN_HLEN
        shift(header, VLAN_HLEN)
    vnet = VnetHeader.unpack(header)
    return Record(time_ns, pkttype, ifindex, status, original, vnet, frame)
