"""The pcapng format (draft-ietf-opsawg-pcapng): sections, interfaces, three kinds of packets."""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from labctl.inspect.batch import NO_TIME, Batch, Interface, Ints, Windows
from labctl.inspect.fields import Fields
from labctl.inspect.source import HINT, LONGEST, Ending, FormatError
from labctl.packet.virtio import (
    EPB_CHECKSUM_NOT_READY,
    EPB_CHECKSUM_VALID,
    EPB_TCP_SEGMENTATION,
    GSO_TCPV4,
    GSO_TYPES,
    VNET_DATA_VALID,
    VNET_NEEDS_CSUM,
    VnetHeader,
)

MAGIC = b"\x0a\x0d\x0d\x0a"
_BYTE_ORDER = 0x1A2B3C4D
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_HEADERS = {_OLD_PACKET: 28, _SIMPLE: 12, _PACKET: 28}
"""Bytes before the frame, for the blocks that hold one."""
_MOST_INTERFACES = 1 << 16
_MOST_OPTIONS = 1 << 17
"""Bytes of options behind a frame that are believed."""
_COMMENT, _FLAGS, _APPLICATION, _NAME, _DESCRIPTION, _RESOLUTION, _OFFSET = 1, 2, 4, 2, 3, 9, 14
_METADATA = {"needs_csum": VNET_NEEDS_CSUM, "data_valid": VNET_DATA_VALID}
"""The words of labctl's comments, see labctl.packet.checksum."""
_MARKS = {EPB_CHECKSUM_NOT_READY: VNET_NEEDS_CSUM, EPB_CHECKSUM_VALID: VNET_DATA_VALID}
_TOLD = EPB_CHECKSUM_NOT_READY | EPB_CHECKSUM_VALID | EPB_TCP_SEGMENTATION
"""The bits of a packet's flags that say what the kernel knew of its checksum."""
_MTU = re.compile(r"\bMTU ([0-9]{1,9})\b")
"""As labctl writes it. Of a file that claims more Python would refuse to read the number."""


@dataclass
class _Section:
    """What a section header and what followed it say."""

    order: str
    first: int
    """The index of its first interface among all of the file."""
    ours: bool
    """Written by labctl: the packets' comments hold metadata, also of before there were flags."""
    size: int
    """Bytes of the header itself."""
    snap: int = 0
    """The snap length of its first interface, for simple packet blocks; 0 for none."""


@dataclass
class _Blocks:
    """Where the packet blocks of a window are, by type."""

    places: dict[int, array[int]] = field(
        default_factory=lambda: {kind: array("q") for kind in _HEADERS}
    )

    def __len__(self) -> int:
        return sum(map(len, self.places.values()))


def read(windows: Windows, ending: Ending) -> Iterator[Batch]:
    """Yield the file's frames; says in `ending` why it stopped before the file's end.

    Raises `FormatError` where it does not start with a section header.
    """
    interfaces: list[Interface] = []
    section = _section(windows, interfaces)
    if section is None:
        raise FormatError(f"{ending.name} is no whole pcapng file: its header is damaged", HINT)
    number, at = 1, section.size
    while True:
        blocks, at, following, damage = _walk(windows, at, section, interfaces)
        if len(blocks):
            batch, damaged = _batch(windows, blocks, number, section, interfaces)
            damage = damaged or damage
            if len(batch):
                yield batch
                number += len(batch)
        if damage:
            ending.say(damage)
            return
        if following == "skip":
            (total,) = struct.unpack_from(f"{section.order}I", windows.window.data, at + 4)
            at, place = 0, windows.base + at
            if not windows.skip(place - windows.base + total):
                ending.say(f"cut within the block at byte {place}")
                return
            continue
        grown = windows.more(at)
        at = 0
        if following == "section":
            section = _section(windows, interfaces)
            if section is None:
                ending.say(f"damaged or cut at byte {windows.base}: a section header")
                return
            at = section.size
        elif not grown:
            if windows.end:
                ending.say(f"cut within the block at byte {windows.base}")
            return


