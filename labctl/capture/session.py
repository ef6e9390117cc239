"""A capture at many hops at once: start, prove readiness, stop, and hand back evidence.

How a program gets to its place (a process of the host, of a lab's world, or of a guest through
ssh) is the caller's: it gives a `Spawn`. The streams are files, so what was seen outlives every
process, and an observer that dies leaves a cut stream rather than nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from labctl.capture.judge import Judgement
from labctl.capture.stream import (
    Direction,
    Header,
    Record,
    Stream,
    StreamError,
    Trailer,
    read_header,
    read_stream,
)
from labctl.errors import LabctlError
from labctl.world.deadline import Deadline
from labctl.world.process import environment, last_words

SNAP = 262144
"""Bytes kept of each frame by default: everything, since only a whole packet can be judged."""
LOOK_SECONDS = 0.005
LONGEST_LOOK_SECONDS = 0.2


class CaptureError(LabctlError):
    """An observer did not start, or what it left cannot be read."""


class Handle(Protocol):
    """A running observer."""

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        ...

    def finish(self, deadline: Deadline) -> int:
        """Close its standard input, wait for its end, return its exit status.

        Raises `DeadlineError`, the program killed, when it does not end in time.
        """
        ...

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        ...


class Spawn(Protocol):
    """Starts a program with a pipe as its standard input and its output in files."""

    def __call__(self, argv: Sequence[str], *, stdout: Path, stderr: Path) -> Handle:
        """Start `argv`."""
        ...


@dataclass(frozen=True)
class Point:
    """One observation point: the hop's name and the words that start its observer."""

    hop: str
    argv: tuple[str, ...]


def host_point(hop: str, iface: str, netns: str = "", snap: int = SNAP) -> Point:
    """Observe an interface of the world the observer is started in, or of a named namespace."""
    program = str(Path(__file__).with_name("observe.py"))
    where = ("--netns", netns) if netns else ()
    # Isolated and without site-packages: nothing of the user's can change it, and it starts fast.
    words = (sys.executable, "-I", "-S", program, "--hop", hop, *where, "--snap", str(snap), iface)
    return Point(hop, words)


def guest_point(
    hop: str, iface: str, ssh_argv: Sequence[str], netns: str = "", snap: int = SNAP
) -> Point:
    """Observe an interface inside a guest that has Perl, or in a named namespace there.

    `ssh_argv` ends with the guest's name.
    """
    enter = ["nsenter", f"--net=/run/netns/{netns}", "--"] if netns else []
    command = shlex.join([*enter, "perl", "-e", guest_script(), hop, iface, str(snap)])
    return Point(hop, (*ssh_argv, command))


