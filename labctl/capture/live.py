"""A capture that is passed on as it comes: frames of many hops, to one sink, until it is to end.

The observers are those of every other capture (`session`), so what was seen is in files first. Here
it is taken from there at each look, and what was taken is forgotten, so that a capture may go on
without end. Who reads what comes out of it may be slow, or stop: what waits for him is bounded, and
frames beyond are counted as missed, hop by hop.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from labctl.capture.limits import LEAST_BYTES, MOST_BYTES, Limits
from labctl.capture.session import Capture, Evidence, HopEvidence, Observation
from labctl.errors import LabctlError
from labctl.sandbox.deadline import Deadline

LOOK_SECONDS = 0.05
CHECK_SECONDS = 1.0
"""How often it is asked whether the observers still run: a call to each of them."""
AT_ONCE = 4 << 20
"""Bytes of a hop's stream that are read at a look."""
WITHOUT_END = 1 << 62


def limits(hops: int) -> Limits:
    """Return what each of so many hops may hold that was not taken yet."""
    return Limits(max(LEAST_BYTES, MOST_BYTES // max(1, hops)), WITHOUT_END)


class SinkError(LabctlError):
    """What was captured cannot be written."""


class Sink(Protocol):
    """Where frames go.

    Its methods raise `BrokenPipeError` where nobody reads it any more, and `SinkError`.
    """

    def frame(self, seen: Observation) -> bool:
        """Take a frame; False where there is no room for it now."""

    def flush(self) -> None:
        """Pass on what was taken, as far as that goes without waiting."""

    def end(self, evidence: Evidence, seen: Seen, /) -> None:
        """Write what is known at the end, and pass all of it on."""


@dataclass
class Seen:
    """What a live capture has seen so far, by hop."""

    frames: Counter[str] = field(default_factory=Counter)
    """Those that were passed on."""
    filtered: Counter[str] = field(default_factory=Counter)
    """Those that the filter left out."""
    missed: Counter[str] = field(default_factory=Counter)
    """Those that passed the filter and found no room, or came after the last that was wanted."""
    ended: dict[str, str] = field(default_factory=dict)
    """Hops whose observers ended by themselves, with the reason."""

    @property
    def total(self) -> int:
        """All frames that were passed on."""
        return self.frames.total()


@dataclass(frozen=True)
class Wanted:
    """Which frames are passed on, and how many."""

    passes: Callable[[Observation], bool] = lambda _: True
    count: int | None = None
    until: Deadline | None = None


def pass_on(
    capture: Capture,
    hops: Sequence[str],
    sink: Sink,
    wanted: Wanted,
    *,
    folder: Path,
    stopping: Callable[[], bool],
    tell: Callable[[str], None],
) -> tuple[Evidence, Seen]:
    """Pass frames on until enough came, time is over, all observers ended, or it is `stopping`.

    `capture` is started; `folder` is gone when its lab is; `tell` is told in a line of what
    happened meanwhile. Returns what is known of the hops at their end, without the frames. Raises
    `BrokenPipeError` and `SinkError` as the sink does.
    """
    seen, order = Seen(), _Order()
    try:
        watch = _Watch(capture, hops, folder, tell, seen)
        while not (stopping() or watch.over() or _enough(wanted, seen)):
            fresh = [one for hop in hops for one in capture.take(hop, AT_ONCE)]
            _give(order.passed(fresh), sink, wanted, seen)
            sink.flush()
            if not fresh:
                left = wanted.until.left if wanted.until is not None else LOOK_SECONDS
                time.sleep(min(LOOK_SECONDS, left))
    except SinkError:
        raise
    except LabctlError as gone:
        tell(gone.message)
        seen.ended |= {hop: gone.message for hop in hops if hop not in seen.ended}
    evidence = capture.stop(Deadline(10, "ending the capture"))
    rest = [one for hop in evidence.hops for one in hop.observations]
    _give(order.rest(rest), sink, wanted, seen)
    bare = Evidence(tuple(_without_frames(hop) for hop in evidence.hops))
    sink.end(bare, seen)
    return bare, seen


def _enough(wanted: Wanted, seen: Seen) -> bool:
    if wanted.count is not None and seen.total >= wanted.count:
        return True
    return wanted.until is not None and wanted.until.passed


class _Order:
    """Puts frames of many hops in the order of their times.

    The hops are looked at one after the other, so a frame may come with the next look that is
    older than what this one brought: each look's frames wait for those of the next.
    """

    def __init__(self) -> None:
        self._waiting: list[Observation] = []

    def passed(self, fresh: Sequence[Observation]) -> list[Observation]:
        """Return, in order, what has waited, and what is older than that."""
        last = max((one.time_ns for one in self._waiting), default=0)
        every = self.rest(fresh)
        self._waiting = [one for one in every if one.time_ns > last]
        return every[: len(every) - len(self._waiting)]

    def rest(self, fresh: Sequence[Observation]) -> list[Observation]:
        """Return, in order, all there is."""
        return sorted((*self._waiting, *fresh), key=lambda one: one.time_ns)


class _Watch:
    """Looks now and then whether there is still something to see."""

    def __init__(
        self,
        capture: Capture,
        hops: Sequence[str],
        folder: Path,
        tell: Callable[[str], None],
        seen: Seen,
    ) -> None:
        self._capture, self._hops, self._folder = capture, hops, folder
        self._tell, self._seen = tell, seen
        self._next = Deadline(CHECK_SECONDS, "looking after the observers")

    def over(self) -> bool:
        """Tell whether all observers have ended; raises `LabctlError` where the lab has."""
        if self._next.passed:
            if not self._folder.exists():
                raise LabctlError("the lab went down meanwhile")
            for hop, why in self._capture.ended().items():
                if hop not in self._seen.ended:
                    self._tell(f"the capture at {hop} has ended: {why}")
                    self._seen.ended[hop] = why
            self._next = Deadline(CHECK_SECONDS, "looking after the observers")
        return len(self._seen.ended) == len(self._hops)


def _give(fresh: Sequence[Observation], sink: Sink, wanted: Wanted, seen: Seen) -> None:
    for one in fresh:
        if not wanted.passes(one):
            seen.filtered[one.hop] += 1
        elif wanted.count is not None and seen.total >= wanted.count:
            return
        elif sink.frame(one):
            seen.frames[one.hop] += 1
        else:
            seen.missed[one.hop] += 1


def _without_frames(hop: HopEvidence) -> HopEvidence:
    return HopEvidence(hop.hop, (), hop.header, hop.trailer, hop.note, hop.arrived_ns, hop.asked_ns)
