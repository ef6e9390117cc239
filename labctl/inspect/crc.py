"""CRC32c of many packets at once."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from labctl.inspect.batch import Bytes, Ints
from labctl.packet.crc32c import TABLE, sctp_crc32c

LONGEST = 2048
"""Bytes; longer packets are summed one by one, so that the tables stay small (2 MiB)."""

Crcs = NDArray[np.uint32]


@cache
def _tables() -> tuple[Crcs, Crcs]:
    """Return what a byte contributes by its distance from the end, and what the start value does.

    A CRC is linear: it is the exclusive or of what each byte contributes on its own. The start
    value of all ones is the same as the first four bytes inverted.
    """
    shift = np.array(TABLE, np.uint32)
    bytes_ = np.empty((LONGEST, 256), np.uint32)
    bytes_[0] = shift
    for place in range(1, LONGEST):
        before = bytes_[place - 1]
        bytes_[place] = shift[before & 0xFF] ^ before >> np.uint32(8)
    starts = np.zeros(LONGEST + 1, np.uint32)
    ones = bytes_[:, 0xFF]
    starts[4:] = ones[:-3] ^ ones[1:-2] ^ ones[2:-1] ^ ones[3:]
    return bytes_.ravel(), starts


def sctp_crcs(window: Bytes, start: Ints, length: Ints) -> Crcs:
    """Return the CRC32c of SCTP packets of at least 12 bytes, their own field taken as 0.

    Compare with the field read lowest byte first.
    """
    crcs = np.zeros(len(start), np.uint32)
    for row in np.flatnonzero(length > LONGEST).tolist():
        packet = window[start[row] : start[row] + length[row]].tobytes()
        crcs[row] = sctp_crc32c(packet)
    short = np.flatnonzero(length <= LONGEST)
    if len(short):
        crcs[short] = _short(window, start[short], length[short])
    return crcs


def _short(window: Bytes, start: Ints, length: Ints) -> Crcs:
    contributions, starts = _tables()
    ends = np.cumsum(length)
    begins = ends - length
    # Every byte of every packet, and how far it is from its packet's end.
    place = np.arange(int(ends[-1])) - np.repeat(begins, length)
    data = window[np.repeat(start, length) + place].astype(np.int64)
    data[(place >= 8) & (place < 12)] = 0
    distance = np.repeat(length - 1, length) - place
    crcs: Crcs = np.bitwise_xor.reduceat(contributions[distance * 256 + data], begins)
    return crcs ^ starts[length] ^ np.uint32(0xFFFFFFFF)