def _section(windows: Windows, interfaces: list[Interface]) -> _Section | None:
    """Read the section header that the window starts with."""
    window = memoryview(windows.window.data)[: windows.end]
    if len(window) < 28 or window[:4] != MAGIC:
        return None
    for order in "<>":
        if struct.unpack_from(f"{order}I", window, 8)[0] == _BYTE_ORDER:
            (total,) = struct.unpack_from(f"{order}I", window, 4)
            if not 28 <= total <= min(LONGEST, len(window)) or total & 3:
                return None
            options = _options(bytes(window[24 : total - 4]), order)
            return _Section(order, len(interfaces), options.get(_APPLICATION) == b"labctl", total)
    return None


def _walk(
    windows: Windows, at: int, section: _Section, interfaces: list[Interface]
) -> tuple[_Blocks, int, str, str]:
    """Return the window's packet blocks, where they end, what comes there, and what is wrong."""
    blocks = _Blocks()
    window, end = memoryview(windows.window.data), windows.end
    head = struct.Struct(f"{section.order}II").unpack_from
    append = blocks.places[_PACKET].append
    last = end - 12
    while at <= last:
        kind, total = head(window, at)
        following = at + total
        if kind == _PACKET and following <= end and total >= 32 and not total & 3:
            append(at)
            at = following
            continue
        if kind == _SECTION:
            return blocks, at, "section", ""
        place = windows.base + at
        most = LONGEST + _MOST_OPTIONS if kind in _HEADERS else 1 << 32
        if total & 3 or not _HEADERS.get(kind, 8) + 4 <= total <= most:
            return blocks, at, "", f"damaged at byte {place}: a block of {total} bytes"
        if following > end:
            large = kind not in _HEADERS and kind != _INTERFACE and total > LONGEST
            return blocks, at, "skip" if large else "", ""
        if kind in _HEADERS:
            blocks.places[kind].append(at)
        elif kind == _INTERFACE:
            if not 20 <= total <= LONGEST or len(interfaces) >= _MOST_INTERFACES:
                return blocks, at, "", f"damaged at byte {place}: no interface can be read there"
            _interface(bytes(window[at:following]), section, interfaces)
        at = following
    return blocks, at, "", ""


def _interface(block: bytes, section: _Section, interfaces: list[Interface]) -> None:
    order = section.order
    link, _, snap = struct.unpack_from(f"{order}HHI", block, 8)
    if len(interfaces) == section.first:
        section.snap = snap
    options = _options(block[16:-4], order)
    text = {
        code: options.get(code, b"").rstrip(b"\0").decode("utf-8", "replace")
        for code in (_NAME, _DESCRIPTION)
    }
    told = _MTU.search(text[_DESCRIPTION]) if section.ours else None
    resolution = (options.get(_RESOLUTION) or b"\x06")[0]
    offset = int.from_bytes(
        options.get(_OFFSET, b"")[:8], "little" if order == "<" else "big", signed=True
    )
    interfaces.append(
        Interface(link, text[_NAME], int(told[1]) if told else None, _clock(resolution, offset))
    )


def _clock(resolution: int, offset: int) -> Callable[[int], int]:
    """Return what makes nanoseconds since the epoch of a time stamp (section 4.2, if_tsresol)."""
    units = 1 << (resolution & 0x7F) if resolution & 0x80 else 10 ** min(resolution, 127)
    return lambda ticks: ticks * 10**9 // units + offset * 10**9


