"""What observers of frames have in common: programs that write the stream of `stream`."""

from __future__ import annotations

from labctl.kinds.base import Look, ObserverKind
from labctl.kinds.observers.stream import Stream, StreamParser


class FrameObserver(ObserverKind[Stream]):
    """A program that writes each frame it sees at a link.

    Its stream (`labctl.kinds.observers.stream`) begins with a header once nothing that comes is
    missed any more, holds a record a frame, and ends with a trailer when the program's standard
    input ends or SIGTERM comes.
    """

    def reader(self) -> StreamParser:
        """Return a reader of such a stream."""
        return StreamParser()

    def reader_of(self, look: Look) -> type[StreamParser]:  # noqa: ARG002
        """Return what reads the stream of a look, where that hangs on the program which looks."""
        return StreamParser
