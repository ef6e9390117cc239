"""Frames on a pipe, a socket or ssh: a mark, a length and that many bytes, and never too many."""

from __future__ import annotations

import os
import struct

MARK = b"lab1"
"""What each frame begins with; its last letter is the version of what is in one."""
MOST = 64 << 20
"""Bytes in a frame. More is not even read, whatever a length says."""
_HEAD = struct.Struct(">4sI")
_PIECE = 1 << 20


class FrameError(Exception):
    """What came is no frame, or one that is too long to be sent."""


class Line:
    """Two files, one to read frames from, one to write them to; one thread may use each."""

    def __init__(self, reading: int, writing: int) -> None:
        """Own two descriptors, which may be the same."""
        self._reading = reading
        self._writing = writing

    def send(self, data: bytes) -> None:
        """Write a frame; raises `FrameError` for one that is too long, `OSError`."""
        if len(data) > MOST:
            raise FrameError(f"{len(data)} bytes are more than the {MOST} that may be sent at once")
        rest = memoryview(_HEAD.pack(MARK, len(data)) + data)
        while rest:
            rest = rest[os.write(self._writing, rest) :]

    def receive(self) -> bytes:
        """Read a frame.

        Raises `EOFError` at the end, `FrameError` for what is none, `OSError`. Memory is taken for
        what has come, not for what a length promises.
        """
        head = self._read(_HEAD.size)
        if not head:
            raise EOFError
        if head[: len(MARK)] != MARK[: len(head)]:
            raise FrameError(f"it begins with {head!r}")
        if len(head) < _HEAD.size:
            raise FrameError("it ends early")
        _, length = _HEAD.unpack(head)
        if length > MOST:
            raise FrameError(f"it would have {length} bytes, more than {MOST}")
        data = self._read(length)
        if len(data) < length:
            raise FrameError(f"it ends after {len(data)} of {length} bytes")
        return data

    def _read(self, length: int) -> bytes:
        got = bytearray()
        while len(got) < length:
            piece = os.read(self._reading, min(length - len(got), _PIECE))
            if not piece:
                break
            got += piece
        return bytes(got)

    def close(self) -> None:
        """Close both."""
        for handle in {self._reading, self._writing}:
            os.close(handle)