def guest_script() -> str:
    """Return the Perl observer, made short: an ssh server may bound a command's length."""
    text = Path(__file__).with_name("observe.pl").read_text(encoding="utf-8")
    lines = (re.sub(r"\s+# .*", "", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#"))


@dataclass(frozen=True, slots=True)
class Sighting:
    """One frame seen at one hop, judged."""

    hop: str
    record: Record
    judgement: Judgement

    @property
    def time_ns(self) -> int:
        """Nanoseconds since the epoch on the hop's own clock; see `HopEvidence.clock_offset_ns`."""
        return self.record.time_ns

    @property
    def direction(self) -> Direction:
        """`out` if the interface's own host sends it, else `in`."""
        return self.record.direction


@dataclass(frozen=True)
class HopEvidence:
    """What one observer saw, and how far that can be trusted."""

    hop: str
    sightings: tuple[Sighting, ...]
    header: Header | None
    trailer: Trailer | None
    note: str = ""
    """Why the stream is cut, with the observer's last words; empty for a whole one."""
    arrived_ns: int | None = None
    """Our clock when the header was first seen."""
    asked_ns: int | None = None
    """Our clock when the observer was asked to end; None where it had ended by itself."""

    @property
    def cut(self) -> bool:
        """Whether frames at the end may be missing."""
        return self.trailer is None

    @property
    def drops(self) -> int | None:
        """Frames the kernel could not queue for the observer; None when it could not say."""
        return self.trailer.drops if self.trailer else None

    @property
    def complete(self) -> bool:
        """Whether nothing was missed: no cut, no drop, no receive error."""
        return self.trailer is not None and not self.trailer.drops and not self.trailer.errors

    @property
    def clock_offset_ns(self) -> int | None:
        """How far the hop's clock is ahead of ours, too small by what the header took to come."""
        if self.header is None or self.arrived_ns is None:
            return None
        return self.header.clock_ns - self.arrived_ns


@dataclass(frozen=True)
class Evidence:
    """What was seen at every hop, in the order the points were given."""

    hops: tuple[HopEvidence, ...]

    def __getitem__(self, hop: str) -> HopEvidence:
        """Return one hop's evidence; raises `KeyError`."""
        for found in self.hops:
            if found.hop == hop:
                return found
        raise KeyError(hop)

    def sightings(self, *, kind: str | None = None, dport: int | None = None) -> Iterator[Sighting]:
        """Yield sightings hop by hop, those of a `kind` (such as `SYN`) or port where given."""
        for hop in self.hops:
            for seen in hop.sightings:
                if kind is not None and seen.judgement.kind != kind:
                    continue
                if dport is not None and seen.judgement.packet.dport != dport:
                    continue
                yield seen


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
    ) -> None:
        """Prepare to write one stream a point into `directory`, ready by `deadline`.

        Raises `CaptureError` when two points have the same hop name.
        """
        self.points = tuple(points)
        self.directory = directory
        self._deadline = deadline
        self._spawn: Spawn = spawn or start_process
        self._handles: list[Handle] = []
        self._arrived: dict[int, int] = {}
        names = [point.hop for point in self.points]
        if len(set(names)) != len(names):
            raise CaptureError(f"two observation points share a name: {', '.join(names)}")

    def __enter__(self) -> Capture:
        """Start every observer and return once each has proved that it sees its interface.

        Raises `CaptureError` when one ends instead, `DeadlineError` when one is not ready in time.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            for number, point in enumerate(self.points):
                for path in (self._stream(number), self._errors(number)):
                    path.unlink(missing_ok=True)  # an old header would prove nothing
                handle = self._spawn(
                    point.argv, stdout=self._stream(number), stderr=self._errors(number)
                )
                self._handles.append(handle)
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
        names = [point.hop for point in self.points]
        if hop not in names:
            raise KeyError(hop)
        return self._hop(names.index(hop), "")

    def stop(self, deadline: Deadline) -> Evidence:
        """End every observer and return what they saw.

        One that does not end by `deadline`, or died on the way, leaves a cut hop, not an error.
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
                return _ending(handle.finish(deadline)), asked_ns
            except LabctlError as wrong:
                return wrong.message, None

        with ThreadPoolExecutor(max_workers=max(1, len(handles))) as pool:
            ends = list(pool.map(finish, handles))
        return Evidence(tuple(self._hop(number, *end) for number, end in enumerate(ends)))

    def abandon(self) -> None:
        """Kill the observers that still run."""
        handles, self._handles = self._handles, []
        for handle in handles:
            with contextlib.suppress(LabctlError):
                handle.kill(signal.SIGKILL)
                handle.finish(Deadline(5, "ending an observer"))

    def _stream(self, number: int) -> Path:
        return self.directory / f"{number:02}.capture"

    def _errors(self, number: int) -> Path:
        return self.directory / f"{number:02}.errors"

    def _words(self, number: int) -> str:
        try:
            return last_words(self._errors(number).read_text(errors="replace"))
        except OSError:
            return ""

    def _look(self) -> None:
        """Note which headers have come; raise for an observer that ended without one."""
        for number, point in enumerate(self.points):
            if number in self._arrived:
                continue
            ended = self._handles[number].poll()  # before the file is read: it may just be done
            try:
                header = read_header(self._stream(number))
            except StreamError as wrong:
                words = f"the observer at {point.hop} writes no stream"
                raise CaptureError(words, wrong.hint) from wrong
            if header is not None:
                self._arrived[number] = time.time_ns()
            elif ended is not None:
                words = self._words(number) or f"it exited with {ended}"
                raise CaptureError(f"cannot observe at {point.hop}: {words}")

    def _hop(self, number: int, note: str, asked_ns: int | None = None) -> HopEvidence:
        point = self.points[number]
        try:
            stream = read_stream(self._stream(number))
        except (OSError, StreamError) as wrong:
            stream = Stream(None, (), None, str(wrong))
        if stream.cut:
            parts = [stream.note, note, self._words(number)]
            note = "; ".join(dict.fromkeys(part for part in parts if part))
        else:
            note = ""  # with a trailer all is there, whatever became of the ssh that carried it
        return judged(point.hop, stream, note, self._arrived.get(number), asked_ns)


def judged(
    hop: str,
    stream: Stream,
    note: str = "",
    arrived_ns: int | None = None,
    asked_ns: int | None = None,
) -> HopEvidence:
    """Judge a stream's records with its interface's MTU."""
    mtu = stream.header.mtu if stream.header else None
    return HopEvidence(
        hop,
        tuple(Sighting(hop, record, record.judge(mtu)) for record in stream.records),
        stream.header,
        stream.trailer,
        note,
        arrived_ns,
        asked_ns,
    )


def _ending(status: int) -> str:
    """Say why an observer ended; on a write error its status is the errno, 1 is anything else."""
    if status in (errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EDQUOT):
        return f"its observer could not write: {os.strerror(status)}"
    return f"its observer exited with {status}" if status else ""


class _Process:
    """A `Handle` over a child of this process."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def poll(self) -> int | None:
        return self._child.poll()

    def finish(self, deadline: Deadline) -> int:
        if self._child.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()
        try:
            return self._child.wait(deadline.left)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            raise deadline.error("an observer did not end") from None

    def kill(self, number: int = signal.SIGTERM) -> None:
        self._child.send_signal(number)


def start_process(argv: Sequence[str], *, stdout: Path, stderr: Path) -> Handle:
    """Start an observer as a child of this process, in this process's namespaces."""
    with stdout.open("wb") as out, stderr.open("wb") as err:
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environment(),
                start_new_session=True,  # Ctrl-C is ours to handle: it must not cut the streams
            )
        except OSError as wrong:
            raise CaptureError(f"cannot start {argv[0]}: {wrong.strerror}") from None
    return _Process(child)
