"""Many frames at once, as arrays over one window of the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labctl.packet.virtio import VnetHeader

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Kinds = NDArray[np.uint8]

SLACK = 512
"""Bytes of a window behind its last frame that may be read (not believed) by array code."""


@dataclass(frozen=True)
class Interface:
    """Where frames of a file were captured."""

    link: int
    """The link type, as in the registry of LINKTYPE_ values."""
    name: str = ""
    mtu: int | None = None
    """The interface's MTU where the file tells."""
    to_ns: Callable[[int], int] | None = None
    """From a time stamp to nanoseconds since the epoch; None: it is that already."""


@dataclass
class Batch:
    """Frames of one window, in the order of the file."""

    window: Bytes
    """The bytes; `SLACK` more than the frames need."""
    end: int
    """How many bytes of the window are the file's."""
    first: int
    """The number of the first frame, counted from 1 as Wireshark does."""
    start: Ints
    """Where each frame starts in the window."""
    captured: Ints
    """How many bytes of it are there."""
    original: Ints
    """How many were on the wire."""
    interface: Ints
    """Index into `interfaces`."""
    ticks: Words
    """Time stamps, in the interface's own unit."""
    interfaces: list[Interface]
    """All interfaces so far; it grows while the file is read."""
    metadata: dict[int, VnetHeader] | None = None
    """What the file says beside frames, by their place in the batch; None where it says nothing."""

    def __len__(self) -> int:
        return len(self.start)

    def frame(self, place: int) -> bytes:
        """Return the bytes of one frame."""
        at = int(self.start[place])
        return self.window[at : at + int(self.captured[place])].tobytes()

    def time_ns(self, place: int) -> int | None:
        """Return a frame's time in nanoseconds since the epoch, or None where there is none."""
        ticks = int(self.ticks[place])
        if ticks == NO_TIME:
            return None
        to_ns = self.interfaces[int(self.interface[place])].to_ns
        return to_ns(ticks) if to_ns else ticks


NO_TIME = 2**64 - 1
"""The time stamp of frames without one (simple packet blocks)."""


class Windows:
    """A file read through buffers of one size that are used again.

    Reading, not mapping: a mapped file that somebody shortens meanwhile kills its reader, and a
    pipe cannot be mapped.
    """

    def __init__(self, read_into: Callable[[memoryview], int], size: int) -> None:
        self._read_into = read_into
        self._size = size
        self._spare: list[Bytes] = []
        self.window = self._fresh()
        self.end = 0
        self.base = 0
        """Where in the file the window starts."""
        self._fill()

    def more(self, done: int) -> bool:
        """Go on to a window that starts with what follows byte `done`; False at the file's end."""
        before, rest = self.window, self.end - done
        self.window = self._fresh()
        self.window[:rest] = before[done : self.end]
        self.base += done
        self.end = rest
        return self._fill()

    def skip(self, count: int) -> bool:
        """Go on to a window that starts `count` bytes on, read or not; False where there is none.

        Holds no more than a window, however large `count` is.
        """
        if count <= self.end:
            self.more(count)
            return True
        self.window, end = self._fresh(), self.end  # a batch may still be judged on the old one
        while count > end:
            count -= end
            self.base += end
            self.end = 0
            if not self._fill():
                return False
            end = self.end
        self.more(count)
        return True

    def give_back(self, window: Bytes) -> None:
        """Let a window be used again that nobody reads any more."""
        if window is not self.window:
            self._spare.append(window)

    def _fresh(self) -> Bytes:
        return self._spare.pop() if self._spare else np.zeros(self._size + SLACK, np.uint8)

    def _fill(self) -> bool:
        view = memoryview(self.window.data)[self.end : self._size]
        got = 0
        while got < len(view):
            count = self._read_into(view[got:])
            if not count:
                break
            got += count
        self.end += got
        return got > 0
