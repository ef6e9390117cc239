"""How far a matrix is, and how long it will take yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from labctl.matrix.cells import Planned
from labctl.results.matrix import Attempt

GUESS = 60.0
"""Seconds that an experiment takes of which nothing is known."""


def expectations(cells: Iterable[Planned], attempts: Iterable[Attempt]) -> dict[str, float]:
    """Return the seconds that each cell will take, by its key.

    That is what it took last time, else the mean of its experiment's cells, else a guess.
    """
    last: dict[str, float] = {}
    for one in attempts:
        if one.told:
            last[one.cell] = one.seconds
    by_experiment: dict[str, list[float]] = {}
    kept = list(cells)
    for cell in kept:
        if cell.cell.key in last:
            by_experiment.setdefault(cell.cell.experiment, []).append(last[cell.cell.key])
    means = {name: sum(found) / len(found) for name, found in by_experiment.items()}
    return {
        one.cell.key: last.get(one.cell.key, means.get(one.cell.experiment, GUESS)) for one in kept
    }


@dataclass
class Progress:
    """Counts what has ended, and estimates the rest by the pace so far."""

    expected: Mapping[str, float]
    """Seconds by cell, of those that are to be run."""
    clock: Callable[[], float] = time.monotonic
    _begun: float = field(init=False)
    _done: dict[str, float] = field(init=False, default_factory=dict)
    _running: dict[str, float] = field(init=False, default_factory=dict)
    """When each was started."""

    def __post_init__(self) -> None:
        """Start the clock."""
        self._begun = self.clock()

    def start(self, cell: str) -> None:
        """Note that a cell was started."""
        self._running[cell] = self.clock()

    def end(self, cell: str, *, again: bool) -> None:
        """Note that a try of a cell ended."""
        seconds = self.clock() - self._running.pop(cell, self.clock())
        if not again:
            self._done[cell] = seconds

    @property
    def done(self) -> int:
        """How many cells have ended."""
        return len(self._done)

    @property
    def total(self) -> int:
        """How many were to be run."""
        return len(self.expected)

    def left(self) -> float | None:
        """Return the seconds that the rest will take; None where nothing has ended yet."""
        if not self._done:
            return None
        now = self.clock()
        foreseen = sum(self.expected[cell] for cell in self._done)
        # What was foreseen may have been for another machine.
        scale = sum(self._done.values()) / foreseen if foreseen else 1.0
        waiting = sum(
            seconds
            for cell, seconds in self.expected.items()
            if cell not in self._done and cell not in self._running
        )
        running = [
            max(0.0, self.expected[cell] * scale - (now - begun))
            for cell, begun in self._running.items()
        ]
        at_once = max(1, len(self._running))
        return max((waiting * scale + sum(running)) / at_once, max(running, default=0.0))


def words(seconds: float | None) -> str:
    """Say how long something takes, such as `about 4 min left`."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min left"
    return f"about {minutes // 60} h {minutes % 60:02d} min left"
