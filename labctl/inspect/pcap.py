"""The classic pcap format (draft-ietf-opsawg-pcap): micro- or nanoseconds, either byte order."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator

import numpy as np

from labctl.inspect.batch import Batch, Interface, Windows
from labctl.inspect.fields import Fields
from labctl.inspect.source import HINT, LONGEST, Ending, FormatError

MAGICS = {
    0xA1B2C3D4.to_bytes(4, "little"): ("<", 1000),
    0xA1B2C3D4.to_bytes(4, "big"): (">", 1000),
    0xA1B23C4D.to_bytes(4, "little"): ("<", 1),
    0xA1B23C4D.to_bytes(4, "big"): (">", 1),
}
"""The first bytes: byte order, and nanoseconds a unit of the time's fraction."""

HEADER, RECORD = 24, 16


def describe(magic: bytes) -> str:
    """Say in a few words which variant the first bytes announce."""
    order, unit = MAGICS[magic]
    times = "nanoseconds" if unit == 1 else "microseconds"
    return f"pcap, {times}, {'little' if order == '<' else 'big'}-endian"


def read(windows: Windows, ending: Ending) -> Iterator[Batch]:
    """Yield the file's frames; says in `ending` why it stopped before the file's end.

    Raises `FormatError` where the header is not whole.
    """
    if windows.end < HEADER:
        raise FormatError(f"{ending.name} ends within its header", HINT)
    order, unit = MAGICS[windows.window[:4].tobytes()]
    link = struct.unpack_from(f"{order}I", windows.window.data, 20)[0] & 0xFFFF  # above: FCS length
    interfaces = [Interface(link)]
    at, number = HEADER, 1
    while True:
        starts, at, damaged = _walk(windows, at, order)
        if len(starts):
            yield _batch(windows, starts, number, order, unit, interfaces)
            number += len(starts)
        if damaged:
            ending.say(f"damaged at byte {windows.base + at}: {damaged}")
            return
        grown = windows.more(at)
        at = 0
        if not grown:
            if windows.end:
                ending.say(f"cut within the record at byte {windows.base}")
            return


def _walk(windows: Windows, at: int, order: str) -> tuple[array[int], int, str]:
    """Return where the window's whole records start, where they end, and what is wrong there.

    The one loop over records in Python: each record's place depends on the one before.
    """
    starts: array[int] = array("q")
    append, window = starts.append, memoryview(windows.window.data)
    size = struct.Struct(f"{order}I").unpack_from
    end = windows.end
    last = end - RECORD
    while at <= last:
        (count,) = size(window, at + 8)
        following = at + RECORD + count
        if following > end:
            if count > LONGEST:
                return starts, at, f"a frame of {count} bytes"
            break
        append(at)
        at = following
    return starts, at, ""


def _batch(
    windows: Windows,
    starts: array[int],
    number: int,
    order: str,
    unit: int,
    interfaces: list[Interface],
) -> Batch:
    at = np.frombuffer(starts, np.int64)
    fields = Fields(windows.window)
    seconds, fraction = fields.u32(at, order), fields.u32(at + 4, order)
    return Batch(
        windows.window,
        windows.end,
        number,
        at + RECORD,
        fields.u32(at + 8, order),
        fields.u32(at + 12, order),
        np.zeros(len(at), np.int64),
        seconds.astype(np.uint64) * np.uint64(10**9) + fraction.astype(np.uint64) * np.uint64(unit),
        interfaces,
    )
