"""A capture at many hops at once: start, prove readiness, stop, and hand back evidence.

How a program gets to its place (a process of the host, of a lab's sandbox, or of a guest through
ssh) is the caller's: it gives a `Spawn`. The streams are files, so what was seen outlives every
process, and an observer that dies leaves a cut stream rather than nothing. Each byte of them is
read once, and no more is kept than `Limits` allow.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO

from labctl.capture.evidence import Evidence, HopEvidence, Observation, judged
from labctl.capture.limits import Limits
from labctl.capture.point import Point
from labctl.capture.spawn import CaptureError, Handle, Spawn, start_process, why_ended
from labctl.errors import GuestError, LabctlError
from labctl.kinds.observers.stream import (
    Header,
    Stream,
    StreamError,
    StreamParser,
)
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.holes import punch_hole
from labctl.sandbox.process import last_lines

__all__ = ["Capture", "Evidence", "HopEvidence", "Observation", "judged"]

LOOK_SECONDS = 0.005
LONGEST_LOOK_SECONDS = 0.2
CLOCK_SET_NS = 100_000_000
"""By how much our clock must have gone otherwise than time did to have been set: more than a clock
that is slewed gains in minutes, adjtimex(2)."""
_CHUNK = 1 << 20
_ERRORS_LONGEST = 4096


class Capture:
    """Observers at many points, as a context manager that leaves none running.

    with Capture(points, directory, deadline=Deadline(20, "capture")) as capture:
        ...traffic...
        evidence = capture.stop(Deadline(20, "capture"))
    """

    def __init__(
        self,
        points: Iterable[Point],
        directory: Path,
        *,
        deadline: Deadline,
        spawn: Spawn | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Prepare to write one stream a point into `directory`, ready by `deadline`.

        Raises `CaptureError` when two points have the same hop name.
        """
        self.points = tuple(points)
        self.directory = directory
        self.limits = limits or Limits.of(len(self.points))
        """What each point may fill."""
        self._deadline = deadline
        self._spawn: Spawn = spawn or start_process
        self._handles: list[Handle] = []
        self._arrived: dict[int, int] = {}
        self._readers: list[_Reader] = []
        self._ahead_ns = 0
        names = [point.hop for point in self.points]
        if len(set(names)) != len(names):
            raise CaptureError(f"two observation points share a name: {', '.join(names)}")

    def __enter__(self) -> Capture:
        """Start every observer and return once each has proved that it sees its interface.

        Raises `CaptureError` when one ends instead, `DeadlineError` when one is not ready in time.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._ahead_ns = _ahead_ns()
        try:
            for number, point in enumerate(self.points):
                for path in (self._stream(number), self._errors(number)):
                    path.unlink(missing_ok=True)  # an old header would prove nothing
                handle = self._spawn(
                    point.argv,
                    stdout=self._stream(number),
                    stderr=self._errors(number),
                    limit=self.limits.bytes,
                )
                self._handles.append(handle)
                parser = point.parser(point.hop, self.limits.frames)
                reader = _Reader(self._stream(number), point.hop, parser)
                self._readers.append(reader)
            pause = LOOK_SECONDS
            while len(self._arrived) < len(self.points):
                self._look()
                missing = [p.hop for n, p in enumerate(self.points) if n not in self._arrived]
                if missing and self._deadline.passed:
                    raise self._deadline.error(f"no observer ready at {', '.join(missing)}")
                if missing:
                    # Less and less often: what is late is late because somebody needs the CPU.
                    time.sleep(min(pause, self._deadline.left))
                    pause = min(pause * 1.2, LONGEST_LOOK_SECONDS)
        except BaseException:
            self.abandon()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End what still runs; what was seen stays in the files."""
        self.abandon()

    def so_far(self, hop: str) -> HopEvidence:
        """Return what one hop has seen up to now, a cut piece of its evidence.

        Raises `KeyError` for a hop that is not observed.
        """
        return self._hop(self._number(hop), "")

    def fresh(self, hop: str, seen: int) -> Sequence[Observation]:
        """Return what one hop has seen after its first `seen` observations.

        Raises `KeyError` for a hop that is not observed.
        """
        reader = self._readers[self._number(hop)]
        with contextlib.suppress(StreamError):  # told at the end
            reader.read()
        return reader.observations[seen:]

    def take(self, hop: str, most: int) -> Sequence[Observation]:
        """Return what one hop has seen since it was asked last, and forget it, in memory and file.

        At most `most` bytes of its stream are read. So a capture may go on without end: `Limits`
        bound what has not been taken yet. Raises `KeyError` for a hop that is not observed.
        """
        reader = self._readers[self._number(hop)]
        with contextlib.suppress(StreamError):  # told at the end
            reader.read(most)
        return reader.taken()

    def header(self, hop: str) -> tuple[Header | None, int | None]:
        """Return what a started observer said of its interface, and our clock when it came."""
        number = self._number(hop)
        return self._readers[number].read_header(), self._arrived.get(number)

    def ended(self) -> dict[str, str]:
        """Return the hops whose observers have ended by themselves, each with the reason.

        Raises `LabctlError` where nobody can tell: the lab, or who works in it, is gone.
        """
        found = {}
        for number, handle in enumerate(self._handles):
            hop = self.points[number].hop
            try:
                status = handle.poll()
            except GuestError as gone:  # its guest has ended; the other hops are there
                found[hop] = gone.message
                continue
            if status is not None:
                why = self._words(number) or why_ended(status) or "its observer ended"
                if self._readers[number].held >= self.limits.bytes:
                    why = "more came than could be read in time"
                found[hop] = why
        return found

    def _number(self, hop: str) -> int:
        names = [point.hop for point in self.points]
        if hop not in names:
            raise KeyError(hop)
        return names.index(hop)

    def stop(self, deadline: Deadline) -> Evidence:
        """End every observer and return what they saw.

        One that does not end by `deadline`, or died on the way, leaves a cut hop, not an error. All
        are cut where our clock was set meanwhile: what came before what is not known then.
        Raises `CaptureError` when nothing was started, or all was stopped before.
        """
        handles, self._handles = self._handles, []
        if len(handles) != len(self.points):
            raise CaptureError("this capture is not running")

        def finish(handle: Handle) -> tuple[str, int | None]:
            asked_ns: int | None = time.time_ns()
            try:
                if handle.poll() is not None:
                    asked_ns = None
                return why_ended(handle.finish(deadline)), asked_ns
            except LabctlError as wrong:
                return wrong.message, None

        with ThreadPoolExecutor(max_workers=max(1, len(handles))) as pool:
            ends = list(pool.map(finish, handles))
        try:
            hops = [self._hop(number, *end) for number, end in enumerate(ends)]
        finally:
            self._close()
        jump_ns = _ahead_ns() - self._ahead_ns
        if abs(jump_ns) > CLOCK_SET_NS:
            note = f"this host's clock was set by {jump_ns / 1e9:+.1f} s meanwhile"
            hops = [replace(hop, trailer=None, note=note) for hop in hops]
        return Evidence(tuple(hops))

    def abandon(self) -> None:
        """Kill the observers that still run."""
        handles, self._handles = self._handles, []
        for handle in handles:
            with contextlib.suppress(LabctlError):
                handle.kill(signal.SIGKILL)
                handle.finish(Deadline(5, "ending an observer"))
        self._close()

    def _close(self) -> None:
        for reader in self._readers:
            reader.close()

    def _stream(self, number: int) -> Path:
        return self.directory / f"{number:02}.capture"

    def _errors(self, number: int) -> Path:
        return self.directory / f"{number:02}.errors"

    def _words(self, number: int) -> str:
        try:
            with self._errors(number).open("rb") as file:
                return last_lines(file.read(_ERRORS_LONGEST).decode(errors="replace"))
        except OSError:
            return ""

    def _look(self) -> None:
        """Note which headers have come; raise for an observer that ended without one."""
        for number, point in enumerate(self.points):
            if number in self._arrived:
                continue
            ended = self._handles[number].poll()  # before the file is read: it may just be done
            try:
                header = self._readers[number].read_header()
            except StreamError as wrong:
                words = f"the observer at {point.hop} writes no stream: {wrong.message}"
                raise CaptureError(words, wrong.hint) from wrong
            if header is not None:
                self._arrived[number] = time.time_ns()
            elif ended is not None:
                words = self._words(number) or f"it exited with {ended}"
                raise CaptureError(f"cannot observe at {point.hop}: {words}")

    def _hop(self, number: int, note: str, asked_ns: int | None = None) -> HopEvidence:
        point, reader = self.points[number], self._readers[number]
        try:
            reader.read()
            stream = reader.stream()
        except (OSError, StreamError) as wrong:
            stream = Stream(None, (), None, str(wrong))
        full = stream.cut and reader.held >= self.limits.bytes
        if full:
            note = f"its observer was ended: it wrote more than {self.limits.bytes >> 20} MiB"
        elif stream.cut:
            parts = [stream.note, note, self._words(number)]
            note = "; ".join(dict.fromkeys(part for part in parts if part))
        else:
            note = ""  # with a trailer all is there, whatever became of the ssh that carried it
        return HopEvidence(
            point.hop,
            tuple(reader.observations[: len(stream.records)]),
            stream.header,
            stream.trailer,
            note,
            self._arrived.get(number),
            asked_ns,
            stream.left_out,
            full,
        )


