"""The classic pcap format (draft-ietf-opsawg-pcap): micro- or nanoseconds, either byte order."""

from __future__ import annotations

import contextlib
import struct
from array import array
from collections.abc import Iterator

import numpy as np

from labctl.inspect.batch import Batch, Interface, Ints, Windows
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


def _walk(windows: Windows, at: int, order: str) -> tuple[Ints, int, str]:
    """Return where the window's whole records start, where they end, and what is wrong there.

    The one loop over records in Python, since each record's place depends on the one before. It
    runs until a length cannot be read; which records are whole is told afterwards.
    """
    places: array[int] = array("q")
    append, size = places.append, struct.Struct(f"{order}8xI").unpack_from
    window, end = memoryview(windows.window.data)[: windows.end], windows.end
    begin = at
    with contextlib.suppress(struct.error):
        while True:
            append(at)
            at += RECORD + size(window, at)[0]
    starts = np.frombuffer(places, np.int64)
    # All but the last are followed by another, which starts where they end.
    whole = int(np.searchsorted(starts, end, "right")) - 1
    last = int(starts[whole]) if whole >= 0 else begin
    if len(starts) > whole + 1 and int(starts[whole + 1]) - last - RECORD > LONGEST:
        return starts[:whole], last, f"a frame of {int(starts[whole + 1]) - last - RECORD} bytes"
    return starts[: max(whole, 0)], last, ""


def _batch(
    windows: Windows,
    at: Ints,
    number: int,
    order: str,
    unit: int,
    interfaces: list[Interface],
) -> Batch:
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