def _options(data: bytes, order: str) -> dict[int, bytes]:
    """Read options; of several of one code the first counts. What is cut is left out."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        code, length = struct.unpack_from(f"{order}HH", data, at)
        if code == 0 or at + 4 + length > len(data):
            break
        found.setdefault(code, data[at + 4 : at + 4 + length])
        at += 4 + (length + 3 & ~3)
    return found


def _batch(
    windows: Windows,
    blocks: _Blocks,
    number: int,
    section: _Section,
    interfaces: list[Interface],
) -> tuple[Batch, str]:
    """Make arrays of the packet blocks; returns what is wrong with the first that is left out."""
    fields = Fields(windows.window)
    columns = np.concatenate(
        [
            _columns(kind, np.frombuffer(places, np.int64), fields, section)
            for kind, places in blocks.places.items()
            if len(places)
        ],
        axis=1,
    )
    if sum(map(bool, blocks.places.values())) > 1:
        columns = columns[:, np.argsort(columns[0])]
    at, interface, high, low, captured, original, start, room = columns
    total = fields.u32(at + 4, section.order)
    wrong = np.flatnonzero(
        (captured > room)
        | (interface >= len(interfaces) - section.first)
        | (fields.u32(at + total - 4, section.order) != total)
    )
    keep, damage = len(at), ""
    if len(wrong):
        keep = int(wrong[0])
        damage = f"damaged at byte {windows.base + int(at[keep])}: a packet block"
    batch = Batch(
        windows.window,
        windows.end,
        number,
        start[:keep],
        captured[:keep],
        original[:keep],
        interface[:keep] + section.first,
        (high[:keep].astype(np.uint64) << np.uint64(32)) | low[:keep].astype(np.uint64),
        interfaces,
    )
    begin = start[:keep] + (captured[:keep] + 3 & ~3)
    batch.metadata = _metadata(batch, begin, (at + total)[:keep] - 4, section)
    return batch, damage


def _metadata(
    batch: Batch, begin: Ints, end: Ints, section: _Section
) -> dict[int, VnetHeader] | None:
    """Read what is said beside frames whose options lie there; None where nothing is.

    In labctl's files that is so of each frame; in others' of those alone whose flags tell.
    """
    places = np.flatnonzero((end - begin >= 8) & (batch.ticks != np.uint64(NO_TIME)))
    if not section.ours and len(places):
        places = places[_may_tell(Fields(batch.window), begin[places], section.order)]
    found = {
        place: told
        for place in places.tolist()
        if (told := _told(batch.window[begin[place] : end[place]].tobytes(), section)) is not None
    }
    return found or None


def _may_tell(fields: Fields, begin: Ints, order: str) -> NDArray[np.bool_]:
    """Tell which options may hold flags that say something: mostly they come first, and do not."""
    first = (fields.u16(begin, order) == _FLAGS) & (fields.u16(begin + 2, order) == 4)
    silent = fields.u32(begin + 4, order) & _TOLD == 0
    told: NDArray[np.bool_] = ~(first & silent)
    return told


def _columns(kind: int, at: Ints, fields: Fields, section: _Section) -> Ints:
    """Return for blocks of one kind: place, interface, time high and low, lengths, start, room."""
    order = section.order
    room = fields.u32(at + 4, order) - _HEADERS[kind] - 4
    start = at + _HEADERS[kind]
    if kind == _SIMPLE:
        original = fields.u32(at + 8, order)
        captured = np.minimum(original, room)
        if section.snap:
            captured = np.minimum(captured, section.snap)
        no_time = np.full(len(at), 0xFFFFFFFF, np.int64)
        return np.stack([at, at * 0, no_time, no_time, captured, original, start, room])
    interface = fields.u32(at + 8, order) if kind == _PACKET else fields.u16(at + 8, order)
    rest = [fields.u32(at + place, order) for place in (12, 16, 20, 24)]
    return np.stack([at, interface, *rest, start, room])


def _told(data: bytes, section: _Section) -> VnetHeader | None:
    """Read flags, and labctl's own comment, such as `SYN: partial, needs_csum, gso tcpv4`.

    None where nobody says anything; in labctl's files that is said by an empty header.
    """
    options = _options(data, section.order)
    marks = int.from_bytes(
        options.get(_FLAGS, b"")[:4], "little" if section.order == "<" else "big"
    )
    flags = sum(bit for mark, bit in _MARKS.items() if marks & mark)
    gso = GSO_TCPV4 if marks & EPB_TCP_SEGMENTATION else 0
    if section.ours:
        comment = options.get(_COMMENT, b"").decode("utf-8", "replace")
        words = comment.partition(" - ")[0].partition(": ")[2].split(", ")
        for word in words:
            flags |= _METADATA.get(word, 0)
            if word.startswith("gso "):
                gso = GSO_TYPES.get(word.removeprefix("gso "), 0)
    if not section.ours and not marks & _TOLD:
        return None
    return VnetHeader(flags, gso, 0, 0, 0, 0)
