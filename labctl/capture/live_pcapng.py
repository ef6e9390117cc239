"""A live capture as pcapng, into a file that may be read meanwhile or a pipe to another program.

What is written ends at a block's end as soon as it can, so whoever reads along, or finds the file
later, has whole frames. A reader that is slow makes nobody wait: what waits for it is bounded.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Sequence
from io import BytesIO

from labctl.capture.live import Seen, SinkError
from labctl.capture.pcapng_writer import Writer
from labctl.capture.session import Evidence, Observation
from labctl.sandbox.deadline import Deadline

MOST_WAITING = 32 << 20
"""Bytes that wait for their reader."""
END_SECONDS = 10.0
"""For a reader to take the rest."""
_PIPE_BUF = 4096
"""A pipe that takes anything takes so many bytes without waiting (pipe(7))."""


class PcapngSink:
    """A `Sink` that writes pcapng to an open file; each hop is an interface."""

    def __init__(
        self, descriptor: int, hops: Sequence[tuple[str, str]], expression: str = ""
    ) -> None:
        """Write to `descriptor` of hops with their descriptions, what passed a filter."""
        self._descriptor = descriptor
        self._in_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._blocks = BytesIO()
        self._waiting = bytearray()
        self._writer = Writer(self._blocks, hops, expression)
        self._collect()

    def frame(self, seen: Observation) -> bool:
        """Take a frame, unless too much waits already."""
        if len(self._waiting) >= MOST_WAITING:
            return False
        self._writer.frame(seen)
        self._collect()
        return True

    def flush(self) -> None:
        """Write as much as goes without waiting."""
        if self._in_file:
            self._append()
        while not self._in_file and self._writable(0) and self._waiting:
            try:
                written = os.write(self._descriptor, self._waiting[:_PIPE_BUF])
            except BrokenPipeError:
                raise
            except OSError as wrong:
                raise _refused(wrong) from None
            del self._waiting[:written]

    def _append(self) -> None:
        """Write all to a file, or leave it as it was: it holds whole blocks at any time."""
        before = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        try:
            while self._waiting:
                written = os.write(self._descriptor, self._waiting)
                del self._waiting[:written]
        except OSError as wrong:
            os.ftruncate(self._descriptor, before)
            raise _refused(wrong) from None

    def end(self, evidence: Evidence, seen: Seen) -> None:
        """Write each hop's counts, and wait until the reader has all."""
        for hop in evidence.hops:
            if hop.trailer is not None and hop.hop not in seen.ended:
                written = seen.frames[hop.hop]
                wanted = written + seen.missed[hop.hop]
                self._writer.statistics(hop.hop, hop.trailer, wanted, written)
        self._collect()
        deadline = Deadline(END_SECONDS, "passing on the rest of the capture")
        self.flush()
        while self._waiting:
            if not self._writable(deadline.left):
                raise SinkError(
                    f"nobody has read the rest of the capture for {END_SECONDS:g} s",
                    "look at the program that reads it",
                )
            self.flush()

    def _collect(self) -> None:
        self._waiting += self._blocks.getvalue()
        self._blocks.seek(0)
        self._blocks.truncate()

    def _writable(self, seconds: float) -> bool:
        """Tell whether something can be written within so many seconds.

        Raises `BrokenPipeError` where nobody reads it any more.
        """
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        events = dict(poll.poll(seconds * 1000)).get(self._descriptor, 0)
        if events & select.POLLERR:
            raise BrokenPipeError(32, "nobody reads the capture any more")
        return bool(events & select.POLLOUT)


def _refused(wrong: OSError) -> SinkError:
    what = f"the capture cannot be written: {wrong.strerror}; what was written before stays"
    return SinkError(what, "free some space or name another file")
