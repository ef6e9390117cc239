"""The watch of the flags in Xen's rings, and which captured packet had which.

What they are, and how they are read: `labctl.kinds.observers.xen_rings`.
"""

from __future__ import annotations

import bisect
import contextlib
import shlex
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from labctl.capture.session import Observation
from labctl.capture.spawn import Handle, Spawn, start_process
from labctl.errors import LabctlError
from labctl.kinds import registry
from labctl.kinds.base import Context, Look, Reader
from labctl.kinds.observers import XEN_RINGS
from labctl.kinds.observers.xen_rings import FlagsEvidence, FlagsSeen, RingDirection, XenFlagsError
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import last_lines

_SLACK_NS = 1_000_000
"""How far two clocks of one machine, converted, may seem to be apart."""
_LONGEST_NS: dict[RingDirection, int] = {"tx": 1_000_000_000, "rx": 10_000_000_000}
"""How long a packet is under way between vif and ring: netback itself drops what waits longer."""


def beside(
    observations: Iterable[Observation], seen: Iterable[FlagsSeen]
) -> tuple[tuple[Observation, FlagsSeen | None], ...]:
    """Return each observation at a vif with the flags its packet had in the ring, None without.

    A observation is at a vif if its hop has the name of one in `seen`; the others are left out. A
    packet is known by its own first bytes; of several that begin alike the nearest in time, on the
    side where the packet's way wants it, and none twice.
    """
    waiting: dict[tuple[str, RingDirection, bytes], list[FlagsSeen]] = defaultdict(list)
    lengths: dict[tuple[str, RingDirection], set[int]] = defaultdict(set)
    for one in sorted(seen, key=lambda one: one.time_ns):
        lengths[one.vif, one.direction].add(len(one.head))
        if one.head:
            waiting[one.vif, one.direction, one.head].append(one)
    vifs = {vif for vif, _ in lengths}
    found = []
    for observation in sorted(observations, key=lambda one: one.time_ns):
        if observation.hop not in vifs:
            continue
        way: RingDirection = "tx" if observation.direction == "in" else "rx"
        frame = observation.record.frame
        alike = [
            waiting[key]
            for size in lengths[observation.hop, way]
            if size <= len(frame) and (key := (observation.hop, way, frame[:size])) in waiting
        ]
        found.append((observation, _take(alike, observation.time_ns, way)))
    return tuple(found)


def _take(alike: list[list[FlagsSeen]], time_ns: int, way: RingDirection) -> FlagsSeen | None:
    """Take the best out of lists in the order of time: before `time_ns` for tx, after it for rx."""
    best: tuple[int, list[FlagsSeen], int] | None = None
    for ones in alike:
        if way == "tx":
            place = bisect.bisect_right(ones, time_ns + _SLACK_NS, key=lambda one: one.time_ns) - 1
        else:
            place = bisect.bisect_left(ones, time_ns - _SLACK_NS, key=lambda one: one.time_ns)
        if not 0 <= place < len(ones):
            continue
        apart = abs(ones[place].time_ns - time_ns)
        if apart <= _LONGEST_NS[way] and (best is None or apart < best[0]):
            best = apart, ones, place
    return best[1].pop(best[2]) if best else None


MOST_BYTES = 32 << 20
"""Of what the observer says, which is looked through as a whole: a line for each packet."""
_BEGINNING = 1 << 16


class FlagsWatch:
    """The observer of the flags at some vifs, as a context manager that leaves nothing running.

    with FlagsWatch(["vm1-eth0"], ssh_argv, path, deadline=Deadline(60, "flags")) as watch:
        ...traffic...
        evidence = watch.stop(Deadline(60, "flags"))
    """

    def __init__(
        self,
        vifs: Sequence[str],
        ssh_argv: Sequence[str],
        path: Path,
        *,
        deadline: Deadline,
        spawn: Spawn | None = None,
    ) -> None:
        """Prepare to write to `path`, and to be ready by `deadline`.

        `ssh_argv` ends with dom0's name. Raises `XenFlagsError` for what cannot be looked at.
        """
        self._kind = registry.observer(XEN_RINGS)
        look = Look("flags", tuple(vifs), context=Context.DOM0)
        if why_not := self._kind.can_run(look):
            raise XenFlagsError(f"cannot observe the flags of the rings: {why_not}")
        self._argv = (*ssh_argv, shlex.join(self._kind.start(look)))
        self._path, self._errors = path, path.with_suffix(".errors")
        self._deadline = deadline
        self._spawn: Spawn = spawn or start_process
        self._handle: Handle | None = None

    def __enter__(self) -> FlagsWatch:
        """Start the observer and return once it sees every packet, or has said why it cannot.

        Raises `XenFlagsError` when it ends without a word, `DeadlineError` when it is late.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._handle = self._spawn(
            self._argv, stdout=self._path, stderr=self._errors, limit=MOST_BYTES
        )
        try:
            while True:
                ended = self._handle.poll()  # before the file is read: it may just be done
                said = self._read(_BEGINNING)
                if said.ready or said.why_not:
                    return self
                if ended is not None:
                    words = self._last_words() or f"it exited with {ended}"
                    raise XenFlagsError(f"cannot observe the flags of the rings: {words}")
                if self._deadline.passed:
                    raise self._deadline.error("the observer of the flags is not ready")
                time.sleep(min(0.01, self._deadline.left))
        except BaseException:
            self.abandon()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the observer if it still runs; what was seen stays in the file."""
        self.abandon()

    def so_far(self) -> FlagsEvidence:
        """Return what was seen up to now, with a note that it is not the whole.

        Raises `XenFlagsError` for what no observer writes.
        """
        return self._read(MOST_BYTES).evidence()

    def stop(self, deadline: Deadline) -> FlagsEvidence:
        """End the observer and return what it saw; one that died on the way tells in its note.

        Raises `XenFlagsError` when it is not running, or for what no observer writes.
        """
        handle, self._handle = self._handle, None
        if handle is None:
            raise XenFlagsError("this observer of the flags is not running")
        with contextlib.suppress(LabctlError):  # late, and killed: its text lacks the end
            handle.finish(deadline)
        evidence = self.so_far()
        words = self._last_words() if evidence.note and not evidence.counted else ""
        if not words:
            return evidence
        return FlagsEvidence(
            evidence.seen, {}, evidence.kernel, evidence.why_not, f"{evidence.note}: {words}"
        )

    def abandon(self) -> None:
        """Kill the observer if it still runs."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(LabctlError):
                handle.kill(signal.SIGKILL)
                handle.finish(Deadline(5, "ending the observer of the flags"))

    def _read(self, most: int) -> Reader[FlagsEvidence]:
        reader: Reader[FlagsEvidence] = self._kind.reader()
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            reader.feed(file.read(most))
        return reader

    def _last_words(self) -> str:
        try:
            return last_lines(self._errors.read_text(errors="replace"))
        except OSError:
            return ""
