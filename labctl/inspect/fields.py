"""Reading a field of many frames at once, and summing byte ranges of a window.

Both take arrays of byte positions, so that a loop over frames runs inside numpy.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from labctl.inspect.batch import Bytes, Ints, Words

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MASKS = np.array([(1 << 8 * count) - 1 for count in range(8)], np.uint64)
"""By how many of a word's first bytes are kept."""


class Fields:
    """A window's bytes as fields at any position, aligned or not.

    Each is a view that overlaps itself byte by byte: `be16[p]` is the field at position `p`.
    """

    def __init__(self, window: Bytes) -> None:
        self.window = window
        self._size = len(window) - 8

    def _view(self, kind: str) -> NDArray[np.generic]:
        return np.ndarray((self._size,), kind, self.window.data, strides=(1,))

    def u8(self, at: Ints) -> Ints:
        """Read bytes."""
        return self.window[at].astype(np.int64)

    def u16(self, at: Ints, order: str = ">") -> Ints:
        """Read 16-bit fields, big-endian unless told."""
        return self._view(f"{order}u2")[at].astype(np.int64)

    def u32(self, at: Ints, order: str = ">") -> Ints:
        """Read 32-bit fields, big-endian unless told."""
        return self._view(f"{order}u4")[at].astype(np.int64)

    def raw32(self, at: Ints) -> Words:
        """Read 4 bytes as they lie (the first is the lowest)."""
        return self._view("<u4")[at].astype(np.uint64)

    def raw64(self, at: Ints) -> Words:
        """Read 8 bytes as they lie (the first is the lowest)."""
        return self._view("<u8")[at].astype(np.uint64)


_PIECE = 4096
_kept = threading.local()


def _room(count: int) -> Words:
    """Return memory for `count` words, the same in each call: fresh pages cost more than sums."""
    room: Words | None = getattr(_kept, "words", None)
    if room is None or len(room) < count:
        room = _kept.words = np.empty(count, np.uint64)
    return room[:count]


def folded(words: Words) -> Words:
    """Return the sums of the words' two halves: the same modulo 0xffff, and room for carries."""
    total = words >> _HALF
    total += words & _LOW
    return total


class Sums:
    """Ones' complement sums of any byte ranges of a window, from one pass over it.

    With the running total of its 64-bit words, a range's sum is a difference of two totals, each
    completed with the bytes of the word that the boundary cuts: 2^16 is 1 modulo 0xffff, so words
    of any multiple of 16 bits add up to the same residue (RFC 1071 section 2).

    Valid until the same thread makes the next one: the totals lie in memory that is used again.
    """

    def __init__(self, window: Bytes, end: int) -> None:
        count = end // 8 + 1
        self._words = window[: count * 8].view("<u8")
        self._totals = totals = _room(count + 1)
        totals[0] = 0
        # Piece by piece, so that what is between the words and their totals stays in the cache.
        for at in range(0, count, _PIECE):
            piece = folded(self._words[at : at + _PIECE])
            piece[0] += totals[at]
            np.cumsum(piece, out=totals[at + 1 : at + 1 + len(piece)])

    def _before(self, at: Ints) -> Words:
        word = at >> 3
        total: Words = self._totals[word] + folded(self._words[word] & _MASKS[at & 7])
        return total

    def of(self, start: Ints, end: Ints) -> Ints:
        """Return the residues, 0 to 0xfffe, of the big-endian 16-bit words from start to end.

        An odd last byte counts as the first half of a word, as RFC 1071 has it.
        """
        total = ((self._before(end) - self._before(start)) % 0xFFFF).astype(np.int64)
        # Positions count in little-endian words from an even position; to multiply by 256 is to
        # exchange the two bytes of a residue.
        return np.where(start & 1, total, total * 256 % 0xFFFF)