def _ahead_ns() -> int:
    """Return how far our clock is ahead of the time since this host started, asleep or not."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class _Reader:
    """Reads one stream's file as it grows, and judges each frame once.

    It holds the file open: what was seen outlives a lab that goes down meanwhile.
    """

    def __init__(self, path: Path, hop: str, parser: StreamParser) -> None:
        self.path, self.hop = path, hop
        self.size = 0
        """Bytes read so far."""
        self._holes = 0
        """How many of the file's first bytes are given back."""
        self.observations: list[Observation] = []
        self._parser = parser
        self._file: IO[bytes] | None = None

    def read_header(self) -> Header | None:
        """Return the header once it is there; raises `StreamError` for what is none."""
        if self._parser.header is None:
            self._read(4096 + 12)
        return self._parser.header

    @property
    def held(self) -> int:
        """How many bytes that were read the file still holds."""
        return self.size - self._holes

    def read(self, most: int | None = None) -> None:
        """Read on to the present end of the file, or at most so many bytes.

        Raises `StreamError` for what is no stream.
        """
        end = self._end()
        if most is not None:
            end = min(end, self.size + most)
        while self.size < end and self._read(min(_CHUNK, end - self.size)):
            pass

    def taken(self) -> Sequence[Observation]:
        """Return the observations, and keep neither them nor the bytes that they came in."""
        found = list(self.observations)
        self.observations.clear()
        self._parser.records.clear()
        whole = max(0, self.size - 1) // _CHUNK * _CHUNK  # some data is left, see `holes.held`
        if whole > self._holes and punch_hole(self.path, self._holes, whole - self._holes):
            self._holes = whole
        return found

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _end(self) -> int:
        """Return how long the file is now, once it is there."""
        if self._file is None:
            with contextlib.suppress(FileNotFoundError):
                self._file = self.path.open("rb", buffering=0)
        return os.fstat(self._file.fileno()).st_size if self._file is not None else 0

    def _read(self, most: int) -> bool:
        """Read at most so many bytes; return whether there were any."""
        data = os.pread(self._file.fileno(), most, self.size) if self._end() and self._file else b""
        self.size += len(data)
        self._parser.feed(data)
        header = self._parser.header
        for record in self._parser.records[len(self.observations) :]:
            mtu = header.mtu if header else None
            self.observations.append(Observation(self.hop, record, record.classify(mtu)))
        return bool(data)

    def stream(self) -> Stream:
        """Return all that was read."""
        return self._parser.stream()
